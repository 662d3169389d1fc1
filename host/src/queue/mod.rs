//! Jobs, events and cancels on JetStream.
//!
//! `names` has every name, `setup` makes the streams, `pull` is the node's side of a queue, `logs`
//! carries what jobs say, `search` finds what has no event yet. This file stores and reads events.

mod direct;
mod logs;
pub mod names;
mod pull;
mod search;
mod setup;

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, Context,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        stream::DirectGetErrorKind,
    },
};
use bytes::Bytes;

pub use logs::{LogLine, LogReader, LogWriter};
pub use pull::{Delivery, Puller};
pub use search::{depth, find_queued, list_events, list_queued};
pub use setup::{SetupError, ensure_queue, ensure_shared, queues};

use crate::wire::{JobId, JobSpec, Report};

/// The connection to the streams of one cluster.
#[derive(Clone)]
pub struct Broker {
    /// The plain connection.
    pub client: Client,
    /// The same with JetStream.
    pub jetstream: Context,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What it says.
    pub report: Report,
    /// Its place in the stream, which the next write has to name.
    pub sequence: u64,
}

/// Why something was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The job's event changed since it was read.
    #[error("the event of job {job} was changed by somebody else")]
    Refused {
        /// The job.
        job: JobId,
    },
    /// Nothing stores this queue's jobs.
    #[error("there is no queue `{queue}`")]
    UnknownQueue {
        /// Its name.
        queue: String,
    },
    /// The message is larger than the server takes.
    #[error("{what} is larger than one message of the NATS server may be")]
    TooLarge {
        /// What it is.
        what: String,
    },
    /// The disk or the quota is full.
    #[error("the NATS server has no room for {what}: {reason}")]
    Full {
        /// What was to be stored.
        what: String,
        /// What the server says.
        reason: String,
    },
    /// No answer, or one that makes no sense.
    #[error("the NATS server did not take or give {what}: {reason}")]
    Unavailable {
        /// What it was about.
        what: String,
        /// What the client library says.
        reason: String,
    },
}

impl Broker {
    /// Uses `client` for everything.
    pub fn new(client: Client) -> Self {
        let jetstream = jetstream::new(client.clone());
        Broker { client, jetstream }
    }

    /// Publishes a job. When this returns, the job is stored and will be run.
    pub async fn submit(&self, spec: &JobSpec) -> Result<(), QueueError> {
        let subject = names::lane(&spec.queue, names::CLASS_ANY, spec.priority);
        let message = PublishMessage::build().payload(spec.to_message()).message_id(names::message_id(spec.id, 1));
        let what = || format!("job {}", spec.id);
        self.publish(subject, message).await.map(drop).map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound => QueueError::UnknownQueue { queue: spec.queue.clone() },
            _ => publish_error(&error, what()),
        })
    }

    /// The event of a job.
    pub async fn event(&self, job: JobId) -> Result<Option<Stored>, QueueError> {
        let unavailable = |reason: String| QueueError::Unavailable { what: format!("the event of job {job}"), reason };
        let stream = self.jetstream.get_stream_no_info(names::EVENTS).await;
        let stream = stream.map_err(|error| unavailable(error.to_string()))?;
        match stream.direct_get_last_for_subject(names::event(job)).await {
            Ok(message) => Ok(Some(Stored { report: read(&message.payload, job), sequence: message.sequence })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Stores a job's event after the one with `sequence` (0: the first), or refuses if another
    /// came between. A terminal event that need not be kept for ever has a time to live.
    pub async fn store(&self, report: &Report, sequence: u64) -> Result<u64, QueueError> {
        let payload = report.to_event();
        let mut message = PublishMessage::build().payload(payload).expected_last_subject_sequence(sequence);
        if let Some(ttl) = time_to_live(report) {
            message = message.ttl(ttl);
        }
        let what = || format!("the event of job {}", report.job);
        self.publish(names::event(report.job), message).await.map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastSequence => QueueError::Refused { job: report.job },
            _ => publish_error(&error, what()),
        })
    }

    /// Publishes a cancel where nodes that start later find it, and where running ones hear it.
    pub async fn ask_to_cancel(&self, job: JobId) -> Result<(), QueueError> {
        let unavailable = |reason: String| QueueError::Unavailable { what: format!("the cancel of job {job}"), reason };
        let said = self.client.publish(names::cancel(job), Bytes::new()).await;
        said.map_err(|error| unavailable(error.to_string()))?;
        let cancels = self.jetstream.get_key_value(names::CANCELS).await;
        let cancels = cancels.map_err(|error| unavailable(error.to_string()))?;
        let stored = cancels.put(job.to_string(), Bytes::new()).await;
        stored.map(drop).map_err(|error| unavailable(error.to_string()))
    }

    async fn publish(&self, subject: String, message: PublishMessage) -> Result<u64, PublishError> {
        Ok(self.jetstream.send_publish(subject, message).await?.await?.sequence)
    }
}

/// The report that an event carries. One that another client wrote and that says nothing about this
/// job counts for nothing: the next write replaces it.
fn read(event: &[u8], job: JobId) -> Report {
    let report = Report::parse(event).ok().filter(|report| report.job == job);
    report.unwrap_or_else(|| {
        tracing::warn!(%job, "the event of the job is no report on it");
        Report::queued(job)
    })
}

/// How long the event may stay. One that says that more is to come stays until that has come, and
/// one that a person has to look at stays until they did.
fn time_to_live(report: &Report) -> Option<Duration> {
    use crate::wire::State;
    let ends = matches!(report.state, State::Succeeded | State::Failed | State::Cancelled);
    let kept = report.spec.as_ref().map_or(DEFAULT_TTL_MS, |spec| spec.result_ttl_ms);
    ends.then(|| Duration::from_secs(kept.div_ceil(1000)))
}

/// How long the result of a job is kept whose spec is not known.
const DEFAULT_TTL_MS: u64 = 86_400_000;

fn publish_error(error: &PublishError, what: String) -> QueueError {
    let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let full = ["insufficient", "maximum bytes", "no space left", "resource limits exceeded"];
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => QueueError::TooLarge { what },
        _ if full.iter().any(|words| reason.contains(words)) => QueueError::Full { what, reason },
        PublishErrorKind::TimedOut => QueueError::Unavailable { what, reason: "no answer in time".into() },
        _ => QueueError::Unavailable { what, reason },
    }
}
