//! A child process that is started again when it dies, and that never outlives us.
//!
//! One thread per child does everything: the death signal of [`super::exec_child`] follows the *thread*
//! that started the child, so that thread has to live exactly as long as the child may.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Child;
use tokio::sync::{oneshot, watch};

use super::child_log::ChildLog;
use super::exec_child::launched;

/// Pause before the first restart; doubled for each death soon after.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest pause between restarts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A child that lived this long was well, and its next restart is quick again.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// What to run, and how.
pub struct Plan {
    /// What it is called in messages.
    pub name: String,
    /// Makes the command, anew for every start.
    pub command: Box<dyn Fn() -> Command + Send>,
    /// Where its stdout and stderr go.
    pub output: Output,
    /// How long it may take to end after SIGTERM before it is killed.
    pub grace: Duration,
    /// What it gets when we die without a word.
    pub death_signal: Signal,
    /// The command that binds it to our life; see [`super::ServerOptions::launcher`].
    pub launcher: Vec<OsString>,
}

/// Where a child's output goes.
#[derive(Debug, Clone)]
pub enum Output {
    /// Where ours goes.
    Inherit,
    /// A file of bounded size.
    File(PathBuf),
}

/// What the child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildState {
    /// It runs.
    Running {
        /// Its process.
        pid: u32,
        /// How often it was started, this time included.
        starts: u32,
    },
    /// It died and will be started again.
    Down {
        /// How often it was started.
        starts: u32,
        /// How it ended: `exit status: 1`, `signal: 9 (SIGKILL)`.
        reason: String,
    },
    /// It was ended by us.
    Stopped,
}

/// Why a child could not be started at all.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The system refused to start it.
    #[error("cannot start {name}: {source}")]
    Start {
        /// The child.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Its log cannot be written.
    #[error("cannot write {}, the log of {name}: {source}", path.display())]
    Log {
        /// The child.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl SuperviseError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Start { .. } => "check that the program is there and may be run".to_owned(),
            Self::Log { .. } => "check the space and the permissions there".to_owned(),
        }
    }
}

/// A supervised child. Dropping it ends the child in the background; [`Supervised::stop`] waits.
#[derive(Debug)]
pub struct Supervised {
    state: watch::Receiver<ChildState>,
    stop: Option<oneshot::Sender<()>>,
    log: Option<ChildLog>,
}

impl Supervised {
    /// Starts the child. Errors: it could not be started the first time; later failures are retried.
    pub fn start(plan: Plan) -> Result<Supervised, SuperviseError> {
        let log = match &plan.output {
            Output::Inherit => None,
            Output::File(path) => Some(open_log(&plan.name, path)?),
        };
        let (state_tx, state) = watch::channel(ChildState::Stopped);
        let (stop, stopping) = oneshot::channel();
        let (started_tx, started) = mpsc::channel();
        let name = plan.name.clone();
        let failed = |source| SuperviseError::Start {
            name: name.clone(),
            source,
        };
        let life = Life {
            plan,
            log: log.clone(),
            state: state_tx,
            starts: 0,
        };
        let thread = thread::Builder::new().name(format!("child {name}"));
        thread
            .spawn(move || life.run(stopping, &started_tx))
            .map_err(failed)?;
        let first = started
            .recv()
            .map_err(|_| failed(std::io::Error::other("its thread ended")))?;
        first.map_err(failed)?;
        Ok(Supervised {
            state,
            stop: Some(stop),
            log,
        })
    }

    /// What the child does, to watch.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ChildState> {
        self.state.clone()
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            ChildState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// The end of its log, for messages; empty when its output is ours.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.log.as_ref().map(ChildLog::tail).unwrap_or_default()
    }

    /// Ends it: SIGTERM, then SIGKILL when its time is up.
    pub async fn stop(mut self) {
        self.ask_to_stop();
        let mut state = self.state.clone();
        // The other end goes away with its thread, which is as good as a word.
        let _ = state.wait_for(|state| *state == ChildState::Stopped).await;
    }

    fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

