//! Makes the streams and buckets that the rest relies on.
//!
//! Everything looks first and creates only what is missing: a node's credentials may not be allowed
//! to create streams.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, PullConsumer, pull},
    context::CreateStreamError,
    kv,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType},
};
use futures_util::TryStreamExt;

use super::names::{self, Lane};

/// How long a cancel is remembered: longer than a job may wait unseen by the nodes.
const CANCELS_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A node is gone after this long without a heartbeat.
pub const NODE_GONE: Duration = Duration::from_secs(120);
/// Messages of one job's log; a message holds many lines.
const LOG_MESSAGES_MAX: i64 = 10_000;
/// Bytes of all logs together, of which the oldest go first: those of a dead job may be wanted for as long as it is
/// kept. The server sets them aside at once, so on a small disk the largest of
/// these is taken that it has room for.
const LOGS_BYTES_MAX: [i64; 4] = [2 << 30, 256 << 20, 32 << 20, 4 << 20];
/// Window in which a job that is published twice under one id is stored once.
const DUPLICATES: Duration = Duration::from_secs(120);
/// How long a node may take for a tick or an expiry before another one gets it.
const DUE_LEASE: Duration = Duration::from_secs(30);
/// How long it can be seen that an entry went by itself.
const MARKERS_KEPT: Duration = Duration::from_secs(10);
/// Values that a name had.
const NAME_HISTORY: i64 = 16;
/// How long the consumer of a lane stays from which no node asks for jobs.
const LANE_KEPT: Duration = Duration::from_secs(86_400);
/// Messages out at nodes, and requests of slots, at the same time; slots bound both long before.
const DELIVERED_MAX: i64 = 100_000;

/// A stream, consumer or bucket that is missing and could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the {kind} {name} is missing in NATS and could not be made: {reason}")]
pub struct SetupError {
    kind: &'static str,
    name: String,
    reason: String,
}

impl SetupError {
    /// Whether the server has no room for it.
    pub fn is_full(&self) -> bool {
        self.reason.contains("insufficient storage")
    }
}

/// Makes what all queues share, with so many copies of each stream on different servers. What is there stays as
/// it is.
pub async fn ensure_shared(jetstream: &Context, replicas: usize) -> Result<(), SetupError> {
    let republish =
        Republish { source: names::EVENTS_ALL.into(), destination: names::SEEN.into(), headers_only: false };
    let events = Config {
        name: names::EVENTS.into(),
        subjects: vec![names::EVENTS_ALL.into()],
        max_messages_per_subject: 1,
        allow_direct: true,
        allow_message_ttl: true,
        republish: Some(republish),
        ..kept_on_disk(replicas)
    };
    ensure_stream(jetstream, events).await?;
    ensure_logs(jetstream, replicas).await?;
    ensure_ticks(jetstream, replicas).await?;
    ensure_expiries(jetstream, replicas).await?;
    for (bucket, history, max_age) in [
        (names::CANCELS, 1, CANCELS_KEPT),
        (names::NAMES, NAME_HISTORY, Duration::ZERO),
        (names::NODES, 1, NODE_GONE),
        (names::SCHEDULES, 1, Duration::ZERO),
        (names::QUEUES, 1, Duration::ZERO),
    ] {
        ensure_bucket(jetstream, replicas, (bucket, history, max_age)).await?;
    }
    ensure_keys(jetstream, replicas).await
}

/// Entries of this bucket go by themselves, each in its own time.
async fn ensure_keys(jetstream: &Context, replicas: usize) -> Result<(), SetupError> {
    if jetstream.get_key_value(names::KEYS).await.is_ok() {
        return Ok(());
    }
    let config = kv::Config {
        bucket: names::KEYS.into(),
        history: 1,
        limit_markers: Some(MARKERS_KEPT),
        num_replicas: replicas,
        ..kv::Config::default()
    };
    jetstream.create_key_value(config).await.map(drop).map_err(|error| SetupError {
        kind: "bucket",
        name: names::KEYS.into(),
        reason: error.to_string(),
    })
}

async fn ensure_expiries(jetstream: &Context, replicas: usize) -> Result<(), SetupError> {
    let expiries = Config {
        name: names::EXPIRIES.into(),
        subjects: vec![names::EXPIRIES_DUE.into(), names::EXPIRIES_WAITING.into()],
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        allow_message_schedules: true,
        ..kept_on_disk(replicas)
    };
    ensure_stream(jetstream, expiries).await?;
    ensure_shared_consumer(jetstream, names::EXPIRIES, names::EXPIRY_CONSUMER, names::EXPIRIES_DUE).await
}

async fn ensure_ticks(jetstream: &Context, replicas: usize) -> Result<(), SetupError> {
    let ticks = Config {
        name: names::TICKS.into(),
        subjects: vec![names::TICKS_DUE.into(), names::TICKS_WAITING.into()],
        retention: RetentionPolicy::WorkQueue,
        // A schedule has one next tick: another one replaces it.
        max_messages_per_subject: 1,
        allow_message_schedules: true,
        allow_direct: true,
        ..kept_on_disk(replicas)
    };
    ensure_stream(jetstream, ticks).await?;
    ensure_shared_consumer(jetstream, names::TICKS, names::TICK_CONSUMER, names::TICKS_DUE).await
}

