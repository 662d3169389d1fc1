//! Which lanes of a queue a node takes jobs from: looked up now and then, and when somebody says that
//! there is a new one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{sync::watch, time::interval};

use crate::{
    queue::{
        SetupError, ensure_lane, lanes,
        names::{self, Lane},
    },
    wire::class,
    worker::Worker,
};

/// How often a node looks for lanes that nobody announced: other clients need not.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Lanes of one queue at one node: each slot has a request for each at the server.
const LANES_MAX: usize = 64;

/// Keeps `known` up to date until the node ends.
pub async fn keep(worker: Arc<Worker>, queue: String, lease: Duration, known: watch::Sender<BTreeSet<Lane>>) {
    let mut ticks = interval(LOOK_EVERY);
    // Without it the ticks are enough.
    let mut said = worker.broker.client.subscribe(names::LANES).await.ok();
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
            Err(error) => tracing::debug!(%error, queue, "the lanes of the queue are not known now"),
        }
    }
}

async fn look(
    worker: &Worker,
    queue: &str,
    lease: Duration,
    known: &BTreeSet<Lane>,
) -> Result<BTreeSet<Lane>, SetupError> {
    let (jetstream, labels) = (&worker.broker.jetstream, worker.labels());
    let mut waiting: Vec<Lane> = lanes(jetstream, queue).await?.into_keys().collect();
    // Where no job belongs comes last and goes as soon as nothing waits there, so that it takes nobody's
    // place.
    waiting.sort_by_key(|lane| lane.priority().is_none());
    let stays = |lane: &&Lane| lane.priority().is_some() && class::is_met(&lane.class, &labels);
    let mut now: BTreeSet<Lane> = known.iter().filter(stays).cloned().collect();
    if now.len() >= LANES_MAX {
        now.retain(|lane| *lane == Lane::usual() || waiting.contains(lane));
    }
    for lane in waiting {
        if now.len() < LANES_MAX && class::is_met(&lane.class, &labels) {
            now.insert(lane);
        }
    }
    // Those that are known as well: the server removes a consumer that nobody asked for long, as in a queue that is
    // paused, and a slot that asks all the same gets nothing at all.
    for lane in now.clone() {
        if let Err(error) = ensure_lane(jetstream, queue, &lane, lease).await {
            // The others are not to wait for this one.
            tracing::warn!(%error, queue, ?lane, "jobs of this lane cannot be taken");
            now.retain(|there| *there != lane || known.contains(&lane));
        }
    }
    Ok(now)
}

/// What a node takes before it has looked.
pub fn first() -> (watch::Sender<BTreeSet<Lane>>, watch::Receiver<BTreeSet<Lane>>) {
    watch::channel([Lane::usual()].into())
}
