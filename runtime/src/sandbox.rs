//! The whole life of one attempt: bytes, input, limits in; a report out.

use std::{
    any::Any,
    io,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
};
use wasmtime::{CallHook, Engine, Store, StoreContextMut, component::Linker};

use crate::{
    artifacts::Artifacts,
    blob::{Blob, BlobWriter, Digest},
    capability::{self, Output},
    code_cache::{CacheCounts, CodeCache},
    component::{self, Entry, Prepared},
    ending::{self, Ending},
    engine,
    grants::Grants,
    limits::{self, COMPONENT_BYTES_MAX, Limit, Limits, YIELD_FUEL},
    log::LogSink,
    meter::LimitReached,
    report::{AttemptReport, Outcome, OutcomeKind, Usage, millis},
    signals::Signals,
    store::State,
    threads::Threads,
};

/// How long a guest that was cancelled may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_millis(30);
/// Components that are compiled at the same time. Compiling takes every core it can get.
const COMPILES_MAX: usize = 1;
/// Bytes of output that are kept in memory; more goes to a temporary file.
const OUTPUT_MEMORY_BYTES: usize = 256 * 1024;

/// What a sandbox needs from the host.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Attempts that run at the same time, each on its own thread.
    pub slots: usize,
    /// Where compiled components are kept; `None` keeps them in memory only. Must be private.
    pub code_dir: Option<PathBuf>,
    /// Bytes of compiled components in memory.
    pub code_bytes_max: usize,
    /// Where outputs go that are too large for memory; nothing there outlives its attempt.
    pub spill_dir: PathBuf,
}

