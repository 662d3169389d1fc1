//! Which nodes there are: each writes an entry that lives as long as it is renewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::join_all};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    queue::{Broker, QueueError, names},
    wire::class,
};

/// A node as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Name of its machine.
    pub host: String,
    /// `ready` or `draining`.
    pub state: String,
    /// Jobs it runs at the same time.
    pub slots: usize,
    /// Jobs it runs now.
    pub running: usize,
    /// Memory it can promise to jobs.
    pub memory_bytes: u64,
    /// Memory it has promised now.
    pub memory_promised_bytes: u64,
    /// Queues it works on.
    pub queues: Vec<String>,
    /// Jobs of each of them that it runs at the same time.
    #[serde(default)]
    pub queue_slots: BTreeMap<String, usize>,
    /// What it has that jobs can require: labels, folders, secrets.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// Folders it offers, by name, and where they are.
    #[serde(default)]
    pub folders: BTreeMap<String, PathBuf>,
    /// Version of wasmjob.
    pub version: String,
    /// Operating system and processor.
    pub platform: String,
    /// Processors.
    pub cpus: usize,
    /// Where its metrics and health are, on its own machine.
    pub http: String,
    /// When it started.
    pub started: Option<String>,
    /// When it last said that it lives.
    pub seen: Option<String>,
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "the nodes".into(), reason }
}

/// The nodes that are alive, by name.
pub async fn list(broker: &Broker) -> Result<Vec<NodeInfo>, QueueError> {
    let bucket = broker.jetstream.get_key_value(names::NODES).await.map_err(|error| unavailable(error.to_string()))?;
    let keys = bucket.keys().await.map_err(|error| unavailable(error.to_string()))?;
    let keys: Vec<String> = keys.try_collect().await.map_err(|error| unavailable(error.to_string()))?;
    let entries: Vec<Option<Bytes>> = futures_util::stream::iter(keys)
        .map(|key| bucket.get(key))
        .buffer_unordered(16)
        .try_collect()
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    // An entry that is no node is somebody else's mistake and none of ours.
    let mut nodes: Vec<NodeInfo> =
        entries.iter().flatten().filter_map(|entry| serde_json::from_slice(entry).ok()).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// The nodes that are alive, by name, as they are now; one that does not answer at once, as it last said.
pub async fn list_now(broker: &Broker) -> Result<Vec<NodeInfo>, QueueError> {
    let nodes = list(broker).await?;
    let answers = join_all(nodes.iter().map(|node| timeout(PATIENCE, ask(broker, &node.name)))).await;
    let now = |(node, answer): (NodeInfo, _)| {
        let answer: Option<NodeInfo> = Result::ok(answer).flatten();
        answer.filter(|now| now.name == node.name).unwrap_or(node)
    };
    Ok(nodes.into_iter().zip(answers).map(now).collect())
}

/// What a node says of itself right now. `None` if it does not answer.
pub async fn ask(broker: &Broker, name: &str) -> Option<NodeInfo> {
    let answer = broker.client.request(names::node(name), Bytes::new()).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// Answers those who ask, with what `info` says at that time, until the connection closes.
pub async fn answer(broker: &Broker, name: &str, info: impl Fn() -> NodeInfo) -> Result<(), QueueError> {
    let questions = broker.client.subscribe(names::node(name)).await;
    let mut questions = questions.map_err(|error| unavailable(error.to_string()))?;
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply else { continue };
        let answer = serde_json::to_vec(&info()).expect("it has only string keys");
        broker.client.publish(reply, answer.into()).await.map_err(|error| unavailable(error.to_string()))?;
    }
    Ok(())
}

/// The entry of one node.
pub async fn get(broker: &Broker, name: &str) -> Result<Option<NodeInfo>, QueueError> {
    let bucket = broker.jetstream.get_key_value(names::NODES).await.map_err(|error| unavailable(error.to_string()))?;
    let value = bucket.get(name).await.map_err(|error| unavailable(error.to_string()))?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
}

/// The node with the most memory for jobs among those that take this class of `queue`.
pub async fn largest(broker: &Broker, queue: &str, class: &str) -> Result<Option<NodeInfo>, QueueError> {
    let takes = |node: &NodeInfo| node.queues.iter().any(|name| name == queue) && class::is_met(class, &node.labels);
    Ok(list(broker).await?.into_iter().filter(takes).max_by_key(|node| node.memory_bytes))
}

/// Writes a node's own entry.
pub async fn put(broker: &Broker, node: &NodeInfo) -> Result<(), QueueError> {
    let bucket = broker.jetstream.get_key_value(names::NODES).await.map_err(|error| unavailable(error.to_string()))?;
    let value = serde_json::to_vec(node).expect("it has only string keys");
    bucket.put(&node.name, value.into()).await.map(drop).map_err(|error| unavailable(error.to_string()))
}

/// Removes a node's own entry.
pub async fn remove(broker: &Broker, name: &str) -> Result<(), QueueError> {
    let bucket = broker.jetstream.get_key_value(names::NODES).await.map_err(|error| unavailable(error.to_string()))?;
    bucket.delete(name).await.map_err(|error| unavailable(error.to_string()))
}
