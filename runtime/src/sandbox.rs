//! The whole life of one attempt: bytes, input, limits in; a report out.

use std::{
    any::Any,
    io,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{OnceCell, Semaphore, oneshot},
    task::spawn_blocking,
};
use wasmtime::{CallHook, Engine, Store, StoreContextMut};

use crate::{
    artifacts::{Artifacts, NoArtifacts},
    blob::{Blob, BlobWriter, Digest},
    capability::Output,
    code_cache::{CacheCounts, CodeCache},
    compiler::Compiler,
    component::{Entry, Prepared},
    ending::{self, Ending},
    engine::Variant,
    grants::Grants,
    limits::{self, COMPILES_MAX, COMPONENT_BYTES_MAX, Limit, Limits, NodeLimits, YIELD_FUEL},
    log::{LogSink, NoLog},
    machine::Machine,
    meter::LimitReached,
    report::{AttemptReport, Outcome, OutcomeKind, Usage, millis},
    signals::Signals,
    signature::TrustedKeys,
    store::State,
    threads::{self, Threads},
};

/// How long a guest that was cancelled may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_millis(30);
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
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Where outputs go that are too large for memory; nothing there outlives its attempt.
    pub spill_dir: PathBuf,
    /// Who must have signed a component; nobody by default.
    pub trusted_keys: TrustedKeys,
    /// What is the same for all jobs.
    pub limits: NodeLimits,
}

impl SandboxConfig {
    /// Trusts everybody, compiles in this process and keeps compiled code in memory only: for tests,
    /// benchmarks and components of one's own.
    #[must_use]
    pub fn new(slots: usize, spill_dir: PathBuf) -> Self {
        SandboxConfig {
            slots,
            code_dir: None,
            code_bytes_max: 64 << 20,
            compiler: Compiler::InProcess,
            spill_dir,
            trusted_keys: TrustedKeys::default(),
            limits: NodeLimits::default(),
        }
    }
}

/// Runs attempts. Cheap to share behind an `Arc`.
pub struct Sandbox {
    fast: Arc<Machine>,
    /// Made when the first job asks for it.
    deterministic: OnceCell<Arc<Machine>>,
    slots: u32,
    stack_bytes: usize,
    pub(crate) component_bytes_max: u64,
    code_dir: Option<PathBuf>,
    code_context: Vec<u8>,
    pub(crate) cache: CodeCache,
    pub(crate) compiler: Compiler,
    pub(crate) compiling: Arc<Semaphore>,
    threads: Threads,
    scratch: Scratch,
    trusted: Arc<TrustedKeys>,
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
    /// A folder could not be made.
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

impl Attempt {
    /// The first attempt of a job that has nothing but defaults: no input, no grants, a log that nobody reads.
    #[must_use]
    pub fn new(component: Arc<Prepared>) -> Self {
        Attempt {
            component,
            job: "01arz3ndektsv4rrffq69g5fav".into(),
            number: 1,
            input: Blob::from_bytes(Bytes::new()),
            args: Vec::new(),
            env: Vec::new(),
            limits: Limits::default(),
            soft: Duration::MAX,
            grants: Grants::default(),
            deterministic: None,
            artifacts: Arc::new(NoArtifacts),
            log: Arc::new(NoLog),
            signals: Arc::default(),
        }
    }
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
    /// Makes a sandbox. Its threads start with the attempts that need them.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let slots = u32::try_from(config.slots.max(1)).unwrap_or(u32::MAX);
        // Code that was kept when others were trusted is not found.
        let context = config.trusted_keys.to_environment();
        let stack_bytes = usize::try_from(config.limits.stack).unwrap_or(usize::MAX);
        let fast = Machine::new(slots, stack_bytes, Variant::Fast, config.code_dir.as_deref(), &context)?;
        let compiles = thread::available_parallelism().map_or(1, usize::from).min(COMPILES_MAX);
        Ok(Sandbox {
            fast: Arc::new(fast),
            deterministic: OnceCell::new(),
            slots,
            stack_bytes,
            component_bytes_max: config.limits.component,
            code_dir: config.code_dir,
            code_context: context,
            cache: CodeCache::new(config.code_bytes_max),
            compiler: config.compiler,
            compiling: Arc::new(Semaphore::new(compiles)),
            threads: Threads::new(slots as usize),
            scratch: Scratch(config.spill_dir.into()),
            trusted: Arc::new(config.trusted_keys),
        })
    }

