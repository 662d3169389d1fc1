//! How the sandbox tells one end of an attempt from another, and what it says about it.

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::{
    capability::{Failure, Output},
    limits::{self, Limit, Limits},
    report::{Outcome, OutcomeKind},
    stdio::floor_char_boundary,
    store::{LimitReached, State},
};

/// Bytes of a message in a report.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

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
        Ending::GaveUp(failure) => Outcome::ended(OutcomeKind::Error, cut(&failure.message), failure.retryable),
        Ending::Failed(error) => failed(error, limits, state),
        Ending::OutOfTime => limited(Limit::Wall, limits),
        Ending::Cancelled => Outcome::cancelled(),
    }
}

/// The outcome of an attempt whose output has too many bytes.
pub(crate) fn output_limit(bytes_max: u64) -> Outcome {
    let limits = Limits { output: bytes_max, ..Limits::default() };
    limited(Limit::Output, &limits)
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
        Some(trap) => Outcome::ended(OutcomeKind::Trap, with_tail(trap.to_string(), state), true),
        None => other(error, limits, state),
    }
}

/// wasmtime has no types for what is told apart here, so its words have to do; tests hold them.
fn other(error: &wasmtime::Error, limits: &Limits, state: &State) -> Outcome {
    let text = format!("{error:#}");
    if text.contains("resource limit exceeded") || text.contains("concurrent") && text.contains("limit of") {
        return limited(Limit::Instances, limits);
    }
    if text.contains("resource table has no free keys") || text.contains("resource table is full") {
        return limited(Limit::Handles, limits);
    }
    Outcome::ended(OutcomeKind::Trap, with_tail(cut(&text), state), true)
}

fn limited(limit: Limit, limits: &Limits) -> Outcome {
    let message = match limit {
        Limit::Fuel => format!("used up its fuel of {}", limits.fuel),
        Limit::Memory => format!("wanted more than its memory of {} bytes", limits.memory),
        Limit::Wall => format!("did not end within {} ms", limits.wall_ms),
        Limit::Output => format!("put out more than {} bytes", limits.output),
        Limit::Stack => format!("used up its stack of {} bytes", limits::STACK_BYTES_MAX),
        Limit::Table => format!("wanted a table of more than {} elements", limits::TABLE_ELEMENTS_MAX),
        Limit::Handles => format!("held more than {} handles", limits::HANDLES_MAX),
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

fn cut(message: &str) -> String {
    message[..floor_char_boundary(message, MESSAGE_BYTES_MAX)].to_owned()
}
