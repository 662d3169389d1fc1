//! Pulling jobs: one slot, one request for each class, one job.
//!
//! A slot asks for exactly one job of each class and asks again only when it is free. What comes for
//! another class while it works is handed back at once, so a node never has more jobs than slots. The
//! server tells every few seconds that it still holds a request; when that stops (a laptop that slept,
//! a connection that was made anew) all are made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_nats::{
    Message, StatusCode, Subscriber, header,
    jetstream::{self, AckKind, Context},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{QueueError, names};
use crate::{lifecycle, wire::JobId};

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
    /// The classes this node takes jobs of.
    classes: watch::Receiver<BTreeSet<String>>,
    /// When the request that the server holds for each class was last heard of. It holds at most one.
    heard: BTreeMap<String, Instant>,
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
    /// Listens for what `queue` sends to this slot, of these classes.
    pub async fn new(
        context: &Context,
        queue: &str,
        classes: watch::Receiver<BTreeSet<String>>,
    ) -> Result<Self, QueueError> {
        let (inbox, replies) = listen(context).await?;
        let (context, queue) = (context.clone(), queue.to_owned());
        Ok(Puller { context, queue, inbox, replies, classes, heard: BTreeMap::new() })
    }

    /// Waits for the next job. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            self.ask_where_due().await?;
            let silent = self.heard.values().min().map_or_else(Instant::now, |heard| *heard) + SILENT;
            let reply = tokio::select! {
                reply = self.replies.next() => reply,
                // A class was added: ask for its jobs as well.
                Ok(()) = self.classes.changed() => continue,
                () = sleep_until(silent) => {
                    self.start_over().await?;
                    continue;
                }
            };
            let Some(reply) = reply else { return Err(unavailable("the connection was closed".into())) };
            match self.sort(reply) {
                Reply::Job(delivery) => return Ok(*delivery),
                Reply::Status => {}
                Reply::Failed(reason) => return Err(unavailable(reason)),
            }
        }
    }

    /// Hands back at once what comes while the slot is taken: with more than one class, the server
    /// still holds the requests for the others. Never ends.
    pub async fn hand_back_excess(&mut self) {
        while let Some(reply) = self.replies.next().await {
            match self.sort(reply) {
                Reply::Job(excess) => excess.hand_back(None).await,
                // What fails is seen when the slot asks again.
                Reply::Status | Reply::Failed(_) => {}
            }
        }
        std::future::pending().await
    }

    /// A request was lost, or its answers are: what still comes for it must not come to us, or a
    /// job would wait here that nobody looks at.
    async fn start_over(&mut self) -> Result<(), QueueError> {
        tracing::debug!(queue = self.queue, "a request for a job went silent; making it again");
        self.heard.clear();
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

    /// Asks for a job of each class for which the server holds no request.
    async fn ask_where_due(&mut self) -> Result<(), QueueError> {
        let classes = self.classes.borrow_and_update().clone();
        for class in classes {
            if self.heard.contains_key(&class) {
                continue;
            }
            let subject =
                format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", names::queue_stream(&self.queue), names::consumer(&class));
            let reply = format!("{}.{class}", self.inbox);
            let sent = self.context.client().publish_with_reply(subject, reply, REQUEST.into()).await;
            sent.map_err(|error| unavailable(error.to_string()))?;
            self.heard.insert(class, Instant::now());
        }
        Ok(())
    }

    fn sort(&mut self, reply: Message) -> Reply {
        if let Some(status) = reply.status {
            // What the server says of a request it says where its jobs would go.
            let class = reply.subject.rsplit('.').next().unwrap_or_default().to_owned();
            let reason = reply.description.as_deref().unwrap_or("there is no such queue");
            return match status {
                StatusCode::IDLE_HEARTBEAT => {
                    self.heard.insert(class, Instant::now());
                    Reply::Status
                }
                // The consumer or its stream is gone; anything else is a request that ended.
                StatusCode::NO_RESPONDERS => Reply::Failed(reason.to_owned()),
                _ if reason.to_lowercase().contains("deleted") => Reply::Failed(reason.to_owned()),
                _ => {
                    self.heard.remove(&class);
                    Reply::Status
                }
            };
        }
        if let Some(class) = names::class_of_lane(&reply.subject) {
            self.heard.remove(class);
        }
        let message = jetstream::Message { message: reply, context: self.context.clone() };
        let Ok(info) = message.info() else { return Reply::Status };
        let (delivered, published) = (u64::try_from(info.delivered).unwrap_or(1), info.published);
        let sequence = info.stream_sequence;
        Reply::Job(Box::new(Delivery { message, delivered, published, sequence }))
    }
}

/// Everything below the inbox: each class answers on a word of its own.
async fn listen(context: &Context) -> Result<(String, Subscriber), QueueError> {
    let client = context.client();
    let inbox = client.new_inbox();
    let replies = client.subscribe(format!("{inbox}.*")).await.map_err(|error| unavailable(error.to_string()))?;
    Ok((inbox, replies))
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "a job".into(), reason }
}

enum Reply {
    Job(Box<Delivery>),
    /// About a request, and taken note of.
    Status,
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

    /// The message as far as it matters what becomes of its job.
    pub fn message(&self) -> lifecycle::Message {
        let header = self.headers().and_then(|headers| headers.get(names::ATTEMPT));
        let attempt = header.and_then(|attempt| attempt.as_str().parse().ok()).unwrap_or(1);
        lifecycle::Message { sequence: self.sequence, attempt, redelivered: self.delivered > 1 }
    }

    /// Whether it has waited for its time at the server.
    pub fn has_waited(&self) -> bool {
        self.headers().is_some_and(|headers| headers.get(header::NATS_SCHEDULER).is_some())
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
