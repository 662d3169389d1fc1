//! How many jobs a queue has, and since when the first of them waits.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;

use super::{
    Broker, QueueError,
    direct::{self, From},
    names, setup,
};

/// When the job was stored that has waited longest in `queue` for a node to take it, or nothing if none waits.
pub async fn oldest(broker: &Broker, queue: &str) -> Result<Option<String>, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("queue {queue}"), reason };
    let stream = broker.jetstream.get_stream(names::queue_stream(queue)).await;
    let stream = stream.map_err(|error| unavailable(error.to_string()))?;
    let mut taken = BTreeMap::new();
    let mut consumers = stream.consumers();
    while let Some(consumer) = consumers.try_next().await.map_err(|error| unavailable(error.to_string()))? {
        taken.insert(consumer.config.filter_subject, consumer.delivered.stream_sequence);
    }
    let lanes = setup::lanes(&broker.jetstream, queue).await.map_err(|error| unavailable(error.to_string()))?;
    let mut oldest: Option<String> = None;
    for lane in lanes.keys() {
        let subject = lane.subject(queue);
        let from = From::Sequence(taken.get(&subject).map_or(1, |last| last + 1));
        let first = direct::first(&broker.client, &names::queue_stream(queue), &subject, from).await?;
        let stored = first.and_then(|message| Some(message.headers.get("Nats-Time-Stamp")?.as_str().to_owned()));
        oldest = match (oldest, stored) {
            (Some(oldest), Some(stored)) => Some(oldest.min(stored)),
            (oldest, stored) => oldest.or(stored),
        };
    }
    Ok(oldest)
}

/// How many jobs a queue has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that could run.
    pub waiting: u64,
    /// Jobs that a node has, and those that were handed back and not taken again yet.
    pub running: u64,
    /// Jobs that wait for a time.
    pub later: u64,
}

/// How many jobs `queue` has.
pub async fn depth(broker: &Broker, queue: &str) -> Result<Depth, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("queue {queue}"), reason };
    let stream = broker.jetstream.get_stream_no_info(names::queue_stream(queue)).await;
    let stream = stream.map_err(|error| unavailable(error.to_string()))?;
    let anchored = stream.info_with_subjects(names::anchor(queue)).await;
    let mut anchored = anchored.map_err(|error| unavailable(error.to_string()))?;
    let all = anchored.info.state.messages;
    let anchors = anchored.try_next().await.map_err(|error| unavailable(error.to_string()))?;
    let no_jobs = anchors.map_or(0, |(_, count)| count as u64);
    let mut running = 0;
    let mut consumers = stream.consumers();
    while let Some(consumer) = consumers.try_next().await.map_err(|error| unavailable(error.to_string()))? {
        running += consumer.num_ack_pending as u64;
    }
    let lanes = setup::lanes(&broker.jetstream, queue).await.map_err(|error| unavailable(error.to_string()))?;
    let in_lanes: u64 = lanes.values().map(|jobs| *jobs as u64).sum();
    let later = all.saturating_sub(in_lanes).saturating_sub(no_jobs);
    Ok(Depth { waiting: in_lanes.saturating_sub(running), running, later })
}
