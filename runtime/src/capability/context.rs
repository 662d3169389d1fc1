//! `wasmjob:job/context`: what a job knows about itself.

use std::time::Instant;

use super::bindings::wasmjob::job::context::Host;
use crate::{report::Progress, stdio::floor_char_boundary, store::State};

/// Bytes of a progress message; the rest is cut.
const MESSAGE_BYTES_MAX: usize = 256;

impl Host for State {
    async fn job_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.clone())
    }

    async fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.attempt)
    }

    async fn cancelled(&mut self) -> wasmtime::Result<bool> {
        let overdue = self.soft_deadline.is_some_and(|deadline| Instant::now() >= deadline);
        Ok(overdue || self.signals.is_cancelled())
    }

    async fn progress(&mut self, done: u64, total: Option<u64>, mut message: String) -> wasmtime::Result<()> {
        message.truncate(floor_char_boundary(&message, MESSAGE_BYTES_MAX));
        // The host keeps it: without this it would keep all that the guest sent.
        message.shrink_to_fit();
        self.signals.set_progress(Progress { done, total, message });
        Ok(())
    }
}
