//! A cluster: what `wasmjob up` starts, and more nodes that join it.

use std::collections::HashMap;
use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures_util::StreamExt as _;
use rustix::process::Signal;
use serde_json::Value;
use wasmjob_host::connect::{EndpointFile, connect, endpoint_path};
use wasmjob_host::queue::{Broker, names};

use crate::machine::Machine;
use crate::process::{Process, children, in_time, is_running, send, until};

/// A machine with a running `wasmjob up`; its node is called `n1` and has 8 slots unless told
/// otherwise. Dropping it kills everything and removes the folder.
pub struct Cluster {
    // The process goes before the folder it works in.
    up: Process,
    machine: Machine,
    flags: Vec<String>,
}

impl Deref for Cluster {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Cluster {
    /// Starts one.
    #[must_use]
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// Starts one with these flags for `up`.
    #[must_use]
    pub fn up_with(flags: &[&str]) -> Self {
        Self::up_on(Machine::new(), flags)
    }

    /// Starts one on a machine.
    #[must_use]
    pub fn up_on(machine: Machine, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut up = Process::start(&up_command(&machine, &flags));
        up.until_it_says("ready:");
        Self { up, machine, flags }
    }

    /// One for all tests that do nothing that another test would notice. It ends with the process of
    /// the tests.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
            let machine = Machine::in_kept_folder();
            let folder = machine.dir().display().to_string();
            let mut up = Process::start_in(&up_command(&machine, &[]), &folder);
            up.until_it_says("ready:");
            Cluster { up, machine, flags: Vec::new() }
        });
        &SHARED
    }

    /// The process of `up`.
    pub fn process(&mut self) -> &mut Process {
        &mut self.up
    }

    /// Starts `up` again after it ended.
    #[track_caller]
    pub fn up_again(&mut self) {
        self.up = Process::start(&up_command(&self.machine, &self.flags));
        self.up.until_it_says("ready:");
    }

    /// The processes that `up` has started.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        children(self.up.pid())
    }

    /// The process of the nats-server.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        let file = self.path("data/server/nats-server.pid");
        let text = std::fs::read_to_string(file).expect("the server writes its process id");
        text.trim().parse().expect("a process id is a number")
    }

    /// An entry of `nodes ls`.
    #[track_caller]
    pub fn node(&self, name: &str) -> Value {
        let nodes = self.json(&["nodes", "ls"]);
        let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == name));
        found.unwrap_or_else(|| panic!("there is no node {name}: {nodes}")).clone()
    }

    /// Sends a signal to a node.
    #[track_caller]
    pub fn signal_node(&self, name: &str, signal: Signal) {
        let pid = self.node(name)["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        send(pid.expect("a process id is a number"), signal);
    }

    /// Kills a process and waits until it is gone.
    #[track_caller]
    pub fn kill(&self, pid: u32) {
        send(pid, Signal::KILL);
        until("a killed process is gone", || (!is_running(pid)).then_some(()));
    }

    /// Submits a job and gives its id.
    #[track_caller]
    pub fn submit(&self, args: &[&str]) -> String {
        let said = self.wasmjob(&[&["submit"], args].concat()).succeeded();
        said.text().trim().to_owned()
    }

    /// The report of a job once it is in this state.
    #[track_caller]
    pub fn until_state(&self, job: &str, state: &str) -> Value {
        let mut last = String::new();
        let found = in_time(|| {
            let said = self.wasmjob(&["get", job, "--json"]);
            last = format!("{}\n{}", said.text(), said.err);
            // The server or the job can be missing for a moment; in the end they are not.
            (said.code == Some(0)).then(|| said.json()).filter(|report| report["state"] == state)
        });
        found.unwrap_or_else(|| panic!("job {job} does not become {state}: {last}\n{}", self.node_log()))
    }

    /// What the node of `up` logged.
    #[must_use]
    pub fn node_log(&self) -> String {
        std::fs::read_to_string(self.path("data/logs/node.log")).unwrap_or_default()
    }

    /// What an HTTP address of a node answers: status and body.
    #[track_caller]
    pub fn http(&self, node: &str, path: &str) -> (u16, String) {
        let address = self.node(node)["http"].as_str().expect("nodes say where they answer").to_owned();
        http_get(&address, path)
    }

    /// The value of a metric of a node; 0 if it was never counted.
    #[track_caller]
    pub fn metric(&self, node: &str, name: &str) -> f64 {
        let (status, text) = self.http(node, "/metrics");
        assert_eq!(status, 200, "{text}");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }

    /// Starts a node on another machine that was invited to this cluster (`up --listen` it needs).
    #[track_caller]
    pub fn join(&self, name: &str, flags: &[&str]) -> Node {
        let invitation = self.path(&format!("{name}.join")).display().to_string();
        self.wasmjob(&["nodes", "invite", name, "--output", &invitation]).succeeded();
        let machine = Machine::new();
        let args = [&["node", "--join", &invitation, "--http", "127.0.0.1:0"], flags].concat();
        let mut process = Process::start(&machine.command(&args));
        process.until_it_says("is ready");
        let nodes = || self.json(&["nodes", "ls"]);
        until(&format!("node {name} is listed"), || {
            nodes().as_array()?.iter().any(|node| node["name"] == name).then_some(())
        });
        Node { process, machine }
    }

    /// How everybody gets in.
    #[must_use]
    pub fn endpoint(&self) -> EndpointFile {
        EndpointFile::read(&endpoint_path(&self.path("data"))).expect("`up` says where its server is")
    }

    /// A connection with the operator's credentials: a client that is not `wasmjob`.
    pub async fn connect(&self) -> Broker {
        Broker::new(connect(&self.endpoint().endpoint()).await.expect("the server takes connections"))
    }
}

fn up_command(machine: &Machine, flags: &[String]) -> Command {
    let mut command = machine.command(&["up", "--name", "n1", "--http", "127.0.0.1:0"]);
    if !flags.iter().any(|flag| flag == "--slots") {
        command.args(["--slots", "8"]);
    }
    command.args(flags);
    command
}

/// A node on a machine of its own. Dropping it kills it.
pub struct Node {
    /// Its process.
    pub process: Process,
    /// Its machine.
    pub machine: Machine,
}

/// Counts the terminal events that are stored from now on.
pub struct Seen(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Seen {
    /// Listens to all jobs of a cluster, for as long as the runtime of the test.
    pub async fn listen(broker: &Broker) -> Self {
        let mut events = broker.client.subscribe(names::SEEN_ALL).await.expect("the connection is open");
        broker.client.flush().await.expect("the connection is open");
        let seen = Self(Arc::default());
        let ends = seen.0.clone();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Ok(report) = serde_json::from_slice::<Value>(&event.payload) else { continue };
                let state = report["state"].as_str().unwrap_or_default().to_owned();
                if matches!(state.as_str(), "succeeded" | "failed" | "dead" | "cancelled") {
                    let job = report["job"].as_str().unwrap_or_default().to_owned();
                    ends.lock().unwrap_or_else(PoisonError::into_inner).entry(job).or_default().push(state);
                }
            }
        });
        seen
    }

    /// The terminal states that were stored for a job, in order.
    #[must_use]
    pub fn ends(&self, job: &str) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned().unwrap_or_default()
    }

    /// The jobs that ended.
    #[must_use]
    pub fn jobs(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn http_get(address: &str, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(address).expect("the node listens");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("the node reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the node answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head and a body");
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    (status.expect("an answer has a status"), body.to_owned())
}
