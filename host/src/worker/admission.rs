//! What a job waits for at a node before it starts: a place of its concurrency key, a turn of its queue, memory.

use std::time::Duration;

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use wasmjob_runtime::Signals;

use super::{BACKOFF, Held, MIB, Worker};
use crate::{
    queue::Place,
    rules::Rate,
    wire::{JobId, JobSpec},
};

/// Shortest and longest time until a job whose key has no place looks again: a quarter of the time that it
/// has waited. So many that wait long take few of the slots' time.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Others have all places of the job's concurrency key.
pub(super) struct NoPlace;

impl Worker {
    /// A place of the job's concurrency key, if it has one.
    pub(super) async fn place(&self, held: &Held<'_>, spec: &JobSpec) -> Result<Option<Place>, NoPlace> {
        let Some(concurrency) = &spec.concurrency else { return Ok(None) };
        match Box::pin(self.broker.take_place(concurrency, spec.id, held.lease)).await {
            Ok(Some(place)) => Ok(Some(place)),
            Ok(None) => Err(NoPlace),
            Err(error) => {
                tracing::warn!(job = %spec.id, %error, "there is no place of a concurrency key to be had");
                Err(NoPlace)
            }
        }
    }

    /// Renews a place; ends when it is lost, which means that somebody else may have it. Never ends without one.
    pub(super) async fn until_place_is_lost(&self, place: Option<&mut Place>, job: JobId, lease: Duration) {
        let Some(place) = place else { return std::future::pending().await };
        loop {
            sleep(lease / 3).await;
            let until = place.until;
            match timeout_at(until, self.broker.renew_place(place, job, lease)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return tracing::warn!(%job, "the job lost its place of a concurrency key"),
                Ok(Err(error)) if Instant::now() < until => {
                    tracing::warn!(%job, %error, "a place of a concurrency key could not be renewed");
                }
                _ => return tracing::warn!(%job, "the job's place of a concurrency key has run out"),
            }
        }
    }

    pub(super) async fn leave(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.broker.leave_place(place).await;
        }
    }

    /// Leaves a job in the queue until there may be a place of its concurrency key: the slot is for others.
    pub(super) async fn put_off(&self, held: Held<'_>) {
        let waited = self.time.now() - held.delivery.published;
        let waited = Duration::try_from(waited).unwrap_or_default();
        held.delivery.hand_back(Some((waited / 4).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1))).await;
    }

    /// Waits for the turn of a job and for its memory. `None` if it was cancelled or the node drains.
    pub(super) async fn admit(&self, queue: &str, memory: u64, signals: &Signals) -> Option<OwnedSemaphorePermit> {
        self.wait_for_turn(queue, signals).await?;
        self.promise_memory(memory, signals).await
    }

    fn rate(&self, queue: &str) -> Option<Rate> {
        self.rules.borrow().as_ref()?.get(queue)?.rate
    }

    /// Waits for a turn to start a job of this queue, if they have turns. `None` if the job was cancelled or
    /// the node drains.
    async fn wait_for_turn(&self, queue: &str, signals: &Signals) -> Option<()> {
        let wait = async {
            while let Some(rate) = self.rate(queue) {
                let turn = match self.broker.take_turn(queue, rate).await {
                    Ok(turn) => turn,
                    Err(error) => {
                        tracing::warn!(%error, queue, "there is no turn to be had; trying again");
                        self.pause(BACKOFF.1).await;
                        continue;
                    }
                };
                tokio::select! {
                    () = sleep(turn) => return,
                    // A turn counts only under the rate that it was taken under.
                    () = self.until_rules(queue, |rules| rules.rate != Some(rate)) => {}
                }
            }
        };
        tokio::select! {
            () = wait => Some(()),
            () = signals.cancelled() => None,
            () = self.draining.cancelled() => None,
        }
    }

    /// Waits until this much memory is not promised to others. First come, first served, so a large
    /// job is not passed over for ever. `None` if the job was cancelled or the node drains.
    async fn promise_memory(&self, bytes: u64, signals: &Signals) -> Option<OwnedSemaphorePermit> {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            permit = self.memory.clone().acquire_many_owned(mib) => permit.ok(),
            () = signals.cancelled() => None,
            () = self.draining.cancelled() => None,
        };
        self.metrics.memory_promised_bytes.set(self.promised());
        permit
    }
}
