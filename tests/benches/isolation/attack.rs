//! Keeping every slot of a queue in hostile hands.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wasmjob_host::queue::Broker;

use crate::rig::{ATTACKED, Components, Job, MEMORY_BYTES, Rig};

type Limits = &'static [(&'static str, u64)];

/// A job that holds its slot.
const HOLDS: Limits = &[("memory", MEMORY_BYTES)];
/// A job that ends by itself soon.
const ENDS: Limits = &[("memory", MEMORY_BYTES), ("output", 8 << 20), ("wall", 1_500)];
/// Longer than anybody measures.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// What the guests do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, for ever.
    Loop,
    /// Calls into the host, for ever.
    Calls,
    /// Fill memory in single long instructions; grow to the limit, again and again.
    Memory,
    /// They are compiled.
    Compile,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Loop, Kind::Calls, Kind::Memory, Kind::Compile];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Loop => "loop",
            Kind::Calls => "host calls",
            Kind::Memory => "memory",
            Kind::Compile => "compile",
        }
    }
}

/// An attack that goes on until it is ended.
pub struct Attack {
    stop: CancellationToken,
    attackers: JoinSet<()>,
}

impl Attack {
    /// Starts as many attackers as there are slots: each submits its next job when the last has ended.
    pub fn start(rig: &Rig, broker: &Broker, components: &Components, kind: Kind, slots: usize) -> Self {
        let (stop, mut attackers) = (CancellationToken::new(), JoinSet::new());
        for slot in 0..slots {
            let (broker, components) = (broker.clone(), components.clone());
            let (stop, bombs) = (stop.clone(), rig.bombs.clone());
            attackers.spawn(async move {
                while !stop.is_cancelled() {
                    let component = match (kind, slot % 2) {
                        (Kind::Loop, _) => components.spins.clone(),
                        (Kind::Calls, 0) => components.calls_wasi.clone(),
                        (Kind::Calls, _) => components.calls_job.clone(),
                        (Kind::Memory, 0) => components.fills.clone(),
                        (Kind::Memory, _) => components.grows.clone(),
                        (Kind::Compile, _) => bombs.next(&broker).await,
                    };
                    one(&broker, &component, HOLDS, &stop, NEVER).await;
                }
            });
        }
        Attack { stop, attackers }
    }

    /// Every kind at the same time, also jobs that end at each of their limits, and cancels. Components
    /// are the same few each time, so that the node's caches have no reason to grow.
    pub fn mixed(broker: &Broker, guests: &[String], slots: usize) -> Self {
        let (stop, mut attackers) = (CancellationToken::new(), JoinSet::new());
        for slot in 0..slots {
            let (broker, guests, stop) = (broker.clone(), guests.to_vec(), stop.clone());
            attackers.spawn(async move {
                for guest in guests.iter().cycle().skip(slot * 3) {
                    if stop.is_cancelled() {
                        break;
                    }
                    // Half of them end at their wall limit, half are cancelled.
                    let patience = if slot % 2 == 0 { Duration::from_millis(700) } else { NEVER };
                    one(&broker, guest, ENDS, &stop, patience).await;
                }
            });
        }
        Attack { stop, attackers }
    }

    /// Cancels what runs and waits for its end.
    pub async fn end(mut self) {
        self.stop.cancel();
        while self.attackers.join_next().await.is_some_and(|ended| {
            ended.expect("an attacker does its work");
            true
        }) {}
    }
}

/// One job from its submission to its end, which a cancel brings about after `patience`.
async fn one(broker: &Broker, component: &str, limits: Limits, stop: &CancellationToken, patience: Duration) {
    let mut job = Job::submit(broker, ATTACKED, component, limits).await;
    tokio::select! {
        _ = job.until_ended() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(patience) => {}
    }
    broker.ask_to_cancel(job.id).await.expect("a cancel can be asked for");
    job.until_ended().await;
}
