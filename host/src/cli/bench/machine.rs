//! Servers and nodes in a temporary folder: a node as users have it, and one that does not call guests.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use wasmjob_runtime::{Blob, Digest};

use super::servers;
use crate::{
    artifacts,
    cli::{CliError, common::upload},
    connect::{self, EndpointFile, endpoint_path},
    nodes,
    queue::{Broker, ensure_queue},
    server::{launched, own_launcher},
};

/// Where jobs run.
pub(super) const QUEUE: &str = "default";
/// Where jobs are only said to have run.
pub(super) const FLOOR: &str = "bench-floor";
/// Name of the node that runs them.
const NODE: &str = "bench";
/// How long everything may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// As users have it.
pub(super) const LEASE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A command that ends well at once; `noop.wat` is its text.
const NOOP: &[u8] = include_bytes!("noop.wasm");

/// Everything that runs. Dropping it kills it.
pub(super) struct Rig {
    pub(super) broker: Broker,
    /// The component that does nothing.
    pub(super) component: Digest,
    /// Nodes before servers: they end in this order.
    children: Vec<Child>,
    folder: TempDir,
}

/// What a node takes while it has nothing to do.
pub(super) struct IdleNode {
    pub(super) cpu_percent: Option<f64>,
    pub(super) rss_bytes: Option<u64>,
}

impl Rig {
    /// A server, a node, and one that calls no guests.
    pub(super) async fn start(slots: u32) -> Result<Self, CliError> {
        let mut rig = Rig::up(slots, &[]).await?;
        ensure_queue(&rig.broker.jetstream, 1, FLOOR, LEASE).await?;
        let data = rig.data();
        let credentials = data.join("credentials").join("operator.nk").display().to_string();
        let url = EndpointFile::read(&endpoint_path(&data)).map_err(CliError::platform)?.endpoint().shown_url();
        let floor =
            ["node", "--name", "floor", "--queues", FLOOR, "--without-guests", "--nats", &url, "--creds", &credentials];
        rig.children
            .insert(0, start(&data, &[&floor[..], &flags(&slots.to_string())].concat(), &[], "is ready").await?);
        Ok(rig)
    }

    /// A server that has everything on its disk before it answers, and a node.
    pub(super) async fn start_synced(slots: u32) -> Result<Self, CliError> {
        Rig::up(slots, &[("WASMJOB_NATS_SYNC", "always")]).await
    }

    /// Three servers and a node.
    pub(super) async fn start_replicated(slots: u32) -> Result<Self, CliError> {
        let folder = folder()?;
        let servers = servers::start(folder.path()).await?;
        let seed = servers.seed.display().to_string();
        let node = ["node", "--name", NODE, "--nats", &servers.urls, "--creds", &seed];
        let replicas = servers::SERVERS.to_string();
        let variables = [("WASMJOB_NATS_REPLICAS", replicas.as_str())];
        let data = folder.path().join("data");
        let node = start(&data, &[&node[..], &flags(&slots.to_string())].concat(), &variables, "is ready").await?;
        let children = std::iter::once(node).chain(servers.children).collect();
        Rig::with_component(servers.broker, children, folder).await
    }

    async fn up(slots: u32, variables: &[(&str, &str)]) -> Result<Self, CliError> {
        let folder = folder()?;
        let data = folder.path().join("data");
        let slots = slots.to_string();
        let up = [&["up", "--name", NODE][..], &flags(&slots)].concat();
        let up = start(&data, &up, variables, "ready:").await?;
        let endpoint = EndpointFile::read(&endpoint_path(&data)).map_err(CliError::platform)?.endpoint();
        let broker = Broker::new(connect::connect(&endpoint).await?);
        Rig::with_component(broker, vec![up], folder).await
    }

    async fn with_component(broker: Broker, children: Vec<Child>, folder: TempDir) -> Result<Self, CliError> {
        let store = artifacts::open(None, Some(broker.jetstream.clone()), folder.path()).await?;
        let component = Blob::from_bytes(NOOP.into());
        upload(&*store, &component, "uploading").await?;
        Ok(Rig { broker, component: component.digest(), children, folder })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Resident memory of the server of `up`.
    pub(super) fn server_rss_bytes(&self) -> Option<u64> {
        let pid = std::fs::read_to_string(self.data().join("server/nats-server.pid")).ok()?;
        rss_bytes(pid.trim().parse().ok()?)
    }

    /// Watches the node that runs jobs.
    pub(super) async fn idle(&self, time: Duration) -> IdleNode {
        let Some(node) = nodes::ask(&self.broker, NODE).await else {
            return IdleNode { cpu_percent: None, rss_bytes: None };
        };
        let (before, begun) = (cpu_seconds(node.pid), Instant::now());
        sleep(time).await;
        let used = before.zip(cpu_seconds(node.pid)).map(|(before, after)| after - before);
        let cpu_percent = used.map(|used| 100.0 * used / begun.elapsed().as_secs_f64());
        IdleNode { cpu_percent, rss_bytes: rss_bytes(node.pid) }
    }

    /// Ends everything.
    pub(super) async fn stop(mut self) {
        for child in &mut self.children {
            if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
            let _ = timeout(PATIENCE, child.wait()).await;
        }
    }
}

fn folder() -> Result<TempDir, CliError> {
    tempfile::Builder::new().prefix("wasmjob-bench-").tempdir().map_err(CliError::platform)
}

fn flags(slots: &str) -> [&str; 6] {
    ["--slots", slots, "--http", "127.0.0.1:0", "--memory", "64GiB"]
}

/// Starts a program that ends with us, however we end. On the main thread, which lives as long as we do.
pub(super) fn launch(command: &std::process::Command) -> Result<Child, CliError> {
    let mut command = launched(&own_launcher(), command, Signal::TERM);
    command.process_group(0);
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().map_err(CliError::platform)
}

/// Starts this program again, and waits until it says this.
async fn start(data: &Path, args: &[&str], variables: &[(&str, &str)], said: &str) -> Result<Child, CliError> {
    let program = std::env::current_exe().map_err(CliError::platform)?;
    let mut command = std::process::Command::new(program);
    command.args(args).env("WASMJOB_DATA", data).env_remove("WASMJOB_NATS").envs(variables.iter().copied());
    let mut child = launch(&command)?;
    let mut lines = BufReader::new(child.stderr.take().expect("it was piped")).lines();
    let mut all = String::new();
    let ready = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let found = line.contains(said);
            all.push_str(&line);
            all.push('\n');
            if found {
                return true;
            }
        }
        false
    };
    if !timeout(PATIENCE, ready).await.unwrap_or(false) {
        return Err(CliError::platform(format!("`wasmjob {}` does not start; it said:\n{all}", args.join(" "))));
    }
    // What it says later is read, so that it is never kept waiting.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    sleep(LOOK_EVERY).await;
    Ok(child)
}

/// Processor time of a process so far.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before these fields can contain anything but ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    #[allow(clippy::cast_precision_loss)]
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