/// Runs attempts. Cheap to share behind an `Arc`.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<State>,
    cache: CodeCache,
    compiling: Arc<Semaphore>,
    threads: Threads,
    scratch: Scratch,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// wasmtime does not work here.
    #[error("wasmtime does not start on this machine: {reason}")]
    Engine {
        /// What wasmtime says.
        reason: String,
    },
    /// A folder or thread could not be made.
    #[error("the sandbox could not be set up in {}: {source}", path.display())]
    Setup {
        /// The folder it is about.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// One attempt at a job.
pub struct Attempt {
    /// What to run.
    pub component: Arc<Prepared>,
    /// The job's id, for the guest to see.
    pub job: String,
    /// Which attempt this is, from 1.
    pub number: u32,
    /// What it reads.
    pub input: Blob,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// What it may use.
    pub limits: Limits,
    /// After how long it is told that it should come to an end.
    pub soft: Duration,
    /// What else it may reach.
    pub grants: Grants,
    /// Seed of a deterministic attempt: its clocks are virtual, its random numbers those of the seed.
    pub deterministic: Option<u64>,
    /// Its artifacts.
    pub artifacts: Arc<dyn Artifacts>,
    /// Where its log goes.
    pub log: Arc<dyn LogSink>,
    /// To cancel it and to see how far it is.
    pub signals: Arc<Signals>,
}

/// An attempt that was started.
pub struct Running {
    report: oneshot::Receiver<AttemptReport>,
}

impl Running {
    /// Waits for the end. Can be dropped and called again.
    pub async fn report(&mut self) -> AttemptReport {
        let ended = (&mut self.report).await;
        ended.unwrap_or_else(|_| {
            AttemptReport::unstarted(Outcome::ended(OutcomeKind::Lost, "the node is stopping", true))
        })
    }
}

/// Where bytes that are being written go.
#[derive(Clone)]
pub(crate) struct Scratch(Arc<Path>);

impl Scratch {
    pub(crate) fn writer(&self) -> BlobWriter {
        BlobWriter::new(&self.0, OUTPUT_MEMORY_BYTES)
    }

    /// The folder they go to.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Sandbox {
    /// Makes a sandbox and starts its threads.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let broken = |error: wasmtime::Error| SandboxError::Engine { reason: format!("{error:#}") };
        let slots = u32::try_from(config.slots.max(1)).unwrap_or(u32::MAX);
        let engine = engine::engine(slots).map_err(broken)?;
        let mut linker = Linker::new(&engine);
        capability::add_to_linker(&mut linker).map_err(broken)?;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SandboxError::Setup { path, source }
        };
        let code_dir = config.code_dir.clone().unwrap_or_default();
        let cache = CodeCache::new(&engine, config.code_dir, config.code_bytes_max).map_err(at(&code_dir))?;
        let threads = Threads::start(slots as usize).map_err(at(&config.spill_dir))?;
        let scratch = Scratch(config.spill_dir.into());
        Ok(Sandbox { engine, linker, cache, compiling: Arc::new(Semaphore::new(COMPILES_MAX)), threads, scratch })
    }

    /// The component `digest` ready to run, and how long it took to compile: nothing if it was
    /// compiled before. `bytes` is asked for only if it was not; however many ask at the same time,
    /// it is compiled once.
    ///
    /// Errors: the outcome that a job of this component has.
    pub async fn prepare<F>(&self, digest: Digest, bytes: F) -> Result<(Arc<Prepared>, Duration), Box<Outcome>>
    where
        F: Future<Output = Result<Blob, Box<Outcome>>> + Send,
    {
        let cell = self.cache.cell(digest);
        if let Some(prepared) = cell.get() {
            self.cache.hits.fetch_add(1, Ordering::Relaxed);
            return Ok((prepared.clone(), Duration::ZERO));
        }
        let mut took = Duration::ZERO;
        let prepared = cell.get_or_try_init(|| self.load(digest, bytes, &mut took)).await?.clone();
        self.cache.shrink();
        Ok((prepared, took))
    }

    /// Compiles or loads a component; `took` becomes the time that compiling took.
    async fn load<F>(&self, digest: Digest, bytes: F, took: &mut Duration) -> Result<Arc<Prepared>, Box<Outcome>>
    where
        F: Future<Output = Result<Blob, Box<Outcome>>> + Send,
    {
        if let Some(component) = self.cache.load(&self.engine, digest) {
            self.cache.disk_hits.fetch_add(1, Ordering::Relaxed);
            return component::link(&self.linker, digest, &component).map(Arc::new);
        }
        let bytes = bytes.await?;
        if bytes.size() > COMPONENT_BYTES_MAX {
            return Err(Box::new(component::too_large(bytes.size())));
        }
        let bytes = bytes
            .to_bytes(COMPONENT_BYTES_MAX)
            .map_err(|error| Box::new(Outcome::ended(OutcomeKind::Error, error.to_string(), true)))?;
        let turn = self.compiling.clone().acquire_owned().await;
        let engine = self.engine.clone();
        let started = Instant::now();
        let compile = move || {
            let compiled = component::compile(&engine, &bytes);
            // Held until here even if nobody waits any more: compiling cannot be stopped.
            drop(turn);
            compiled
        };
        let compiled = spawn_blocking(compile).await;
        let component = compiled.unwrap_or_else(|panic| {
            Err(Box::new(Outcome::invalid(format!("the compiler gave up on this component: {panic}"))))
        })?;
        *took = started.elapsed();
        self.cache.compiled.fetch_add(1, Ordering::Relaxed);
        let prepared = component::link(&self.linker, digest, &component)?;
        self.cache.save(digest, &component);
        Ok(Arc::new(prepared))
    }

    /// Starts an attempt on the next free guest thread.
    ///
    /// `release` is dropped when the thread is free again, which can be after the report: a guest
    /// in the middle of one long instruction is reported as cancelled before it can be stopped.
    pub fn start<R: Send + 'static>(&self, attempt: Attempt, release: R) -> Running {
        let (send, report) = oneshot::channel();
        let (engine, scratch) = (self.engine.clone(), self.scratch.clone());
        self.threads.run(move |runtime| {
            let ended = runtime.block_on(AssertUnwindSafe(live(&engine, &scratch, attempt)).catch_unwind());
            drop(release);
            let _ = send.send(ended.unwrap_or_else(|panic| AttemptReport::unstarted(host_failed(&*panic))));
        });
        Running { report }
    }

    /// Runs an attempt on the thread that polls the future, which a spinning guest delays.
    /// This is what `start` does on a guest thread; it is here for benchmarks.
    pub async fn run_here(&self, attempt: Attempt) -> AttemptReport {
        live(&self.engine, &self.scratch, attempt).await
    }

    /// The engine attempts run on. Benchmarks compare with wasmtime itself on the same one.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the cache of compiled components did so far.
    pub fn cache_counts(&self) -> CacheCounts {
        self.cache.counts()
    }

    /// Keeps bytes the way outputs are kept: in memory up to a size, then in a temporary file.
    pub fn writer(&self) -> BlobWriter {
        self.scratch.writer()
    }
}

