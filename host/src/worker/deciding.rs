//! What is to be done with a delivery: what `lifecycle` has to know for that, asked for until there is an answer.

use std::time::Duration;

use super::{BACKOFF, Held, Stopping, Worker};
use crate::{
    lifecycle::{self, Decision, Unwanted},
    queue::{QueueError, Stored, has_message},
    units::Span,
    wire::{JobId, JobSpec, Report},
};

impl Worker {
    /// What is to be done with a delivery.
    pub(super) async fn decide(
        &self,
        held: &Held<'_>,
        fresh: Report,
        stored: Option<Report>,
        unwanted: Option<Unwanted>,
    ) -> Result<Decision, Stopping> {
        let (job, message) = (fresh.job, held.delivery.message());
        let again = stored.clone();
        let decision = lifecycle::on_delivery(fresh, stored, message, unwanted, &self.node);
        let (Decision::LookFor { message: other }, Some(stored)) = (&decision, again) else { return Ok(decision) };
        if Box::pin(self.is_in_queue(held, *other, job)).await? {
            return Ok(Decision::Drop);
        }
        let alone = lifecycle::Message { alone: true, ..message };
        Ok(lifecycle::on_delivery(Report::queued(job), Some(stored), alone, unwanted, &self.node))
    }

    /// Why the job of this message should not run.
    pub(super) async fn unwanted(&self, held: &Held<'_>, spec: &JobSpec) -> Result<Option<Unwanted>, Stopping> {
        if self.cancels.is_asked(spec.id) {
            let had_again = held.delivery.message().attempt > 1;
            match had_again && matches!(self.broker.is_asked_to_cancel(spec.id).await, Ok(false)) {
                true => self.cancels.forget(spec.id),
                false => return Ok(Some(Unwanted::Cancelled)),
            }
        }
        if spec.dedupe_key.is_some()
            && let Some(other) = Box::pin(self.other_with_key(spec)).await?
        {
            return Ok(Some(Unwanted::Duplicate(other)));
        }
        let Some(expires) = spec.expires_ms.map(Duration::from_millis) else { return Ok(None) };
        Ok((self.waited(held) > expires).then_some(Unwanted::Expired(Span(expires))))
    }

    /// Another job that has the key of this one: a client may have published it without asking.
    pub(super) async fn other_with_key(&self, spec: &JobSpec) -> Result<Option<JobId>, Stopping> {
        loop {
            match self.broker.claim(spec).await {
                Ok(job) => return Ok((job != spec.id).then_some(job)),
                Err(QueueError::KeyTaken { job, .. }) => return Ok(Some(job)),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(job = %spec.id, %error, "the job's key cannot be looked up; trying again");
                    self.pause(BACKOFF.1).await;
                }
            }
        }
    }

    /// Whether another message of a job is in the queue, however long it takes to get an answer.
    pub(super) async fn is_in_queue(&self, held: &Held<'_>, message: u64, job: JobId) -> Result<bool, Stopping> {
        loop {
            match has_message(&self.broker, held.queue, message, job).await {
                Ok(there) => return Ok(there),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(%job, %error, "the job's other message could not be looked for; trying again");
                    self.pause(BACKOFF.1).await;
                }
            }
        }
    }

    /// The event of a job, however long it takes to get an answer.
    pub(super) async fn event(&self, job: JobId) -> Result<Option<Stored>, Stopping> {
        let mut wait = BACKOFF.0;
        loop {
            match self.broker.event(job).await {
                Ok(stored) => return Ok(stored),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(%job, %error, "the job's event could not be read; trying again");
                    self.pause(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }
}
