//! Pulling jobs: one slot, one request, one job.
//!
//! A slot asks for exactly one job and asks again only when it is free, so a node cannot be given
//! more than it has slots for. The server tells every few seconds that it still holds the request;
//! when that stops (a laptop that slept, a connection that was made anew) it is made again.

use std::time::Duration;

use async_nats::{
    Message, StatusCode, Subscriber,
    jetstream::{self, AckKind, Context},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::{QueueError, names};
use crate::wire::JobId;

/// A request for one job, which the server holds for 30 s; every 5 s it says that it still does.
const REQUEST: &str = r#"{"batch":1,"expires":30000000000,"idle_heartbeat":5000000000}"#;
/// After two of those are missing the request is taken for lost.
const SILENT: Duration = Duration::from_secs(11);

/// How long a slot that closes listens for what was on its way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One slot's side of a queue.
pub struct Puller {
    context: Context,
    queue: String,
    inbox: String,
    replies: Subscriber,
    /// When the request that the server holds was last heard of. It holds at most one.
    heard: Option<Instant>,
}

/// A job as it came from the queue.
pub struct Delivery {
    message: jetstream::Message,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// When it came into the queue, by the server's clock.
    pub published: time::OffsetDateTime,
    /// Its place in the queue's stream.
    sequence: u64,
}

impl Puller {
    /// Listens for what `queue` sends to this slot.
    pub async fn new(context: &Context, queue: &str) -> Result<Self, QueueError> {
        let (inbox, replies) = listen(context).await?;
        let (context, queue) = (context.clone(), queue.to_owned());
        Ok(Puller { context, queue, inbox, replies, heard: None })
    }

    /// Waits for the next job. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            let heard = match self.heard {
                Some(heard) => heard,
                None => self.ask().await?,
            };
            let Ok(reply) = timeout_at(heard + SILENT, self.replies.next()).await else {
                self.start_over().await?;
                continue;
            };
            let Some(reply) = reply else { return Err(unavailable("the connection was closed".into())) };
            match self.sort(reply) {
                Reply::Job(delivery) => return Ok(*delivery),
                Reply::Held => self.heard = Some(Instant::now()),
                Reply::Over => self.heard = None,
                Reply::Failed(reason) => return Err(unavailable(reason)),
            }
        }
    }

    /// The request was lost, or its answers are: what still comes for it must not come to us, or a
    /// job would wait here that nobody looks at.
    async fn start_over(&mut self) -> Result<(), QueueError> {
        tracing::debug!(queue = self.queue, "a request for a job went silent; making it again");
        self.heard = None;
        (self.inbox, self.replies) = listen(&self.context).await?;
        Ok(())
    }

    /// Hands back what was sent to this slot and not taken.
    pub async fn close(mut self) {
        let _ = self.replies.unsubscribe().await;
        while let Ok(Some(reply)) = timeout_at(Instant::now() + LAST_WORDS, self.replies.next()).await {
            if reply.status.is_none() {
                let message = jetstream::Message { message: reply, context: self.context.clone() };
                let _ = message.ack_with(AckKind::Nak(None)).await;
            }
        }
    }

    async fn ask(&mut self) -> Result<Instant, QueueError> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", names::queue_stream(&self.queue), names::CLASS_ANY);
        let client = self.context.client();
        let sent = client.publish_with_reply(subject, self.inbox.clone(), REQUEST.into()).await;
        sent.map_err(|error| unavailable(error.to_string()))?;
        let now = Instant::now();
        self.heard = Some(now);
        Ok(now)
    }

    fn sort(&mut self, reply: Message) -> Reply {
        if let Some(status) = reply.status {
            let reason = reply.description.as_deref().unwrap_or("there is no such queue");
            return match status {
                StatusCode::IDLE_HEARTBEAT => Reply::Held,
                // The consumer or its stream is gone; anything else is a request that ended.
                StatusCode::NO_RESPONDERS => Reply::Failed(reason.to_owned()),
                _ if reason.to_lowercase().contains("deleted") => Reply::Failed(reason.to_owned()),
                _ => Reply::Over,
            };
        }
        self.heard = None;
        let message = jetstream::Message { message: reply, context: self.context.clone() };
        let Ok(info) = message.info() else { return Reply::Over };
        let (delivered, published) = (u64::try_from(info.delivered).unwrap_or(1), info.published);
        let sequence = info.stream_sequence;
        Reply::Job(Box::new(Delivery { message, delivered, published, sequence }))
    }
}

async fn listen(context: &Context) -> Result<(String, Subscriber), QueueError> {
    let client = context.client();
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.map_err(|error| unavailable(error.to_string()))?;
    Ok((inbox, replies))
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "a job".into(), reason }
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

    /// Where it was published.
    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    /// An id for a message that names none: the same each time it is delivered.
    pub fn own_id(&self) -> JobId {
        JobId::of_message(self.published, self.sequence)
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
