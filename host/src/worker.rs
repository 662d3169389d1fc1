//! Pull, run, store, acknowledge: what a slot does with the jobs of its queue. I/O only; what should
//! happen is decided in `lifecycle`.
//!
//! What happens seldom is awaited in a box: a future has room for everything that it can await, and is copied
//! when it starts.

mod admission;
mod attempt;
mod deciding;
mod ending;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{Mutex, Semaphore, oneshot},
    time::{MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use wasmjob_runtime::{AttemptReport, Limits, Outcome, OutcomeKind, Sandbox, Signals, Usage, millis};

use admission::NoPlace;
pub use slots::start_slots;

use crate::{
    cancels::Cancels,
    grants::Offers,
    lifecycle::{self, Decision, Refused},
    metrics::Metrics,
    node_artifacts::NodeArtifacts,
    queue::{Broker, Delivery, LogWriter, Puller, QueueError, Rulebook, Supply, names},
    rules::Rules,
    server_time::ServerTime,
    telemetry,
    wire::{JobSpec, LimitTable, Report, timestamp},
};

/// An attempt that runs longer is announced with an event of its own; shorter ones only with their
/// result, so that a small job costs one message.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
/// How often progress is stored while it changes.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// A guest that was cancelled and has not ended after this long is in the middle of one long
/// instruction: its end is reported without it.
const CANCEL_PATIENCE: Duration = Duration::from_millis(60);
/// Outputs of more bytes become artifacts.
pub const INLINE_BYTES_MAX: u64 = 64 * 1024;
/// First and longest wait before the server is asked again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a job that is too large for this node is left to others.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(2);
/// Unit in which memory is promised to jobs.
pub const MIB: u64 = 1 << 20;

/// What all slots of a node share.
pub struct Worker {
    /// The cluster.
    pub broker: Arc<Broker>,
    /// Runs the attempts.
    pub sandbox: Sandbox,
    /// Components, inputs and outputs.
    pub artifacts: Arc<NodeArtifacts>,
    /// Logs of jobs.
    pub logs: LogWriter,
    /// Cancels of jobs.
    pub cancels: Cancels,
    /// Memory that is not promised, in MiB.
    pub memory: Arc<Semaphore>,
    /// All memory that jobs may be promised, in bytes.
    pub memory_bytes: u64,
    /// What is counted.
    pub metrics: Metrics,
    /// The node's name.
    pub node: String,
    /// Labels besides those of what is offered.
    pub own_labels: BTreeSet<String>,
    /// What jobs may be granted.
    pub offers: Offers,
    /// Limits of jobs that set none.
    pub defaults: Limits,
    /// The highest limits jobs may set.
    pub maximum: Limits,
    /// The rules of queues.
    pub rules: Rulebook,
    /// The clock by which decisions are made.
    pub time: ServerTime,
    /// Say that jobs succeeded without calling a guest.
    pub skip_guests: bool,
    /// Pull no more.
    pub draining: CancellationToken,
    /// Hand back what still runs.
    pub stopping: CancellationToken,
}

/// A job that this node has, until it is acknowledged or handed back.
struct Held<'a> {
    delivery: &'a Delivery,
    queue: &'a str,
    /// That of its supply.
    turn: &'a Mutex<()>,
    /// How long the message and what goes with it stay this node's if nothing is renewed.
    lease: Duration,
    /// Place of the job's event in the stream; 0 if there is none.
    sequence: u64,
}

/// The node stops before it could read what it needs to know.
struct Stopping;

/// How an attempt ended for this node.
enum End {
    /// With a report to store.
    Reported(Box<AttemptReport>),
    /// Somebody else has ended the job, or makes a later attempt.
    Overtaken(Refused),
    /// The node stops; another one shall have the job.
    HandedBack,
}

impl Held<'_> {
    /// Has nothing more to do with the job.
    async fn let_go(self, refused: Refused) {
        // Of a message that somebody else works on, the acknowledgement is theirs.
        if refused != Refused::Leave {
            self.delivery.done().await;
        }
    }
}

impl Worker {
    /// Works on jobs of a queue, one at a time, until the node drains.
    pub async fn work(self: Arc<Self>, lease: Duration, supply: Arc<Supply>) {
        tokio::select! {
            () = self.cancels.known() => {}
            () = self.draining.cancelled() => return,
        }
        while !self.draining.is_cancelled() {
            tokio::select! {
                () = self.until_rules(&supply.queue, |rules| !rules.paused) => {}
                () = self.draining.cancelled() => return,
            }
            if let Err(error) = self.work_until_error(lease, &supply).await {
                tracing::warn!(%error, queue = supply.queue, "a slot lost its queue; trying again");
                self.pause(BACKOFF.1).await;
            }
        }
    }

