//! A node: what starts in which order, and what ends in which.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_nats::connection::State;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmjob_runtime::{Sandbox, SandboxConfig, SandboxError};

use crate::{
    artifacts::{self, ArtifactError, Cache, JetStreamArtifacts},
    cancels::Cancels,
    compiler,
    config::{Config, Source, WorkedQueue},
    connect::{self, ConnectError, Endpoint, Event},
    expiries,
    grants::Offers,
    http::{self, HttpError, Readiness},
    lanes,
    limit_values::{self, LimitConfigError},
    metrics::Metrics,
    node_artifacts::NodeArtifacts,
    nodes::{self, NodeInfo},
    queue::{Broker, LogWriter, QueueError, SetupError, Supply, ensure_queue, ensure_shared},
    reconciler,
    server_time::ServerTime,
    ticks,
    wire::timestamp,
    worker::{MIB, Worker, start_slots},
};

/// How often a node says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Bytes of compiled components a node keeps in memory.
const CODE_BYTES_MAX: usize = 512 << 20;
/// How long attempts that are handed back may take to let go.
const HAND_BACK: Duration = Duration::from_secs(5);
/// How long the last messages to NATS may take.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long a listener that failed waits before it listens again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// How often it is looked whether an earlier node has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A stream is missing.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No artifacts.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Nothing to compile with.
    #[error("it is not known which program this is, so that it could be started to compile: {0}")]
    Program(#[source] io::Error),
    /// No metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A configured limit makes no sense.
    #[error(transparent)]
    Limits(#[from] LimitConfigError),
    /// The heartbeat was not taken.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Another node has this name.
    #[error("a node called `{name}` is running already (process {pid} on {host})")]
    NameTaken {
        /// The name.
        name: String,
        /// Its process.
        pid: u32,
        /// Its machine.
        host: String,
    },
    /// A folder could not be made.
    #[error("the folder {} could not be made: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A queue and how this node works on it.
struct Worked {
    queue: String,
    lease: Duration,
    slots: usize,
}

/// A node that has everything it needs and does not pull yet.
pub struct Node {
    worker: Arc<Worker>,
    info: NodeInfo,
    queues: Vec<Worked>,
    drain: Duration,
    ends_expired: bool,
    listener: TcpListener,
    readiness: watch::Sender<Readiness>,
}

impl Node {
    /// Connects, opens the artifacts, makes the sandbox. Creates nothing in NATS that is there.
    pub async fn prepare(config: &Config, endpoint: &Endpoint) -> Result<Self, NodeError> {
        raise_open_files();
        let (readiness, _) = watch::channel(Readiness::default());
        let metrics = Metrics::new();
        let broker = connect(endpoint, &readiness, &metrics).await?;
        ensure_shared(&broker.jetstream, config.nats.replicas).await?;
        let mut queues = Vec::new();
        for WorkedQueue { name, slots } in &config.node.queues {
            let consumer = ensure_queue(&broker.jetstream, config.nats.replicas, name, config.queue.lease).await?;
            let lease = consumer.cached_info().config.ack_wait;
            queues.push(Worked { queue: name.clone(), lease, slots: slots.unwrap_or(config.node.slots).max(1) });
        }
        check_name(&broker, &config.node.name).await?;
        let listener = http::bind(config.node.http, config.source("node.http") != Source::Default).await?;
        let slots = queues.iter().map(|worked| worked.slots).sum();
        let worker = worker(config, broker, metrics, slots).await?;
        worker.time.ask(&worker.broker).await?;
        let info = describe(config, &worker, &queues, &listener);
        let (drain, ends_expired) = (config.node.drain, false);
        Ok(Node { worker: Arc::new(worker), info, queues, drain, ends_expired, listener, readiness })
    }

    /// From now on it ends jobs that expire, because there is no `up` that does.
    pub fn end_expired(&mut self) {
        self.ends_expired = true;
    }

    /// From now on jobs are said to have succeeded and no guest is called: what `bench` compares with.
    pub fn skip_guests(&mut self) {
        if let Some(worker) = Arc::get_mut(&mut self.worker) {
            worker.skip_guests = true;
        }
    }

    /// Whether the NATS server lets in only those it knows.
    pub fn server_asks_for_credentials(&self) -> bool {
        self.worker.broker.client.server_info().auth_required
    }

    /// The node as it describes itself.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// Works until `shutdown` is cancelled, then drains: takes no more jobs, lets those that run end
    /// within the drain time, hands back the others. A cancel of `hurry` ends the waiting.
    pub async fn run(self, shutdown: CancellationToken, hurry: CancellationToken) -> Result<(), NodeError> {
        let worker = self.worker.clone();
        let shortest = self.queues.iter().map(|worked| worked.lease).min().unwrap_or(HEARTBEAT);
        let _reconciler = AbortOnDropHandle::new(tokio::spawn(reconciler::keep(worker.clone(), shortest)));
        let _expiries = self.ends_expired.then(|| AbortOnDropHandle::new(tokio::spawn(end_expired(worker.clone()))));
        let _ticks = AbortOnDropHandle::new(tokio::spawn(ticks::keep(worker.clone())));
        let _cancels = AbortOnDropHandle::new(tokio::spawn(listen_for_cancels(worker.clone())));
        let _rules = AbortOnDropHandle::new(tokio::spawn(listen_for_rules(worker.clone())));
        let (mut slots, mut watches) = (JoinSet::new(), JoinSet::new());
        for Worked { queue, lease, slots: worked } in &self.queues {
            let (known, lanes) = lanes::first();
            let supply = Supply::new(queue, *worked, lanes);
            watches.spawn(lanes::keep(worker.clone(), queue.clone(), *lease, known));
            let (worker, lease) = (worker.clone(), *lease);
            start_slots(&mut slots, *worked, move || worker.clone().work(lease, supply.clone()));
        }
        self.readiness.send_modify(|ready| ready.pulling = true);
        let served = CancellationToken::new();
        let serve = http::serve(
            self.listener,
            worker.metrics.clone(),
            self.readiness.subscribe(),
            served.clone().cancelled_owned(),
        );
        let serve = tokio::spawn(serve);
        let _answers = AbortOnDropHandle::new(tokio::spawn(answer(worker.clone(), self.info.clone())));
        tracing::info!(node = self.info.name, slots = self.info.slots, queues = ?self.info.queues, http = self.info.http, "taking jobs");
        let beating = beat(&worker, self.info.clone());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = beating => {}
        }
        self.readiness.send_modify(|ready| (ready.draining, ready.pulling) = (true, false));
        worker.draining.cancel();
        let draining = NodeInfo { state: "draining".into(), ..self.info.clone() };
        tokio::select! {
            () = drain(&worker, &mut slots, self.drain, &hurry) => {}
            () = beat(&worker, draining) => {}
        }
        if timeout(GOODBYE, say_goodbye(&worker.broker, &self.info.name)).await.is_err() {
            tracing::warn!("NATS does not answer; the node's entry stays until it expires");
        }
        served.cancel();
        let _ = timeout(HAND_BACK, serve).await;
        Ok(())
    }
}

async fn end_expired(worker: Arc<Worker>) {
    tokio::select! {
        () = expiries::keep(&worker.broker, || worker.time.now()) => {}
        () = worker.draining.cancelled() => {}
    }
}

/// Jobs can have hundreds of files open, each; shells often start a process with a thousand.
fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    // Without it a job is told that there are too many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

/// Removes what attempts left behind whose node was killed. The folder is this node's alone.
fn clear(folder: &Path) {
    for left in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // What cannot be removed now is seen again at the next start.
        let _ = std::fs::remove_dir_all(left.path());
    }
}

