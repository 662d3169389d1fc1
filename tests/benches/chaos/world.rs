//! The machines: three with a nats-server, three with a node, each with a network of its own on one bridge.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use wasmjob_host::artifacts::{ArtifactStore as _, JetStreamArtifacts};
use wasmjob_host::connect::{Endpoint, connect};
use wasmjob_host::nodes;
use wasmjob_host::queue::{Broker, names};
use wasmjob_runtime::{Blob, Digest};
use wasmjob_tests::{Process, binary, send};

/// Servers, and nodes.
pub const MACHINES: usize = 3;
/// How long a job stays with a node that does not renew it.
pub const LEASE: Duration = Duration::from_secs(5);
/// Everything that starts does so within this time.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A server's disk, which one of the faults fills.
const DISK: &str = "size=192m";

/// Everything that runs. Dropping it kills it; the networks go with the process.
pub struct World {
    folder: TempDir,
    servers: Vec<Option<Process>>,
    nodes: Vec<Option<Process>>,
    pub broker: Broker,
}

fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).stdin(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "ip {}", args.join(" "));
}

fn server_name(number: usize) -> String {
    format!("server{number}")
}

fn node_name(number: usize) -> String {
    format!("node{number}")
}

fn server_address(number: usize) -> String {
    format!("10.77.0.{}", 11 + number)
}

fn urls() -> String {
    (0..MACHINES).map(|number| format!("nats://{}:4222", server_address(number))).collect::<Vec<_>>().join(",")
}

/// A network with one address, connected to the bridge.
fn add_machine(name: &str, address: &str) {
    let outside = format!("v-{name}");
    ip(&["netns", "add", name]);
    ip(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", name]);
    ip(&["link", "set", &outside, "master", "br0", "up"]);
    ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
    ip(&["-n", name, "link", "set", "eth0", "up"]);
    ip(&["-n", name, "link", "set", "lo", "up"]);
}

fn inside(name: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(program);
    command
}

impl World {
    pub async fn start() -> Self {
        ip(&["link", "add", "br0", "type", "bridge"]);
        ip(&["addr", "add", "10.77.0.1/24", "dev", "br0"]);
        ip(&["link", "set", "br0", "up"]);
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MACHINES {
            add_machine(&server_name(number), &server_address(number));
            add_machine(&node_name(number), &format!("10.77.0.{}", 21 + number));
            let disk = folder.path().join(server_name(number));
            std::fs::create_dir(&disk).unwrap();
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&disk).status();
            assert!(mounted.is_ok_and(|status| status.success()), "a disk for {}", server_name(number));
        }
        let servers: Vec<Option<Process>> = (0..MACHINES).map(|number| Some(server(folder.path(), number))).collect();
        let broker = until_they_store().await;
        let mut world = World { folder, servers, nodes: Vec::new(), broker };
        for number in 0..MACHINES {
            let node = world.node(number);
            world.nodes.push(Some(node));
        }
        world.until_nodes_are_there().await;
        world
    }

    fn node(&self, number: usize) -> Process {
        let mut command = inside(&node_name(number), &binary());
        let urls = urls();
        command.args(["node", "--name", &node_name(number), "--nats", &urls, "--slots", "8", "--memory", "8GiB"]);
        command.env("WASMJOB_DATA", self.folder.path().join(node_name(number)).join("data"));
        command.env("WASMJOB_NATS_REPLICAS", MACHINES.to_string());
        command.env("WASMJOB_QUEUE_LEASE", format!("{}s", LEASE.as_secs()));
        Process::start(&command)
    }

    async fn until_nodes_are_there(&self) {
        let begun = Instant::now();
        while nodes::list(&self.broker).await.map_or(0, |nodes| nodes.len()) < MACHINES {
            assert!(begun.elapsed() < PATIENCE, "the nodes do not start: {}", self.said());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn said(&self) -> String {
        self.nodes.iter().flatten().map(Process::said).collect()
    }

    /// Stores a component.
    pub async fn push(&self, wat: &str) -> Digest {
        let blob = Blob::from_bytes(wat::parse_str(wat).unwrap().into());
        let store = JetStreamArtifacts::open_or_make(self.broker.jetstream.clone(), MACHINES).await.unwrap();
        store.put(&blob).await.unwrap();
        blob.digest()
    }

    pub fn kill_node(&mut self, number: usize) {
        // Dropping kills with -9.
        self.nodes[number] = None;
    }

    /// Starts a node again. The name is free when the entry of the one that was killed is known to be dead.
    pub fn start_node(&mut self, number: usize) {
        let node = self.node(number);
        self.nodes[number] = Some(node);
    }

    pub fn signal_node(&self, number: usize, signal: Signal) {
        if let Some(node) = &self.nodes[number] {
            send(node.pid(), signal);
        }
    }

    pub fn kill_server(&mut self, number: usize) {
        self.servers[number] = None;
    }

    pub fn start_server(&mut self, number: usize) {
        self.servers[number] = Some(server(self.folder.path(), number));
    }

    pub fn cut_node(&self, number: usize, cut: bool) {
        set_link(&node_name(number), cut);
    }

    pub fn cut_server(&self, number: usize, cut: bool) {
        set_link(&server_name(number), cut);
    }

    /// The server that leads the queue.
    pub async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            if let Ok(stream) = self.broker.jetstream.get_stream(names::queue_stream("default")).await {
                let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
                let number = leader.and_then(|name| name.strip_prefix("server")?.parse().ok());
                if let Some(number) = number {
                    return number;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the queue has no leader");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn fat(&self, number: usize) -> PathBuf {
        self.folder.path().join(server_name(number)).join("fat")
    }

    /// Leaves a server's disk without room.
    pub fn fill_disk(&self, number: usize) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.fat(number)).unwrap();
        let block = vec![0_u8; 1 << 20];
        while file.write_all(&block).is_ok() {}
    }

    pub fn empty_disk(&self, number: usize) {
        let _ = std::fs::remove_file(self.fat(number));
    }

    /// A counter of all nodes together, as far as they answer.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for number in 0..MACHINES {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &node_name(number), "curl", "-sm", "5", "http://127.0.0.1:7717/metrics"]);
            let answer = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
            let text = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
            sum += text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }
}

