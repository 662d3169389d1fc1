//! Pulling jobs: one slot, one request for each lane, one job.
//!
//! A slot asks for exactly one job of each lane and asks again only when it is free. What comes from
//! another lane while it works is handed back at once, so a node never has more jobs than slots. The
//! server tells every few seconds that it still holds a request; when that stops (a laptop that slept,
//! a connection that was made anew) all are made again.
//!
//! Of many slots that are free, only a few ask (`Doors`).
//!
//! A free slot looks into its lanes one after the other, in the order of `turns`, and leaves a request
//! in each that is empty. A lane with a request needs no second look: what came would have been sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Message, StatusCode, Subscriber, header,
    jetstream::{self, AckKind, Context},
};
use bytes::Bytes;
use futures_util::StreamExt;
use time::OffsetDateTime;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    QueueError,
    anchor::Anchor,
    doors::Doors,
    names::{self, Lane},
    turns::Turns,
};
use crate::{lifecycle, wire::JobId};

/// A request for one job, which the server holds for 30 s; every 5 s it says that it still does.
const REQUEST: &str = r#"{"batch":1,"expires":30000000000,"idle_heartbeat":5000000000}"#;
/// An acknowledgement, and the same request.
const ACK_AND_REQUEST: &str = r#"+NXT {"batch":1,"expires":30000000000,"idle_heartbeat":5000000000}"#;
/// A request for a job that is there already.
const LOOK: &str = r#"{"batch":1,"no_wait":true}"#;
/// After two heartbeats are missing the request is taken for lost.
const SILENT: Duration = Duration::from_secs(11);

/// While so many jobs wait, and as many as there are slots, an acknowledgement asks for the next one. With fewer,
/// most slots would ask in vain, and the server would go through their requests for every job after the last.
const MANY: u64 = 64;
/// How long a slot that closes listens for what was on its way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where all slots of a node that work on one queue get their jobs from.
pub struct Supply {
    /// The queue's name.
    pub queue: String,
    /// Whoever waits for the turn to start a job of a queue with a rate: one slot of the node, as the others would
    /// ask in vain.
    pub turn: Mutex<()>,
    /// While so many jobs wait, an acknowledgement asks for the next one.
    many: u64,
    /// The lanes this node takes jobs from.
    lanes: watch::Receiver<BTreeSet<Lane>>,
    doors: Doors,
    anchor: Anchor,
}

impl Supply {
    /// The lanes of `queue` that this node takes jobs from, for so many slots.
    pub fn new(queue: &str, slots: usize, lanes: watch::Receiver<BTreeSet<Lane>>) -> Arc<Self> {
        let many = MANY.max(slots as u64);
        let (doors, anchor) = (Doors::new(), Anchor::new(queue));
        Arc::new(Supply { queue: queue.to_owned(), turn: Mutex::new(()), many, lanes, doors, anchor })
    }
}

/// One slot's side of a queue.
pub struct Puller {
    context: Context,
    supply: Arc<Supply>,
    inbox: String,
    replies: Subscriber,
    /// Those of the supply: what a slot has seen of them is its own.
    lanes: watch::Receiver<BTreeSet<Lane>>,
    turns: Turns,
    /// When the request that the server holds for each lane was last heard of. It holds at most one.
    heard: BTreeMap<Lane, Instant>,
    /// The lane of the last job, and whether its acknowledgement asked for the next one.
    chained: Option<(Lane, Arc<AtomicBool>)>,
}

/// How an acknowledgement asks for the next job as well, which saves a message for every job.
struct Chain {
    reply: String,
    asked: Arc<AtomicBool>,
    supply: Arc<Supply>,
}

impl Chain {
    /// Of several lanes, the next job is to be looked for in all.
    fn is_of_one_lane(&self) -> bool {
        self.supply.lanes.borrow().len() == 1
    }
}

