//! Looks after jobs that are to go on and of which no message is left.
//!
//! That takes a command that died between two writes, a server that lost what it had not yet written to its
//! disk, or somebody who emptied a queue by hand: every other way to lose a message ends with a
//! redelivery. What is mended is counted, so that it is known whether this is ever needed.
//!
//! Every node reads the events once, a bounded number at a time, and keeps in mind those that say that
//! more is to come. One that has said so for long, whose message is nowhere, is stored anew and sent again; two
//! nodes that do so at once are told apart by the sequence of the event.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    lifecycle,
    queue::{Event, EventBatch, EventReader, Head, QueueError, Stored, has_message, jobs_in_queue},
    wire::{JobId, Report, State},
    worker::Worker,
};

/// Events that are read in one look: a tenth of a second of work, however many there are.
const EVENTS_MAX: usize = 10_000;
/// Jobs that are kept in mind. While there are so many, no more events are read.
const OPEN_MAX: usize = 100_000;
/// Looks that may come late, or read nothing, before the server forgets where the node reads.
const LOOKS_MISSED: u32 = 3;
/// A queue with more messages is not searched: it moves, and what is in it is looked for later.
const SEARCHED_MAX: u64 = 50_000;

/// A job whose event says that more is to come.
struct Open {
    sequence: u64,
    /// Before that there is nothing to look for.
    look_at: Instant,
}

/// What one node has seen of the events.
struct Reconciler {
    worker: Arc<Worker>,
    /// For how long an event must say the same before its job's message is looked for.
    patience: Duration,
    events: EventReader,
    open: BTreeMap<JobId, Open>,
}

/// Mends what has to be until the node drains.
pub async fn keep(worker: Arc<Worker>, lease: Duration) {
    let draining = worker.draining.clone();
    let events = EventReader::new(1, lease * LOOKS_MISSED);
    let mut reconciler = Reconciler { worker, patience: lease * 2, events, open: BTreeMap::new() };
    let mut ticks = interval(lease);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = async {
        loop {
            ticks.tick().await;
            if let Err(error) = reconciler.look().await {
                tracing::debug!(%error, "it cannot be looked after jobs now");
            }
        }
    };
    tokio::select! {
        () = draining.cancelled() => {}
        () = look => {}
    }
}

impl Reconciler {
    async fn look(&mut self) -> Result<(), QueueError> {
        self.read_on().await?;
        let due = self.due().await?;
        let mut gone = Vec::new();
        for (queue, jobs) in self.without_message(due).await {
            // One that is not searched now is looked for the next time; one that is gone keeps nobody else waiting.
            let there = jobs_in_queue(&self.worker.broker, &queue, SEARCHED_MAX).await;
            let there = there.inspect_err(|error| tracing::warn!(queue, %error, "jobs cannot be looked for"));
            let Ok(Some(there)) = there else { continue };
            gone.extend(jobs.into_iter().filter(|stored| !there.contains(&stored.report.job)));
        }
        for stored in gone {
            self.mend(stored).await?;
        }
        Ok(())
    }

    /// Takes note of the events since the last look.
    async fn read_on(&mut self) -> Result<(), QueueError> {
        if self.open.len() >= OPEN_MAX {
            return Ok(());
        }
        let mut read = 0;
        while read < EVENTS_MAX {
            let EventBatch { events, is_last } = self.events.batch(&self.worker.broker).await?;
            read += events.len();
            events.iter().for_each(|event| self.note(event));
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Nearly every event is the end of a job, of which nothing else matters.
    fn note(&mut self, event: &Event) {
        let Some(Head { job, state }) = event.head() else { return };
        if state.is_terminal() {
            self.open.remove(&job);
        } else if let Some(Stored { report, sequence }) = event.stored() {
            self.open.insert(job, Open { sequence, look_at: self.look_at(&report) });
        }
    }

    /// When the event of a job has said the same for long: not before the job is due.
    fn look_at(&self, report: &Report) -> Instant {
        let until_due = report.due().map_or(time::Duration::ZERO, |due| due - self.worker.time.now());
        Instant::now() + self.patience + Duration::try_from(until_due).unwrap_or_default()
    }

    /// Events that have said for long that something is to happen which is not.
    async fn due(&mut self) -> Result<Vec<Stored>, QueueError> {
        let now = Instant::now();
        let quiet = self.open.iter().filter(|(_, open)| open.look_at < now);
        let quiet: Vec<(JobId, u64)> = quiet.map(|(job, open)| (*job, open.sequence)).collect();
        let mut due = Vec::new();
        for (job, sequence) in quiet {
            let stored = self.worker.broker.event(job).await?;
            let Some(stored) = stored.filter(|stored| stored.sequence == sequence) else {
                // The event that came after is read in its turn.
                self.open.remove(&job);
                continue;
            };
            // If its message is there, it is looked for again after a while.
            self.open.insert(job, Open { sequence, look_at: now + self.patience });
            due.push(stored);
        }
        Ok(due)
    }

    /// Of these, by queue, those whose message is not where the event says; what that is is told by a search.
    async fn without_message(&mut self, due: Vec<Stored>) -> BTreeMap<String, Vec<Stored>> {
        let mut gone: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
        for stored in due {
            let Some(spec) = &stored.report.spec else { continue };
            let (queue, job) = (spec.queue.clone(), stored.report.job);
            let held = match stored.report.message.filter(|_| stored.report.state == State::Running) {
                // A queue that is gone is told of by the search.
                Some(message) => has_message(&self.worker.broker, &queue, message, job).await.unwrap_or(false),
                None => false,
            };
            if !held {
                gone.entry(queue).or_default().push(stored);
            }
        }
        gone
    }

    async fn mend(&mut self, Stored { report, sequence }: Stored) -> Result<(), QueueError> {
        let broker = &self.worker.broker;
        let job = report.job;
        self.open.remove(&job);
        let Some(orphan) = lifecycle::on_orphan(report) else { return Ok(()) };
        let Some(spec) = orphan.report.spec.clone() else { return Ok(()) };
        match broker.store(&orphan.report, sequence).await {
            Ok(event) => {
                tracing::warn!(%job, "no message was left of a job that is to go on; it is sent again");
                self.worker.metrics.reconciled.with_label_values(&["job"]).inc();
                broker.send_again(&spec, orphan.attempt, event).await
            }
            // Somebody else did something with it.
            Err(QueueError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