fn set_link(name: &str, cut: bool) {
    ip(&["link", "set", &format!("v-{name}"), if cut { "down" } else { "up" }]);
}

fn server(folder: &Path, number: usize) -> Process {
    let disk = folder.join(server_name(number));
    let address = server_address(number);
    let routes: Vec<String> =
        (0..MACHINES).map(|other| format!("\"nats-route://{}:6222\"", server_address(other))).collect();
    let conf = format!(
        "server_name: {}\nlisten: \"{address}:4222\"\nlog_file: \"{}\"\n\
         jetstream: {{ store_dir: \"{}\", max_file_store: 1GB }}\n\
         cluster: {{ name: chaos, listen: \"{address}:6222\", routes: [{}] }}\n",
        server_name(number),
        folder.join(format!("{}.log", server_name(number))).display(),
        disk.display(),
        routes.join(", "),
    );
    let file = folder.join(format!("{}.conf", server_name(number)));
    std::fs::write(&file, conf).unwrap();
    let mut command = inside(&server_name(number), Path::new("nats-server"));
    command.arg("-c").arg(&file);
    Process::start(&command)
}

async fn until_they_store() -> Broker {
    let begun = Instant::now();
    let endpoint = Endpoint::plain(&urls());
    loop {
        if let Ok(client) = connect(&endpoint).await {
            let broker = Broker::new(client);
            if wasmjob_host::queue::ensure_shared(&broker.jetstream, MACHINES).await.is_ok() {
                return broker;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "the servers do not store");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
