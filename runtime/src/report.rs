//! How an attempt ended and what it used: values that are reported, not errors that are handled.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    blob::Blob,
    limits::{Limit, MESSAGE_BYTES_MAX},
    stdio::floor_char_boundary,
};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeKind {
    /// The job returned an output, or its command exited with 0.
    Ok,
    /// The job returned a failure, or its command exited with another code.
    Error,
    /// The guest did something WebAssembly forbids, or panicked.
    Trap,
    /// A ceiling was reached; `limit` says which.
    Limit,
    /// The component cannot be run at all.
    Invalid,
    /// Somebody cancelled the job.
    Cancelled,
    /// The node disappeared while the attempt ran.
    Lost,
}

/// How an attempt ended, with what a reader needs to act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The kind of end.
    pub kind: OutcomeKind,
    /// Which ceiling ended it, for `limit` only.
    pub limit: Option<Limit>,
    /// What happened, for a person; `None` if it went well.
    pub message: Option<String>,
    /// Whether another attempt could end differently.
    pub retryable: bool,
    /// Exit code of a command.
    pub exit_code: Option<u8>,
}

impl Outcome {
    /// It went well.
    pub fn ok() -> Self {
        Outcome { kind: OutcomeKind::Ok, limit: None, message: None, retryable: false, exit_code: None }
    }

    /// It ended as `kind`, for the reason in `message`, which is cut to what a report holds.
    pub fn ended(kind: OutcomeKind, message: impl Into<String>, retryable: bool) -> Self {
        let mut message = message.into();
        message.truncate(floor_char_boundary(&message, MESSAGE_BYTES_MAX));
        Outcome { kind, limit: None, message: Some(message), retryable, exit_code: None }
    }

    /// A ceiling ended it.
    pub fn limited(limit: Limit, message: impl Into<String>) -> Self {
        Outcome { limit: Some(limit), ..Outcome::ended(OutcomeKind::Limit, message, true) }
    }

    /// The component cannot be run.
    pub fn invalid(message: impl Into<String>) -> Self {
        Outcome::ended(OutcomeKind::Invalid, message, false)
    }

    /// It was cancelled.
    pub fn cancelled() -> Self {
        Outcome::ended(OutcomeKind::Cancelled, "cancelled", false)
    }

    /// Whether it went well.
    pub fn is_ok(&self) -> bool {
        self.kind == OutcomeKind::Ok
    }
}

/// What an attempt used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Guest instructions, in fuel.
    pub fuel: u64,
    /// Most bytes of linear memory and tables at any time.
    pub memory_bytes_peak: u64,
    /// Start to end.
    pub wall_ms: f64,
    /// Stored in the queue to the start of the last attempt.
    pub queue_ms: f64,
    /// Compiling the component; 0 if the compiled code was in a cache.
    pub compile_ms: f64,
    /// Host calls that read and wrote artifacts.
    pub host_ms: f64,
    /// Bytes of input.
    pub bytes_in: u64,
    /// Bytes of output.
    pub bytes_out: u64,
    /// Bytes of standard error and log that were not kept.
    pub log_bytes_dropped: u64,
}

/// Milliseconds with three decimals, the way reports carry times.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// How far a job says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, if the job knows.
    pub total: Option<u64>,
    /// What it is at.
    pub message: String,
}

/// One attempt from start to end.
#[derive(Debug, Clone)]
pub struct AttemptReport {
    /// How it ended.
    pub outcome: Outcome,
    /// What it put out; after an output limit, the part that fitted.
    pub output: Option<Blob>,
    /// What it used.
    pub usage: Usage,
}

impl AttemptReport {
    /// The report of an attempt that never started.
    pub fn unstarted(outcome: Outcome) -> Self {
        AttemptReport { outcome, output: None, usage: Usage::default() }
    }
}
