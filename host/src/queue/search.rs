//! Finds jobs: those with an event by their event, those without in their queue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use async_nats::jetstream::stream::DirectGetErrorKind;
use time::Duration;

use super::{
    Broker, QueueError,
    direct::{self, Batch, From, StoredMessage},
    events::{EventBatch, EventReader, Head},
    names, setup,
};
use crate::wire::{JobId, JobSpec, Report, State, timestamp};

/// How far a submitter's clock may be ahead of the server's.
const CLOCK_SKEW: Duration = Duration::minutes(10);
/// Clocks that are kept in step differ by less.
const CLOCKS_DIFFER: Duration = Duration::seconds(1);
/// Messages of the first request of a search.
const BATCH_FIRST: usize = 100;
/// Every message.
const ALL: Range<u64> = 1..u64::MAX;
/// Between two requests of events that are listed.
const LISTED_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The spec of a job that is still in a queue.
pub async fn find_queued(broker: &Broker, job: JobId) -> Result<Option<Report>, QueueError> {
    for queue in all_queues(broker).await? {
        if let Some(report) = find_waiting(broker, &queue, job).await? {
            return Ok(Some(report));
        }
        if let Some(message) = message_of(broker, &queue, job).await? {
            return Ok(Some(queued(&message, job)));
        }
    }
    Ok(None)
}

/// The first message of a job in `queue` that could run.
///
/// An id says when it was made, and a job is submitted soon after that, so it is looked for there first; and then
/// before, because its submitter's clock may be ahead of the server's.
pub(super) async fn message_of(broker: &Broker, queue: &str, job: JobId) -> Result<Option<StoredMessage>, QueueError> {
    let (stream, filter) = (names::queue_stream(queue), names::queue_all(queue));
    let at_or_after = async |before: Duration| {
        let time = job.submitted().and_then(|submitted| timestamp(submitted.saturating_sub(before)));
        let first = direct::first(&broker.client, &stream, &filter, time.map_or(From::Sequence(1), From::Time)).await?;
        Ok::<_, QueueError>(first.map_or(u64::MAX, |message| message.sequence))
    };
    let likely = at_or_after(CLOCKS_DIFFER).await?;
    let mut wanted = |message: &StoredMessage| job_of(message) == Some(job);
    if let Some(message) = scan(broker, queue, &filter, likely..u64::MAX, 1, &mut wanted).await?.pop() {
        return Ok(Some(message));
    }
    let earliest = at_or_after(CLOCK_SKEW).await?;
    Ok(scan(broker, queue, &filter, earliest..likely, 1, &mut wanted).await?.pop())
}

/// The job that waits for a time in `queue`.
async fn find_waiting(broker: &Broker, queue: &str, job: JobId) -> Result<Option<Report>, QueueError> {
    let of_job = names::waiting_of(queue, job);
    let found = scan(broker, queue, &of_job, ALL, 1, &mut |_| true).await?;
    Ok(found.first().map(|message| waiting(&message.payload, job)))
}

/// Jobs in `queue`, the oldest first: those that wait, those that a node has, and those that wait for a time.
pub async fn list_queued(broker: &Broker, queue: &str, max: usize) -> Result<Vec<Report>, QueueError> {
    let found = scan(broker, queue, &names::queue_all(queue), ALL, max, &mut |_| true).await?;
    let mut jobs: Vec<_> = found.iter().filter_map(|message| Some(queued(message, job_of(message)?))).collect();
    let found = scan(broker, queue, &names::waiting_all(queue), ALL, max, &mut |_| true).await?;
    jobs.extend(found.iter().filter_map(|message| Some(waiting(&message.payload, job_of(message)?))));
    Ok(jobs)
}

fn job_of(message: &StoredMessage) -> Option<JobId> {
    names::job_of(Some(&message.headers), &message.payload)
}

async fn all_queues(broker: &Broker) -> Result<Vec<String>, QueueError> {
    setup::queues(&broker.jetstream)
        .await
        .map_err(|error| QueueError::Unavailable { what: "the queues".into(), reason: error.to_string() })
}