    async fn work_until_error(&self, lease: Duration, supply: &Arc<Supply>) -> Result<(), QueueError> {
        let queue = &supply.queue;
        let mut puller = Puller::new(&self.broker.jetstream, supply.clone()).await?;
        let no_more = async {
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = self.until_rules(queue, |rules| rules.paused) => {}
            }
        };
        tokio::pin!(no_more);
        while !self.draining.is_cancelled() && !self.is_paused(queue) {
            let delivery = tokio::select! {
                biased;
                delivery = puller.next() => delivery?,
                () = &mut no_more => break,
            };
            let _used = self.metrics.use_slot();
            tokio::select! {
                () = self.attend(supply, &delivery, lease) => {}
                () = puller.hand_back_excess() => {}
            }
        }
        puller.close().await;
        Ok(())
    }

    fn is_paused(&self, queue: &str) -> bool {
        self.rules.borrow().as_ref().and_then(|book| book.get(queue)).is_some_and(|rules| rules.paused)
    }

    /// Waits until the queue has such rules.
    async fn until_rules(&self, queue: &str, wanted: impl Fn(&Rules) -> bool) {
        let usual = Rules::default();
        let is_wanted = |book: &Option<BTreeMap<String, Rules>>| {
            book.as_ref().is_some_and(|book| wanted(book.get(queue).unwrap_or(&usual)))
        };
        // The sender is in `self`, so it cannot be gone.
        let _ = self.rules.subscribe().wait_for(is_wanted).await;
    }

    /// Sees a delivery through to its acknowledgement, renewing the lease meanwhile.
    async fn attend(&self, supply: &Supply, delivery: &Delivery, lease: Duration) {
        if delivery.delivered > 1 {
            self.metrics.redeliveries.inc();
        }
        let renew = async {
            loop {
                sleep(lease / 3).await;
                delivery.renew().await;
                self.metrics.lease_renewals.inc();
            }
        };
        tokio::select! {
            // First what the job is for: a timer before it would have the thread wake itself up.
            biased;
            () = self.handle(Held { delivery, queue: &supply.queue, turn: &supply.turn, lease, sequence: 0 }) => {}
            () = renew => {}
        }
    }

    async fn handle(&self, mut held: Held<'_>) {
        let mut spec = match JobSpec::parse(held.delivery.payload()) {
            Ok(spec) => spec,
            Err(error) => return Box::pin(self.bury(held, error.to_string())).await,
        };
        let (lane, found) = (names::lane(&spec.queue, &spec.class(), spec.priority), held.delivery.subject());
        if found != lane {
            let reason = format!("it was published on `{found}` and belongs on `{lane}`");
            return Box::pin(self.bury(held, reason)).await;
        }
        let job = spec.id;
        if let Some(due) = spec.starts_at().filter(|due| !held.delivery.has_waited() && *due > self.time.now()) {
            let attempt = held.delivery.message().attempt;
            return Box::pin(self.send_and_acknowledge(&held, &spec, attempt, Some(due))).await;
        }
        let message = held.delivery.message();
        // A job's first message has nothing to read, which is what makes small jobs fast.
        let stored = match message.redelivered || message.attempt > 1 {
            true => Box::pin(self.event(job)).await,
            false => Ok(None),
        };
        let Ok(stored) = stored else { return self.hand_back(held, None).await };
        held.sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let Ok(unwanted) = self.unwanted(&held, &spec).await else { return self.hand_back(held, None).await };
        let limits = spec.limits.resolve(&self.defaults, &self.maximum);
        if let Ok(limits) = &limits {
            spec.limits = LimitTable::of(limits);
        }
        let spec = Arc::new(spec);
        let fresh = Report { spec: Some(spec.clone()), ..Report::queued(job) };
        let stored = stored.map(|stored| stored.report);
        let Ok(decision) = self.decide(&held, fresh, stored, unwanted).await else {
            return self.hand_back(held, None).await;
        };
        match decision {
            Decision::Drop | Decision::LookFor { .. } => held.delivery.done().await,
            Decision::Finish(mut report) => {
                report.note_wait(self.time.now());
                Box::pin(self.conclude(held, &spec, *report)).await;
            }
            Decision::SendNext(report) => Box::pin(self.send_next(&held, &spec, &report)).await,
            Decision::Run { mut report, announce } => {
                let limits = match limits {
                    Ok(limits) => limits,
                    Err(error) => {
                        let invalid = Outcome::invalid(error.to_string());
                        return Box::pin(self.end_unstarted(held, &spec, *report, invalid)).await;
                    }
                };
                // What is stored may be of a node with other limits.
                report.spec = Some(spec.clone());
                let span = span_of(&spec, report.attempt);
                // On the heap: it is large, and would be copied from one place on the stack to the next.
                Box::pin(self.run(held, spec, limits, (*report, announce))).instrument(span).await;
            }
        }
    }

    /// Makes an attempt and stores how it ended.
    async fn run(
        &self,
        mut held: Held<'_>,
        spec: Arc<JobSpec>,
        limits: Limits,
        (mut report, announce): (Report, bool),
    ) {
        if limits.memory > self.memory_bytes {
            return Box::pin(self.leave_to_larger_nodes(held, &spec, report, limits.memory)).await;
        }
        let signals = Arc::new(Signals::default());
        let _registration = self.cancels.register(spec.id, signals.clone());
        let (mut place, lease) = match self.place(&held, &spec).await {
            Ok(place) => (place, held.lease),
            Err(NoPlace) => return self.put_off(held).await,
        };
        let promised = tokio::select! {
            promised = self.admit(&held, limits.memory, &signals) => promised,
            () = self.until_place_is_lost(place.as_mut(), spec.id, lease) => None,
        };
        let Some(promised) = promised else {
            self.leave(place).await;
            return match signals.is_cancelled() {
                true => Box::pin(self.end_unstarted(held, &spec, report, Outcome::cancelled())).await,
                false => self.hand_back(held, None).await,
            };
        };
        let waited = self.waited(&held);
        self.metrics.attempt_started(held.queue, Some(waited));
        report.times.started = timestamp(OffsetDateTime::now_utc());
        if announce {
            let announced = tokio::select! {
                biased;
                announced = Box::pin(self.announce_surely(&mut held, &report)) => announced,
                // The attempt ends as soon as it begins.
                () = signals.cancelled() => Ok(()),
                () = self.draining.cancelled() => Err(End::HandedBack),
                () = self.until_place_is_lost(place.as_mut(), spec.id, lease) => Err(End::HandedBack),
            };
            if let Err(end) = announced {
                self.leave(place).await;
                return self.finish(held, &spec, report, end, (waited, Instant::now())).await;
            }
        }
        let started = Instant::now();
        let (release, freed) = oneshot::channel::<()>();
        // Large, and handed on.
        let work = Box::pin(self.attempt(&spec, report.attempt, limits, signals.clone(), (promised, release)));
        let end = tokio::select! {
            biased;
            end = self.watch(&mut held, &mut report, &signals, announce, work) => end,
            () = self.until_place_is_lost(place.as_mut(), spec.id, lease) => {
                signals.cancel();
                End::HandedBack
            }
        };
        self.finish(held, &spec, report, end, (waited, started)).await;
        // The slot is free when its thread is, which can be later.
        let _ = freed.await;
        self.leave(place).await;
        self.metrics.memory_promised_bytes.set(self.promised());
    }

    async fn finish(
        &self,
        held: Held<'_>,
        spec: &JobSpec,
        mut report: Report,
        end: End,
        (waited, started): (Duration, Instant),
    ) {
        let queue = held.queue.to_owned();
        match end {
            End::Reported(ended) => {
                self.metrics.attempt_ended(&queue, outcome_name(ended.outcome.kind), started.elapsed());
                let (ended, output) = self.keep_output(*ended).await;
                report.usage.queue_ms = millis(waited);
                report.usage.compile_ms = ended.usage.compile_ms;
                let report = lifecycle::on_attempt_end(report, ended, output, &spec.retry, self.chance());
                self.conclude(held, spec, report).await;
            }
            End::Overtaken(refused) => {
                self.metrics.attempt_ended(&queue, "overtaken", started.elapsed());
                held.let_go(refused).await;
            }
            End::HandedBack => {
                self.metrics.attempt_ended(&queue, "handed_back", started.elapsed());
                let overtaken = match held.sequence {
                    0 => None,
                    _ => Box::pin(self.give_up(&held, report)).await,
                };
                match overtaken {
                    Some(refused) => held.let_go(refused).await,
                    None => self.hand_back(held, None).await,
                }
            }
        }
    }

    /// Waits for the end of an attempt; meanwhile announces it, passes on progress and listens for a
    /// cancel.
    async fn watch(
        &self,
        held: &mut Held<'_>,
        report: &mut Report,
        signals: &Arc<Signals>,
        mut announced: bool,
        work: impl Future<Output = AttemptReport>,
    ) -> End {
        let started = Instant::now();
        tokio::pin!(work);
        let cancelled = async {
            signals.cancelled().await;
            sleep(CANCEL_PATIENCE).await;
        };
        tokio::pin!(cancelled);
        let mut tick = interval_at((started + ANNOUNCE_AFTER).into(), ANNOUNCE_AFTER);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = &mut work => return End::Reported(Box::new(ended)),
                () = &mut cancelled => return End::Reported(Box::new(cancelled_after(started.elapsed()))),
                () = self.stopping.cancelled() => {
                    signals.cancel();
                    return End::HandedBack;
                }
                _ = tick.tick() => {
                    let progress = signals.progress();
                    if announced && progress == report.progress {
                        continue;
                    }
                    report.progress = progress;
                    match Box::pin(self.announce(held, report)).await {
                        Ok(stored) => announced = stored,
                        Err(refused) => {
                            signals.cancel();
                            return End::Overtaken(refused);
                        }
                    }
                    tick.reset_after(PROGRESS_EVERY);
                }
            }
        }
    }

    /// Announces an attempt before it starts, however long that takes. Errors: it is not to start.
    async fn announce_surely(&self, held: &mut Held<'_>, report: &Report) -> Result<(), End> {
        let mut wait = BACKOFF.0;
        while !self.announce(held, report).await.map_err(End::Overtaken)? {
            if self.stopping.is_cancelled() {
                return Err(End::HandedBack);
            }
            self.pause(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        Ok(())
    }

    /// Stores that the attempt runs; says no if that cannot be stored now, which is no reason to stop one that does.
    /// Errors: somebody else has ended the job, or makes a later attempt.
    async fn announce(&self, held: &mut Held<'_>, report: &Report) -> Result<bool, Refused> {
        match self.broker.store(report, held.sequence).await {
            Ok(sequence) => held.sequence = sequence,
            Err(QueueError::Refused { .. }) => {
                let Ok(stored) = self.event(report.job).await else { return Ok(false) };
                match lifecycle::on_refused(stored.as_ref().map(|stored| &stored.report), report) {
                    Refused::Again => {
                        held.sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
                        // Not announced again over this very attempt: it may be how somebody else ended it, and the
                        // message for the next one would then be taken for one too many.
                        return Ok(stored.is_some_and(|stored| stored.report.attempt >= report.attempt));
                    }
                    overtaken => return Err(overtaken),
                }
            }
            Err(error) => {
                tracing::warn!(job = %report.job, %error, "the attempt could not be announced");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How long a job's message has waited in its queue, or waits.
    fn waited(&self, held: &Held<'_>) -> Duration {
        Duration::try_from(self.time.now() - held.delivery.published).unwrap_or_default()
    }

    /// Memory that is promised to jobs now.
    pub fn memory_promised_bytes(&self) -> u64 {
        let free = self.memory.available_permits() as u64 * MIB;
        self.memory_bytes.saturating_sub(free)
    }

    /// Everything a job can require that this node has.
    pub fn labels(&self) -> BTreeSet<String> {
        let mut labels = self.offers.labels();
        labels.extend(self.own_labels.iter().cloned());
        labels
    }

    /// The time, and a random number from 0 to 1, which decisions depend on.
    fn chance(&self) -> (OffsetDateTime, f64) {
        // Its keys are random, which is enough to spread retries and costs no system call.
        let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
        (self.time.now(), f64::from(random) / f64::from(u32::MAX))
    }

    fn promised(&self) -> i64 {
        i64::try_from(self.memory_promised_bytes()).unwrap_or(i64::MAX)
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// What an attempt's lines in the log have in common. Those who read the log as text have it only of a job that is
/// traced: it takes a node that runs small jobs 4 % of its time.
fn span_of(spec: &JobSpec, attempt: u32) -> Span {
    let job = spec.id;
    match &spec.traceparent {
        Some(traceparent) => tracing::info_span!("attempt", %job, attempt, traceparent),
        None => tracing::debug_span!(target: telemetry::ATTEMPT, "attempt", %job, attempt),
    }
}

/// The report of an attempt that was cancelled and whose guest cannot be asked what it used.
fn cancelled_after(time: Duration) -> AttemptReport {
    let usage = Usage { wall_ms: millis(time), ..Usage::default() };
    AttemptReport { usage, ..AttemptReport::unstarted(Outcome::cancelled()) }
}

fn outcome_name(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Ok => "ok",
        OutcomeKind::Error => "error",
        OutcomeKind::Trap => "trap",
        OutcomeKind::Limit => "limit",
        OutcomeKind::Invalid => "invalid",
        OutcomeKind::Cancelled => "cancelled",
        OutcomeKind::Lost => "lost",
    }
}
