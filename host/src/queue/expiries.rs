//! Where it is kept when jobs expire that have not started.

use async_nats::{header, jetstream::message::PublishMessage};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Broker, QueueError,
    direct::{self, From, StoredMessage},
    names, search,
};
use crate::wire::{JobId, JobSpec, timestamp};

/// What comes when a job expires, if it has not started by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Which job.
    pub job: JobId,
    /// Its queue.
    pub queue: String,
    /// Its place there; without it the job waited for a time when this was sent, and has to be looked for.
    pub message: Option<u64>,
}

/// A job whose first message is still in its queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Unstarted {
    /// What it is.
    pub spec: JobSpec,
    /// When it could run, by the server's clock.
    pub since: OffsetDateTime,
}

impl Broker {
    /// Lets the server deliver `expiry` at this time. It replaces an earlier one of the job.
    pub async fn send_expiry(&self, expiry: &Expiry, due: OffsetDateTime) -> Result<(), QueueError> {
        let payload = Bytes::from(serde_json::to_vec(expiry).expect("an expiry has only string keys"));
        let due = timestamp(due.max(OffsetDateTime::UNIX_EPOCH)).unwrap_or_default();
        let message = PublishMessage::build()
            .payload(payload)
            .header(header::NATS_SCHEDULE, format!("@at {due}").as_str())
            .header(header::NATS_SCHEDULE_TARGET, names::expiry_due(expiry.job).as_str());
        let sent = self.publish(names::expiry_waiting(expiry.job), message).await;
        sent.map(drop).map_err(|error| super::publish_error(&error, format!("the expiry of job {}", expiry.job)))
    }

    /// The job of an expiry, if its first message is still in the queue. A node may have that.
    pub async fn unstarted(&self, expiry: &Expiry) -> Result<Option<Unstarted>, QueueError> {
        let stream = names::queue_stream(&expiry.queue);
        let found = match expiry.message {
            Some(sequence) => {
                let of_queue = names::queue_all(&expiry.queue);
                let first = direct::first(&self.client, &stream, &of_queue, From::Sequence(sequence)).await?;
                first.filter(|message| message.sequence == sequence)
            }
            None => search::message_of(self, &expiry.queue, expiry.job).await?,
        };
        Ok(found.and_then(|message| unstarted(&message, expiry.job)))
    }
}

fn unstarted(message: &StoredMessage, job: JobId) -> Option<Unstarted> {
    let spec = JobSpec::parse(&message.payload).ok().filter(|spec| spec.id == job)?;
    let stored = message.headers.get("Nats-Time-Stamp")?.as_str();
    let since = OffsetDateTime::parse(stored, &time::format_description::well_known::Rfc3339).ok()?;
    let is_first = message.headers.get(names::ATTEMPT).is_none();
    is_first.then_some(Unstarted { spec, since })
}