/// Messages that are `wanted` among those with a sequence in `range`, up to `max`. The batches grow: often the first few
/// are enough.
async fn scan(
    broker: &Broker,
    queue: &str,
    filter: &str,
    mut range: Range<u64>,
    max: usize,
    wanted: &mut impl FnMut(&StoredMessage) -> bool,
) -> Result<Vec<StoredMessage>, QueueError> {
    let stream = names::queue_stream(queue);
    let (mut found, mut size) = (Vec::new(), BATCH_FIRST);
    while !range.is_empty() && found.len() < max {
        let Batch { messages, is_last } = direct::batch(&broker.client, &stream, filter, range.start, size).await?;
        range.start = if is_last { range.end } else { messages.last().map_or(range.end, |last| last.sequence + 1) };
        size = direct::BATCH.min(size * 4);
        found.extend(messages.into_iter().filter(|message| message.sequence < range.end && wanted(message)));
    }
    found.truncate(max);
    Ok(found)
}

fn queued(message: &StoredMessage, job: JobId) -> Report {
    let spec = JobSpec::parse(&message.payload).ok().map(Arc::new);
    Report { spec, ..Report::queued(job) }
}

fn waiting(payload: &[u8], job: JobId) -> Report {
    let spec = JobSpec::parse(payload).ok().map(Arc::new);
    Report { spec, state: State::Waiting, ..Report::queued(job) }
}

/// The jobs in a state that is `wanted` whose events changed last, newest first.
pub async fn list_events(
    broker: &Broker,
    max: usize,
    wanted: impl Fn(State) -> bool,
) -> Result<Vec<Report>, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: "the events".into(), reason };
    let stream = broker.jetstream.get_stream(names::EVENTS).await.map_err(|error| unavailable(error.to_string()))?;
    let state = &stream.cached_info().state;
    let (first, last) = (state.first_sequence, state.last_sequence);
    // Newer events replace older ones of the same job, so the end of the stream has gaps: look back
    // further and further until there are enough.
    let mut back = max as u64;
    loop {
        let start = last.saturating_sub(back).max(first);
        let reports = latest_events(broker, start, max, &wanted).await?;
        if reports.len() >= max || start <= first {
            return Ok(reports.into_values().rev().collect());
        }
        back = back.saturating_mul(4);
    }
}

/// Of the jobs with an event at `start` or after, the `max` with a state that is `wanted` whose events came last, by
/// their events' sequence.
async fn latest_events(
    broker: &Broker,
    start: u64,
    max: usize,
    wanted: impl Fn(State) -> bool,
) -> Result<BTreeMap<u64, Report>, QueueError> {
    let mut reader = EventReader::new(start, LISTED_WITHIN);
    let (mut reports, mut listed) = (BTreeMap::new(), HashMap::new());
    loop {
        let EventBatch { events, is_last } = reader.batch(broker).await?;
        for event in events {
            let Some(Head { job, state }) = event.head() else { continue };
            // Its next event came while these were read.
            listed.remove(&job).and_then(|before| reports.remove(&before));
            if let Some(stored) = wanted(state).then(|| event.stored()).flatten() {
                listed.insert(job, stored.sequence);
                reports.insert(stored.sequence, stored.report);
            }
        }
        while reports.len() > max {
            listed.remove(&reports.pop_first().expect("there are more than none").1.job);
        }
        if is_last {
            return Ok(reports);
        }
    }
}

/// Whether the message with this sequence in `queue` is there and about `job`.
pub async fn has_message(broker: &Broker, queue: &str, sequence: u64, job: JobId) -> Result<bool, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("the message of job {job}"), reason };
    let stream = broker.jetstream.get_stream_no_info(names::queue_stream(queue)).await;
    let stream = stream.map_err(|error| unavailable(error.to_string()))?;
    match stream.direct_get(sequence).await {
        Ok(message) => Ok(names::job_of(Some(&message.headers), &message.payload) == Some(job)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(false),
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// The jobs that have a message in `queue`, or nothing if it has more messages than `max`.
pub async fn jobs_in_queue(broker: &Broker, queue: &str, max: u64) -> Result<Option<BTreeSet<JobId>>, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("queue {queue}"), reason };
    let stream = broker.jetstream.get_stream(names::queue_stream(queue)).await;
    let stream = stream.map_err(|error| unavailable(error.to_string()))?;
    if stream.cached_info().state.messages > max {
        return Ok(None);
    }
    let mut jobs = BTreeSet::new();
    for filter in [names::waiting_all(queue), names::queue_all(queue)] {
        let mut note = |message: &StoredMessage| {
            jobs.extend(job_of(message));
            false
        };
        scan(broker, queue, &filter, ALL, usize::MAX, &mut note).await?;
    }
    Ok(Some(jobs))
}
