//! What one attempt owns. Dropping it frees everything.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    clocks::{MonotonicClock, WallClock},
    filesystem::WasiFilesystemCtxView,
};

use crate::{
    artifacts::Artifacts,
    blob::{Blob, BlobWriter, GROUP_BYTES},
    capability::{Http, files::OpenFiles, net},
    clock::{Coarse, Virtual},
    component::Entry,
    grants::{Clock, Grants, Random, SCRATCH_PATH},
    limits,
    meter::{Charges, LimitReached, Meter},
    random::{self, Metered},
    sandbox::{Attempt, Scratch},
    signals::Signals,
    stdio::{GuestOutput, Log, Output, Shared, Stdin},
};

/// Everything the host holds for a guest.
pub(crate) struct State {
    pub(crate) meter: Meter,
    pub(crate) charges: Charges,
    /// Host calls so far.
    pub(crate) calls: u64,
    pub(crate) grants: Grants,
    /// The clock of a deterministic job.
    pub(crate) virtual_clock: Option<Virtual>,
    pub(crate) http: Http,
    /// Sockets that are open.
    pub(crate) sockets: usize,
    /// Children that this attempt has submitted.
    pub(crate) children: u32,
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
    pub(crate) files: OpenFiles,
    /// Blobs the guest holds: each can be an open file and keep a group of bytes in memory.
    pub(crate) blobs: usize,
    /// The group that each of them was last read in, by handle.
    pub(crate) groups: BTreeMap<u32, u64>,
    /// Artifacts being written.
    pub(crate) writers: usize,
    /// Time spent in host calls that move artifacts.
    pub(crate) host_time: Duration,
}

impl State {
    pub(crate) fn new(attempt: &Attempt, scratch: &Scratch) -> Self {
        let charges = Charges::default();
        let output = Shared::new(Output::new(scratch.writer(), attempt.limits.output, charges.clone()));
        let log = Shared::new(Log::new(attempt.log.clone(), attempt.limits.log, charges.clone()));
        let mut table = ResourceTable::new();
        table.set_max_capacity(usize::try_from(attempt.limits.handles).unwrap_or(usize::MAX));
        let virtual_clock = attempt.deterministic.map(|_| Virtual::default());
        let mut builder = wasi(attempt, &output, &log, &charges);
        set_clocks(&mut builder, attempt.grants.clock, virtual_clock.as_ref());
        set_random(&mut builder, attempt, &charges);
        net::allow(&mut builder, &attempt.grants.net);
        State {
            meter: Meter::new(&attempt.limits),
            http: Http::new(attempt, &charges),
            sockets: 0,
            charges,
            calls: 0,
            grants: attempt.grants.clone(),
            virtual_clock,
            children: 0,
            table,
            wasi: builder.build(),
            // What differs from run to run is not for a deterministic guest to see.
            job: if attempt.deterministic.is_some() { DETERMINISTIC_JOB.into() } else { attempt.job.clone() },
            attempt: if attempt.deterministic.is_some() { 1 } else { attempt.number },
            signals: attempt.signals.clone(),
            soft_deadline: match attempt.deterministic {
                Some(_) => None,
                None => Instant::now().checked_add(attempt.soft),
            },
            output,
            log,
            artifacts: attempt.artifacts.clone(),
            scratch: scratch.clone(),
            files: OpenFiles::default(),
            blobs: 0,
            groups: BTreeMap::new(),
            writers: 0,
            host_time: Duration::ZERO,
        }
    }

    /// Counts a host call. Everything that is linked gets at the state through this.
    pub(crate) fn called(&mut self) -> &mut Self {
        self.calls += 1;
        self.charges.add(limits::CALL_FUEL);
        self
    }

    /// Fuel for what the host does besides the call itself.
    pub(crate) fn charge(&self, fuel: u64) {
        self.charges.add(fuel);
    }

