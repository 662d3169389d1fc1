//! Pull, run, store, acknowledge: what a slot does with the jobs of its queue. I/O only; what should
//! happen is decided in `lifecycle`.

mod admission;
mod attempt;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wasmjob_runtime::{AttemptReport, Limit, Limits, Outcome, OutcomeKind, Sandbox, Signals, Usage, millis};

use admission::NoPlace;

use crate::{
    cancels::Cancels,
    grants::Offers,
    lifecycle::{self, Decision, Refused, Unwanted},
    metrics::Metrics,
    node_artifacts::NodeArtifacts,
    nodes,
    queue::{
        Broker, Delivery, LogWriter, Puller, QueueError, Rulebook, Stored, has_message,
        names::{self, Lane},
    },
    rules::Rules,
    server_time::ServerTime,
    units::Span,
    wire::{JobId, JobSpec, LimitTable, Report, State, timestamp},
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
    pub broker: Broker,
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

/// The lanes of a queue that this node takes jobs of.
pub type Lanes = watch::Receiver<BTreeSet<Lane>>;

/// A job that this node has, until it is acknowledged or handed back.
struct Held<'a> {
    delivery: &'a Delivery,
    queue: &'a str,
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
    /// Works on jobs of `queue`, one at a time, until the node drains.
    pub async fn work(self: Arc<Self>, queue: String, lease: Duration, lanes: Lanes) {
        tokio::select! {
            () = self.cancels.known() => {}
            () = self.draining.cancelled() => return,
        }
        while !self.draining.is_cancelled() {
            tokio::select! {
                () = self.until_rules(&queue, |rules| !rules.paused) => {}
                () = self.draining.cancelled() => return,
            }
            let worked = self.work_until_error(&queue, lease, lanes.clone()).await;
            if let Err(error) = worked {
                tracing::warn!(%error, queue, "a slot lost its queue; trying again");
                self.pause(BACKOFF.1).await;
            }
        }
    }

    async fn work_until_error(&self, queue: &str, lease: Duration, lanes: Lanes) -> Result<(), QueueError> {
        let mut puller = Puller::new(&self.broker.jetstream, queue, lanes).await?;
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
            self.metrics.slots_used.inc();
            tokio::select! {
                () = self.attend(queue, &delivery, lease) => {}
                () = puller.hand_back_excess() => {}
            }
            self.metrics.slots_used.dec();
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
    async fn attend(&self, queue: &str, delivery: &Delivery, lease: Duration) {
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
            () = self.handle(Held { delivery, queue, lease, sequence: 0 }) => {}
            () = renew => {}
        }
    }

    async fn handle(&self, mut held: Held<'_>) {
        let spec = match JobSpec::parse(held.delivery.payload()) {
            Ok(spec) => spec,
            Err(error) => return self.bury(held, error.to_string()).await,
        };
        let (lane, found) = (names::lane(&spec.queue, &spec.class(), spec.priority), held.delivery.subject());
        if found != lane {
            let reason = format!("it was published on `{found}` and belongs on `{lane}`");
            return self.bury(held, reason).await;
        }
        let job = spec.id;
        if let Some(due) = spec.starts_at().filter(|due| !held.delivery.has_waited() && *due > self.time.now()) {
            let attempt = held.delivery.message().attempt;
            return self.send_and_acknowledge(&held, &spec, attempt, Some(due)).await;
        }
        let message = held.delivery.message();
        // A job's first message has nothing to read, which is what makes small jobs fast.
        let stored = match message.redelivered || message.attempt > 1 {
            true => self.event(job).await,
            false => Ok(None),
        };
        let Ok(stored) = stored else { return self.hand_back(held, None).await };
        held.sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let fresh = Report { spec: Some(Box::new(spec.clone())), ..Report::queued(job) };
        let Ok(unwanted) = self.unwanted(&held, &spec).await else { return self.hand_back(held, None).await };
        let stored = stored.map(|stored| stored.report);
        let Ok(decision) = self.decide(&held, fresh, stored, unwanted).await else {
            return self.hand_back(held, None).await;
        };
        match decision {
            Decision::Drop | Decision::LookFor { .. } => held.delivery.done().await,
            Decision::Finish(report) => self.conclude(held, &spec, *report).await,
            Decision::SendNext(report) => self.send_next(&held, &spec, &report).await,
            Decision::Run { report, announce } => {
                let span =
                    tracing::info_span!("attempt", %job, attempt = report.attempt, traceparent = spec.traceparent);
                self.run(held, spec, *report, announce).instrument(span).await;
            }
        }
    }

    /// What is to be done with a delivery.
    async fn decide(
        &self,
        held: &Held<'_>,
        fresh: Report,
        stored: Option<Report>,
        unwanted: Option<Unwanted>,
    ) -> Result<Decision, Stopping> {
        let (job, message) = (fresh.job, held.delivery.message());
        let again = stored.clone();
        let decision = lifecycle::on_delivery(fresh, stored, message, unwanted, &self.node);
        let (Decision::LookFor { message: other }, Some(stored)) = (&decision, again) else { return Ok(decision) };
        if self.is_in_queue(held, *other, job).await? {
            return Ok(Decision::Drop);
        }
        let alone = lifecycle::Message { alone: true, ..message };
        Ok(lifecycle::on_delivery(Report::queued(job), Some(stored), alone, unwanted, &self.node))
    }

    /// Makes an attempt and stores how it ended.
    async fn run(&self, mut held: Held<'_>, spec: JobSpec, mut report: Report, announce: bool) {
        let limits = match spec.limits.resolve(&self.defaults, &self.maximum) {
            Ok(limits) => limits,
            Err(error) => return self.end_unstarted(held, &spec, report, Outcome::invalid(error.to_string())).await,
        };
        if let Some(spec) = &mut report.spec {
            spec.limits = LimitTable::of(&limits);
        }
        if limits.memory > self.memory_bytes {
            return self.leave_to_larger_nodes(held, &spec, report, limits.memory).await;
        }
        let signals = Arc::new(Signals::default());
        let _registration = self.cancels.register(spec.id, signals.clone());
        let (mut place, lease) = match self.place(&held, &spec).await {
            Ok(place) => (place, held.lease),
            Err(NoPlace) => return self.put_off(held).await,
        };
        let promised = tokio::select! {
            promised = self.admit(held.queue, limits.memory, &signals) => promised,
            () = self.until_place_is_lost(place.as_mut(), spec.id, lease) => None,
        };
        let Some(promised) = promised else {
            self.leave(place).await;
            return match signals.is_cancelled() {
                true => self.end_unstarted(held, &spec, report, Outcome::cancelled()).await,
                false => self.hand_back(held, None).await,
            };
        };
        let waited = self.time.now() - held.delivery.published;
        let waited = Duration::try_from(waited).unwrap_or_default();
        self.metrics.attempt_started(held.queue, Some(waited));
        report.times.started = timestamp(OffsetDateTime::now_utc());
        if announce && let Err(overtaken) = self.announce(&mut held, &report).await {
            self.leave(place).await;
            return held.let_go(overtaken).await;
        }
        let started = Instant::now();
        let (release, freed) = oneshot::channel::<()>();
        let work = self.attempt(&spec, report.attempt, limits, signals.clone(), (promised, release));
        let end = tokio::select! {
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
                if held.sequence > 0 {
                    self.give_up(&held, report).await;
                }
                self.hand_back(held, None).await;
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
        let mut tick = interval(ANNOUNCE_AFTER);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
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
                    if let Err(refused) = self.announce(held, report).await {
                        signals.cancel();
                        return End::Overtaken(refused);
                    }
                    announced = true;
                    tick.reset_after(PROGRESS_EVERY);
                }
            }
        }
    }

    /// Stores that the attempt runs. An announcement that cannot be stored now is no reason to stop.
    /// Errors: somebody else has ended the job, or makes a later attempt.
    async fn announce(&self, held: &mut Held<'_>, report: &Report) -> Result<(), Refused> {
        match self.broker.store(report, held.sequence).await {
            Ok(sequence) => held.sequence = sequence,
            Err(QueueError::Refused { .. }) => {
                let Ok(stored) = self.event(report.job).await else { return Ok(()) };
                match lifecycle::on_refused(stored.as_ref().map(|stored| &stored.report), report) {
                    Refused::Again => held.sequence = stored.map_or(0, |stored| stored.sequence),
                    overtaken => return Err(overtaken),
                }
            }
            Err(error) => tracing::warn!(%error, "the attempt could not be announced"),
        }
        Ok(())
    }

    /// Stores how a job's attempt ended, sends the message for the next one if there is to be one, then
    /// acknowledges this one. The first who stores an end wins.
    async fn conclude(&self, held: Held<'_>, spec: &JobSpec, report: Report) {
        let retrying = (report.state == State::Retrying).then(|| report.clone());
        let held = self.store_end(held, report).await;
        self.cancels.forget(spec.id);
        let Some(held) = held else { return };
        match retrying {
            Some(report) => self.send_next(&held, spec, &report).await,
            None => held.delivery.done().await,
        }
    }

    /// Sends the message for the attempt after the one that `report` is about, then acknowledges this one.
    async fn send_next(&self, held: &Held<'_>, spec: &JobSpec, report: &Report) {
        let due = report.due().filter(|due| *due > self.time.now());
        let next = report.attempt.saturating_add(1);
        self.send_and_acknowledge(held, spec, next, due).await;
    }

    async fn send_and_acknowledge(&self, held: &Held<'_>, spec: &JobSpec, attempt: u32, due: Option<OffsetDateTime>) {
        let mut wait = BACKOFF.0;
        while let Err(error) = self.broker.send(spec, held.delivery.payload().clone(), attempt, due).await {
            if self.stopping.is_cancelled() {
                self.metrics.handed_back.inc();
                return held.delivery.hand_back(None).await;
            }
            tracing::warn!(job = %spec.id, %error, "the message for the next attempt could not be sent; trying again");
            self.pause(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        held.delivery.done().await;
    }

    /// Why the job of this message should not run.
    async fn unwanted(&self, held: &Held<'_>, spec: &JobSpec) -> Result<Option<Unwanted>, Stopping> {
        if self.cancels.is_asked(spec.id) {
            let had_again = held.delivery.message().attempt > 1;
            match had_again && matches!(self.broker.is_asked_to_cancel(spec.id).await, Ok(false)) {
                true => self.cancels.forget(spec.id),
                false => return Ok(Some(Unwanted::Cancelled)),
            }
        }
        if spec.dedupe_key.is_some()
            && let Some(other) = self.other_with_key(spec).await?
        {
            return Ok(Some(Unwanted::Duplicate(other)));
        }
        let Some(expires) = spec.expires_ms.map(Duration::from_millis) else { return Ok(None) };
        let waited = Duration::try_from(self.time.now() - held.delivery.published).unwrap_or_default();
        Ok((waited > expires).then_some(Unwanted::Expired(Span(expires))))
    }

    /// Another job that has the key of this one: a client may have published it without asking.
    async fn other_with_key(&self, spec: &JobSpec) -> Result<Option<JobId>, Stopping> {
        loop {
            match self.broker.claim(spec).await {
                Ok(job) => return Ok((job != spec.id).then_some(job)),
                Err(QueueError::KeyTaken { job, .. }) => return Ok(Some(job)),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(job = %spec.id, %error, "the job's key cannot be looked up; trying again");
                    self.pause(BACKOFF.1).await;
                }
            }
        }
    }

    /// Stores a report of the end of an attempt. Gives back what is held if its message is still to be
    /// acknowledged.
    async fn store_end<'a>(&self, mut held: Held<'a>, mut report: Report) -> Option<Held<'a>> {
        report.times.finished = timestamp(OffsetDateTime::now_utc());
        let mut wait = BACKOFF.0;
        loop {
            match self.broker.store(&report, held.sequence).await {
                Ok(_) => {
                    if report.state.is_terminal() {
                        self.metrics.job_finished(held.queue, report.state.name());
                    }
                    tell(&report);
                    break;
                }
                Err(QueueError::Refused { .. }) => {
                    let Ok(stored) = self.event(report.job).await else {
                        self.hand_back(held, None).await;
                        return None;
                    };
                    match lifecycle::on_refused(stored.as_ref().map(|stored| &stored.report), &report) {
                        Refused::Again => held.sequence = stored.map_or(0, |stored| stored.sequence),
                        overtaken => {
                            held.let_go(overtaken).await;
                            return None;
                        }
                    }
                }
                Err(error) if self.stopping.is_cancelled() => {
                    tracing::error!(job = %report.job, %error, "the result could not be stored; another node will make it again");
                    self.hand_back(held, None).await;
                    return None;
                }
                Err(error) => {
                    tracing::warn!(job = %report.job, %error, "the result could not be stored; trying again");
                    self.pause(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
        Some(held)
    }

    async fn end_unstarted(&self, held: Held<'_>, spec: &JobSpec, report: Report, outcome: Outcome) {
        let ended = AttemptReport::unstarted(outcome);
        let report = lifecycle::on_attempt_end(report, ended, None, &spec.retry, self.chance());
        self.conclude(held, spec, report).await;
    }

    /// Stores why a message is no job, under the id it names, or, if that belongs to a job, under one
    /// made of the message's place in the queue, so that a redelivery is buried in the same grave.
    async fn bury(&self, held: Held<'_>, reason: String) {
        let named = names::job_of(held.delivery.headers(), held.delivery.payload());
        let stored = match named {
            Some(job) => self.event(job).await,
            None => Ok(None),
        };
        let job = match (named, stored) {
            (_, Err(Stopping)) => return self.hand_back(held, None).await,
            (Some(job), Ok(None)) => job,
            (Some(_), Ok(Some(stored))) if held.delivery.delivered > 1 && stored.report.state == State::Dead => {
                return held.delivery.done().await;
            }
            _ => held.delivery.own_id(),
        };
        self.metrics.dead_lettered(held.queue);
        tracing::warn!(%job, queue = held.queue, reason, "a message is not a job; it is kept as dead");
        let report = lifecycle::dead_letter(Report::queued(job), reason);
        if let Some(held) = self.store_end(held, report).await {
            held.delivery.done().await;
        }
    }

    /// Hands on a job that wants more memory than this node has, or ends it if no node has so much.
    async fn leave_to_larger_nodes(&self, held: Held<'_>, spec: &JobSpec, report: Report, wanted: u64) {
        let class = spec.class();
        let largest = match nodes::largest(&self.broker, held.queue, &class).await {
            // Nobody knows now: this node's own size is no answer.
            Err(_) => return self.hand_back(held, Some(LEFT_TO_OTHERS)).await,
            Ok(largest) => largest.map_or(self.memory_bytes, |node| node.memory_bytes),
        };
        if largest >= wanted {
            return self.hand_back(held, Some(LEFT_TO_OTHERS)).await;
        }
        let message = format!("wants {wanted} bytes of memory and the largest node has {largest}");
        let outcome = Outcome { retryable: false, ..Outcome::limited(Limit::Memory, message) };
        self.end_unstarted(held, spec, report, outcome).await;
    }

    /// Stores that this node's attempt ended without a result, so that it is not taken for lost.
    async fn give_up(&self, held: &Held<'_>, report: Report) {
        let report = lifecycle::on_hand_back(report);
        let stored = self.broker.store(&report, held.sequence);
        // Without it the attempt counts as lost, which a job survives a few times.
        if let Ok(Err(error)) = timeout(BACKOFF.1, stored).await {
            tracing::warn!(%error, "that the attempt was handed back could not be stored");
        }
    }

    async fn hand_back(&self, held: Held<'_>, after: Option<Duration>) {
        self.metrics.handed_back.inc();
        held.delivery.hand_back(after).await;
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
        let random = getrandom::u32().unwrap_or_default();
        (self.time.now(), f64::from(random) / f64::from(u32::MAX))
    }

    fn promised(&self) -> i64 {
        i64::try_from(self.memory_promised_bytes()).unwrap_or(i64::MAX)
    }

    /// Whether another message of a job is in the queue, however long it takes to get an answer.
    async fn is_in_queue(&self, held: &Held<'_>, message: u64, job: JobId) -> Result<bool, Stopping> {
        loop {
            match has_message(&self.broker, held.queue, message, job).await {
                Ok(there) => return Ok(there),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(%job, %error, "the job's other message could not be looked for; trying again");
                    self.pause(BACKOFF.1).await;
                }
            }
        }
    }

    /// The event of a job, however long it takes to get an answer.
    async fn event(&self, job: JobId) -> Result<Option<Stored>, Stopping> {
        let mut wait = BACKOFF.0;
        loop {
            match self.broker.event(job).await {
                Ok(stored) => return Ok(stored),
                Err(_) if self.stopping.is_cancelled() => return Err(Stopping),
                Err(error) => {
                    tracing::warn!(%job, %error, "the job's event could not be read; trying again");
                    self.pause(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// Says in the node's log how an attempt ended: what went well only to those who want to know everything, as
/// there can be ten thousand a second.
fn tell(report: &Report) {
    let (job, state, attempt) = (report.job, report.state.name(), report.attempt);
    match report.state {
        State::Succeeded => tracing::debug!(%job, state, attempt, "attempt ended"),
        _ => {
            let message = report.outcome.as_ref().and_then(|outcome| outcome.message.as_deref());
            tracing::info!(%job, state, attempt, message, "attempt ended");
        }
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
