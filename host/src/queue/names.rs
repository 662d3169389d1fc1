//! Every name this project has in NATS. Other clients rely on them.

use async_nats::HeaderMap;

use crate::wire::{JobId, class};

/// Stream of all events; one message for each job, on `event(job)`.
pub const EVENTS: &str = "WJ_EVENTS";
/// What `WJ_EVENTS` stores.
pub const EVENTS_ALL: &str = "wj.ev.*";
/// Where stored events are published again: the only subjects to wait on, because a plain
/// subscriber to `wj.ev` would also see writes that were refused.
pub const SEEN: &str = "wj.seen.{{wildcard(1)}}";
/// All of them.
pub const SEEN_ALL: &str = "wj.seen.*";
/// Stream of all logs, on `log(job)`.
pub const LOGS: &str = "WJ_LOGS";
/// What `WJ_LOGS` stores.
pub const LOGS_ALL: &str = "wj.log.*";
/// Bucket of cancels, by job.
pub const CANCELS: &str = "wj_cancel";
/// Cancels as plain messages, which only make a cancel faster.
pub const CANCEL_ALL: &str = "wj.ctl.cancel.*";
/// Bucket of component names and named outputs, with history.
pub const NAMES: &str = "wj_names";
/// Bucket of schedules and their pasts.
pub const SCHEDULES: &str = "wj_schedules";
/// Stream of ticks: those that wait, on `tick_waiting(schedule)`, and those that have come, on
/// `tick_due(schedule)`.
pub const TICKS: &str = "WJ_TICKS";
/// All ticks that have come.
pub const TICKS_DUE: &str = "wj.tick.due.*";
/// All ticks that wait.
pub const TICKS_WAITING: &str = "wj.tick.at.*";
/// The consumer of ticks that have come, which nodes share.
pub const TICK_CONSUMER: &str = "due";
/// Stream of expiries: those that wait, on `expiry_waiting(job)`, and those that have come, on `expiry_due(job)`.
pub const EXPIRIES: &str = "WJ_EXPIRIES";
/// All expiries that have come.
pub const EXPIRIES_DUE: &str = "wj.expiry.due.*";
/// All expiries that wait.
pub const EXPIRIES_WAITING: &str = "wj.expiry.at.*";
/// The consumer of expiries that have come, which nodes share.
pub const EXPIRY_CONSUMER: &str = "due";
/// Bucket of rules of queues, on `rules_key(queue)`, and of routes.
pub const QUEUES: &str = "wj_queues";
/// The key of the routes.
pub const ROUTES_KEY: &str = "routes";
/// Bucket of keys that jobs share: turns of queues with a rate, on `turn_key(queue)`; names of jobs that are
/// wanted once; holders of concurrency keys.
pub const KEYS: &str = "wj_keys";
/// Bucket of nodes; an entry lives as long as its node beats.
pub const NODES: &str = "wj_nodes";
/// Where nodes hear that a queue has a lane it had not before.
pub const LANES: &str = "wj.ctl.lane";
/// Prefix of the streams that are queues.
pub const QUEUE_PREFIX: &str = "WJ_Q_";

/// The stream of `queue`.
pub fn queue_stream(queue: &str) -> String {
    format!("{QUEUE_PREFIX}{queue}")
}

/// What the stream of `queue` stores: jobs that can run, jobs that wait for a time, and its anchor.
pub fn queue_subjects(queue: &str) -> Vec<String> {
    vec![queue_all(queue), waiting_all(queue), anchor(queue)]
}

/// Where the message of a queue is that is no job and stays.
pub fn anchor(queue: &str) -> String {
    format!("wj.anchor.{queue}")
}

/// Where an attempt of a job waits for a time. The server moves it to its lane then; no consumer may cover
/// this. A message replaces another one on its subject, so that each attempt has its own: one that a
/// sleeping node sends late must not replace the one that counts.
pub fn waiting(queue: &str, job: JobId, attempt: u32) -> String {
    format!("wj.at.{queue}.{job}.{attempt}")
}

/// Whatever of a job waits for a time.
pub fn waiting_of(queue: &str, job: JobId) -> String {
    format!("wj.at.{queue}.{job}.*")
}

/// All jobs of a queue that wait for a time.
pub fn waiting_all(queue: &str) -> String {
    format!("wj.at.{queue}.>")
}

/// Where the next tick of a schedule waits.
pub fn tick_waiting(schedule: &str) -> String {
    format!("wj.tick.at.{schedule}")
}

/// Where a tick of a schedule goes when it is due.
pub fn tick_due(schedule: &str) -> String {
    format!("wj.tick.due.{schedule}")
}

/// Where it waits that a job expires.
pub fn expiry_waiting(job: JobId) -> String {
    format!("wj.expiry.at.{job}")
}

/// Where that goes when it is due.
pub fn expiry_due(job: JobId) -> String {
    format!("wj.expiry.due.{job}")
}

/// The key of a schedule's definition.
pub fn schedule_key(schedule: &str) -> String {
    format!("def.{schedule}")
}

/// The schedule that a key defines.
pub fn schedule_of_key(key: &str) -> Option<&str> {
    key.strip_prefix("def.")
}

