//! How the sandbox tells one end of an attempt from another, and what it says about it.

use std::str::Utf8Error;

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    capability::{Failure, Output},
    limits::{self, Limit, Limits},
    meter::LimitReached,
    report::{Outcome, OutcomeKind},
    stdio::floor_char_boundary,
    store::State,
};

/// Functions a message names when a guest trapped, innermost first.
const FRAMES_MAX: usize = 3;
/// Bytes of each name; guests choose them.
const FRAME_BYTES_MAX: usize = 80;

/// The ways an attempt ends.
pub(crate) enum Ending {
    /// A command exited.
    Exited(u8),
    /// A job returned an output.
    Returned(Output),
    /// A job returned a failure.
    GaveUp(Failure),
    /// The guest or a host call under it failed.
    Failed(wasmtime::Error),
    /// The wall limit passed.
    OutOfTime,
    /// A cancel came and its grace passed.
    Cancelled,
}

/// The outcome of an attempt that ended this way.
pub(crate) fn outcome(ending: &Ending, limits: &Limits, state: &State) -> Outcome {
    match ending {
        Ending::Returned(_) => Outcome::ok(),
        Ending::Exited(code) => exited(*code, state),
        Ending::GaveUp(failure) => Outcome::ended(OutcomeKind::Error, &failure.message, failure.retryable),
        Ending::Failed(error) => failed(error, limits, state),
        Ending::OutOfTime => limited(Limit::Wall, limits),
        Ending::Cancelled => Outcome::cancelled(),
    }
}

/// The outcome of an attempt whose output has too many bytes.
pub(crate) fn output_limit(limits: &Limits) -> Outcome {
    limited(Limit::Output, limits)
}

fn exited(code: u8, state: &State) -> Outcome {
    if code == 0 {
        return Outcome { exit_code: Some(0), ..Outcome::ok() };
    }
    let message = with_tail(format!("exit code {code}"), state);
    Outcome { exit_code: Some(code), ..Outcome::ended(OutcomeKind::Error, message, true) }
}

fn failed(error: &wasmtime::Error, limits: &Limits, state: &State) -> Outcome {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return exited(u8::try_from(exit.0 & 0xff).unwrap_or(u8::MAX), state);
    }
    if let Some(LimitReached(limit)) = error.downcast_ref::<LimitReached>() {
        return limited(*limit, limits);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => limited(Limit::Fuel, limits),
        Some(Trap::StackOverflow) => limited(Limit::Stack, limits),
        Some(trap @ Trap::CannotLeaveComponent) => trapped(format!("{trap}{}; {ARENA_WORDS}", place(error)), state),
        Some(trap) => trapped(format!("{trap}{}", place(error)), state),
        None => other(error, limits, state),
    }
}

fn other(error: &wasmtime::Error, limits: &Limits, state: &State) -> Outcome {
    let cause = error.root_cause().to_string();
    if error.is::<PoolConcurrencyLimitError>() || cause.starts_with("resource limit exceeded") {
        return limited(Limit::Instances, limits);
    }
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    // wasmtime has no type for this one, so its words have to do; a test holds them.
    if full || cause.ends_with("store handle limit exceeded") {
        return limited(Limit::Handles, limits);
    }
    if error.root_cause().is::<Utf8Error>() {
        return trapped(format!("gave the host a text that is not UTF-8, such as the name of a file: {cause}"), state);
    }
    if CALL_WORDS.iter().any(|words| cause.contains(words)) {
        return limited(Limit::Call, limits);
    }
    trapped(cause, state)
}

/// What wasmtime says when one call carries too much; there are no types for it, and a test holds them.
const CALL_WORDS: [&str; 2] = ["too much data is being copied between the host and the guest", "exceeds limit"];

/// The adapter of plain modules keeps arguments and environment in an arena of its own, and ends like this when
/// that is full.
const ARENA_WORDS: &str = "a plain module does that when its arguments and environment have more than about 50 KB: \
                           build it as a component, or pass them as input";

fn trapped(message: String, state: &State) -> Outcome {
    Outcome::ended(OutcomeKind::Trap, with_tail(message, state), true)
}

/// Where the guest was, as far as the component has names for its functions.
fn place(error: &wasmtime::Error) -> String {
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    let names: Vec<String> = frames
        .iter()
        .take(FRAMES_MAX)
        .map_while(|frame| frame.func_name())
        .map(|name| format!("`{}`", &name[..floor_char_boundary(name, FRAME_BYTES_MAX)]))
        .collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", called by ")) }
}

fn limited(limit: Limit, limits: &Limits) -> Outcome {
    let message = match limit {
        Limit::Fuel => format!("used up its fuel of {}", limits.fuel),
        Limit::Memory => format!("wanted more memory than {}", limits.show("memory")),
        Limit::Wall => format!("did not end within {}", limits.show("wall")),
        Limit::Output => format!("put out more than {}", limits.show("output")),
        Limit::Stack => "used up its stack, which limits.max.stack of the node is for".into(),
        Limit::Table => format!("wanted a table of more than {} elements", limits.table),
        Limit::Handles => {
            let (host, files, all) = (limits.handles, limits::FILES_MAX, limits::COMPONENT_HANDLES_MAX);
            format!("held more than {host} handles on host objects, {files} on files or {all} in all")
        }
        Limit::Call => {
            let max = limits.show("call");
            format!("passed more than {max} to the host in one call, or asked for more than {max} of random")
        }
        Limit::Scratch => format!(
            "put more into its scratch folder than --grant scratch=SIZE allows, or more than {} entries",
            limits::SCRATCH_ENTRIES_MAX
        ),
        Limit::Instances => "has more instances, memories or tables than an attempt may".into(),
        Limit::Input | Limit::Compile => format!("reached its {limit} limit"),
    };
    Outcome::limited(limit, message)
}

/// A message with the end of standard error, where most programs say what went wrong.
fn with_tail(message: String, state: &State) -> String {
    match state.log.lock().tail() {
        Some(tail) => format!("{message}; standard error ends with: {tail}"),
        None => message,
    }
}