    /// The engine of `variant`, and what belongs to it.
    pub(crate) async fn machine(&self, variant: Variant) -> Result<Arc<Machine>, Box<Outcome>> {
        if variant == Variant::Fast {
            return Ok(self.fast.clone());
        }
        let make = async || {
            let (slots, stack_bytes) = (self.slots, self.stack_bytes);
            let (dir, context) = (self.code_dir.clone(), self.code_context.clone());
            let made =
                spawn_blocking(move || Machine::new(slots, stack_bytes, variant, dir.as_deref(), &context)).await;
            let made = made.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())?;
            Ok::<_, String>(Arc::new(made))
        };
        let made = self.deterministic.get_or_try_init(make).await;
        made.cloned().map_err(|reason| Box::new(Outcome::ended(OutcomeKind::Error, reason, true)))
    }

    /// Refuses what no trusted key signed, before anything else looks into the bytes.
    pub(crate) async fn check_signature(&self, digest: Digest, component: &Blob) -> Result<(), Box<Outcome>> {
        if self.trusted.is_empty() {
            return Ok(());
        }
        let (trusted, component) = (self.trusted.clone(), component.clone());
        let check = move || match component.to_bytes(COMPONENT_BYTES_MAX) {
            Ok(bytes) => trusted.check(digest, &bytes).map_err(|untrusted| Outcome::invalid(untrusted.to_string())),
            Err(error) => Err(Outcome::ended(OutcomeKind::Error, error.to_string(), true)),
        };
        match spawn_blocking(check).await {
            Ok(checked) => checked.map_err(Box::new),
            Err(panic) => Err(Box::new(Outcome::ended(OutcomeKind::Error, format!("{digest}: {panic}"), true))),
        }
    }

    /// Starts an attempt on the next free guest thread.
    ///
    /// `release` is dropped when the thread is free again, which can be after the report: a guest
    /// in the middle of one long instruction is reported as cancelled before it can be stopped.
    pub fn start<R: Send + 'static>(&self, attempt: Attempt, release: R) -> Running {
        let (send, report) = oneshot::channel();
        let scratch = self.scratch.clone();
        self.threads.run(move |runtime| {
            let live = async {
                let ended = AssertUnwindSafe(live(&scratch, attempt)).catch_unwind().await;
                threads::end_tasks().await;
                ended.unwrap_or_else(|panic| AttemptReport::unstarted(host_failed(&*panic)))
            };
            let ended = match runtime {
                // It is large, and stays where it is.
                Ok(runtime) => runtime.block_on(pin!(live)),
                Err(error) => AttemptReport::unstarted(no_thread(&error)),
            };
            drop(release);
            let _ = send.send(ended);
        });
        Running { report }
    }

    /// Runs an attempt on the thread that polls the future, which a spinning guest delays.
    /// This is what `start` does on a guest thread; it is here for benchmarks.
    pub async fn run_here(&self, attempt: Attempt) -> AttemptReport {
        live(&self.scratch, attempt).await
    }

    /// The engine attempts run on. Benchmarks compare with wasmtime itself on the same one.
    pub fn engine(&self) -> &Engine {
        &self.fast.engine
    }

    /// Bytes a component can have here.
    pub fn component_bytes_max(&self) -> u64 {
        self.component_bytes_max
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

/// A thread is memory and a few open files, and the operating system gives a process only so many.
fn no_thread(error: &io::Error) -> Outcome {
    Outcome::ended(OutcomeKind::Error, format!("no thread could be started for the job: {error}"), true)
}

fn host_failed(panic: &(dyn Any + Send)) -> Outcome {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    Outcome::ended(OutcomeKind::Error, format!("the host failed: {}", text.unwrap_or("no message")), true)
}

/// The life of one attempt: a store, an instance, one call; then the account.
async fn live(scratch: &Scratch, attempt: Attempt) -> AttemptReport {
    let started = Instant::now();
    if let Some(outcome) = refused_input(&attempt).or_else(|| attempt.component.refused_grants(&attempt.grants)) {
        return AttemptReport::unstarted(outcome);
    }
    let mut store = Store::new(attempt.component.engine(), State::new(&attempt, scratch));
    let ending = match arm(&mut store, &attempt) {
        Ok(()) => finish_in_time(&mut store, &attempt).await,
        Err(error) => Ending::Failed(error),
    };
    account(store, &attempt, ending, started)
}

fn refused_input(attempt: &Attempt) -> Option<Outcome> {
    let size = attempt.input.size();
    if size <= attempt.limits.input {
        return None;
    }
    let message = format!("has an input of {size} bytes, more than {}", attempt.limits.show("input"));
    Some(Outcome { retryable: false, ..Outcome::limited(Limit::Input, message) })
}

/// Puts every limit in place before any code of the guest runs.
fn arm(store: &mut Store<State>, attempt: &Attempt) -> wasmtime::Result<()> {
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(usize::try_from(attempt.limits.call).unwrap_or(usize::MAX));
    store.set_max_component_handles(limits::COMPONENT_HANDLES_MAX);
    store.set_fuel(attempt.limits.fuel)?;
    store.fuel_async_yield_interval(Some(YIELD_FUEL))?;
    let mut watch = Watch {
        deadline: Instant::now().checked_add(Duration::from_millis(attempt.limits.wall_ms)),
        cancelled: None,
        calls: 0,
    };
    store.call_hook(move |store, hook| watch.after_host_call(store, hook));
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
    fn after_host_call(&mut self, mut store: StoreContextMut<'_, State>, hook: CallHook) -> wasmtime::Result<()> {
        let state = store.data();
        // The hook is called for wasmtime's own helpers as well, which copy memory for instance.
        if !matches!(hook, CallHook::ReturningFromHost) || state.calls == self.calls {
            return Ok(());
        }
        self.calls = state.calls;
        store.data_mut().settle()?;
        let state = store.data();
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
