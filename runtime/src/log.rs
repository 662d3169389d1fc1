//! Where a job's log goes: the host's side of standard error and of `wasmjob:job/log`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of a job's streams bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard error, in pieces as the guest wrote them.
    Stderr,
    /// A whole log line of this level.
    Trace,
    /// A whole log line of this level.
    Debug,
    /// A whole log line of this level.
    Info,
    /// A whole log line of this level.
    Warn,
    /// A whole log line of this level.
    Error,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogStream::Stderr => "stderr",
            LogStream::Trace => "trace",
            LogStream::Debug => "debug",
            LogStream::Info => "info",
            LogStream::Warn => "warn",
            LogStream::Error => "error",
        })
    }
}

/// Takes what a job logs. Called on the guest's thread, within the job's log limit: it must not
/// block.
pub trait LogSink: Send + Sync {
    /// One piece of standard error, or one log line without its line end.
    fn write(&self, stream: LogStream, bytes: &[u8]);
}

/// Throws everything away.
pub struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}
