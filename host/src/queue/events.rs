//! Reads events in the order in which they were stored.
//!
//! Through a consumer, though that has to be made first: asked for many messages without one, the server counts all
//! that are left each time, and with a million jobs that holds up everybody for half a second.

use std::time::Duration;

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Broker, QueueError, Stored, names};
use crate::wire::{JobId, Report, State};

/// Events of one request. The largest have some hundred kilobytes, and all of a request may come at once.
const BATCH: usize = 100;
/// How long the server may take for the next event.
const PATIENCE: Duration = Duration::from_secs(5);

/// An event that was read.
pub struct Event {
    /// Its place in the stream.
    pub sequence: u64,
    payload: Bytes,
}

/// What most readers of many events want to know of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Head {
    /// Whose it is.
    pub job: JobId,
    /// How it stands with the job.
    pub state: State,
}

impl Event {
    /// Reads what it is about, and nothing else, which is several times faster than all of it.
    pub fn head(&self) -> Option<Head> {
        serde_json::from_slice(&self.payload).ok()
    }

    /// Reads all of it.
    pub fn stored(&self) -> Option<Stored> {
        Some(Stored { report: Report::parse(&self.payload).ok()?, sequence: self.sequence })
    }
}

/// Events that came together.
pub struct EventBatch {
    /// The oldest first.
    pub events: Vec<Event>,
    /// Whether there were no more then.
    pub is_last: bool,
}

/// One who reads the events, and where.
pub struct EventReader {
    /// The first event that was not read.
    next: u64,
    kept: Duration,
    consumer: Option<PullConsumer>,
    /// How many events came from this consumer.
    delivered: u64,
}

impl EventReader {
    /// Begins at this sequence. The server keeps it in mind for so long between two batches.
    pub fn new(start: u64, kept: Duration) -> Self {
        EventReader { next: start.max(1), kept, consumer: None, delivered: 0 }
    }

    /// The next events. After an error, the next call goes on where this one began.
    pub async fn batch(&mut self, broker: &Broker) -> Result<EventBatch, QueueError> {
        if let Some(consumer) = self.consumer.take() {
            match self.read(consumer).await {
                Ok(batch) => return Ok(batch),
                Err(error) => tracing::debug!(%error, next = self.next, "reading the events begins anew"),
            }
        }
        let consumer = self.begin(broker).await?;
        self.read(consumer).await
    }

    async fn read(&mut self, consumer: PullConsumer) -> Result<EventBatch, QueueError> {
        let requested = consumer.fetch().max_messages(BATCH).messages().await;
        let mut messages = requested.map_err(|error| unavailable(&error))?;
        let (mut events, mut left) = (Vec::new(), 0);
        while let Some(message) = timeout(PATIENCE, messages.next()).await.map_err(|error| unavailable(&error))? {
            let event;
            (event, left) = self.event(message.map_err(|error| unavailable(&error))?)?;
            events.push(event);
        }
        self.next = events.last().map_or(self.next, |last| last.sequence + 1);
        self.consumer = Some(consumer);
        // Fewer than asked for may have come because the connection broke.
        Ok(EventBatch { is_last: left == 0, events })
    }

    /// The event of a message, and how many there were after it. Refuses it if one before it was lost on the way, as
    /// when the connection breaks.
    fn event(&mut self, message: Message) -> Result<(Event, u64), QueueError> {
        let info = message.info().map_err(|error| unavailable(&error))?;
        let (sequence, number, left) = (info.stream_sequence, info.consumer_sequence, info.pending);
        self.delivered += 1;
        if number != self.delivered {
            return Err(unavailable(&format!("number {number} came as number {}", self.delivered)));
        }
        Ok((Event { sequence, payload: message.message.payload }, left))
    }

    async fn begin(&mut self, broker: &Broker) -> Result<PullConsumer, QueueError> {
        let stream = broker.jetstream.get_stream(names::EVENTS).await.map_err(|error| unavailable(&error))?;
        // The server lost what was not on its disk, and gives those numbers to others.
        if self.next > stream.cached_info().state.last_sequence + 1 {
            self.next = 1;
        }
        self.delivered = 0;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ack_policy: AckPolicy::None,
            inactive_threshold: self.kept,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.map_err(|error| unavailable(&error))
    }
}

fn unavailable(reason: &dyn std::fmt::Display) -> QueueError {
    QueueError::Unavailable { what: "the events".into(), reason: reason.to_string() }
}