    /// Fuel for bytes that the host moves.
    pub(crate) fn charge_bytes(&self, bytes: usize) {
        self.charges.bytes(bytes);
    }

    /// Counts what a call may have left in memory, as far as the call itself did not.
    pub(crate) fn settle(&mut self) -> Result<(), LimitReached> {
        self.http.settle(&mut self.table, &mut self.meter)
    }

    /// Gives the guest a handle on `blob`.
    pub(crate) fn hand_out(&mut self, blob: Blob) -> wasmtime::Result<Resource<Blob>> {
        self.meter.hold(held_by(&blob))?;
        let handle = self.table.push(blob)?;
        self.blobs += 1;
        Ok(handle)
    }

    /// Takes a handle back.
    pub(crate) fn take_back(&mut self, blob: Resource<Blob>) -> wasmtime::Result<Blob> {
        self.groups.remove(&blob.rep());
        let blob = self.table.delete(blob)?;
        self.meter.release(held_by(&blob));
        self.blobs -= 1;
        Ok(blob)
    }

    pub(crate) fn writer(&self) -> BlobWriter {
        self.scratch.writer()
    }

    /// What wasmtime's own host for `wasi:filesystem` works on.
    pub(crate) fn wasi_files(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: self.wasi.filesystem(), table: &mut self.table }
    }
}

/// The id that every deterministic job sees.
const DETERMINISTIC_JOB: &str = "00000000000000000000000000";

/// Bytes that the host keeps in memory for an open blob: its last group and its tree.
fn held_by(blob: &Blob) -> u64 {
    let groups = blob.size().div_ceil(GROUP_BYTES);
    blob.size().min(GROUP_BYTES) + groups.saturating_mul(limits::TREE_NODE_BYTES)
}

/// WASI without network, and without files but those in `capability::files`: what every language's
/// standard library needs to start.
fn wasi(attempt: &Attempt, output: &Shared<Output>, log: &Shared<Log>, charges: &Charges) -> WasiCtxBuilder {
    let mut builder = WasiCtx::builder();
    builder
        .stdin(Stdin::new(attempt.input.clone(), charges.clone()))
        .stderr(GuestOutput(log.clone()))
        .arg("job")
        .args(&attempt.args)
        .max_random_size(attempt.limits.call)
        // The guest has its thread to itself; another one to wait on would only cost time.
        .allow_blocking_current_thread(true);
    match attempt.component.entry {
        Entry::Command(_) => builder.stdout(GuestOutput(output.clone())),
        // What a job returns is its output; what it prints is for its author.
        Entry::Job(_) => builder.stdout(GuestOutput(log.clone())),
    };
    if attempt.grants.scratch_bytes.is_some() && attempt.env.iter().all(|(name, _)| name != "TMPDIR") {
        builder.env("TMPDIR", SCRATCH_PATH);
    }
    for (name, value) in &attempt.env {
        builder.env(name, value);
    }
    builder
}

fn set_clocks(builder: &mut WasiCtxBuilder, granted: Clock, virtual_clock: Option<&Virtual>) {
    match (virtual_clock, granted) {
        (Some(clock), _) => builder.monotonic_clock(clock.clone()).wall_clock(clock.clone()),
        (None, Clock::Coarse) => builder.monotonic_clock(Coarse::new()).wall_clock(Coarse::new()),
        (None, Clock::Real) => builder.monotonic_clock(MonotonicClock::new()).wall_clock(WallClock::new()),
    };
}

fn set_random(builder: &mut WasiCtxBuilder, attempt: &Attempt, charges: &Charges) {
    let random = attempt.deterministic.map_or(attempt.grants.random, Random::Seed);
    builder.secure_random(Metered::new(random, "random", charges.clone())).insecure_random(Metered::new(
        random,
        "insecure",
        charges.clone(),
    ));
    if let Random::Seed(seed) = random {
        builder.insecure_random_seed(random::insecure_seed(seed));
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.called();
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