/// Removes the node's entry and waits until everything it said has arrived.
async fn say_goodbye(broker: &Broker, name: &str) {
    if let Err(error) = nodes::remove(broker, name).await {
        tracing::warn!(%error, "the node's entry stays until it expires");
    }
    let _ = broker.client.flush().await;
}

async fn connect(
    endpoint: &Endpoint,
    readiness: &watch::Sender<Readiness>,
    metrics: &Metrics,
) -> Result<Broker, ConnectError> {
    let (ready, counted) = (readiness.clone(), metrics.clone());
    let client = connect::connect_with(endpoint, move |event| {
        let connected = match event {
            Event::Connected => true,
            Event::Disconnected | Event::Closed => false,
            Event::ClientError(error) => return tracing::debug!(%error, "NATS"),
            other => return tracing::warn!(event = %other, "NATS"),
        };
        counted.nats_connected.set(connected.into());
        if connected && !ready.borrow().connected {
            counted.nats_reconnects.inc();
        }
        ready.send_modify(|ready| ready.connected = connected);
    })
    .await?;
    let connected = client.connection_state() == State::Connected;
    metrics.nats_connected.set(connected.into());
    readiness.send_modify(|ready| ready.connected = connected);
    Ok(Broker::new(client))
}

/// A second node under one name would write the first one's heartbeats.
async fn check_name(broker: &Broker, name: &str) -> Result<(), NodeError> {
    let Some(other) = nodes::get(broker, name).await? else { return Ok(()) };
    let here = other.host == crate::config::host_name();
    let gone = here && !process_lives(other.pid);
    match other.pid == std::process::id() || gone || !here {
        // An entry from another machine may be this node's own, from before it was moved or
        // renamed; it is overwritten, and two live ones show in `nodes ls` as one that flickers.
        true => Ok(()),
        false => Err(NodeError::NameTaken { name: name.to_owned(), pid: other.pid, host: other.host }),
    }
}

