//! Which jobs somebody wants ended: heard on two ways, kept for jobs that come later.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt;
use lru::LruCache;
use wasmjob_runtime::Signals;

use crate::{
    queue::{Broker, QueueError, names},
    wire::JobId,
};

/// Cancels that are remembered; the oldest go first. A job whose cancel was forgotten is stopped by
/// the terminal event that its canceller stored.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");

/// The cancels this node knows of and the attempts it can end.
#[derive(Clone)]
pub struct Cancels(Arc<Mutex<State>>);

struct State {
    asked: LruCache<JobId, ()>,
    running: HashMap<JobId, Arc<Signals>>,
}

/// Keeps an attempt within reach of cancels while it runs.
pub struct Registration {
    cancels: Cancels,
    job: JobId,
}

impl Default for Cancels {
    fn default() -> Self {
        Cancels(Arc::new(Mutex::new(State { asked: LruCache::new(REMEMBERED), running: HashMap::new() })))
    }
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody wants this job ended.
    pub fn is_asked(&self, job: JobId) -> bool {
        self.lock().asked.contains(&job)
    }

    /// Jobs that run here.
    pub fn running(&self) -> usize {
        self.lock().running.len()
    }

    /// Lets a cancel reach this attempt, also one that came before.
    pub fn register(&self, job: JobId, signals: Arc<Signals>) -> Registration {
        let mut state = self.lock();
        if state.asked.contains(&job) {
            signals.cancel();
        }
        state.running.insert(job, signals);
        Registration { cancels: self.clone(), job }
    }

    fn ask(&self, job: &str) {
        let Ok(job) = job.parse() else { return };
        let mut state = self.lock();
        state.asked.put(job, ());
        if let Some(signals) = state.running.get(&job) {
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
        loop {
            tokio::select! {
                message = plain.next() => match message {
                    Some(message) => self.ask(message.subject.rsplit('.').next().unwrap_or_default()),
                    None => return Ok(()),
                },
                entry = kept.next() => match entry {
                    Some(Ok(entry)) if entry.operation == Operation::Put => self.ask(&entry.key),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(unavailable(error.to_string())),
                    None => return Ok(()),
                },
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancels.lock().running.remove(&self.job);
    }
}
