//! A node's part in recurring jobs: it takes ticks that are due, does what `schedule` decides, and looks
//! now and then whether every schedule has a tick that waits.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind, consumer::PullConsumer};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    queue::{Broker, QueueError, Tick, find_queued, names},
    schedule::{Decision, Schedule, Ticked},
    wire::{JobId, JobSpec, State},
    worker::Worker,
};

/// How often it is looked after schedules without a tick.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Wait before the ticks are asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Handles ticks until the node drains.
pub async fn keep(worker: Arc<Worker>) {
    let handle = async {
        loop {
            if let Err(error) = take(&worker.broker).await {
                tracing::warn!(%error, "the ticks of schedules cannot be had; trying again");
            }
            sleep(AGAIN_AFTER).await;
        }
    };
    let look = async {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match mend(&worker.broker).await {
                Ok(mended) => worker.metrics.reconciled.with_label_values(&["tick"]).inc_by(mended),
                Err(error) => tracing::debug!(%error, "the schedules cannot be looked at now"),
            }
        }
    };
    tokio::select! {
        () = worker.draining.cancelled() => {}
        () = handle => {}
        () = look => {}
    }
}

/// Takes ticks one after the other until something breaks.
async fn take(broker: &Broker) -> Result<(), QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: "the ticks".into(), reason };
    let consumer: PullConsumer = broker
        .jetstream
        .get_consumer_from_stream(names::TICK_CONSUMER, names::TICKS)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let messages = consumer.stream().max_messages_per_batch(1).messages().await;
    let mut messages = messages.map_err(|error| unavailable(error.to_string()))?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| unavailable(error.to_string()))?;
        match serde_json::from_slice::<Tick>(&message.payload) {
            Err(error) => tracing::warn!(%error, "a message among the ticks is none"),
            Ok(tick) => {
                if let Err(error) = handle(broker, &tick, &message).await {
                    // The next one who gets it does the same again, with the same job.
                    tracing::warn!(schedule = tick.schedule, %error, "a tick could not be handled; it will come again");
                    answer(&message, AckKind::Nak(Some(AGAIN_AFTER))).await;
                    continue;
                }
            }
        }
        answer(&message, AckKind::Ack).await;
    }
    Ok(())
}

async fn answer(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "a tick could not be answered");
    }
}

async fn handle(broker: &Broker, tick: &Tick, message: &jetstream::Message) -> Result<(), QueueError> {
    let kept = broker.schedule(&tick.schedule).await?;
    let Some(kept) = kept.filter(|kept| kept.revision == tick.revision && !kept.schedule.paused) else {
        return Ok(());
    };
    let schedule = &kept.schedule;
    let mut history = broker.history(&tick.schedule).await?;
    history.ticks.retain(|known| known.due < tick.due);
    let last = match history.last_job() {
        Some(job) => Some((job, state(broker, job).await?)),
        None => None,
    };
    let now = broker.now().await?;
    let decision = match schedule.on_tick(tick.due, now, last.map(|(_, state)| state)) {
        Ok(decision) => decision,
        // Checked when it was added; a definition that somebody else wrote ends here.
        Err(error) => {
            tracing::error!(schedule = schedule.name, %error, "a schedule makes no sense");
            return Ok(());
        }
    };
    if let Some((job, _)) = last.filter(|_| decision.replace) {
        broker.ask_to_cancel(job).await?;
    }
    let again = message.info().is_ok_and(|info| info.delivered > 1);
    let job = match decision.run {
        Some(run) => Some(submit(broker, &schedule.job_at(run), again).await?),
        None => None,
    };
    history.add(ticked(tick.due, now, &decision, job));
    broker.keep_history(&tick.schedule, &history).await?;
    match decision.next {
        Some(due) => broker.send_tick(&Tick { due, ..tick.clone() }).await,
        None => Ok(()),
    }
}

fn ticked(due: Timestamp, now: Timestamp, decision: &Decision, job: Option<JobId>) -> Ticked {
    let lag = now.max(due).duration_since(due).unsigned_abs();
    let lag_ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
    Ticked { due: decision.run.unwrap_or(due), lag_ms, job, skipped: decision.skipped.clone(), missed: decision.missed }
}

/// Submits the job of a tick. If the tick was handled `again`, it may have been submitted longer ago than
/// the queue remembers.
async fn submit(broker: &Broker, job: &JobSpec, again: bool) -> Result<JobId, QueueError> {
    let known = again && broker.is_known(job.id).await?;
    if known {
        return Ok(job.id);
    }
    let id = broker.submit(job).await?;
    broker.announce_lane(&job.queue).await;
    Ok(id)
}

async fn state(broker: &Broker, job: JobId) -> Result<State, QueueError> {
    if let Some(stored) = broker.event(job).await? {
        return Ok(stored.report.state);
    }
    // A job that nobody knows any more has ended long ago.
    Ok(find_queued(broker, job).await?.map_or(State::Succeeded, |report| report.state))
}

/// Gives every schedule that ticks and has none a tick. Says how many that were.
async fn mend(broker: &Broker) -> Result<u64, QueueError> {
    let mut mended = 0;
    for name in broker.schedule_names().await? {
        let Some(kept) = broker.schedule(&name).await? else { continue };
        if kept.schedule.paused || broker.has_tick(&name).await? {
            continue;
        }
        let Some(due) = next(&kept.schedule, broker.history(&name).await?.ticks.last()) else { continue };
        broker.send_tick(&Tick { schedule: name.clone(), revision: kept.revision, due }).await?;
        tracing::info!(schedule = name, %due, "a schedule had no tick");
        mended += 1;
    }
    Ok(mended)
}

/// The tick after the last one there was.
pub fn next(schedule: &Schedule, last: Option<&Ticked>) -> Option<Timestamp> {
    let after = last.map_or(schedule.since, |last| last.due.max(schedule.since));
    schedule.calendar().ok()?.after(after).ok()?
}
