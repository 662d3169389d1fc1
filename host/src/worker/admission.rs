//! What a job waits for at a node before it starts: a place of its concurrency key, memory, a turn of its queue.

use std::time::Duration;

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use wasmjob_runtime::Signals;

use super::{BACKOFF, Held, MIB, Worker};
use crate::{
    queue::{Place, Turn},
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
        let waited = self.waited(&held);
        held.delivery.hand_back(Some((waited / 4).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1))).await;
    }

    /// Waits for the memory of a job and for its turn. `None` if it was cancelled, its queue is paused, or the node
    /// drains.
    pub(super) async fn admit(&self, held: &Held<'_>, memory: u64, signals: &Signals) -> Option<OwnedSemaphorePermit> {
        let mib = u32::try_from(memory.div_ceil(MIB)).unwrap_or(u32::MAX);
        let at_once = match self.rate(held.queue) {
            None => self.memory.clone().try_acquire_many_owned(mib).ok(),
            Some(_) => None,
        };
        let promised = match at_once {
            Some(promised) => Some(promised),
            None => tokio::select! {
                promised = Box::pin(self.wait_to_start(held, mib)) => promised,
                () = signals.cancelled() => None,
                () = self.until_rules(held.queue, |rules| rules.paused) => None,
                () = self.draining.cancelled() => None,
            },
        };
        self.metrics.memory_promised_bytes.set(self.promised());
        promised
    }

    fn rate(&self, queue: &str) -> Option<Rate> {
        self.rules.borrow().as_ref()?.get(queue)?.rate
    }

    /// Waits until so much memory is not promised to others and, in a queue with a rate, the turn is taken. First come,
    /// first served, so a large job is not passed over for ever.
    async fn wait_to_start(&self, held: &Held<'_>, mib: u32) -> Option<OwnedSemaphorePermit> {
        let _next = match self.rate(held.queue) {
            Some(_) => Some(held.turn.lock().await),
            None => None,
        };
        loop {
            let promised = self.memory.clone().acquire_many_owned(mib).await.ok()?;
            let Some(rate) = self.rate(held.queue) else { return Some(promised) };
            let wait = match self.broker.take_turn(held.queue, rate).await {
                Ok(Turn::Taken) => return Some(promised),
                Ok(Turn::In(wait)) => wait,
                Err(error) => {
                    tracing::warn!(%error, queue = held.queue, "there is no turn to be had; trying again");
                    BACKOFF.1
                }
            };
            // Meanwhile it is for others.
            drop(promised);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.until_rules(held.queue, |rules| rules.rate != Some(rate)) => {}
            }
        }
    }
}
