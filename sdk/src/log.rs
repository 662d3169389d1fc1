//! Lines for the job's log.

use std::fmt;

use crate::host;

/// How much a line in the log matters, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Every step, for the person who is looking for a mistake in the job.
    Trace,
    /// What explains a result.
    Debug,
    /// What a person following the job wants to see.
    Info,
    /// Something is odd; the job goes on.
    Warn,
    /// Something went wrong.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        })
    }
}

/// What the macros below expand to.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => host::log(level, text),
        None => host::log(level, &message.to_string()),
    }
}

/// Adds one line to the job's log, at a [`Level`] that is computed.
///
/// Long lines are cut, and lines over the job's log limit are dropped and counted.
///
/// ```
/// let level = if wasmjob::attempt() > 1 { wasmjob::Level::Warn } else { wasmjob::Level::Info };
/// wasmjob::log!(level, "attempt {}", wasmjob::attempt());
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => {
        $crate::__private::log($level, ::std::format_args!($($message)+))
    };
}

/// Adds one line to the job's log at [`Level::Trace`], formatted as by `println!`.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log!($crate::Level::Trace, $($message)+) };
}

/// Adds one line to the job's log at [`Level::Debug`], formatted as by `println!`.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!($crate::Level::Debug, $($message)+) };
}

/// Adds one line to the job's log at [`Level::Info`], formatted as by `println!`.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!($crate::Level::Info, $($message)+) };
}

/// Adds one line to the job's log at [`Level::Warn`], formatted as by `println!`.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!($crate::Level::Warn, $($message)+) };
}

/// Adds one line to the job's log at [`Level::Error`], formatted as by `println!`.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!($crate::Level::Error, $($message)+) };
}
