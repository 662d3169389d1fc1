//! A node under every attack at once, for long: whether it gives back what it took.
//!
//! What guests hold while they run is theirs by their limits and says nothing. So the attack comes in
//! rounds, and what counts is taken between two rounds, when nothing runs. The first minute is for
//! caches and pools to fill.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmjob_host::nodes;

use crate::attack::Attack;
use crate::rig::{NODE, Rig, SLOTS};

/// How long a round of attacks is.
const ROUND: Duration = Duration::from_secs(20);
/// What is not counted.
const WARM_UP: Duration = Duration::from_secs(60);
/// How often it is looked at the node meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the node has after a round to let go of threads that it keeps for a while: tokio's for
/// work that blocks go after 10 s.
const REST: Duration = Duration::from_secs(13);
/// How much more resident memory there may be at the end than after the warm-up.
const RSS_MORE_MAX: f64 = 0.05;
/// Rounds whose median is compared: one is up to 8 % from the next, up and down.
const ROUNDS: usize = 5;
const MIB: u64 = 1 << 20;

/// What a process holds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    rss_bytes: u64,
    fds: u64,
    threads: u64,
    files: u64,
}

impl Held {
    fn of(pid: u32, data: &Path) -> Self {
        let proc = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{proc}/status")).expect("the node lives");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = kib.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).expect("it has memory");
        let entries = |folder: &str| fs::read_dir(format!("{proc}/{folder}")).map_or(0, Iterator::count) as u64;
        let files = ["cache", "code", "tmp"].iter().map(|folder| count_files(&data.join(folder))).sum();
        Held { rss_bytes: kib * 1024, fds: entries("fd"), threads: entries("task"), files }
    }

    fn numbers(self) -> [(&'static str, u64); 4] {
        [("rss_mib", self.rss_bytes / MIB), ("fds", self.fds), ("threads", self.threads), ("files", self.files)]
    }
}

fn count_files(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

/// Attacks for this long, after the warm-up; says whether the node holds no more than before. With
/// `only` these guests attack, to find out which of them a leak is from.
pub async fn run(rig: &Rig, time: Duration, only: Option<&str>, json: bool) -> bool {
    let broker = rig.connect().await;
    let components = rig.prepare(&broker).await;
    let chosen = |name: &str| only.is_none_or(|only| only.split(',').any(|wanted| wanted == name));
    let guests = components.named().into_iter().filter(|(name, _)| chosen(name));
    let guests: Vec<String> = guests.map(|(_, digest)| digest.clone()).collect();
    assert!(!guests.is_empty(), "there are {:?}", components.named().map(|(name, _)| name));
    let pid = nodes::ask(&broker, NODE).await.expect("the node answers").pid;
    let data = rig.cluster.path("data");
    let begun = Instant::now();
    let (mut at_rest, mut peak) = (Vec::new(), Held::of(pid, &data));
    while begun.elapsed() < WARM_UP + time {
        let attack = Attack::mixed(&broker, &guests, SLOTS);
        let until = Instant::now() + ROUND;
        while Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Held::of(pid, &data);
            peak = Held {
                rss_bytes: peak.rss_bytes.max(now.rss_bytes),
                fds: peak.fds.max(now.fds),
                threads: peak.threads.max(now.threads),
                files: peak.files.max(now.files),
            };
        }
        attack.end().await;
        rig.until_idle(&broker).await;
        tokio::time::sleep(REST).await;
        let held = Held::of(pid, &data);
        eprintln!("{:>5} s{}", begun.elapsed().as_secs(), shown(held));
        if begun.elapsed() >= WARM_UP {
            at_rest.push(held);
        }
    }
    let log = rig.cluster.node_log();
    let panics = log.matches("panicked at").count();
    assert_eq!(nodes::ask(&broker, NODE).await.map(|node| node.pid), Some(pid), "the node is the one it was");
    report(&at_rest, peak, panics, json)
}

fn shown(held: Held) -> String {
    held.numbers().iter().map(|(name, number)| format!("  {name} {number}")).collect()
}

#[allow(clippy::cast_precision_loss)]
fn median_rss(rounds: &[Held]) -> f64 {
    let mut bytes: Vec<u64> = rounds.iter().map(|held| held.rss_bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).copied().unwrap_or_default() as f64
}

fn report(at_rest: &[Held], peak: Held, panics: usize, json: bool) -> bool {
    let (Some(first), Some(last)) = (at_rest.first(), at_rest.last()) else { return false };
    let max: BTreeMap<_, _> = first
        .numbers()
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (*name, at_rest.iter().map(|held| held.numbers()[at].1).max().unwrap_or(0)))
        .collect();
    let rounds = ROUNDS.min(at_rest.len());
    let rss_more = median_rss(&at_rest[at_rest.len() - rounds..]) / median_rss(&at_rest[..rounds]) - 1.0;
    let same = (first.fds, first.threads, first.files) == (last.fds, last.threads, last.files);
    let kept = rss_more <= RSS_MORE_MAX && same && panics == 0;
    if json {
        let of =
            |held: &Held| held.numbers().iter().map(|(name, number)| ((*name).to_owned(), json!(number))).collect();
        let (first, last, peak): (Value, Value, Value) =
            (Value::Object(of(first)), Value::Object(of(last)), Value::Object(of(&peak)));
        println!(
            "{}",
            json!({"rounds": at_rest.len(), "first": first, "last": last, "max": max, "peak_under_attack": peak,
                   "rss_more": rss_more, "panics": panics, "kept": kept})
        );
        return kept;
    }
    println!(
        "at rest, {} rounds after the warm-up{:>12}{:>8}{:>8}{:>14}",
        at_rest.len(),
        "first",
        "last",
        "max",
        "under attack"
    );
    for (at, (name, number)) in first.numbers().iter().enumerate() {
        let (last, peak) = (last.numbers()[at].1, peak.numbers()[at].1);
        println!("{name:<34}{number:>12}{last:>8}{:>8}{peak:>14}", max[name]);
    }
    println!("panics in the node's log: {panics}");
    println!(
        "resident memory, medians of {rounds} rounds: {:+.1} %, {:.0} % are allowed; open files, threads and files {}: {}",
        100.0 * rss_more,
        100.0 * RSS_MORE_MAX,
        if same { "are the same" } else { "are NOT the same" },
        if kept { "nothing leaks" } else { "something leaks" }
    );
    kept
}
