//! The compiler's side: a process that reads one component and answers with machine code.
//!
//! It is started for one component, gives up its rights, and only then reads the first byte of it from
//! standard input. The answer on standard output is a line of JSON and, if it says so, machine code.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::{compile_here, gave_up, is_out_of_memory, limited};
use crate::{
    engine::{self, Variant},
    limits::COMPONENT_BYTES_MAX,
    report::Outcome,
};

/// What the process is told, as JSON in its last argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The process it must not outlive.
    pub parent: u32,
    pub variant: Variant,
    pub memory_bytes: u64,
    pub cpu_s: u64,
    pub code_bytes: u64,
}

/// What it answers, in one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// So many bytes of machine code follow.
    Compiled { code_bytes: u64 },
    /// The component is not for us; this is how its jobs end.
    Refused(Box<Outcome>),
    /// The process could not do its work, whatever the component is.
    Unable(String),
}

/// Compiles the component on standard input and answers on standard output, as `request` says: what
/// [`Compiler::Process`](super::Compiler::Process) starts, as the first thing that its process does.
/// Errors: the answer could not be written.
pub fn compile_worker(request: &str) -> io::Result<()> {
    let (answer, code) = match work(request) {
        Ok(code) => (Answer::Compiled { code_bytes: code.len() as u64 }, code),
        Err(answer) => (answer, Vec::new()),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer)?;
    stdout.write_all(&code)?;
    stdout.flush()
}

fn work(request: &str) -> Result<Vec<u8>, Answer> {
    let request: Request =
        serde_json::from_str(request).map_err(|error| Answer::Unable(format!("request: {error}")))?;
    let engine = engine::compiling(request.variant).map_err(|error| Answer::Unable(format!("{error:#}")))?;
    #[cfg(unix)]
    super::jail::enter(&request).map_err(|error| Answer::Unable(format!("it cannot give up its rights: {error}")))?;
    let mut component = Vec::new();
    let read = io::stdin().lock().take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut component);
    read.map_err(|error| Answer::Unable(format!("the component was not read: {error}")))?;
    let code = compile_here(&engine, &component).map_err(|outcome| Answer::Refused(named(outcome)))?;
    if code.len() as u64 > request.code_bytes {
        return Err(Answer::Refused(Box::new(too_much_code(request.code_bytes))));
    }
    Ok(code)
}

/// An error of the compiler that is about memory is a limit, not an invalid component.
fn named(outcome: Box<Outcome>) -> Box<Outcome> {
    match &outcome.message {
        Some(message) if is_out_of_memory(message) => Box::new(gave_up(message)),
        _ => outcome,
    }
}

/// The outcome of a component whose code is too large.
pub(super) fn too_much_code(max: u64) -> Outcome {
    limited(format!("becomes more than the {max} bytes of machine code that are kept of one component"))
}