/// The key of a schedule's past.
pub fn history_key(schedule: &str) -> String {
    format!("state.{schedule}")
}

/// The key of the rules of a queue.
pub fn rules_key(queue: &str) -> String {
    format!("queue.{queue}")
}

/// The queue that a key has the rules of.
pub fn queue_of_rules(key: &str) -> Option<&str> {
    key.strip_prefix("queue.")
}

/// The stream of `KEYS`.
pub const KEYS_STREAM: &str = "KV_wj_keys";

/// Where an entry of `KEYS` is stored.
pub fn key_subject(key: &str) -> String {
    format!("$KV.{KEYS}.{key}")
}

/// A place of a concurrency key.
pub fn place_key(key: &str, place: u32) -> String {
    format!("place.{}.{place}", hash(key))
}

/// All places of a concurrency key.
pub fn places_of(key: &str) -> String {
    format!("place.{}.*", hash(key))
}

/// Who has a key for de-duplication.
pub fn claim_key(key: &str) -> String {
    format!("job.{}", hash(key))
}

/// People choose keys as they like; subjects have rules.
fn hash(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex()[..32].to_owned()
}

/// The key of the next turn to start a job of a queue.
pub fn turn_key(queue: &str) -> String {
    format!("turn.{queue}")
}

/// Header with the number of the first attempt that a message is for; without it that is 1.
pub const ATTEMPT: &str = "Wasmjob-Attempt";

/// Where a job of this queue, class and priority is published.
pub fn lane(queue: &str, class: &str, priority: u8) -> String {
    format!("wj.q.{queue}.{class}.p{priority}")
}

/// All lanes of a queue.
pub fn queue_all(queue: &str) -> String {
    format!("wj.q.{queue}.*.*")
}

/// One line of waiting jobs in a queue: those of one class and priority, or whatever else was published
/// beside them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The class, or a word that is none.
    pub class: String,
    /// `p0` to `p9`, or a word that is none of them.
    pub word: String,
}

impl Lane {
    /// The lane of jobs that ask for nothing.
    pub fn usual() -> Self {
        Lane { class: class::ANY.into(), word: "p5".into() }
    }

    /// The lane that a subject of a queue is.
    pub fn of_subject(subject: &str) -> Option<Self> {
        let mut words = subject.split('.').skip(3);
        let lane = Lane { class: words.next()?.to_owned(), word: words.next()?.to_owned() };
        words.next().is_none().then_some(lane)
    }

    /// Its subject in `queue`.
    pub fn subject(&self, queue: &str) -> String {
        format!("wj.q.{queue}.{}.{}", self.class, self.word)
    }

    /// The priority of its jobs; `None` if no job belongs there.
    pub fn priority(&self) -> Option<u8> {
        let digit = self.word.strip_prefix('p').filter(|digit| digit.len() == 1)?;
        digit.parse().ok().filter(|_| class::is_class(&self.class))
    }

    /// Its durable consumer. What is published where no job belongs gets one too, under a name that the
    /// server takes, so that it ends somewhere.
    pub fn consumer(&self) -> String {
        match self.priority() {
            Some(priority) => format!("{}-p{priority}", self.class),
            None => {
                let hash = blake3::hash(format!("{}.{}", self.class, self.word).as_bytes());
                format!("stray-{}", &hash.to_hex()[..16])
            }
        }
    }
}

/// `Nats-Msg-Id` of an attempt: a retry under the job's own id would be dropped as a duplicate.
pub fn message_id(job: JobId, attempt: u32) -> String {
    format!("{job}:{attempt}")
}

/// The same for a job that somebody asked for again, which its event `event` says.
pub fn message_id_again(job: JobId, attempt: u32, event: u64) -> String {
    format!("{job}:{attempt}+{event}")
}

/// The same for a message that waits for a time: the one that it becomes, and one that was published before
/// its time, are others.
pub fn waiting_message_id(job: JobId, attempt: u32) -> String {
    format!("{job}:{attempt}@")
}

/// The job that a message says it is about, whatever its body says.
fn job_of_message(headers: Option<&HeaderMap>) -> Option<JobId> {
    let id = headers?.get(async_nats::header::NATS_MESSAGE_ID)?.as_str();
    id.split(':').next()?.parse().ok()
}

/// The job that a message in a queue is about: other clients may leave out the header.
pub fn job_of(headers: Option<&HeaderMap>, payload: &[u8]) -> Option<JobId> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: JobId,
    }
    job_of_message(headers).or_else(|| serde_json::from_slice(payload).ok().map(|Id { id }| id))
}

/// Where the event of a job is stored.
pub fn event(job: JobId) -> String {
    format!("wj.ev.{job}")
}

/// Where a stored event of a job is published again.
pub fn seen(job: JobId) -> String {
    format!("wj.seen.{job}")
}

/// Where the log of a job is stored.
pub fn log(job: JobId) -> String {
    format!("wj.log.{job}")
}

/// Where a cancel of a job is published.
pub fn cancel(job: JobId) -> String {
    format!("wj.ctl.cancel.{job}")
}

/// Where a node answers what it is and does right now.
pub fn node(name: &str) -> String {
    format!("wj.ctl.node.{name}")
}
