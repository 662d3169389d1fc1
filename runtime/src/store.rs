//! What one attempt owns. Dropping it frees everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{
    ResourceLimiter,
    component::{Resource, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{
    artifacts::Artifacts,
    blob::{Blob, BlobWriter},
    component::Entry,
    limits::{self, Limit},
    sandbox::{Attempt, Scratch},
    signals::Signals,
    stdio::{GuestOutput, Log, Output, Shared, Stdin},
};

/// Ends the attempt: a ceiling was reached.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the {0} limit was reached")]
pub(crate) struct LimitReached(pub(crate) Limit);

/// Everything the host holds for a guest.
pub(crate) struct State {
    pub(crate) meter: Meter,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    pub(crate) job: String,
    pub(crate) attempt: u32,
    pub(crate) signals: Arc<Signals>,
    /// When the job is told that it should come to an end.
    pub(crate) soft_deadline: Option<Instant>,
    pub(crate) output: Shared<Output>,
    pub(crate) log: Shared<Log>,
    pub(crate) artifacts: Arc<dyn Artifacts>,
    pub(crate) scratch: Scratch,
    /// Blobs the guest holds: each can be an open file and keep a group of bytes in memory.
    pub(crate) blobs: usize,
    /// Artifacts being written.
    pub(crate) writers: usize,
    /// Time spent in host calls that move artifacts.
    pub(crate) host_time: Duration,
}

impl State {
    pub(crate) fn new(attempt: &Attempt, scratch: &Scratch) -> Self {
        let output = Shared::new(Output::new(scratch.writer(), attempt.limits.output));
        let log = Shared::new(Log::new(attempt.log.clone(), attempt.limits.log));
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::HANDLES_MAX);
        State {
            meter: Meter::new(attempt.limits.memory),
            table,
            wasi: wasi(attempt, &output, &log),
            job: attempt.job.clone(),
            attempt: attempt.number,
            signals: attempt.signals.clone(),
            soft_deadline: Instant::now().checked_add(attempt.soft),
            output,
            log,
            artifacts: attempt.artifacts.clone(),
            scratch: scratch.clone(),
            blobs: 0,
            writers: 0,
            host_time: Duration::ZERO,
        }
    }

    /// Gives the guest a handle on `blob`.
    pub(crate) fn hand_out(&mut self, blob: Blob) -> wasmtime::Result<Resource<Blob>> {
        let handle = self.table.push(blob)?;
        self.blobs += 1;
        Ok(handle)
    }

    pub(crate) fn writer(&self) -> BlobWriter {
        self.scratch.writer()
    }
}

/// WASI without files and without network: what every language's standard library needs to start.
fn wasi(attempt: &Attempt, output: &Shared<Output>, log: &Shared<Log>) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .stdin(Stdin::new(attempt.input.clone()))
        .stderr(GuestOutput(log.clone()))
        .arg("job")
        .args(&attempt.args)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(limits::RANDOM_BYTES_MAX)
        // The guest has its thread to itself; another one to wait on would only cost time.
        .allow_blocking_current_thread(true);
    match attempt.component.entry {
        Entry::Command(_) => builder.stdout(GuestOutput(output.clone())),
        // What a job returns is its output; what it prints is for its author.
        Entry::Job(_) => builder.stdout(GuestOutput(log.clone())),
    };
    for (name, value) in &attempt.env {
        builder.env(name, value);
    }
    builder.build()
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Counts linear memory and tables against one budget.
///
/// A growth that the budget refuses ends the attempt; one that the module's own maximum refuses
/// returns -1 to the guest, as WebAssembly says.
pub(crate) struct Meter {
    bytes: u64,
    bytes_max: u64,
    bytes_peak: u64,
}

/// What one table element costs the host.
const ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

impl Meter {
    fn new(bytes_max: u64) -> Self {
        Meter { bytes: 0, bytes_max, bytes_peak: 0 }
    }

    pub(crate) fn bytes_peak(&self) -> u64 {
        self.bytes_peak
    }

    fn grow(&mut self, current: u64, desired: u64) -> wasmtime::Result<bool> {
        let total = self.bytes.saturating_sub(current).saturating_add(desired);
        if total > self.bytes_max {
            return Err(LimitReached(Limit::Memory).into());
        }
        self.bytes = total;
        self.bytes_peak = self.bytes_peak.max(total);
        Ok(true)
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(current as u64, desired as u64)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The pool passes its own size for a module that states no maximum.
        let own = maximum.filter(|&maximum| maximum != limits::TABLE_ELEMENTS_RESERVED);
        if own.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if desired > limits::TABLE_ELEMENTS_MAX {
            return Err(LimitReached(Limit::Table).into());
        }
        self.grow(ELEMENT_BYTES.saturating_mul(current as u64), ELEMENT_BYTES.saturating_mul(desired as u64))
    }

    fn instances(&self) -> usize {
        limits::INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX
    }
}