fn host_failed(panic: &(dyn Any + Send)) -> Outcome {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    Outcome::ended(OutcomeKind::Error, format!("the host failed: {}", text.unwrap_or("no message")), true)
}

/// The life of one attempt: a store, an instance, one call; then the account.
async fn live(engine: &Engine, scratch: &Scratch, attempt: Attempt) -> AttemptReport {
    let started = Instant::now();
    if let Some(outcome) = refused_input(&attempt).or_else(|| attempt.component.refused_grants(&attempt.grants)) {
        return AttemptReport::unstarted(outcome);
    }
    let mut store = Store::new(engine, State::new(&attempt, scratch));
    let ending = match arm(&mut store, &attempt) {
        Ok(()) => finish_in_time(&mut store, &attempt).await,
        Err(error) => Ending::Failed(error),
    };
    account(store, &attempt, ending, started)
}

fn refused_input(attempt: &Attempt) -> Option<Outcome> {
    let (size, max) = (attempt.input.size(), attempt.limits.input);
    let refused = Outcome::limited(
        Limit::Input,
        format!("has an input of {size} bytes, more than {}", attempt.limits.show("input")),
    );
    (size > max).then_some(Outcome { retryable: false, ..refused })
}

/// Puts every limit in place before any code of the guest runs.
fn arm(store: &mut Store<State>, attempt: &Attempt) -> wasmtime::Result<()> {
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(limits::CALL_BYTES_MAX);
    store.set_max_component_handles(limits::COMPONENT_HANDLES_MAX);
    store.set_fuel(attempt.limits.fuel)?;
    store.fuel_async_yield_interval(Some(YIELD_FUEL))?;
    let mut watch = Watch {
        deadline: Instant::now().checked_add(Duration::from_millis(attempt.limits.wall_ms)),
        cancelled: None,
        calls: 0,
    };
    store.call_hook(move |store, hook| watch.after_host_call(&store, hook));
    Ok(())
}

/// Looks after each host call whether the attempt must end: a guest that does little but call the host
/// does not come to where its fuel makes it look.
struct Watch {
    deadline: Option<Instant>,
    /// When a cancel was first seen.
    cancelled: Option<Instant>,
    calls: u64,
}

/// The attempt is over; `account` says why.
#[derive(Debug, thiserror::Error)]
#[error("the attempt is over")]
struct Over;

impl Watch {
    fn after_host_call(&mut self, store: &StoreContextMut<'_, State>, hook: CallHook) -> wasmtime::Result<()> {
        let state = store.data();
        // The hook is called for wasmtime's own helpers as well, which copy memory for instance.
        if !matches!(hook, CallHook::ReturningFromHost) || state.calls == self.calls {
            return Ok(());
        }
        self.calls = state.calls;
        // What the guest has used since it last called may not be in this; `account` has all of it.
        if state.charges.fuel() > store.get_fuel()? {
            return Err(LimitReached(Limit::Fuel).into());
        }
        let now = Instant::now();
        if state.signals.is_cancelled() && self.cancelled.is_none() {
            self.cancelled = now.checked_add(CANCEL_GRACE);
        }
        let over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if over(self.deadline) || over(self.cancelled) { Err(Over.into()) } else { Ok(()) }
    }
}

