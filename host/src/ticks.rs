//! A node's part in recurring jobs: it takes ticks that are due, does what `schedule` decides, and looks
//! now and then whether every schedule has a tick that waits.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    queue::{Broker, QueueError, Tick, find_queued, names},
    schedule::{Action, Decision, History, MISSED_AFTER, Missed, Schedule, Ticked},
    wire::{JobId, JobSpec, State},
    worker::Worker,
};

/// How often it is looked after schedules without a tick.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Wait before the ticks are asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often it is said of a tick that it is being handled: a third of the time after which another node gets it.
const HOLD_EVERY: Duration = Duration::from_secs(10);
/// When it is looked whether the job has ended that a tick waits for: so long after the first look, and each time as much
/// later again, up to the second.
const LOOK_AT_LAST_JOB: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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
        let handled = match serde_json::from_slice::<Tick>(&message.payload) {
            Ok(tick) => {
                let delivered = message.info().map_or(1, |info| info.delivered.unsigned_abs());
                let handled = tokio::select! {
                    handled = handle(broker, &tick, delivered) => handled,
                    never = hold(&message) => match never {},
                };
                handled.inspect_err(|error| {
                    tracing::warn!(schedule = tick.schedule, %error, "a tick could not be handled; it will come again");
                })
            }
            Err(error) => {
                tracing::warn!(%error, "a message among the ticks is none");
                Ok(AckKind::Ack)
            }
        };
        // The next one who gets it goes on with it.
        let kind = handled.unwrap_or(AckKind::Nak(Some(AGAIN_AFTER)));
        if let Err(error) = message.ack_with(kind).await {
            tracing::debug!(%error, "a tick could not be answered");
        }
    }
    Ok(())
}

/// Keeps a tick from being given to somebody else as well.
async fn hold(message: &Message) -> Infallible {
    loop {
        sleep(HOLD_EVERY).await;
        if let Err(error) = message.ack_with(AckKind::Progress).await {
            tracing::debug!(%error, "a tick could not be held");
        }
    }
}

/// Sees a tick through, and says how its message is to be answered.
async fn handle(broker: &Broker, tick: &Tick, delivered: u64) -> Result<AckKind, QueueError> {
    let kept = broker.schedule(&tick.schedule).await?;
    let Some(kept) = kept.filter(|kept| kept.revision == tick.revision && !kept.schedule.paused) else {
        return Ok(AckKind::Ack);
    };
    let schedule = &kept.schedule;
    // Checked when it was added: somebody else wrote it.
    if let Err(error) = schedule.calendar() {
        tracing::error!(schedule = schedule.name, %error, "a schedule makes no sense, and ticks no more");
        return Ok(AckKind::Ack);
    }
    let mut history = broker.history(&tick.schedule).await?;
    let decided = match history.decided(tick.due).cloned() {
        Some(decided) if is_too_late(broker, schedule, &decided).await? => {
            history.ticks.pop();
            None
        }
        decided => decided,
    };
    let (mut ticked, again) = match decided {
        Some(decided) => (decided, true),
        None => match decide(broker, schedule, tick.due, &mut history).await? {
            Some(decided) => (decided, false),
            None => {
                let times = u32::try_from(delivered).unwrap_or(u32::MAX);
                let look = LOOK_AT_LAST_JOB.0.saturating_mul(times).min(LOOK_AT_LAST_JOB.1);
                return Ok(AckKind::Nak(Some(look)));
            }
        },
    };
    if ticked.job.is_some() {
        let (job, skipped) = submit(broker, &schedule.job_at(ticked.due), again).await?;
        if job != ticked.job {
            (ticked.job, ticked.skipped) = (job, skipped);
            history.add(ticked.clone());
            broker.keep_history(&tick.schedule, &mut history).await?;
        }
    }
    if let Some(due) = schedule.next(Some(&ticked)) {
        broker.send_tick(&Tick { due, ..tick.clone() }).await?;
    }
    Ok(AckKind::Ack)
}

/// Whether a tick was to have a job that could not be submitted in time, and is to be decided anew.
async fn is_too_late(broker: &Broker, schedule: &Schedule, decided: &Ticked) -> Result<bool, QueueError> {
    let Some(job) = decided.job.filter(|_| schedule.missed != Missed::All) else { return Ok(false) };
    let lag = broker.now().await?.duration_since(decided.due);
    Ok(Duration::try_from(lag).is_ok_and(|lag| lag > MISSED_AFTER) && !broker.is_known(job).await?)
}

/// Decides about a tick and writes it down, before anything else is done. `None` if it has to wait.
async fn decide(
    broker: &Broker,
    schedule: &Schedule,
    due: Timestamp,
    history: &mut History,
) -> Result<Option<Ticked>, QueueError> {
    let last = match history.last_job() {
        Some(job) => Some((job, state(broker, job).await?)),
        None => None,
    };
    let now = broker.now().await?.max(due);
    let decision = schedule.on_tick(due, now, history, last.map(|(_, state)| state));
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("a tick of {}", schedule.name), reason };
    let Decision { tick, action, missed, back } = decision.map_err(|error| unavailable(error.to_string()))?;
    let is_changed = back != history.back;
    history.back = back;
    let (job, skipped) = match action {
        Action::Wait if is_changed => {
            broker.keep_history(&schedule.name, history).await?;
            return Ok(None);
        }
        Action::Wait => return Ok(None),
        Action::Skip(reason) => (None, Some(reason.to_owned())),
        Action::Run | Action::Replace => (Some(schedule.job_at(tick).id), None),
    };
    if let Some((before, _)) = last.filter(|_| action == Action::Replace) {
        broker.ask_to_cancel(before).await?;
    }
    let lag_ms = u64::try_from(now.duration_since(tick).as_millis()).unwrap_or_default();
    let ticked = Ticked { due: tick, lag_ms, job, skipped, missed };
    history.add(ticked.clone());
    broker.keep_history(&schedule.name, history).await?;
    Ok(Some(ticked))
}

/// Submits the job of a tick; gives the job that runs for it, or why none does. If the tick was decided before, it is
/// handled `again`, and may have been submitted longer ago than the queue remembers.
async fn submit(broker: &Broker, job: &JobSpec, again: bool) -> Result<(Option<JobId>, Option<String>), QueueError> {
    if again && broker.is_known(job.id).await? {
        return Ok((Some(job.id), None));
    }
    match broker.submit(job).await {
        Ok(id) => {
            broker.announce_lane(&job.queue).await;
            Ok((Some(id), None))
        }
        Err(error @ QueueError::KeyTaken { .. }) => Ok((None, Some(error.to_string()))),
        Err(error) => Err(error),
    }
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
        let kept = match broker.schedule(&name).await {
            Ok(Some(kept)) => kept,
            Ok(None) => continue,
            // As one of a newer version. It keeps no other from its tick.
            Err(error) => {
                tracing::warn!(schedule = name, %error, "a schedule cannot be read");
                continue;
            }
        };
        if kept.schedule.paused || broker.has_tick(&name, kept.revision).await? {
            continue;
        }
        let Some(due) = kept.schedule.next(broker.history(&name).await?.ticks.last()) else { continue };
        broker.send_tick(&Tick { schedule: name.clone(), revision: kept.revision, due }).await?;
        tracing::info!(schedule = name, %due, "a schedule had no tick");
        mended += 1;
    }
    Ok(mended)
}
