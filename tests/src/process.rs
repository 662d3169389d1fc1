//! Long-lived processes that end with the test, and waiting for things to happen.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Everything that is waited for comes within this time, or the test fails: long enough for a busy
/// machine, short enough to be looked at.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often it is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Starts a program and kills it, and its children, when standard input ends: when the test is over,
/// in whatever way, `kill -9` included. Then it removes the folder it was given. It ends as the
/// program does, and lets go of standard error, so that reading that ends with the program as well.
const KEEPER: &str = r#"
folder=$1; shift
"$@" </dev/null >/dev/null & program=$!
echo $program
exec 3<&0 2>/dev/null
{
  read -r _ <&3
  children=$(cat /proc/$program/task/*/children)
  kill -KILL $children $program
  [ -z "$folder" ] || { wait_for=50; until rm -rf "$folder" || [ $((wait_for -= 1)) = 0 ]; do sleep 0.1; done; }
} & watcher=$!
wait $program; code=$?
[ -n "$folder" ] || kill $watcher
exit $code"#;

/// Waits until `look` finds something. Panics, naming `what`, if it does not in time.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    in_time(look).unwrap_or_else(|| panic!("not within {} s: {what}", DEADLINE.as_secs()))
}

/// Waits until `look` finds something, or the time is up.
pub(crate) fn in_time<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        if let Some(found) = look() {
            return Some(found);
        }
        thread::sleep(LOOK_EVERY);
    }
    None
}

/// A process that runs until the test has enough of it. Dropping it kills it and its children.
pub struct Process {
    keeper: Child,
    pid: u32,
    said: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `command`, of which program, arguments and environment are used.
    /// Panics if there is no such program.
    #[must_use]
    pub fn start(command: &Command) -> Self {
        Self::start_in(command, "")
    }

    /// The same, and removes `folder` after it was dropped.
    pub(crate) fn start_in(command: &Command, folder: &str) -> Self {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh", folder]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => keeper.env(name, value),
                None => keeper.env_remove(name),
            };
        }
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut keeper = keeper.spawn().expect("there is a shell");
        let mut pid = String::new();
        let stdout = keeper.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut pid).expect("the keeper says the process id");
        let pid = pid.trim().parse().expect("the keeper says the process id");
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stderr, heard) = (keeper.stderr.take().expect("standard error is piped"), said.clone());
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..length]);
                heard.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { keeper, pid, said }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it says this on standard error. Panics, with what it said, if it ends before.
    #[track_caller]
    pub fn until_it_says(&mut self, text: &str) {
        until(text, || {
            let ended = self.keeper.try_wait().expect("it is our child").is_some();
            let said = self.said();
            assert!(!ended || said.contains(text), "it ended before it said `{text}`:\n{said}");
            said.contains(text).then_some(())
        });
    }

    /// Waits for its end and gives its exit code (128 + n for signal n).
    #[track_caller]
    pub fn until_it_ends(&mut self) -> i32 {
        let status = until("the process ends", || self.keeper.try_wait().expect("it is our child"));
        status.code().expect("a shell has an exit code unless it is killed")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Sends a process a signal. Panics if there is no such process.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// The processes that `pid` started and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The processes in which `pid` compiles components and that have `marker` in their request.
#[must_use]
pub fn compilers(pid: u32, marker: &str) -> Vec<u32> {
    let compiles = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("compile-worker") && line.contains(marker)
    };
    children(pid).into_iter().filter(compiles).collect()
}

/// Whether a process runs. One that ended and that nobody asked about does not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}
