//! How attempts end: their reports are stored before their messages are acknowledged.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;
use wasmjob_runtime::{AttemptReport, Limit, Outcome, millis};

use super::{BACKOFF, Held, LEFT_TO_OTHERS, Stopping, Worker};
use crate::{
    lifecycle::{self, Refused},
    nodes,
    queue::{QueueError, names},
    wire::{JobSpec, Report, State, timestamp},
};

impl Worker {
    /// Stores how a job's attempt ended, sends the message for the next one if there is to be one, then
    /// acknowledges this one. The first who stores an end wins.
    pub(super) async fn conclude(&self, held: Held<'_>, spec: &JobSpec, report: Report) {
        let retrying = (report.state == State::Retrying).then(|| report.clone());
        let Some(held) = self.store_end(held, report).await else { return };
        match retrying {
            Some(report) => Box::pin(self.send_next(&held, spec, &report)).await,
            None => {
                // Of a job that is tried again, the cancel may have come as its attempt ended.
                self.cancels.forget(spec.id);
                held.delivery.done().await;
            }
        }
    }

    /// Sends the message for the attempt after the one that `report` is about, then acknowledges this one.
    pub(super) async fn send_next(&self, held: &Held<'_>, spec: &JobSpec, report: &Report) {
        let due = report.due().filter(|due| *due > self.time.now());
        let next = report.attempt.saturating_add(1);
        self.send_and_acknowledge(held, spec, next, due).await;
    }

    pub(super) async fn send_and_acknowledge(
        &self,
        held: &Held<'_>,
        spec: &JobSpec,
        attempt: u32,
        due: Option<OffsetDateTime>,
    ) {
        let mut wait = BACKOFF.0;
        while let Err(error) = self.broker.send(spec, held.delivery.payload().clone(), attempt, due).await {
            if self.stopping.is_cancelled() {
                self.metrics.handed_back.inc();
                return held.delivery.hand_back(None).await;
            }
            tracing::warn!(job = %spec.id, %error, "the message for the next attempt could not be sent; trying again");
            self.pause(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        held.delivery.done().await;
    }

    /// Stores a report of the end of an attempt. Gives back what is held if its message is still to be
    /// acknowledged.
    pub(super) async fn store_end<'a>(&self, mut held: Held<'a>, mut report: Report) -> Option<Held<'a>> {
        report.times.finished = timestamp(OffsetDateTime::now_utc());
        let mut wait = BACKOFF.0;
        loop {
            match self.broker.store(&report, held.sequence).await {
                Ok(_) => {
                    if report.state.is_terminal() {
                        self.metrics.job_finished(held.queue, report.state.name());
                    }
                    tell(&report);
                    break;
                }
                Err(QueueError::Refused { .. }) => {
                    let Ok(stored) = Box::pin(self.event(report.job)).await else {
                        self.hand_back(held, None).await;
                        return None;
                    };
                    match lifecycle::on_refused(stored.as_ref().map(|stored| &stored.report), &report) {
                        Refused::Again => held.sequence = stored.map_or(0, |stored| stored.sequence),
                        overtaken => {
                            held.let_go(overtaken).await;
                            return None;
                        }
                    }
                }
                Err(error) if self.stopping.is_cancelled() => {
                    tracing::error!(job = %report.job, %error, "the result could not be stored; another node will make it again");
                    self.hand_back(held, None).await;
                    return None;
                }
                Err(error) => {
                    tracing::warn!(job = %report.job, %error, "the result could not be stored; trying again");
                    self.pause(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
        Some(held)
    }

    pub(super) async fn end_unstarted(&self, held: Held<'_>, spec: &JobSpec, mut report: Report, outcome: Outcome) {
        report.usage.queue_ms = millis(self.waited(&held));
        let ended = AttemptReport::unstarted(outcome);
        let report = lifecycle::on_attempt_end(report, ended, None, &spec.retry, self.chance());
        self.conclude(held, spec, report).await;
    }

    /// Stores why a message is no job, under the id it names, or, if that belongs to a job, under one
    /// made of the message's place in the queue, so that a redelivery is buried in the same grave.
    pub(super) async fn bury(&self, held: Held<'_>, reason: String) {
        let named = names::job_of(held.delivery.headers(), held.delivery.payload());
        let stored = match named {
            Some(job) => self.event(job).await,
            None => Ok(None),
        };
        let job = match (named, stored) {
            (_, Err(Stopping)) => return self.hand_back(held, None).await,
            (Some(job), Ok(None)) => job,
            (Some(_), Ok(Some(stored))) if held.delivery.delivered > 1 && stored.report.state == State::Dead => {
                return held.delivery.done().await;
            }
            _ => held.delivery.own_id(),
        };
        self.metrics.dead_lettered(held.queue);
        tracing::warn!(%job, queue = held.queue, reason, "a message is not a job; it is kept as dead");
        let report = lifecycle::dead_letter(Report::queued(job), reason);
        if let Some(held) = self.store_end(held, report).await {
            held.delivery.done().await;
        }
    }

    /// Hands on a job that wants more memory than this node has, or ends it if no node has so much.
    pub(super) async fn leave_to_larger_nodes(&self, held: Held<'_>, spec: &JobSpec, report: Report, wanted: u64) {
        let class = spec.class();
        let largest = match nodes::largest(&self.broker, held.queue, &class).await {
            // Nobody knows now: this node's own size is no answer.
            Err(_) => return self.hand_back(held, Some(LEFT_TO_OTHERS)).await,
            Ok(largest) => largest.map_or(self.memory_bytes, |node| node.memory_bytes),
        };
        if largest >= wanted {
            return self.hand_back(held, Some(LEFT_TO_OTHERS)).await;
        }
        let message = format!("wants {wanted} bytes of memory and the largest node has {largest}");
        let outcome = Outcome { retryable: false, ..Outcome::limited(Limit::Memory, message) };
        self.end_unstarted(held, spec, report, outcome).await;
    }

    /// Stores that this node's attempt ended without a result, so that it is not taken for lost. Says if the message is
    /// not this node's to hand back any more: somebody else works on it, or has ended the job.
    pub(super) async fn give_up(&self, held: &Held<'_>, report: Report) -> Option<Refused> {
        let report = lifecycle::on_hand_back(report);
        let stored = timeout(BACKOFF.1, self.broker.store(&report, held.sequence)).await.ok()?;
        // Without it the attempt counts as lost, which a job survives a few times.
        let error = stored.err()?;
        tracing::warn!(job = %report.job, %error, "that the attempt was handed back could not be stored");
        if !matches!(error, QueueError::Refused { .. }) {
            return None;
        }
        let stored = self.event(report.job).await.ok()?;
        let refused = lifecycle::on_refused(stored.as_ref().map(|stored| &stored.report), &report);
        (refused != Refused::Again).then_some(refused)
    }

    pub(super) async fn hand_back(&self, held: Held<'_>, after: Option<Duration>) {
        self.metrics.handed_back.inc();
        held.delivery.hand_back(after).await;
    }
}

/// Says in the node's log how an attempt ended: what went well only to those who want to know everything, as
/// there can be ten thousand a second.
fn tell(report: &Report) {
    let (job, state, attempt) = (report.job, report.state.name(), report.attempt);
    match report.state {
        State::Succeeded => tracing::debug!(%job, state, attempt, "attempt ended"),
        _ => {
            let message = report.outcome.as_ref().and_then(|outcome| outcome.message.as_deref());
            tracing::info!(%job, state, attempt, message, "attempt ended");
        }
    }
}
