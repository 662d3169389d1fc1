//! The node's side of a compile in another process: start it, give it the component, read what it
//! answers, and say what happened if it does not answer.

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    thread,
};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    runtime::Builder,
    sync::oneshot,
    time::timeout,
};

use super::{
    Code, CompileCaps, NotCompiled, gave_up, is_out_of_memory,
    worker::{Answer, Request, too_much_code},
};
use crate::{
    engine::Variant,
    limits::COMPILE_THREADS_MAX,
    report::{Outcome, OutcomeKind},
};

/// Longest first line of an answer: a report's message with everything escaped, and more.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What is kept of its standard error: a message about a panic or about memory.
const SAID_BYTES_MAX: u64 = 2_048;

/// One compile in a process of its own.
pub(super) struct Job<'a> {
    pub program: &'a Path,
    pub args: &'a [OsString],
    pub caps: &'a CompileCaps,
    pub variant: Variant,
}

/// How the process ended and what it left.
struct Ended {
    answer: Vec<u8>,
    said: String,
    status: ExitStatus,
}

impl Job<'_> {
    /// Runs the process to its end, on this thread. Ends it at its deadline, and when the other side of
    /// `unwanted` is dropped.
    pub(super) fn run(&self, component: &Bytes, unwanted: oneshot::Receiver<Infallible>) -> Result<Code, NotCompiled> {
        let not_started = |error: io::Error| NotCompiled::failed(format!("the compiler could not be started: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(not_started)?;
        runtime.block_on(async {
            let mut child = self.command().spawn().map_err(not_started)?;
            let ended = tokio::select! {
                biased;
                _ = unwanted => Err(NotCompiled::failed("nobody waits for the component any more")),
                ended = timeout(self.caps.wall, self.converse(&mut child, component)) => {
                    ended.unwrap_or_else(|_| Err(self.out_of_time()))
                }
            };
            // Also waits for it, so that nothing of it is left.
            let _ = child.kill().await;
            self.conclude(ended?)
        })
    }

    fn command(&self) -> Command {
        let request = Request {
            parent: std::process::id(),
            variant: self.variant,
            memory_bytes: self.caps.memory_bytes,
            cpu_s: self.caps.cpu_s,
            code_bytes: self.caps.code_bytes,
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(COMPILE_THREADS_MAX);
        let mut command = Command::new(self.program);
        command
            .args(self.args)
            .arg(serde_json::to_string(&request).expect("numbers and names can be written as JSON"))
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.to_string())
            .current_dir("/")
            // A signal from the terminal is for us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Errors: more code than is allowed, or the pipes broke.
    async fn converse(&self, child: &mut Child, component: &[u8]) -> Result<Ended, NotCompiled> {
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(NotCompiled::failed("the compiler has no pipes"));
        };
        let feed = async {
            // One that ends without reading everything says why.
            let _ = stdin.write_all(component).await;
            drop(stdin);
            Ok(())
        };
        let answer = async {
            let max = self.caps.code_bytes.saturating_add(ANSWER_BYTES_MAX as u64);
            let answer = read(stdout, max.saturating_add(1)).await?;
            match answer.len() as u64 > max {
                true => Err(NotCompiled::Refused(Box::new(too_much_code(self.caps.code_bytes)))),
                false => Ok(answer),
            }
        };
        let said = async {
            let said = read(stderr, SAID_BYTES_MAX).await?;
            Ok(String::from_utf8_lossy(&said).into_owned())
        };
        let ((), answer, said) = tokio::try_join!(feed, answer, said)?;
        let status = child.wait().await.map_err(|error| lost(&error))?;
        Ok(Ended { answer, said, status })
    }

    fn conclude(&self, ended: Ended) -> Result<Code, NotCompiled> {
        let Ended { answer, said, status } = ended;
        let Some((header, code)) = parse(answer) else { return Err(self.unanswered(status, &said)) };
        match header {
            Answer::Compiled { code_bytes } if code_bytes == code.len() as u64 => Ok(Code::trusted(code)),
            Answer::Compiled { .. } => Err(self.unanswered(status, &said)),
            Answer::Refused(outcome) => Err(refused(*outcome)),
            Answer::Unable(reason) => Err(NotCompiled::failed(format!("the compiler does not work here: {reason}"))),
        }
    }

    /// Why a process ended without an answer.
    fn unanswered(&self, status: ExitStatus, said: &str) -> NotCompiled {
        let signal = status.signal().and_then(Signal::from_named_raw);
        if is_out_of_memory(said) {
            let max = self.caps.memory_bytes;
            return NotCompiled::limited(format!("needs more memory to compile than the {max} bytes it is given"));
        }
        if said.contains("overflowed its stack") {
            return NotCompiled::limited("needs more stack to compile than it is given");
        }
        match signal {
            Some(Signal::XCPU) => self.out_of_cpu(),
            Some(Signal::KILL) => {
                let message = "the compiler was killed, as systems do that run out of memory";
                NotCompiled::Refused(Box::new(Outcome { retryable: true, ..super::limited(message) }))
            }
            Some(_) => NotCompiled::Refused(Box::new(gave_up(&format!("{status}; {}", first_line(said))))),
            // No signal is what a process gets that reads a component and finds no answer.
            None => {
                NotCompiled::failed(format!("the compiler ended without an answer: {status}; {}", first_line(said)))
            }
        }
    }

    fn out_of_cpu(&self) -> NotCompiled {
        NotCompiled::limited(format!("takes more than {} s of processor time to compile", self.caps.cpu_s))
    }

    fn out_of_time(&self) -> NotCompiled {
        // A machine with less to do may be done in time.
        let message = format!("takes more than {} ms to compile", self.caps.wall.as_millis());
        NotCompiled::Refused(Box::new(Outcome { retryable: true, ..super::limited(message) }))
    }
}

/// A process of ours that a component has got hold of must not make a job end in any other way.
fn refused(outcome: Outcome) -> NotCompiled {
    let Outcome { kind, limit, message, .. } = outcome;
    let message = message.unwrap_or_default();
    match (kind, limit) {
        (OutcomeKind::Limit, Some(limit)) => {
            NotCompiled::Refused(Box::new(Outcome { retryable: false, ..Outcome::limited(limit, message) }))
        }
        _ => NotCompiled::invalid(message),
    }
}

/// The header of an answer, and what follows it.
fn parse(answer: Vec<u8>) -> Option<(Answer, Bytes)> {
    let end = answer.iter().take(ANSWER_BYTES_MAX).position(|&byte| byte == b'\n')?;
    let header = serde_json::from_slice(&answer[..end]).ok()?;
    Some((header, Bytes::from(answer).slice(end + 1..)))
}

async fn read(from: impl AsyncRead + Unpin, max: u64) -> Result<Vec<u8>, NotCompiled> {
    let mut all = Vec::new();
    from.take(max).read_to_end(&mut all).await.map_err(|error| lost(&error))?;
    Ok(all)
}

fn lost(error: &io::Error) -> NotCompiled {
    NotCompiled::failed(format!("the compiler was lost: {error}"))
}

fn first_line(said: &str) -> &str {
    match said.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => line.trim(),
        None => "it said nothing",
    }
}
