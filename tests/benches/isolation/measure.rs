//! What is measured, all of it at the same time, from a client's side.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use wasmjob_host::nodes;
use wasmjob_host::queue::{Broker, names};

use crate::rig::{CANCELLED, Components, Job, NODE, PROBED};

/// What there is, in the order it is shown.
pub const WHAT: [&str; 5] = [ANSWER, HEARTBEAT, END, ACKNOWLEDGED, CANCEL];
/// From asking the node what it does to its answer.
const ANSWER: &str = "node answers";
/// How much longer than 10 s passed between two of its entries in the bucket of nodes.
const HEARTBEAT: &str = "heartbeat is late by";
/// From the submission of a small job to its stored end.
const END: &str = "small job ends";
/// From the submission of a small job to the acknowledgement of its message.
const ACKNOWLEDGED: &str = "its acknowledgement";
/// From a cancel of a spinning job to its stored end.
const CANCEL: &str = "cancel";

/// How often the node beats.
const BEAT: Duration = Duration::from_secs(10);
/// Between two questions, and between two small jobs.
const PAUSE: Duration = Duration::from_millis(10);
/// Jobs that are cancelled at the same time; each has to be announced first, which takes 100 ms.
const CANCELLERS: u64 = 2;

/// Times of one kind in one phase.
pub struct Measured {
    pub what: &'static str,
    times: Vec<Duration>,
}

/// What is said of them.
pub struct Quantiles {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub count: usize,
}

impl Measured {
    pub fn quantiles(&self) -> Quantiles {
        let mut times = self.times.clone();
        times.sort();
        // The smallest time that so many of a hundred do not exceed.
        let at = |hundredths: usize| times.get((times.len() * hundredths).div_ceil(100).max(1) - 1).map_or(0.0, ms);
        Quantiles { p50_ms: at(50), p99_ms: at(99), max_ms: at(100), count: times.len() }
    }
}

impl Quantiles {
    pub fn json(&self) -> Value {
        let rounded = |ms: f64| (ms * 100.0).round() / 100.0;
        json!({"p50_ms": rounded(self.p50_ms), "p99_ms": rounded(self.p99_ms), "max_ms": rounded(self.max_ms),
               "count": self.count})
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.1}{:>8.1}{:>8.1}{:>7}", self.p50_ms, self.p99_ms, self.max_ms, self.count)
    }
}

fn ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Measures everything for this long.
pub async fn all(broker: &Broker, heartbeats: &Heartbeats, components: &Components, time: Duration) -> Vec<Measured> {
    let begun = Instant::now();
    let until = begun + time;
    let cancellers = futures_util::future::join_all((0..CANCELLERS).map(|at| cancels(broker, components, until, at)));
    let (answers, (ends, acknowledged), cancels) =
        tokio::join!(answers(broker, until), small_jobs(broker, components, until), cancellers);
    let beats = heartbeats.between(begun, Instant::now());
    let times = [answers, beats, ends, acknowledged, cancels.concat()];
    WHAT.into_iter().zip(times).map(|(what, times)| Measured { what, times }).collect()
}

async fn answers(broker: &Broker, until: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        nodes::ask(broker, NODE).await.expect("the node answers");
        times.push(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    times
}

/// One after the other on a queue of their own, so the next acknowledgement there is theirs.
async fn small_jobs(broker: &Broker, components: &Components, until: Instant) -> (Vec<Duration>, Vec<Duration>) {
    let stream = format!(".{}.", names::queue_stream(PROBED));
    let mut acks = broker.client.subscribe("$JS.ACK.>").await.expect("the connection is open");
    let (mut ends, mut acknowledged) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        let begun = Instant::now();
        let mut job = Job::submit(broker, PROBED, &components.tiny, &[]).await;
        let state = job.until_ended().await;
        ends.push(begun.elapsed());
        assert_eq!(state, "succeeded", "a small job");
        while let Some(ack) = acks.next().await {
            // The second asks for the next job as well.
            let acknowledges = [&b"+ACK"[..], b"+NXT"].iter().any(|word| ack.payload.starts_with(word));
            if ack.subject.contains(&stream) && acknowledges {
                break;
            }
        }
        acknowledged.push(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    (ends, acknowledged)
}

async fn cancels(broker: &Broker, components: &Components, until: Instant, first: u64) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in first.. {
        if Instant::now() >= until {
            break;
        }
        let mut job = Job::submit(broker, CANCELLED, &components.spins, &[]).await;
        job.until_running().await;
        // Not always at the same moment of whatever the node does in turns.
        tokio::time::sleep(Duration::from_millis(number * 7 % 40)).await;
        let begun = Instant::now();
        let id = job.id;
        let ended = async {
            let state = job.until_ended().await;
            (state, begun.elapsed())
        };
        let (asked, (state, time)) = tokio::join!(broker.ask_to_cancel(id), ended);
        asked.expect("a cancel can be asked for");
        assert_eq!(state, "cancelled", "a cancelled job");
        times.push(time);
    }
    times
}

/// When the node's heartbeats came, from the start of listening.
pub struct Heartbeats(Arc<Mutex<Vec<Instant>>>);

impl Heartbeats {
    pub async fn listen(broker: &Broker) -> Self {
        let bucket = broker.jetstream.get_key_value(names::NODES).await.expect("there are nodes");
        let mut entries = bucket.watch(NODE).await.expect("nodes can be watched");
        let came = Self(Arc::default());
        let instants = came.0.clone();
        tokio::spawn(async move {
            while let Some(Ok(_)) = entries.next().await {
                instants.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        });
        came
    }

    /// How late those were that came in this time.
    fn between(&self, begun: Instant, ended: Instant) -> Vec<Duration> {
        let came = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = came.windows(2).filter(|pair| (begun..ended).contains(&pair[1]));
        within.map(|pair| (pair[1] - pair[0]).saturating_sub(BEAT)).collect()
    }
}
