//! What goes wrong, for how long, and how long nothing came of it.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::Load;
use crate::world::{LEASE, MACHINES, World};

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NodeKilled,
    NodeAsleep,
    NodeCutOff,
    LeaderKilled,
    LeaderCutOff,
    NetworkSlow,
    DiskFull,
    AllNodesKilled,
    AllServersKilled,
}

/// What came of it.
pub struct Recovery {
    pub fault: Fault,
    pub lasted: Duration,
    /// The longest time without a result, from the beginning of the fault until a little after its end.
    pub silent: Duration,
}

/// How long a fault lasts unless it is over at once: longer than a lease, so that jobs change hands.
const LASTS: Duration = Duration::from_secs(12);
/// How long it is looked for results afterwards.
const AFTER: Duration = Duration::from_secs(10);
/// How long a network that is slow does not work at all, again and again.
const HICCUP: Duration = Duration::from_millis(300);

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::NodeKilled,
        Fault::NodeAsleep,
        Fault::NodeCutOff,
        Fault::LeaderKilled,
        Fault::LeaderCutOff,
        Fault::NetworkSlow,
        Fault::DiskFull,
        Fault::AllNodesKilled,
        Fault::AllServersKilled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::NodeKilled => "node-killed",
            Fault::NodeAsleep => "node-asleep",
            Fault::NodeCutOff => "node-cut-off",
            Fault::LeaderKilled => "leader-killed",
            Fault::LeaderCutOff => "leader-cut-off",
            Fault::NetworkSlow => "network-slow",
            Fault::DiskFull => "disk-full",
            Fault::AllNodesKilled => "all-nodes-killed",
            Fault::AllServersKilled => "all-servers-killed",
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, lasted, silent) = (self.fault.name(), self.lasted.as_secs_f64(), self.silent.as_secs_f64());
        write!(f, "{name:<20} lasted {lasted:>5.1} s, longest time without a result {silent:>5.1} s")
    }
}

/// Lets it happen to the `victim`, ends it, and waits for results.
pub async fn strike(world: &mut World, load: &Load, fault: Fault, victim: usize) -> Recovery {
    assert!(LASTS > 2 * LEASE, "a fault outlasts a lease");
    let begun = Instant::now();
    load.forget_silence();
    happen(world, fault, victim).await;
    let lasted = begun.elapsed();
    tokio::time::sleep(AFTER).await;
    Recovery { fault, lasted, silent: load.longest_silence() }
}

async fn happen(world: &mut World, fault: Fault, victim: usize) {
    let wait = || tokio::time::sleep(LASTS);
    match fault {
        Fault::NodeKilled => {
            world.kill_node(victim);
            wait().await;
            world.start_node(victim);
        }
        Fault::NodeAsleep => {
            world.signal_node(victim, Signal::STOP);
            wait().await;
            world.signal_node(victim, Signal::CONT);
        }
        Fault::NodeCutOff => {
            world.cut_node(victim, true);
            wait().await;
            world.cut_node(victim, false);
        }
        Fault::LeaderKilled => {
            let leader = world.leader().await;
            world.kill_server(leader);
            wait().await;
            world.start_server(leader);
        }
        Fault::LeaderCutOff => {
            let leader = world.leader().await;
            world.cut_server(leader, true);
            wait().await;
            world.cut_server(leader, false);
        }
        Fault::NetworkSlow => {
            let begun = Instant::now();
            while begun.elapsed() < LASTS {
                for cut in [true, false] {
                    for machine in 0..MACHINES {
                        world.cut_node(machine, cut);
                        world.cut_server(machine, cut);
                    }
                    tokio::time::sleep(HICCUP).await;
                }
            }
        }
        Fault::DiskFull => {
            let leader = world.leader().await;
            world.fill_disk(leader);
            wait().await;
            world.empty_disk(leader);
            // A server that had no room stops storing until it is started again.
            world.kill_server(leader);
            world.start_server(leader);
        }
        Fault::AllNodesKilled => {
            (0..MACHINES).for_each(|node| world.kill_node(node));
            (0..MACHINES).for_each(|node| world.start_node(node));
        }
        Fault::AllServersKilled => {
            (0..MACHINES).for_each(|server| world.kill_server(server));
            (0..MACHINES).for_each(|server| world.start_server(server));
        }
    }
}
