//! Jobs, events and cancels on JetStream.
//!
//! `names` has every name, `setup` makes the streams, `pull` is the node's side of a queue (`doors`: how many slots
//! ask; `anchor`: what keeps a queue from running empty), `logs` carries what jobs say, `search` finds what has no
//! event yet, `depth` counts, `events` reads many events. This file stores and reads single ones.

mod anchor;
mod depth;
mod direct;
mod doors;
mod events;
mod expiries;
mod keys;
mod logs;
pub mod names;
mod pull;
mod purge;
mod rules;
mod schedules;
mod search;
mod setup;
mod turns;

use std::time::Duration;

use async_nats::{
    Client, header,
    jetstream::{
        self, Context,
        context::{PublishError, PublishErrorKind},
        kv::{Operation, Store},
        message::PublishMessage,
        response::Response,
        stream::DirectGetErrorKind,
    },
};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use time::OffsetDateTime;

pub use depth::{Depth, depth, oldest};
pub use events::{Event, EventBatch, EventReader, Head};
pub use expiries::{Expiry, Unstarted};
pub use keys::Place;
pub use logs::{LogLine, LogReader, LogWriter};
pub use pull::{Delivery, Puller, Supply};
pub use purge::{Purged, purge};
pub use rules::{Rulebook, Turn};
pub use schedules::{Kept, Tick};
use search::message_of;
pub use search::{find_queued, has_message, jobs_in_queue, list_events, list_queued};
pub use setup::{SetupError, ensure_lane, ensure_queue, ensure_shared, lanes, queues};

