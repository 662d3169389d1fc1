//! `wasmjob:job/log`: lines for the job's log.

use super::bindings::wasmjob::job::log::{Host, Level};
use crate::{log::LogStream, store::State};

impl Host for State {
    async fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        let stream = match level {
            Level::Trace => LogStream::Trace,
            Level::Debug => LogStream::Debug,
            Level::Info => LogStream::Info,
            Level::Warn => LogStream::Warn,
            Level::Error => LogStream::Error,
        };
        self.log.lock().line(stream, &message);
        Ok(())
    }
}