/// A job as it came from the queue.
pub struct Delivery {
    message: jetstream::Message,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// When it came into the queue, by the server's clock.
    pub published: OffsetDateTime,
    /// Jobs that waited in its lane behind it.
    pending: u64,
    /// Its place in the queue's stream.
    sequence: u64,
    chain: Option<Chain>,
}

impl Puller {
    /// Listens for what the queue sends to this slot.
    pub async fn new(context: &Context, supply: Arc<Supply>) -> Result<Self, QueueError> {
        let (inbox, replies) = listen(context).await?;
        Ok(Puller {
            context: context.clone(),
            lanes: supply.lanes.clone(),
            supply,
            inbox,
            replies,
            turns: Turns::default(),
            heard: BTreeMap::new(),
            chained: None,
        })
    }

    /// Waits for the next job. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Delivery, QueueError> {
        if let Some((lane, asked)) = self.chained.take()
            && asked.load(Ordering::Relaxed)
        {
            self.heard.insert(lane, Instant::now());
        }
        let supply = self.supply.clone();
        // Whatever the server already holds a request for may come at any time.
        let _door = match self.heard.is_empty() {
            true => Some(supply.doors.enter().await),
            false => None,
        };
        loop {
            let lanes: Vec<Lane> = self.lanes.borrow_and_update().iter().cloned().collect();
            let order = self.turns.order(lanes);
            for lane in &order {
                // One lane alone need not be looked into before a request is left there.
                if order.len() > 1
                    && !self.heard.contains_key(lane)
                    && let Some(delivery) = self.look(lane).await?
                {
                    return Ok(delivery);
                }
                self.ask(lane, REQUEST).await?;
            }
            if let Some(delivery) = self.wait().await? {
                return Ok(delivery);
            }
        }
    }

    /// A job that waits in this lane, or what came from another one meanwhile; `None` if there is none.
    async fn look(&mut self, lane: &Lane) -> Result<Option<Delivery>, QueueError> {
        self.ask(lane, LOOK).await?;
        let until = Instant::now() + SILENT;
        while self.heard.contains_key(lane) {
            let Ok(reply) = timeout_at(until, self.replies.next()).await else {
                self.start_over().await?;
                return Ok(None);
            };
            if let Some(delivery) = self.take(reply)? {
                return Ok(Some(delivery));
            }
        }
        Ok(None)
    }

    /// Waits for a job; `None` if there is something to ask for first.
    async fn wait(&mut self) -> Result<Option<Delivery>, QueueError> {
        let asked = self.heard.len();
        while self.heard.len() == asked {
            let silent = self.heard.values().min().map_or_else(Instant::now, |heard| *heard) + SILENT;
            let reply = tokio::select! {
                reply = self.replies.next() => reply,
                // A lane was added: ask for its jobs as well.
                Ok(()) = self.lanes.changed() => return Ok(None),
                () = sleep_until(silent) => {
                    self.start_over().await?;
                    return Ok(None);
                }
            };
            if let Some(delivery) = self.take(reply)? {
                return Ok(Some(delivery));
            }
        }
        Ok(None)
    }

    fn take(&mut self, reply: Option<Message>) -> Result<Option<Delivery>, QueueError> {
        match self.sort(reply.ok_or_else(|| unavailable("the connection was closed".into()))?) {
            Reply::Job(mut delivery) => {
                self.chain(&mut delivery);
                Ok(Some(*delivery))
            }
            Reply::Status => Ok(None),
            Reply::Failed(reason) => Err(unavailable(reason)),
        }
    }

    /// Hands back at once what comes while the slot is taken: with more than one lane, the server
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

    /// Lets the acknowledgement of a job ask for the next one of its lane.
    fn chain(&mut self, delivery: &mut Delivery) {
        let Some(lane) = Lane::of_subject(delivery.subject()) else { return };
        let asked = Arc::new(AtomicBool::new(false));
        let reply = format!("{}.{}", self.inbox, lane.consumer());
        delivery.chain = Some(Chain { reply, asked: asked.clone(), supply: self.supply.clone() });
        self.chained = Some((lane, asked));
    }

    /// A request was lost, or its answers are: what still comes for it must not come to us, or a
    /// job would wait here that nobody looks at.
    async fn start_over(&mut self) -> Result<(), QueueError> {
        self.chained = None;
        tracing::debug!(queue = self.supply.queue, "a request for a job went silent; making it again");
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

    /// Asks for a job of this lane, if the server holds no request for it.
    async fn ask(&mut self, lane: &Lane, request: &'static str) -> Result<(), QueueError> {
        if self.heard.contains_key(lane) {
            return Ok(());
        }
        let (stream, consumer) = (names::queue_stream(&self.supply.queue), lane.consumer());
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let reply = format!("{}.{consumer}", self.inbox);
        let sent = self.context.client().publish_with_reply(subject, reply, request.into()).await;
        sent.map_err(|error| unavailable(error.to_string()))?;
        self.heard.insert(lane.clone(), Instant::now());
        Ok(())
    }

    fn sort(&mut self, reply: Message) -> Reply {
        // Whatever is said of a lane answers the request that was left there last.
        let of = |lane: &Lane| reply.subject.rsplit('.').next().is_some_and(|word| lane.consumer() == word);
        let answers = |lane: &Lane| of(lane) || Lane::of_subject(&reply.subject).as_ref() == Some(lane);
        let is_beat = reply.status == Some(StatusCode::IDLE_HEARTBEAT);
        if !is_beat && self.chained.as_ref().is_some_and(|(lane, _)| answers(lane)) {
            self.chained = None;
        }
        if let Some(status) = reply.status {
            // What the server says of a request it says where its jobs would go.
            let consumer = reply.subject.rsplit('.').next().unwrap_or_default();
            let lane = self.heard.keys().find(|lane| lane.consumer() == consumer).cloned();
            let reason = reply.description.as_deref().unwrap_or("there is no such queue");
            return match status {
                StatusCode::IDLE_HEARTBEAT => {
                    self.heard.extend(lane.map(|lane| (lane, Instant::now())));
                    Reply::Status
                }
                // The consumer or its stream is gone; anything else is a request that ended.
                StatusCode::NO_RESPONDERS => Reply::Failed(reason.to_owned()),
                _ if reason.to_lowercase().contains("deleted") => Reply::Failed(reason.to_owned()),
                _ => {
                    lane.map(|lane| self.heard.remove(&lane));
                    Reply::Status
                }
            };
        }
        if let Some(lane) = Lane::of_subject(&reply.subject) {
            self.heard.remove(&lane);
        }
        let message = jetstream::Message { message: reply, context: self.context.clone() };
        let Ok(info) = message.info() else { return Reply::Status };
        let (delivered, sequence) = (u64::try_from(info.delivered).unwrap_or(1), info.stream_sequence);
        let (published, pending) = (info.published, info.pending);
        Reply::Job(Box::new(Delivery { message, delivered, published, pending, sequence, chain: None }))
    }
}

/// Everything below the inbox: each lane answers on a word of its own.
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
        lifecycle::Message { sequence: self.sequence, attempt, redelivered: self.delivered > 1, alone: false }
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
        let client = self.message.context.client();
        if let Some(chain) = &self.chain {
            chain.supply.anchor.count(&client).await;
        }
        let chain = self.chain.as_ref().filter(|chain| self.pending >= chain.supply.many && chain.is_of_one_lane());
        let Some((chain, to)) = chain.zip(self.message.reply.clone()) else {
            return self.say(AckKind::Ack).await;
        };
        chain.asked.store(true, Ordering::Relaxed);
        let asked = client.publish_with_reply(to, chain.reply.clone(), ACK_AND_REQUEST.into()).await;
        if let Err(error) = asked {
            tracing::debug!(%error, "the queue could not be answered");
        }
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
