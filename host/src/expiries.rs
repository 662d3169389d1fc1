//! A node's part in jobs that expire: it ends those that have not started in time, also of queues that are
//! paused and of classes that no node has.
//!
//! A node that is given such a job looks at the time as well: this is for jobs that nobody is given.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use futures_util::TryStreamExt;
use tokio::time::sleep;

use crate::{
    lifecycle,
    queue::{Broker, Expiry, QueueError, Unstarted, names},
    units::Span,
    wire::{Report, timestamp},
    worker::Worker,
};

/// Expiries that a node handles at the same time.
const AT_ONCE: usize = 32;
/// Wait before expiries are asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Handles expiries until the node drains.
pub async fn keep(worker: Arc<Worker>) {
    let handle = async {
        loop {
            if let Err(error) = take(&worker).await {
                tracing::warn!(%error, "the expiries of jobs cannot be had; trying again");
            }
            sleep(AGAIN_AFTER).await;
        }
    };
    tokio::select! {
        () = worker.draining.cancelled() => {}
        () = handle => {}
    }
}

/// Takes expiries until something breaks.
async fn take(worker: &Worker) -> Result<(), QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: "the expiries".into(), reason };
    let consumer: PullConsumer = worker
        .broker
        .jetstream
        .get_consumer_from_stream(names::EXPIRY_CONSUMER, names::EXPIRIES)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let messages = consumer.stream().max_messages_per_batch(AT_ONCE).messages().await;
    let messages = messages.map_err(|error| unavailable(error.to_string()))?;
    let each = messages.map_err(|error| unavailable(error.to_string()));
    each.try_for_each_concurrent(AT_ONCE, |message| async move {
        answer(worker, &message).await;
        Ok(())
    })
    .await
}

async fn answer(worker: &Worker, message: &Message) {
    let handled = match serde_json::from_slice::<Expiry>(&message.payload) {
        Ok(expiry) => handle(worker, &expiry).await,
        Err(error) => {
            tracing::warn!(%error, "a message among the expiries is none");
            Ok(())
        }
    };
    let kind = match handled {
        Ok(()) => AckKind::Ack,
        // Whoever gets it next does the same.
        Err(error) => {
            tracing::warn!(%error, "a job's expiry could not be handled; it will come again");
            AckKind::Nak(Some(AGAIN_AFTER))
        }
    };
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an expiry could not be answered");
    }
}

/// Ends the job if it has not started. A node that has it stores that it has, before it starts a job that can
/// expire, so that only one of both is.
async fn handle(worker: &Worker, expiry: &Expiry) -> Result<(), QueueError> {
    let broker: &Broker = &worker.broker;
    loop {
        let Some(Unstarted { spec, since }) = broker.unstarted(expiry).await? else { return Ok(()) };
        let Some(expires) = spec.expires_ms.map(Duration::from_millis) else { return Ok(()) };
        let due = since + expires;
        if due > worker.time.now() {
            // The submitter's clock is behind the server's.
            return broker.send_expiry(expiry, due).await;
        }
        let stored = broker.event(expiry.job).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let (queue, fresh) = (spec.queue.clone(), Report { spec: Some(spec.into()), ..Report::queued(expiry.job) });
        let report = stored.map_or(fresh, |stored| stored.report);
        let Some(mut expired) = lifecycle::on_expiry(report, Span(expires)) else { return Ok(()) };
        expired.times.finished = timestamp(worker.time.now());
        match broker.store(&expired, sequence).await {
            Ok(_) => {
                tracing::info!(job = %expiry.job, queue, "a job expired before it started");
                worker.metrics.job_finished(&queue, expired.state.name());
                // Its message stays until a node is given it, or somebody purges the queue: nodes delete none.
                return Ok(());
            }
            Err(QueueError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