use crate::wire::{JobId, JobSpec, Report, State, timestamp};

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
    /// Another job has this key.
    #[error("job {job} has the key `{key}` and is another one")]
    KeyTaken {
        /// The key.
        key: String,
        /// Who has it.
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

    /// Publishes a job. When this returns, the job is stored and will be run. Gives the id of the job that will:
    /// another one's if that is the same job and has its key.
    pub async fn submit(&self, spec: &JobSpec) -> Result<JobId, QueueError> {
        let id = self.claim(spec).await?;
        // Whoever has the key may have died before it sent this.
        let same = (id != spec.id).then(|| JobSpec { id, ..spec.clone() });
        let spec = same.as_ref().unwrap_or(spec);
        if same.is_some() && self.is_known(id).await? {
            return Ok(id);
        }
        let mut tries = 1;
        loop {
            match self.submit_once(spec).await {
                // Under one message id the server stores it once, however often it is sent.
                Err(QueueError::Unavailable { .. }) if tries < SUBMIT_TRIES => tries += 1,
                Err(error) => return Err(error),
                Ok(sequence) => {
                    self.note_expiry(spec, sequence).await;
                    return Ok(id);
                }
            }
        }
    }

    /// Whether there is an event of this job, or a message.
    pub async fn is_known(&self, job: JobId) -> Result<bool, QueueError> {
        let has_event = async || Ok::<_, QueueError>(self.event(job).await?.is_some());
        // It may end, and leave its queue, between the first two looks.
        Ok(has_event().await? || find_queued(self, job).await?.is_some() || has_event().await?)
    }

    /// Says that jobs wait in a lane that may be new, so that nodes look at once.
    pub async fn announce_lane(&self, queue: &str) {
        // Nodes look now and then anyway.
        let _ = self.client.publish(names::LANES, queue.to_owned().into()).await;
        // A command may end right after this, and its connection with it.
        let _ = self.client.flush().await;
    }

    async fn submit_once(&self, spec: &JobSpec) -> Result<u64, QueueError> {
        self.send(spec, spec.to_message(), 1, spec.starts_at()).await
    }

    /// Sees to it that a job which was stored, at this place, ends in time if it does not start.
    async fn note_expiry(&self, spec: &JobSpec, sequence: u64) {
        let Some(expires) = spec.expires_ms.map(Duration::from_millis) else { return };
        let starts = spec.starts_at();
        let message = starts.is_none().then_some(sequence);
        let expiry = Expiry { job: spec.id, queue: spec.queue.clone(), message };
        let due = starts.unwrap_or_else(OffsetDateTime::now_utc) + expires;
        if let Err(error) = self.send_expiry(&expiry, due).await {
            tracing::warn!(job = %spec.id, %error, "that the job has expired will be seen only when a node gets it");
        }
    }

    /// Publishes the message for an attempt of a job and those after it: now, or for the server to
    /// deliver when it is `due`. Gives its place in the queue's stream.
    pub async fn send(
        &self,
        spec: &JobSpec,
        payload: Bytes,
        attempt: u32,
        due: Option<OffsetDateTime>,
    ) -> Result<u64, QueueError> {
        let lane = names::lane(&spec.queue, &spec.class(), spec.priority);
        let mut message = message(payload, attempt);
        let subject = match due {
            None => {
                message = message.message_id(names::message_id(spec.id, attempt));
                lane
            }
            Some(due) => {
                let due = timestamp(due.max(OffsetDateTime::UNIX_EPOCH)).unwrap_or_default();
                message = message.message_id(names::waiting_message_id(spec.id, attempt));
                message = message.header(header::NATS_SCHEDULE, format!("@at {due}").as_str());
                message = message.header(header::NATS_SCHEDULE_TARGET, lane.as_str());
                names::waiting(&spec.queue, spec.id, attempt)
            }
        };
        self.publish_job(spec, subject, message).await
    }

    /// Publishes the message for an attempt of a job that was stored as wanted again by its event `event`. It
    /// is another message than any that was there for the attempt before.
    pub async fn send_again(&self, spec: &JobSpec, attempt: u32, event: u64) -> Result<(), QueueError> {
        let lane = names::lane(&spec.queue, &spec.class(), spec.priority);
        let id = names::message_id_again(spec.id, attempt, event);
        self.publish_job(spec, lane, message(spec.to_message(), attempt).message_id(id)).await.map(drop)
    }

    async fn publish_job(&self, spec: &JobSpec, subject: String, message: PublishMessage) -> Result<u64, QueueError> {
        self.publish(subject, message).await.map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound => QueueError::UnknownQueue { queue: spec.queue.clone() },
            _ => publish_error(&error, format!("job {}", spec.id)),
        })
    }

    /// Forgets that there was a job, and frees its key.
    pub async fn forget(&self, report: &Report) -> Result<(), QueueError> {
        let job = report.job;
        if let Some(spec) = &report.spec {
            self.free_claim(spec).await?;
        }
        let unavailable = |reason: String| QueueError::Unavailable { what: format!("the event of job {job}"), reason };
        let stream = self.jetstream.get_stream_no_info(names::EVENTS).await;
        let stream = stream.map_err(|error| unavailable(error.to_string()))?;
        let purged = stream.purge().filter(names::event(job)).await;
        purged.map(drop).map_err(|error| unavailable(error.to_string()))
    }

    /// Takes the messages of a job that has ended out of its queue. Whoever may not do that leaves them to the
    /// job's event, which says that it has.
    pub async fn take_out(&self, queue: &str, job: JobId) {
        let Ok(stream) = self.jetstream.get_stream_no_info(names::queue_stream(queue)).await else { return };
        if let Err(error) = stream.purge().filter(names::waiting_of(queue, job)).await {
            return tracing::debug!(%job, %error, "the messages of the job stay until their time");
        }
        if let Ok(Some(message)) = message_of(self, queue, job).await {
            self.remove(queue, message.sequence).await;
        }
    }

    /// Takes one message out of a queue, where a node may have it by now. That somebody else was faster is no harm, and
    /// of a job that has ended a message that stays is none either.
    async fn remove(&self, queue: &str, sequence: u64) {
        let subject = format!("STREAM.MSG.DELETE.{}", names::queue_stream(queue));
        // Not erased: for that the server writes the whole file anew in which the message is, several megabytes.
        let message = json!({ "seq": sequence, "no_erase": true });
        let removed = self.jetstream.request::<_, _, Response<IgnoredAny>>(subject, &message).await;
        if !matches!(removed, Ok(Response::Ok(_))) {
            tracing::debug!(
                queue,
                sequence,
                ?removed,
                "a message was gone, or stays in its queue until a node takes it"
            );
        }
    }

    /// What time it is by the server's clock, which is what fires ticks.
    pub async fn now(&self) -> Result<Timestamp, QueueError> {
        #[derive(Deserialize)]
        struct Answer {
            ts: Timestamp,
        }
        let unavailable = |reason: &dyn std::fmt::Display| QueueError::Unavailable {
            what: "the time".into(),
            reason: reason.to_string(),
        };
        let answer = self.client.request(format!("$JS.API.STREAM.INFO.{}", names::TICKS), Bytes::new()).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(|error| unavailable(&error))?;
        Ok(answer.ts)
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
        match self.store_event(report, report.to_event(), sequence).await {
            // The spec is the one part that is not needed to know how the job ended.
            Err(QueueError::TooLarge { .. }) if report.spec.is_some() => {
                let bare = Report { spec: None, ..report.clone() };
                match self.store_event(report, bare.to_event(), sequence).await {
                    Err(QueueError::TooLarge { .. }) => {
                        self.store_event(report, outline(report).to_event(), sequence).await
                    }
                    stored => stored,
                }
            }
            Err(QueueError::TooLarge { .. }) => self.store_event(report, outline(report).to_event(), sequence).await,
            stored => stored,
        }
    }

    async fn store_event(&self, report: &Report, event: Bytes, sequence: u64) -> Result<u64, QueueError> {
        let mut message = PublishMessage::build().payload(event).expected_last_subject_sequence(sequence);
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
        let said = self.client.publish(names::cancel(job), Bytes::new()).await;
        said.map_err(|error| cancel_unavailable(job, &error.to_string()))?;
        let stored = self.cancels(job).await?.put(job.to_string(), Bytes::new()).await;
        stored.map(drop).map_err(|error| cancel_unavailable(job, &error.to_string()))
    }

    /// Tells the nodes that run now that a job has ended. One that does not hear it finds out when it stores something.
    pub async fn say_cancelled(&self, job: JobId) {
        if let Err(error) = self.client.publish(names::cancel(job), Bytes::new()).await {
            tracing::debug!(%job, %error, "the nodes were not told of the end of the job");
        }
    }

    async fn cancels(&self, job: JobId) -> Result<Store, QueueError> {
        let bucket = self.jetstream.get_key_value(names::CANCELS).await;
        bucket.map_err(|error| cancel_unavailable(job, &error.to_string()))
    }

    /// Whether a cancel of this job is kept. One that was heard as a plain message may have been taken back.
    pub async fn is_asked_to_cancel(&self, job: JobId) -> Result<bool, QueueError> {
        let entry = self.cancels(job).await?.entry(job.to_string()).await;
        let entry = entry.map_err(|error| cancel_unavailable(job, &error.to_string()))?;
        Ok(entry.is_some_and(|entry| entry.operation == Operation::Put))
    }

    /// Takes a cancel back: somebody wants the job again.
    pub async fn take_cancel_back(&self, job: JobId) -> Result<(), QueueError> {
        let purged = self.cancels(job).await?.purge(job.to_string()).await;
        purged.map_err(|error| cancel_unavailable(job, &error.to_string()))
    }

    async fn publish(&self, subject: String, message: PublishMessage) -> Result<u64, PublishError> {
        Ok(self.jetstream.send_publish(subject, message).await?.await?.sequence)
    }
}

