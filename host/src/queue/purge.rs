//! Ending everything that waits in a queue.

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use time::OffsetDateTime;

use super::{
    Broker, QueueError,
    direct::{self, Batch, StoredMessage},
    names::{self, Lane},
};
use crate::{
    lifecycle::{self, Cancel},
    wire::{JobId, JobSpec, Report, timestamp},
};

/// Jobs that are ended at the same time.
const AT_ONCE: usize = 64;

/// A job that was, or would be, cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Class and priority, or that it waits for a time.
    pub lane: String,
}

/// Cancels the jobs that wait in `queue`: each gets its end stored before its message goes. Those that a node
/// has go on. With `dry_run`, nothing changes. `None` stands for a message that is left where it is.
pub fn purge(broker: &Broker, queue: &str, dry_run: bool) -> impl Stream<Item = Result<Option<Purged>, QueueError>> {
    let (broker, queue) = (broker.clone(), queue.to_owned());
    let filters = vec![names::waiting_all(&queue), names::queue_all(&queue)];
    let messages = stream::iter(filters).flat_map({
        let (broker, queue) = (broker.clone(), queue.clone());
        move |filter| messages(broker.clone(), names::queue_stream(&queue), filter)
    });
    messages
        .map(move |message| {
            let (broker, queue) = (broker.clone(), queue.clone());
            async move { end(&broker, &queue, message?, dry_run).await }
        })
        .buffer_unordered(AT_ONCE)
}

fn messages(
    broker: Broker,
    stream_name: String,
    filter: String,
) -> impl Stream<Item = Result<StoredMessage, QueueError>> {
    let batches = stream::try_unfold(Some(1), move |start: Option<u64>| {
        let (broker, stream_name, filter) = (broker.clone(), stream_name.clone(), filter.clone());
        async move {
            let Some(start) = start else { return Ok(None) };
            let Batch { messages, is_last } =
                direct::batch(&broker.client, &stream_name, &filter, start, direct::BATCH).await?;
            let next = messages.last().map(|last| last.sequence + 1).filter(|_| !is_last);
            Ok(Some((messages, next)))
        }
    });
    batches.flat_map(|batch| match batch {
        Ok(batch) => stream::iter(batch.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    })
}

async fn end(
    broker: &Broker,
    queue: &str,
    message: StoredMessage,
    dry_run: bool,
) -> Result<Option<Purged>, QueueError> {
    // What is no job is for a node to bury.
    let Some(job) = names::job_of(Some(&message.headers), &message.payload) else { return Ok(None) };
    let subject = message.headers.get("Nats-Subject").map(async_nats::HeaderValue::as_str).unwrap_or_default();
    let lane = match Lane::of_subject(subject).filter(|_| subject.starts_with("wj.q.")) {
        Some(lane) => format!("{} {}", lane.class, lane.word),
        None => "waits for a time".into(),
    };
    let end = store_end(broker, job, &message, dry_run).await?;
    if end == End::Now && !dry_run {
        // A node may have it and wait for its turn or for memory: it need not any more.
        broker.say_cancelled(job).await;
    }
    if end != End::AtANode && !dry_run {
        broker.remove(queue, message.sequence).await;
    }
    Ok((end == End::Now).then_some(Purged { lane }))
}

/// How it stands with the job of a message.
#[derive(PartialEq, Eq)]
enum End {
    /// It is, or would be, cancelled.
    Now,
    /// It had ended, and nobody took its message.
    Before,
    /// A node has it.
    AtANode,
}

/// Stores that a job was cancelled, unless a node has it or it has ended.
async fn store_end(broker: &Broker, job: JobId, message: &StoredMessage, dry_run: bool) -> Result<End, QueueError> {
    loop {
        let stored = broker.event(job).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let fresh = || Report { spec: JobSpec::parse(&message.payload).ok().map(Arc::new), ..Report::queued(job) };
        match lifecycle::on_cancel(stored.map_or_else(fresh, |stored| stored.report), false) {
            Cancel::TooLate(_) => return Ok(End::Before),
            Cancel::Wait => return Ok(End::AtANode),
            Cancel::Finish(_) if dry_run => return Ok(End::Now),
            Cancel::Finish(mut cancelled) => {
                let now = OffsetDateTime::now_utc();
                cancelled.note_wait(now);
                cancelled.times.finished = timestamp(now);
                match broker.store(&cancelled, sequence).await {
                    Ok(_) => return Ok(End::Now),
                    Err(QueueError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
