//! Ends jobs that have not started in time, also of queues that are paused and of classes that no node has.
//!
//! `up` does that, which may take messages out of queues; nodes do where there is no `up`. A node that is given such
//! a job looks at the time as well: this is for jobs that nobody is given.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use futures_util::TryStreamExt;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    lifecycle,
    queue::{Broker, Expiry, QueueError, Unstarted, names},
    units::Span,
    wire::{Report, timestamp},
};

/// Expiries that are handled at the same time.
const AT_ONCE: usize = 32;
/// Wait before expiries are asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Handles expiries, by the time that `now` says, for ever.
pub async fn keep(broker: &Broker, now: impl Fn() -> OffsetDateTime) {
    loop {
        if let Err(error) = take(broker, &now).await {
            tracing::warn!(%error, "the expiries of jobs cannot be had; trying again");
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// Takes expiries until something breaks.
async fn take(broker: &Broker, now: &impl Fn() -> OffsetDateTime) -> Result<(), QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: "the expiries".into(), reason };
    let consumer: PullConsumer = broker
        .jetstream
        .get_consumer_from_stream(names::EXPIRY_CONSUMER, names::EXPIRIES)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let messages = consumer.stream().max_messages_per_batch(AT_ONCE).messages().await;
    let messages = messages.map_err(|error| unavailable(error.to_string()))?;
    let each = messages.map_err(|error| unavailable(error.to_string()));
    each.try_for_each_concurrent(AT_ONCE, |message| async move {
        answer(broker, now, &message).await;
        Ok(())
    })
    .await
}

async fn answer(broker: &Broker, now: &impl Fn() -> OffsetDateTime, message: &Message) {
    let handled = match serde_json::from_slice::<Expiry>(&message.payload) {
        Ok(expiry) => handle(broker, now, &expiry).await,
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
async fn handle(broker: &Broker, now: &impl Fn() -> OffsetDateTime, expiry: &Expiry) -> Result<(), QueueError> {
    loop {
        let Some(Unstarted { spec, since }) = broker.unstarted(expiry).await? else { return Ok(()) };
        let Some(expires) = spec.expires_ms.map(Duration::from_millis) else { return Ok(()) };
        let due = since + expires;
        if due > now() {
            // The submitter's clock is behind the server's.
            return broker.send_expiry(expiry, due).await;
        }
        let stored = broker.event(expiry.job).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let (queue, fresh) = (spec.queue.clone(), Report { spec: Some(spec.into()), ..Report::queued(expiry.job) });
        let report = stored.map_or(fresh, |stored| stored.report);
        let Some(mut expired) = lifecycle::on_expiry(report, Span(expires)) else { return Ok(()) };
        expired.note_wait(now());
        expired.times.finished = timestamp(now());
        match broker.store(&expired, sequence).await {
            Ok(_) => {
                tracing::info!(job = %expiry.job, queue, "a job expired before it started");
                // A node may have it and wait for its turn or for memory: it need not any more.
                broker.say_cancelled(expiry.job).await;
                broker.take_out(&queue, expiry.job).await;
                return Ok(());
            }
            Err(QueueError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
