//! Jobs that do nothing: many at once, and one after the other.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use async_nats::Subscriber;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::machine::{LEASE, Rig};
use crate::{
    cli::CliError,
    queue::{Broker, ensure_queue, names},
    wire::{JobId, JobSpec, Report, State, new_job_id},
};

/// Jobs that are published before the first of them is acknowledged.
const IN_FLIGHT: usize = 512;
/// Single jobs of a side before it is the other's turn. Of one each, every job would find the processor's caches full
/// of what the other side's node needs, which users' jobs do not.
const TURN: usize = 25;
/// Nothing comes for so long: something is wrong.
const SILENCE: Duration = Duration::from_secs(20);

/// One side: a queue, and a node that works on it.
#[derive(Clone)]
pub(super) struct Load {
    broker: Broker,
    spec: JobSpec,
}

/// Rates of several rounds, in jobs per second.
#[derive(Default)]
pub(super) struct Rate(Vec<f64>);

/// Times of single jobs.
pub(super) struct Times(Vec<Duration>);

impl Rate {
    pub(super) fn add(&mut self, rate: f64) {
        self.0.push(rate);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl Times {
    /// So many percent of the times are at most this, in microseconds.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

impl Load {
    pub(super) fn new(rig: &Rig, queue: &str) -> Self {
        let spec = JobSpec { queue: queue.to_owned(), ..JobSpec::new(new_job_id(), rig.component.to_string()) };
        Load { broker: rig.broker.clone(), spec }
    }

    /// Jobs of a queue that nobody works on.
    pub(super) async fn waiting(rig: &Rig, queue: &str) -> Result<Self, CliError> {
        ensure_queue(&rig.broker.jetstream, 1, queue, LEASE).await?;
        Ok(Load::new(rig, queue))
    }

    fn job(&self) -> JobSpec {
        JobSpec { id: new_job_id(), ..self.spec.clone() }
    }

    /// Jobs per second from the first submission to the last result.
    pub(super) async fn noop(&self, count: u32) -> Result<f64, CliError> {
        let load = self.clone();
        beside_the_connection(async move { load.noop_here(count).await }).await
    }

    async fn noop_here(&self, count: u32) -> Result<f64, CliError> {
        let mut seen = self.seen().await?;
        let jobs: Vec<JobSpec> = (0..count).map(|_| self.job()).collect();
        let mut open: HashSet<JobId> = jobs.iter().map(|job| job.id).collect();
        let begun = Instant::now();
        let submit = self.submit_all(jobs.into_iter());
        let ended = async {
            while !open.is_empty() {
                let event = timeout(SILENCE, seen.next()).await.ok().flatten();
                let event = event.ok_or_else(|| CliError::platform("the node of the benchmark went silent"))?;
                if let Some(job) = succeeded(&event.payload)? {
                    open.remove(&job);
                }
            }
            Ok(())
        };
        tokio::try_join!(submit, ended)?;
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }

    /// Listens for the ends of jobs: once, as a client does that wants to know of many.
    async fn seen(&self) -> Result<Subscriber, CliError> {
        let seen = self.broker.client.subscribe(names::SEEN_ALL).await.map_err(CliError::platform)?;
        self.broker.client.flush().await.map_err(CliError::platform)?;
        Ok(seen)
    }

    async fn submit_all(&self, jobs: impl Iterator<Item = JobSpec>) -> Result<(), CliError> {
        let submitted = futures_util::stream::iter(jobs).map(|job| async move { self.broker.submit(&job).await });
        submitted.buffer_unordered(IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await.map_err(CliError::from)
    }

    /// Jobs per second that are accepted.
    pub(super) async fn submit(&self, count: u32) -> Result<f64, CliError> {
        let begun = Instant::now();
        self.submit_all((0..count).map(|_| self.job())).await?;
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }

    /// The time of one job from before its submission until its result is known.
    async fn single(&self, seen: &mut Subscriber) -> Result<Duration, CliError> {
        let job = self.job();
        let begun = Instant::now();
        self.broker.submit(&job).await?;
        loop {
            let event = timeout(SILENCE, seen.next()).await.ok().flatten();
            let event = event.ok_or_else(|| CliError::platform("the node of the benchmark went silent"))?;
            if succeeded(&event.payload)? == Some(job.id) {
                return Ok(begun.elapsed());
            }
        }
    }
}

/// Runs a client as one in a service runs: on a thread that does input and output as well. What waits for it on
/// the main thread is woken for every message.
async fn beside_the_connection<T: Send + 'static>(
    client: impl Future<Output = Result<T, CliError>> + Send + 'static,
) -> Result<T, CliError> {
    tokio::spawn(client).await.map_err(CliError::platform)?
}

/// Both sides, taking turns.
pub(super) async fn singles(one: &Load, other: &Load, count: u32) -> Result<(Times, Times), CliError> {
    let (one, other) = (one.clone(), other.clone());
    beside_the_connection(async move { singles_here(&one, &other, count).await }).await
}

async fn singles_here(one: &Load, other: &Load, count: u32) -> Result<(Times, Times), CliError> {
    let mut seen = one.seen().await?;
    let count = count as usize;
    let (mut ones, mut others) = (Vec::with_capacity(count), Vec::with_capacity(count));
    while others.len() < count {
        let until = count.min(others.len() + TURN);
        for (side, times) in [(one, &mut ones), (other, &mut others)] {
            while times.len() < until {
                times.push(side.single(&mut seen).await?);
            }
        }
    }
    ones.sort();
    others.sort();
    Ok((Times(ones), Times(others)))
}

/// The job whose end this event is.
fn succeeded(event: &[u8]) -> Result<Option<JobId>, CliError> {
    /// What whoever submits many jobs wants to know of each.
    #[derive(serde::Deserialize)]
    struct End {
        job: JobId,
        state: State,
    }
    let End { job, state } = serde_json::from_slice(event).map_err(CliError::platform)?;
    match state {
        State::Succeeded => Ok(Some(job)),
        state if state.is_terminal() => {
            let report = Report::parse(event).map_err(CliError::platform)?;
            Err(CliError::platform(crate::cli::render::failure(&report)))
        }
        _ => Ok(None),
    }
}
