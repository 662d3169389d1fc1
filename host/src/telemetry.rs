//! What we say on stderr: one line per event, as text for people or JSON for collectors.

use std::io::{IsTerminal, stderr};

use tracing::Level;
use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt::{format::FmtSpan, layer},
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Neither a level nor directives.
    #[error("`{level}` is not a log level: {reason}")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in this process has set it up already.
    #[error("logging is set up already")]
    Twice,
}

impl TelemetryError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Level { .. } => {
                "use error, warn, info, debug or trace, or directives such as info,wasmjob_host=debug"
            }
            Self::Twice => "set it up once, in main",
        }
        .to_owned()
    }
}

/// Libraries whose events are not for the people who run jobs. The NATS client reports every failed try
/// at its own error level, and what of it matters is said by us.
const QUIET: &str = "async_nats=off,rustls=warn,hyper=warn,object_store=warn,wasmtime=warn,cranelift=warn,\
                     wasmtime_internal_cranelift=warn,cranelift_codegen=warn";

/// The target of attempts' spans. They are on the level debug; a log in JSON has them from info on.
pub const ATTEMPT: &str = "attempt";

/// Sends events of this process to stderr from now on.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let filter = filter(&log.level)?;
    let filter = match log.format {
        LogFormat::Json if filter.would_enable(ATTEMPT, &Level::INFO) => filter.with_target(ATTEMPT, Level::DEBUG),
        _ => filter,
    };
    let wanted = registry().with(filter);
    let lines = layer().with_writer(stderr);
    let set = match log.format {
        // A span's end is logged with its times, which is what a collector wants of an attempt.
        LogFormat::Json => wanted.with(lines.json().with_span_events(FmtSpan::CLOSE)).try_init(),
        LogFormat::Text => wanted.with(lines.with_ansi(stderr().is_terminal()).with_target(false)).try_init(),
    };
    set.map_err(|_| TelemetryError::Twice)
}

/// A bare level is about us; whoever writes directives gets exactly those.
fn filter(level: &str) -> Result<Targets, TelemetryError> {
    let wrong = |reason: String| TelemetryError::Level { level: level.to_owned(), reason };
    let directives = match level.trim().to_ascii_lowercase().as_str() {
        bare @ ("off" | "error" | "warn" | "info" | "debug") => format!("{bare},{QUIET}"),
        "trace" => "trace".to_owned(),
        // One word that is no level would be taken for the name of a module, and everything be silent.
        _ if !level.contains(['=', ',']) => return Err(wrong("no such level".to_owned())),
        _ => level.to_owned(),
    };
    directives.parse().map_err(|error: ParseError| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_read_and_anything_else_refused() {
        for good in ["info", "WARN", "trace", "info,wasmjob_host=debug", "wasmjob_runtime=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info=info=info", "a=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
