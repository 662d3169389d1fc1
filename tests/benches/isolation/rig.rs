//! The servers under attack, and what is said to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use serde_json::Value;
use wasmjob_host::artifacts::{ArtifactStore as _, JetStreamArtifacts};
use wasmjob_host::nodes;
use wasmjob_host::queue::{Broker, names};
use wasmjob_host::wire::{JobId, JobSpec, LimitTable, new_job_id};
use wasmjob_runtime::Blob;
use wasmjob_tests::Cluster;

use crate::guests;

/// Slots of each queue. More than this machine may have processors: guests share them.
pub const SLOTS: usize = 4;
/// Where hostile guests run.
pub const ATTACKED: &str = "attack";
/// Where small jobs run.
pub const PROBED: &str = "probe";
/// Where jobs run that are cancelled.
pub const CANCELLED: &str = "cancel";
/// The node.
pub const NODE: &str = "n1";
/// Memory of a hostile guest, which it uses up.
pub const MEMORY_BYTES: u64 = 256 << 20;
/// Whatever takes longer than this hangs, and the run with it.
const PATIENCE: Duration = Duration::from_secs(120);

impl Components {
    /// All of them by name, hostile or not, in an order in which the attack takes turns.
    pub fn named(&self) -> [(&'static str, &String); 10] {
        [
            ("spins", &self.spins),
            ("traps", &self.traps),
            ("calls-wasi", &self.calls_wasi),
            ("grows", &self.grows),
            ("floods", &self.floods),
            ("calls-job", &self.calls_job),
            ("sleeps", &self.sleeps),
            ("fills", &self.fills),
            ("bomb", &self.bomb),
            ("tiny", &self.tiny),
        ]
    }
}

/// A nats-server and a node with three queues. Dropping it ends both and removes their folder.
pub struct Rig {
    pub cluster: Cluster,
    pub bombs: Bombs,
}

/// Digests of the guests that are the same each time.
#[derive(Clone)]
pub struct Components {
    pub tiny: String,
    pub spins: String,
    pub calls_wasi: String,
    pub calls_job: String,
    pub fills: String,
    pub grows: String,
    pub traps: String,
    pub floods: String,
    pub sleeps: String,
    /// Expensive to compile, then refused: compiled again each time and kept nowhere.
    pub bomb: String,
}

impl Rig {
    pub fn start() -> Self {
        let (slots, queues) = (SLOTS.to_string(), [ATTACKED, PROBED, CANCELLED].join(","));
        let flags = ["--slots", &slots, "--queues", &queues, "--memory", "8GiB"];
        Rig { cluster: Cluster::up_with(&flags), bombs: Bombs::default() }
    }

    /// A connection of its own: what attackers wait for must not keep probes waiting.
    pub async fn connect(&self) -> Broker {
        self.cluster.connect().await
    }

    pub async fn prepare(&self, broker: &Broker) -> Components {
        let wat = |text: String| wat::parse_str(text).expect("the guest is valid");
        Components {
            tiny: push(broker, wat(wasmjob_tests::guest::says("ok"))).await,
            spins: push(broker, wat(wasmjob_tests::guest::spins())).await,
            calls_wasi: push(broker, wat(guests::calls_wasi())).await,
            calls_job: push(broker, guests::calls_job()).await,
            fills: push(broker, wat(guests::fills())).await,
            grows: push(broker, wat(guests::grows())).await,
            traps: push(broker, wat(wasmjob_tests::guest::traps())).await,
            floods: push(broker, wat(guests::floods())).await,
            sleeps: push(broker, wat(wasmjob_tests::guest::sleeps_ms(60_000))).await,
            bomb: push(broker, guests::bomb(u64::MAX, false)).await,
        }
    }

    /// Waits until this many jobs run.
    pub async fn until_running(&self, broker: &Broker, jobs: usize) {
        let reached = async {
            while nodes::ask(broker, NODE).await.is_none_or(|node| node.running < jobs) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the node takes the jobs");
    }

    /// Waits until no job runs.
    pub async fn until_idle(&self, broker: &Broker) {
        let reached = async {
            while nodes::ask(broker, NODE).await.is_none_or(|node| node.running > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the node ends its jobs");
    }
}

/// Components that take seconds to compile and that nobody has seen before.
#[derive(Clone, Default)]
pub struct Bombs(Arc<AtomicU64>);

impl Bombs {
    pub async fn next(&self, broker: &Broker) -> String {
        push(broker, guests::bomb(self.0.fetch_add(1, Ordering::Relaxed), true)).await
    }
}

async fn push(broker: &Broker, component: Vec<u8>) -> String {
    let store = JetStreamArtifacts::open(broker.jetstream.clone()).await.expect("there are artifacts");
    let blob = Blob::from_bytes(component.into());
    store.put(&blob).await.expect("the store takes a component");
    blob.digest().to_string()
}

/// A job that is on its way.
pub struct Job {
    pub id: JobId,
    seen: Subscriber,
}

impl Job {
    /// Listens for what becomes of it, then submits it.
    pub async fn submit(broker: &Broker, queue: &str, component: &str, limits: &[(&str, u64)]) -> Self {
        let mut spec = JobSpec::new(new_job_id(), component);
        spec.queue = queue.into();
        spec.limits = LimitTable(limits.iter().map(|(name, value)| ((*name).to_owned().into(), *value)).collect());
        let seen = broker.client.subscribe(names::seen(spec.id)).await.expect("the connection is open");
        broker.submit(&spec).await.expect("the queue takes a job");
        Job { id: spec.id, seen }
    }

    /// Waits until it runs.
    pub async fn until_running(&mut self) {
        self.until(|state| state == "running").await;
    }

    /// Waits for its stored end.
    pub async fn until_ended(&mut self) -> String {
        self.until(|state| matches!(state, "succeeded" | "failed" | "dead" | "cancelled")).await
    }

    async fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let reached = async {
            while let Some(event) = self.seen.next().await {
                let report: Value = serde_json::from_slice(&event.payload).unwrap_or_default();
                let state = report["state"].as_str().unwrap_or_default();
                if wanted(state) {
                    return state.to_owned();
                }
            }
            panic!("the connection was closed");
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the node sees to its jobs")
    }
}