/// Makes the consumer of what is due in a stream, each message of which is handled by one node.
async fn ensure_shared_consumer(
    jetstream: &Context,
    stream: &str,
    consumer: &str,
    subject: &str,
) -> Result<(), SetupError> {
    let found: Result<PullConsumer, _> = jetstream.get_consumer_from_stream(consumer, stream).await;
    if found.is_ok() {
        return Ok(());
    }
    let config = pull::Config {
        durable_name: Some(consumer.into()),
        filter_subject: subject.into(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: DUE_LEASE,
        max_deliver: -1,
        ..pull::Config::default()
    };
    let made = jetstream.create_consumer_on_stream(config, stream).await;
    let name = format!("{stream}/{consumer}");
    made.map(drop).map_err(|error| SetupError { kind: "consumer", name, reason: error.to_string() })
}

async fn ensure_logs(jetstream: &Context, replicas: usize) -> Result<(), SetupError> {
    let mut made = Ok(());
    for max_bytes in LOGS_BYTES_MAX {
        let logs = Config {
            name: names::LOGS.into(),
            subjects: vec![names::LOGS_ALL.into()],
            max_messages_per_subject: LOG_MESSAGES_MAX,
            max_bytes,
            allow_direct: true,
            ..kept_on_disk(replicas)
        };
        made = ensure_stream(jetstream, logs).await;
        if !made.as_ref().is_err_and(SetupError::is_full) {
            break;
        }
    }
    made
}

/// Makes a queue and the consumer that nodes share. The lease is that of whoever makes it first.
pub async fn ensure_queue(
    jetstream: &Context,
    replicas: usize,
    queue: &str,
    lease: Duration,
) -> Result<PullConsumer, SetupError> {
    let config = Config {
        name: names::queue_stream(queue),
        subjects: names::queue_subjects(queue),
        retention: RetentionPolicy::WorkQueue,
        allow_message_schedules: true,
        duplicate_window: DUPLICATES,
        allow_direct: true,
        ..kept_on_disk(replicas)
    };
    ensure_stream(jetstream, config).await?;
    ensure_lane(jetstream, queue, &Lane::usual(), lease).await
}

/// Makes the consumer of one lane of a queue, which nodes share.
pub async fn ensure_lane(
    jetstream: &Context,
    queue: &str,
    lane: &Lane,
    lease: Duration,
) -> Result<PullConsumer, SetupError> {
    let (stream, consumer) = (names::queue_stream(queue), lane.consumer());
    let failed = |reason: String| SetupError { kind: "consumer", name: format!("{stream}/{consumer}"), reason };
    if let Ok(consumer) = jetstream.get_consumer_from_stream(&consumer, &stream).await {
        return Ok(consumer);
    }
    let config = pull::Config {
        durable_name: Some(consumer.clone()),
        // Anybody can publish in a new lane; what nobody asks for any more goes by itself.
        inactive_threshold: if *lane == Lane::usual() { Duration::ZERO } else { LANE_KEPT },
        filter_subject: lane.subject(queue),
        ack_policy: AckPolicy::Explicit,
        ack_wait: lease,
        max_deliver: -1,
        max_ack_pending: DELIVERED_MAX,
        max_waiting: DELIVERED_MAX,
        ..pull::Config::default()
    };
    jetstream.create_consumer_on_stream(config, &stream).await.map_err(|error| failed(error.to_string()))
}

/// The lanes of `queue` in which jobs wait, and how many; those that a node has count as well.
pub async fn lanes(jetstream: &Context, queue: &str) -> Result<BTreeMap<Lane, usize>, SetupError> {
    let failed = |reason: String| SetupError { kind: "list of lanes of", name: queue.into(), reason };
    let stream = jetstream.get_stream_no_info(names::queue_stream(queue)).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    let mut subjects =
        stream.info_with_subjects(names::queue_all(queue)).await.map_err(|error| failed(error.to_string()))?;
    let mut lanes = BTreeMap::new();
    while let Some((subject, jobs)) = subjects.try_next().await.map_err(|error| failed(error.to_string()))? {
        lanes.extend(Lane::of_subject(&subject).map(|lane| (lane, jobs)));
    }
    Ok(lanes)
}

/// The queues there are.
pub async fn queues(jetstream: &Context) -> Result<Vec<String>, SetupError> {
    let names: Vec<String> = jetstream.stream_names().try_collect().await.map_err(|error| SetupError {
        kind: "list of",
        name: "streams".into(),
        reason: error.to_string(),
    })?;
    let mut queues: Vec<String> =
        names.iter().filter_map(|name| name.strip_prefix(names::QUEUE_PREFIX)).map(str::to_owned).collect();
    queues.sort();
    Ok(queues)
}

fn kept_on_disk(replicas: usize) -> Config {
    Config { storage: StorageType::File, discard: DiscardPolicy::Old, num_replicas: replicas, ..Config::default() }
}

async fn ensure_stream(jetstream: &Context, config: Config) -> Result<(), SetupError> {
    if jetstream.get_stream(&config.name).await.is_ok() {
        return Ok(());
    }
    let name = config.name.clone();
    let failed = |error: CreateStreamError| SetupError { kind: "stream", name, reason: error.to_string() };
    jetstream.create_stream(config).await.map(drop).map_err(failed)
}

async fn ensure_bucket(
    jetstream: &Context,
    replicas: usize,
    (bucket, history, max_age): (&str, i64, Duration),
) -> Result<(), SetupError> {
    if jetstream.get_key_value(bucket).await.is_ok() {
        return Ok(());
    }
    let config =
        kv::Config { bucket: bucket.into(), history, max_age, num_replicas: replicas, ..kv::Config::default() };
    jetstream.create_key_value(config).await.map(drop).map_err(|error| SetupError {
        kind: "bucket",
        name: bucket.into(),
        reason: error.to_string(),
    })
}