async fn finish_in_time(store: &mut Store<State>, attempt: &Attempt) -> Ending {
    let cancelled = async {
        attempt.signals.cancelled().await;
        tokio::time::sleep(CANCEL_GRACE).await;
    };
    tokio::select! {
        biased;
        ended = drive(store, attempt) => ended.unwrap_or_else(Ending::Failed),
        () = cancelled => Ending::Cancelled,
        () = tokio::time::sleep(Duration::from_millis(attempt.limits.wall_ms)) => Ending::OutOfTime,
    }
}

/// Instantiates the component and calls it once.
async fn drive(store: &mut Store<State>, attempt: &Attempt) -> wasmtime::Result<Ending> {
    match &attempt.component.entry {
        Entry::Command(command) => {
            let instance = command.instantiate_async(&mut *store).await?;
            let exit = instance.wasi_cli_run().call_run(&mut *store).await?;
            Ok(Ending::Exited(u8::from(exit.is_err())))
        }
        Entry::Job(job) => {
            let instance = job.instantiate_async(&mut *store).await?;
            let input = store.data_mut().hand_out(attempt.input.clone())?;
            Ok(match instance.call_run(&mut *store, input).await? {
                Ok(output) => Ending::Returned(output),
                Err(failure) => Ending::GaveUp(failure),
            })
        }
    }
}

/// Turns how it ended into the report.
fn account(mut store: Store<State>, attempt: &Attempt, ending: Ending, started: Instant) -> AttemptReport {
    let left = store.get_fuel().unwrap_or(0).min(attempt.limits.fuel);
    let state = store.data_mut();
    let fuel = (attempt.limits.fuel - left).saturating_add(state.charges.fuel());
    // A guest in a long host call gets to its end after its deadline: too late all the same.
    let late = started.elapsed() > Duration::from_millis(attempt.limits.wall_ms);
    let ending = match ending {
        _ if late => Ending::OutOfTime,
        _ if fuel > attempt.limits.fuel => Ending::Failed(LimitReached(Limit::Fuel).into()),
        ending => ending,
    };
    let outcome = match state.signals.is_cancelled() {
        true => Outcome::cancelled(),
        false => ending::outcome(&ending, &attempt.limits, state),
    };
    let (outcome, output) = match collect(state, ending) {
        Ok((all, output)) if all || !outcome.is_ok() => (outcome, output),
        Ok((_, output)) => (ending::output_limit(&attempt.limits), output),
        Err(error) => (Outcome::ended(OutcomeKind::Error, format!("keeping the output: {error}"), true), None),
    };
    let usage = Usage {
        fuel,
        memory_bytes_peak: state.meter.bytes_peak(),
        wall_ms: millis(started.elapsed()),
        host_ms: millis(state.host_time),
        bytes_in: attempt.input.size(),
        bytes_out: output.as_ref().map_or(0, Blob::size),
        log_bytes_dropped: state.log.lock().dropped(),
        ..Usage::default()
    };
    AttemptReport { outcome, output, usage }
}

/// What the attempt put out, and whether that is all of it.
fn collect(state: &mut State, ending: Ending) -> io::Result<(bool, Option<Blob>)> {
    if let Ending::Returned(Output::Artifact(blob)) = ending {
        let blob = state.take_back(blob);
        return Ok((true, Some(blob.map_err(io::Error::other)?)));
    }
    let empty = state.writer();
    let mut output = state.output.lock();
    match ending {
        Ending::Returned(Output::Bytes(bytes)) => Ok((output.write(&bytes)?, Some(output.finish(empty)?))),
        _ if output.is_empty() => Ok((true, None)),
        _ => Ok((true, Some(output.finish(empty)?))),
    }
}