fn open_log(name: &str, path: &std::path::Path) -> Result<ChildLog, SuperviseError> {
    ChildLog::open(path).map_err(|source| SuperviseError::Log {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    })
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("name", &self.name)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// Everything the child's thread owns.
struct Life {
    plan: Plan,
    log: Option<ChildLog>,
    state: watch::Sender<ChildState>,
    starts: u32,
}

type Started = mpsc::Sender<std::io::Result<()>>;

impl Life {
    fn run(mut self, stopping: oneshot::Receiver<()>, started: &Started) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.live(stopping, started)),
            Err(error) => drop(started.send(Err(error))),
        }
        self.state.send_replace(ChildState::Stopped);
    }

    async fn live(&mut self, mut stopping: oneshot::Receiver<()>, started: &Started) {
        let mut first = Some(started);
        let mut backoff = BACKOFF_MIN;
        loop {
            let begun = Instant::now();
            let reason = match (self.spawn(), first.take()) {
                (Ok(child), first) => {
                    first.map(|first| first.send(Ok(())));
                    match self.until_end(child, &mut stopping).await {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                (Err(error), Some(first)) => return drop(first.send(Err(error))),
                (Err(error), None) => error.to_string(),
            };
            tracing::warn!(child = %self.plan.name, %reason, "a child process ended; starting it again");
            self.state.send_replace(ChildState::Down {
                starts: self.starts,
                reason,
            });
            backoff = if begun.elapsed() >= WELL_AFTER {
                BACKOFF_MIN
            } else {
                backoff
            };
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
                _ = &mut stopping => return,
            }
        }
    }

    /// How the child ended by itself; nothing when it was us.
    async fn until_end(
        &self,
        mut child: Child,
        stopping: &mut oneshot::Receiver<()>,
    ) -> Option<String> {
        tokio::select! {
            status = child.wait() => Some(ended(status)),
            _ = stopping => {
                end(&mut child, self.plan.grace).await;
                None
            }
        }
    }

    fn spawn(&mut self) -> std::io::Result<Child> {
        let mut command = launched(
            &self.plan.launcher,
            &(self.plan.command)(),
            self.plan.death_signal,
        );
        // A group of its own: Ctrl-C in a terminal goes to us, and we decide when the child ends.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null());
        if let Some(log) = &self.log {
            let (reader, writer) = std::io::pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            let log = log.clone();
            thread::Builder::new()
                .name("child log".to_owned())
                .spawn(move || log.follow(reader))?;
        }
        let child = tokio::process::Command::from(command).spawn()?;
        self.starts = self.starts.saturating_add(1);
        let pid = child.id().unwrap_or_default();
        tracing::debug!(child = %self.plan.name, pid, starts = self.starts, "child process started");
        self.state.send_replace(ChildState::Running {
            pid,
            starts: self.starts,
        });
        Ok(child)
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

async fn end(child: &mut Child, grace: Duration) {
    let Some(pid) = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    else {
        return;
    };
    // It cannot be another's process: a child stays ours until it was waited for.
    let _ = kill_process(pid, Signal::TERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = child.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(script: &'static str, log: &std::path::Path) -> Plan {
        Plan {
            name: "test".to_owned(),
            command: Box::new(move || {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            }),
            output: Output::File(log.to_owned()),
            grace: Duration::from_millis(200),
            death_signal: Signal::TERM,
            launcher: Vec::new(),
        }
    }

    async fn reached(child: &Supervised, wanted: impl FnMut(&ChildState) -> bool) -> ChildState {
        let mut state = child.state();
        let waiting = state.wait_for(wanted);
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap()
            .unwrap()
            .clone()
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_its_words_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("x.log");
        let child = Supervised::start(plan("echo hello; exit 3", &log)).unwrap();
        let state = reached(
            &child,
            |state| matches!(state, ChildState::Down { starts, .. } if *starts >= 3),
        )
        .await;
        assert!(matches!(state, ChildState::Down { reason, .. } if reason.contains('3')));
        assert!(child.last_words().contains("hello"));
        child.stop().await;
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_signal_is_killed() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("x.log");
        let child =
            Supervised::start(plan("trap '' TERM; while :; do sleep 0.05; done", &log)).unwrap();
        let mut state = child.state();
        child.stop().await;
        assert_eq!(*state.borrow_and_update(), ChildState::Stopped);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_said_at_once() {
        let root = tempfile::tempdir().unwrap();
        let mut plan = plan("", &root.path().join("x.log"));
        plan.command = Box::new(|| Command::new("/nowhere/at-all"));
        assert!(matches!(
            Supervised::start(plan),
            Err(SuperviseError::Start { .. })
        ));
    }
}
