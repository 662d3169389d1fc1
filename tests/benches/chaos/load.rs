//! Jobs of all kinds, submitted one after the other; what was accepted, and what became of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::task::JoinHandle;
use wasmjob_host::queue::{Broker, names};
use wasmjob_host::wire::{JobId, JobSpec, LimitTable, Report, Retry, State, new_job_id};
use wasmjob_tests::guest;

use crate::world::World;

/// A job every so often.
const EVERY: Duration = Duration::from_millis(25);
/// How long one submission is tried: a client that gets no answer does not know whether it was accepted, and asks
/// again under the same id.
const TRIES: usize = 40;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of the jobs.
#[derive(Default)]
struct Known {
    accepted: HashSet<JobId>,
    /// Ends that were stored, by job, with the sequence that they have in the stream.
    ends: HashMap<JobId, Vec<State>>,
    last_end: Option<Instant>,
    longest_silence: Duration,
}

/// Jobs that are submitted until [`Load::finish`].
pub struct Load {
    broker: Broker,
    known: Arc<Mutex<Known>>,
    submits: JoinHandle<()>,
}

/// What became of all jobs.
pub struct Verdict {
    pub accepted: usize,
    /// Accepted, and without an end.
    pub lost: Vec<JobId>,
    /// With more than one end.
    pub doubled: Vec<JobId>,
    pub ends: BTreeMap<&'static str, usize>,
}

impl Load {
    pub async fn start(world: &World, seed: u64) -> Self {
        let broker = world.broker.clone();
        let known = Arc::new(Mutex::new(Known::default()));
        listen(&broker, known.clone()).await;
        let kinds = kinds(world).await;
        let submits = tokio::spawn(submit(broker.clone(), known.clone(), kinds, seed));
        Load { broker, known, submits }
    }

    pub fn forget_silence(&self) {
        let mut known = lock(&self.known);
        (known.longest_silence, known.last_end) = (Duration::ZERO, Some(Instant::now()));
    }

    /// The longest time without an end, the one that goes on included.
    pub fn longest_silence(&self) -> Duration {
        let known = lock(&self.known);
        known.longest_silence.max(known.last_end.map_or(Duration::ZERO, |last| last.elapsed()))
    }

    /// Submits no more, waits for what was accepted, and looks at all of it.
    pub async fn finish(self, patience: Duration) -> Verdict {
        self.submits.abort();
        let _ = self.submits.await;
        let accepted: Vec<JobId> = lock(&self.known).accepted.iter().copied().collect();
        let begun = Instant::now();
        let mut open = accepted.clone();
        let mut ends: BTreeMap<&'static str, usize> = BTreeMap::new();
        while !open.is_empty() && begun.elapsed() < patience {
            let mut left = Vec::new();
            for job in open {
                match self.broker.event(job).await {
                    Ok(Some(stored)) if stored.report.state.is_terminal() => {
                        *ends.entry(stored.report.state.name()).or_default() += 1;
                    }
                    _ => left.push(job),
                }
            }
            open = left;
            if !open.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let known = lock(&self.known);
        let doubled = known.ends.iter().filter(|(_, ends)| ends.len() > 1).map(|(job, _)| *job).collect();
        Verdict { accepted: accepted.len(), lost: open, doubled, ends }
    }
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the ends that are stored.
async fn listen(broker: &Broker, known: Arc<Mutex<Known>>) {
    let mut seen = broker.client.subscribe(names::SEEN_ALL).await.unwrap();
    broker.client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(event) = seen.next().await {
            let Ok(report) = Report::parse(&event.payload) else { continue };
            if !report.state.is_terminal() {
                continue;
            }
            let mut known = lock(&known);
            known.ends.entry(report.job).or_default().push(report.state);
            if let Some(last) = known.last_end.replace(Instant::now()) {
                known.longest_silence = known.longest_silence.max(last.elapsed());
            }
        }
    });
}

/// Short and long ones, some that fail, some that are tried again, some that wait for a time or for each other.
async fn kinds(world: &World) -> Vec<JobSpec> {
    let at_once = Retry { max: 2, backoff_ms: 500, cap_ms: 2_000, ..Retry::default() };
    let job = async |wat: &str| {
        let limits = LimitTable([("memory".into(), 1 << 20)].into());
        JobSpec { limits, ..JobSpec::new(new_job_id(), world.push(wat).await.to_string()) }
    };
    let (short, long) = (job(&guest::says("hello")).await, job(&guest::sleeps_ms(1_500)).await);
    let (fails, traps) = (job(&guest::exits(7)).await, job(&guest::traps()).await);
    let concurrency = serde_json::from_value(json!({ "key": "few", "max": 3 })).unwrap();
    vec![
        short.clone(),
        JobSpec { priority: 9, ..short.clone() },
        JobSpec { priority: 0, ..short.clone() },
        long.clone(),
        JobSpec { retry: at_once.clone(), ..fails.clone() },
        fails,
        JobSpec { retry: at_once, ..traps },
        JobSpec { concurrency: Some(concurrency), ..short.clone() },
        short,
        JobSpec { priority: 7, ..long },
    ]
}

async fn submit(broker: Broker, known: Arc<Mutex<Known>>, kinds: Vec<JobSpec>, seed: u64) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut number = usize::try_from(seed).unwrap_or(0);
    loop {
        ticks.tick().await;
        let spec = JobSpec { id: new_job_id(), ..kinds[number % kinds.len()].clone() };
        number += 1;
        let (broker, known) = (broker.clone(), known.clone());
        tokio::spawn(async move {
            for _ in 0..TRIES {
                if broker.submit(&spec).await.is_ok() {
                    lock(&known).accepted.insert(spec.id);
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }
}
