//! Which classes of a queue a node takes jobs of: looked up now and then, and when somebody says that
//! there is a new one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{sync::watch, time::interval};

use crate::{
    queue::{SetupError, classes, ensure_class, names},
    wire::class,
    worker::Worker,
};

/// How often a node looks for classes that nobody announced: other clients need not.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Classes of one queue at one node: each slot has a request for each at the server.
const CLASSES_MAX: usize = 64;

/// Keeps `known` up to date until the node ends.
pub async fn keep(worker: Arc<Worker>, queue: String, lease: Duration, known: watch::Sender<BTreeSet<String>>) {
    let mut ticks = interval(LOOK_EVERY);
    // Without it the ticks are enough.
    let mut said = worker.broker.client.subscribe(names::CLASSES).await.ok();
    while !worker.draining.is_cancelled() {
        tokio::select! {
            _ = ticks.tick() => {}
            heard = async { said.as_mut()?.next().await }, if said.is_some() => match heard {
                Some(message) if message.payload == queue.as_bytes() => {}
                Some(_) => continue,
                None => said = None,
            }
        }
        let before = known.borrow().clone();
        match look(&worker, &queue, lease, &before).await {
            Ok(now) => {
                known.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
            Err(error) => tracing::debug!(%error, queue, "the classes of the queue are not known now"),
        }
    }
}

async fn look(
    worker: &Worker,
    queue: &str,
    lease: Duration,
    known: &BTreeSet<String>,
) -> Result<BTreeSet<String>, SetupError> {
    let (jetstream, labels) = (&worker.broker.jetstream, worker.labels());
    let mut waiting: Vec<String> = classes(jetstream, queue).await?.into_iter().collect();
    // Words that are no class come last and go as soon as nothing waits under them, so that they take
    // nobody's place.
    waiting.sort_by_key(|class| !class::is_class(class));
    let stays = |class: &&String| class::is_class(class) && class::is_met(class, &labels);
    let mut now: BTreeSet<String> = known.iter().filter(stays).cloned().collect();
    if now.len() >= CLASSES_MAX {
        now.retain(|class| class == class::ANY || waiting.contains(class));
    }
    for class in waiting {
        if now.len() >= CLASSES_MAX || now.contains(&class) || !class::is_met(&class, &labels) {
            continue;
        }
        match ensure_class(jetstream, queue, &class, lease).await {
            Ok(_) => drop(now.insert(class)),
            // The others are not to wait for this one.
            Err(error) => tracing::warn!(%error, queue, class, "jobs of this class cannot be taken"),
        }
    }
    Ok(now)
}

/// What a node takes before it has looked.
pub fn first() -> (watch::Sender<BTreeSet<String>>, watch::Receiver<BTreeSet<String>>) {
    watch::channel([class::ANY.to_owned()].into())
}