/// Whether a process of this machine runs. One that ended and that nobody waited for keeps its number,
/// but has no command line.
fn process_lives(pid: u32) -> bool {
    let ended = std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !ended && rustix::process::test_kill_process(pid).is_ok()
}

/// Waits, as long as a node may take to drain, until the node of this name that an earlier `up` on this
/// machine left behind has ended: it does so by itself once its `up` is gone.
pub(crate) async fn earlier_one_ended(broker: &Broker, config: &Config) -> Result<(), NodeError> {
    let ended = async {
        while let Err(error) = check_name(broker, &config.node.name).await {
            let NodeError::NameTaken { pid, .. } = error else { return Err(error) };
            tracing::info!(pid, "waiting for the node of an earlier `wasmjob up` to end");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    };
    // One that stays is named by the node that finds its name taken.
    timeout(config.node.drain + HAND_BACK, ended).await.unwrap_or(Ok(()))
}

async fn worker(config: &Config, broker: Broker, metrics: Metrics, slots: usize) -> Result<Worker, NodeError> {
    let folder = |name: &str| -> Result<PathBuf, NodeError> {
        let path = config.data.join(name).join(&config.node.name);
        crate::private::folder(&path).map_err(|source| NodeError::Folder { path: path.clone(), source })?;
        Ok(path)
    };
    if config.artifacts.url.is_none() {
        JetStreamArtifacts::open_or_make(broker.jetstream.clone(), config.nats.replicas).await?;
    }
    let store = artifacts::open(config.artifacts.url.as_deref(), Some(broker.jetstream.clone()), &config.data).await?;
    let cache = Cache::open(&folder("cache")?, config.node.cache)?;
    let spill_dir = folder("tmp")?;
    clear(&spill_dir);
    let limits = limit_values::of_node(config)?;
    let sandbox = Sandbox::new(SandboxConfig {
        slots,
        code_dir: Some(folder("code")?),
        code_bytes_max: CODE_BYTES_MAX,
        compiler: compiler::of_own(&limits).map_err(NodeError::Program)?,
        spill_dir,
        trusted_keys: config.trusted_keys.clone(),
        limits,
    })?;
    let dropped = metrics.log_bytes_dropped.clone();
    metrics.slots.set(i64::try_from(slots).unwrap_or(i64::MAX));
    metrics.memory_budget_bytes.set(i64::try_from(config.node.memory).unwrap_or(i64::MAX));
    let (defaults, maximum) = limit_values::limits(config)?;
    Ok(Worker {
        sandbox,
        artifacts: Arc::new(NodeArtifacts::new(store, cache, Handle::current())),
        logs: LogWriter::start(broker.client.clone(), move |bytes| dropped.inc_by(bytes)),
        cancels: Cancels::default(),
        memory: Arc::new(Semaphore::new(usize::try_from(config.node.memory / MIB).unwrap_or(Semaphore::MAX_PERMITS))),
        memory_bytes: config.node.memory / MIB * MIB,
        metrics,
        node: config.node.name.clone(),
        own_labels: own_labels(config),
        offers: Offers::of(config),
        defaults,
        maximum,
        rules: watch::Sender::new(None),
        time: ServerTime::default(),
        skip_guests: false,
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
        broker: Arc::new(broker),
    })
}

/// The configured labels and those that a machine has by itself.
fn own_labels(config: &Config) -> BTreeSet<String> {
    let own = [("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
    let own = own.map(|(key, value)| format!("{key}={value}"));
    config.node.labels.iter().map(|(key, value)| format!("{key}={value}")).chain(own).collect()
}

fn describe(config: &Config, worker: &Worker, queues: &[Worked], listener: &TcpListener) -> NodeInfo {
    NodeInfo {
        name: config.node.name.clone(),
        pid: std::process::id(),
        host: crate::config::host_name(),
        state: "ready".into(),
        slots: queues.iter().map(|worked| worked.slots).sum(),
        running: 0,
        memory_bytes: worker.memory_bytes,
        memory_promised_bytes: 0,
        queues: queues.iter().map(|worked| worked.queue.clone()).collect(),
        queue_slots: queues.iter().map(|worked| (worked.queue.clone(), worked.slots)).collect(),
        labels: worker.labels(),
        folders: config.grants.fs.iter().map(|(name, offered)| (name.clone(), offered.path.clone())).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        http: listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        started: timestamp(OffsetDateTime::now_utc()),
        seen: None,
    }
}

async fn listen_for_cancels(worker: Arc<Worker>) {
    while !worker.stopping.is_cancelled() {
        if let Err(error) = worker.cancels.clone().listen(Broker::clone(&worker.broker)).await {
            tracing::warn!(%error, "cancels are not heard; listening again");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn listen_for_rules(worker: Arc<Worker>) {
    while !worker.stopping.is_cancelled() {
        if let Err(error) = worker.broker.watch_rules(&worker.rules).await {
            tracing::warn!(%error, "the rules of queues are not heard; listening again");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// The node as it is now.
fn now(worker: &Worker, info: &NodeInfo) -> NodeInfo {
    NodeInfo {
        running: worker.cancels.running(),
        labels: worker.labels(),
        memory_promised_bytes: worker.memory_promised_bytes(),
        seen: timestamp(OffsetDateTime::now_utc()),
        ..info.clone()
    }
}

async fn answer(worker: Arc<Worker>, info: NodeInfo) {
    while !worker.stopping.is_cancelled() {
        if let Err(error) = nodes::answer(&worker.broker, &info.name, || now(&worker, &info)).await {
            tracing::warn!(%error, "questions are not heard; listening again");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// Renews the node's entry for ever. A server that takes no entries (its disk is full, say) is no
/// reason to stop: jobs can still be read, and room be made.
async fn beat(worker: &Worker, info: NodeInfo) {
    let mut ticks = interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        count_caches(worker);
        if let Err(error) = worker.time.ask(&worker.broker).await {
            tracing::debug!(%error, "the server does not say what time it is");
        }
        if let Err(error) = nodes::put(&worker.broker, &now(worker, &info)).await {
            tracing::warn!(%error, "a heartbeat was not taken");
        }
    }
}

fn count_caches(worker: &Worker) {
    let (code, metrics) = (worker.sandbox.cache_counts(), &worker.metrics);
    let up_to = |counter: &prometheus::IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
    up_to(&metrics.compile_cache.hits, code.hits + code.disk_hits);
    up_to(&metrics.compile_cache.misses, code.compiled);
    metrics.compile_cache.bytes.set(i64::try_from(code.bytes).unwrap_or(i64::MAX));
    let usage = worker.artifacts.cache().usage();
    up_to(&metrics.artifact_cache.hits, usage.hits);
    up_to(&metrics.artifact_cache.misses, usage.misses);
    metrics.artifact_cache.bytes.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
}

/// Waits for the slots to end; after `patience`, or when told to hurry, has them hand back what runs.
async fn drain(worker: &Worker, slots: &mut JoinSet<()>, patience: Duration, hurry: &CancellationToken) {
    let ended = async |slots: &mut JoinSet<()>| while slots.join_next().await.is_some() {};
    tokio::select! {
        () = ended(slots) => return,
        () = tokio::time::sleep(patience) => {}
        () = hurry.cancelled() => {}
    }
    tracing::warn!(running = worker.cancels.running(), "handing back the jobs that still run");
    worker.stopping.cancel();
    if timeout(HAND_BACK, ended(slots)).await.is_err() {
        tracing::warn!("some guests did not let go in time");
    }
}