fn cancel_unavailable(job: JobId, reason: &str) -> QueueError {
    QueueError::Unavailable { what: format!("the cancel of job {job}"), reason: reason.to_owned() }
}

/// A message for this attempt of a job and those after it.
fn message(payload: Bytes, attempt: u32) -> PublishMessage {
    let message = PublishMessage::build().payload(payload);
    match attempt {
        0 | 1 => message,
        attempt => message.header(names::ATTEMPT, attempt.to_string().as_str()),
    }
}

/// The report that an event carries. One that another client wrote and that says nothing about this
/// job counts for nothing: the next write replaces it.
fn read(event: &[u8], job: JobId) -> Report {
    /// What even a report of another version has.
    #[derive(serde::Deserialize)]
    struct Core {
        job: JobId,
        state: State,
    }
    if let Some(report) = Report::parse(event).ok().filter(|report| report.job == job) {
        return report;
    }
    tracing::warn!(%job, "the event of the job cannot be read as a report");
    let core = serde_json::from_slice(event).ok().filter(|core: &Core| core.job == job);
    Report { state: core.map_or(State::Queued, |core| core.state), ..Report::queued(job) }
}

/// What has to be told of a job when there is no room for more: another client may have written an event
/// that fills a message, and what is added to it has to be stored all the same.
fn outline(report: &Report) -> Report {
    let Report { job, state, attempt, outcome, times, usage, .. } = report.clone();
    Report { state, attempt, outcome, times, usage, ..Report::queued(job) }
}

/// How long the event may stay. One that says that more is to come stays until that has come, and
/// one that a person has to look at stays until they did.
fn time_to_live(report: &Report) -> Option<Duration> {
    let ends = matches!(report.state, State::Succeeded | State::Failed | State::Cancelled);
    let kept = report.spec.as_ref().map_or(DEFAULT_TTL_MS, |spec| spec.result_ttl_ms);
    ends.then(|| Duration::from_secs(kept.div_ceil(1000)).max(TTL_MIN) + still_waits(report))
}

/// How long a message may wait for its time of a job that has ended: its event has to outlive that.
fn still_waits(report: &Report) -> Duration {
    let due = report
        .due()
        .map_or(Duration::ZERO, |due| Duration::try_from(due - OffsetDateTime::now_utc()).unwrap_or_default());
    if report.state == State::Cancelled { due } else { Duration::ZERO }
}

/// How often a job is sent before it is given up; the server may take seconds each time to not answer.
const SUBMIT_TRIES: u32 = 4;
/// An event stays at least this long: longer than the longest lease, after which the queue may deliver
/// its job once more if the acknowledgement was lost.
const TTL_MIN: Duration = Duration::from_secs(900);
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
