//! Which jobs somebody wants ended: heard on two ways, kept for jobs that come later.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt;
use lru::LruCache;
use tokio::sync::watch;
use wasmjob_runtime::Signals;

use crate::{
    queue::{Broker, QueueError, names},
    wire::JobId,
};

/// Cancels that are remembered; the oldest go first. A job whose cancel was forgotten is stopped by
/// the terminal event that its canceller stored.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// The cancels this node knows of and the attempts it can end.
#[derive(Clone)]
pub struct Cancels {
    state: Arc<Mutex<State>>,
    known: Arc<watch::Sender<bool>>,
}

struct State {
    asked: LruCache<JobId, ()>,
    /// More than one attempt of a job if a lease was lost.
    running: HashMap<JobId, Vec<Arc<Signals>>>,
}

/// Keeps an attempt within reach of cancels while it runs.
pub struct Registration {
    cancels: Cancels,
    job: JobId,
    signals: Arc<Signals>,
}

impl Default for Cancels {
    fn default() -> Self {
        let state = State { asked: LruCache::new(REMEMBERED), running: HashMap::new() };
        Cancels { state: Arc::new(Mutex::new(state)), known: Arc::new(watch::channel(false).0) }
    }
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the cancels are known that were asked for before this node started: a job must not
    /// run because its cancel is read a moment later.
    pub async fn known(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// Whether somebody wants this job ended.
    pub fn is_asked(&self, job: JobId) -> bool {
        self.lock().asked.contains(&job)
    }

    /// Forgets a cancel that was taken back, or whose job has ended.
    pub fn forget(&self, job: JobId) {
        self.lock().asked.pop(&job);
    }

    /// Jobs that run here.
    pub fn running(&self) -> usize {
        self.lock().running.values().map(Vec::len).sum()
    }

    /// Lets a cancel reach this attempt, also one that came before.
    pub fn register(&self, job: JobId, signals: Arc<Signals>) -> Registration {
        let mut state = self.lock();
        if state.asked.contains(&job) {
            signals.cancel();
        }
        state.running.entry(job).or_default().push(signals.clone());
        Registration { cancels: self.clone(), job, signals }
    }

    fn ask(&self, job: &str) {
        let Ok(job) = job.parse() else { return };
        let mut state = self.lock();
        state.asked.put(job, ());
        for signals in state.running.get(&job).into_iter().flatten() {
            signals.cancel();
        }
    }

    /// Listens for cancels until the connection closes: plain messages, which come at once, and the
    /// bucket, which also has those that were asked for while this node was away.
    pub async fn listen(self, broker: Broker) -> Result<(), QueueError> {
        let unavailable = |reason: String| QueueError::Unavailable { what: "the cancels".into(), reason };
        let plain = broker.client.subscribe(names::CANCEL_ALL).await;
        let mut plain = plain.map_err(|error| unavailable(error.to_string()))?;
        let bucket = broker.jetstream.get_key_value(names::CANCELS).await;
        let bucket = bucket.map_err(|error| unavailable(error.to_string()))?;
        let mut kept = bucket.watch_with_history(">").await.map_err(|error| unavailable(error.to_string()))?;
        let status = bucket.status().await.map_err(|error| unavailable(error.to_string()))?;
        if status.values() == 0 {
            self.known.send_replace(true);
        }
        loop {
            tokio::select! {
                message = plain.next() => match message {
                    Some(message) => self.ask(message.subject.rsplit('.').next().unwrap_or_default()),
                    None => return Ok(()),
                },
                entry = kept.next() => match entry {
                    Some(Ok(entry)) => {
                        match (entry.operation, entry.key.parse()) {
                            (Operation::Put, _) => self.ask(&entry.key),
                            (_, Ok(job)) => self.forget(job),
                            _ => {}
                        }
                        if entry.delta == 0 {
                            self.known.send_replace(true);
                        }
                    }
                    Some(Err(error)) => return Err(unavailable(error.to_string())),
                    None => return Ok(()),
                },
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.cancels.lock();
        if let Some(attempts) = state.running.get_mut(&self.job) {
            attempts.retain(|signals| !Arc::ptr_eq(signals, &self.signals));
            if attempts.is_empty() {
                state.running.remove(&self.job);
            }
        }
    }
}
