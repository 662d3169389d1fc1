//! Pulling jobs: one slot, one request, one job.
//!
//! A slot asks for exactly one job and asks again only when it is free, so a node cannot be given
//! more than it has slots for. The server tells every few seconds that it still holds the request;
//! when that stops (a laptop that slept, a connection that was made anew) it is made again.

use std::time::Duration;

use async_nats::{
    Client, Message, StatusCode, Subscriber,
    jetstream::{self, AckKind, Context},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::{QueueError, names};

/// How long the server holds a request for a job.
const REQUEST_HELD: Duration = Duration::from_secs(30);
/// How often it says that it still does.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After this long without a word the request is taken for lost.
const SILENT: Duration = Duration::from_secs(11);

/// One slot's side of a queue.
pub struct Puller {
    client: Client,
    context: Context,
    request: String,
    inbox: String,
    replies: Subscriber,
    /// The request the server holds, and when it was last heard of.
    held: Option<(u64, Instant)>,
    made: u64,
    silent: u64,
}

/// A job as it came from the queue.
pub struct Delivery {
    message: jetstream::Message,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// How long it had been in the queue, by the server's clock and this machine's.
    pub published: time::OffsetDateTime,
}

impl Puller {
    /// Listens for what `queue` sends to this slot.
    pub async fn new(context: &Context, queue: &str) -> Result<Self, QueueError> {
        let client = context.client();
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.*")).await.map_err(|error| QueueError::Unavailable {
            what: format!("queue {queue}"),
            reason: error.to_string(),
        })?;
        let request = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", names::queue_stream(queue), names::CLASS_ANY);
        Ok(Puller { client, context: context.clone(), request, inbox, replies, held: None, made: 0, silent: 0 })
    }

    /// Waits for the next job. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            let (number, heard) = match self.held {
                Some(held) => held,
                None => self.ask().await?,
            };
            let Ok(reply) = timeout_at(heard + SILENT, self.replies.next()).await else {
                self.silent += 1;
                self.held = None;
                continue;
            };
            let Some(reply) = reply else { return Err(self.unavailable("the connection was closed".into())) };
            let current = reply.subject.as_str().strip_prefix(&self.inbox) == Some(format!(".{number}").as_str());
            match self.sort(reply, current) {
                Reply::Job(delivery) => return Ok(*delivery),
                Reply::Held if current => self.held = Some((number, Instant::now())),
                Reply::Held | Reply::Over => {}
                Reply::Failed(reason) => return Err(self.unavailable(reason)),
            }
        }
    }

    /// Requests that were taken for lost and made again.
    pub fn silent(&self) -> u64 {
        self.silent
    }

    /// Hands back what was sent to this slot and not taken.
    pub async fn close(mut self) {
        let _ = self.replies.unsubscribe().await;
        while let Ok(Some(reply)) = timeout_at(Instant::now() + SILENT, self.replies.next()).await {
            if reply.status.is_none() {
                let message = jetstream::Message { message: reply, context: self.context.clone() };
                let _ = message.ack_with(AckKind::Nak(None)).await;
            }
        }
    }

    async fn ask(&mut self) -> Result<(u64, Instant), QueueError> {
        self.made += 1;
        let body = serde_json::json!({
            "batch": 1,
            "expires": REQUEST_HELD.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let reply = format!("{}.{}", self.inbox, self.made);
        let sent = self.client.publish_with_reply(self.request.clone(), reply, Bytes::from(body.to_string())).await;
        sent.map_err(|error| self.unavailable(error.to_string()))?;
        let held = (self.made, Instant::now());
        self.held = Some(held);
        Ok(held)
    }

    fn sort(&mut self, reply: Message, current: bool) -> Reply {
        match reply.status {
            Some(StatusCode::IDLE_HEARTBEAT) => return Reply::Held,
            Some(status) => {
                if current {
                    self.held = None;
                }
                // The consumer or its stream is gone; anything else is a request that ended.
                let gone = status.as_u16() == 409 && reply.description.as_deref().is_some_and(is_gone);
                let none = status == StatusCode::NO_RESPONDERS;
                let reason = reply.description.as_deref().unwrap_or("no such queue");
                return if gone || none { Reply::Failed(reason.to_owned()) } else { Reply::Over };
            }
            None if current => self.held = None,
            None => {}
        }
        let message = jetstream::Message { message: reply, context: self.context.clone() };
        let Ok(info) = message.info() else { return Reply::Over };
        let (delivered, published) = (u64::try_from(info.delivered).unwrap_or(1), info.published);
        Reply::Job(Box::new(Delivery { message, delivered, published }))
    }

    fn unavailable(&self, reason: String) -> QueueError {
        QueueError::Unavailable { what: "a job".into(), reason }
    }
}

fn is_gone(description: &str) -> bool {
    description.contains("Deleted") || description.contains("deleted")
}

enum Reply {
    Job(Box<Delivery>),
    Held,
    Over,
    Failed(String),
}

impl Delivery {
    /// The job spec.
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The headers of the message.
    pub fn headers(&self) -> Option<&async_nats::HeaderMap> {
        self.message.headers.as_ref()
    }

    /// Says that the job is being worked on, which renews the lease.
    pub async fn renew(&self) {
        self.say(AckKind::Progress).await;
    }

    /// Says that the job is done with. Only after its event is stored.
    pub async fn done(&self) {
        self.say(AckKind::Ack).await;
    }

    /// Hands the job back for another node, at once or after a while.
    pub async fn hand_back(&self, after: Option<Duration>) {
        self.say(AckKind::Nak(after)).await;
    }

    /// An answer that is lost is no harm: the message comes again and its event says what it was.
    async fn say(&self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::debug!(%error, "the queue could not be answered");
        }
    }
}
