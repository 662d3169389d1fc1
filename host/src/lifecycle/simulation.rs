//! The life cycle in a world where everything goes wrong: seeded schedules of submissions, cancels and
//! retries, with messages that are lost, doubled or late, answers that do not arrive, nodes that
//! crash, sleep or stop, clocks that are wrong, and a server that forgets which ids it has seen, or a message
//! that there are two of.
//!
//! The server and the nodes are models: a node does here, one step at a time, what `worker.rs` does with
//! input and output. What is decided is the real thing. After each step it is checked that no job is
//! lost, that no end is replaced by another, and that no job gets more attempts than it may; at the end
//! of each schedule the faults stop, and every job has to end.
//!
//! `WASMJOB_SEED=N cargo test -p wasmjob-host --release simulation` runs one schedule and tells it.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)] // The numbers are small.
#![allow(clippy::print_stdout, clippy::print_stderr)] // Told to whoever runs one schedule.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::wire::{JobSpec, new_job_id};

/// Schedules in one run.
const SCHEDULES: u64 = 100_000;
/// Steps with faults in one schedule.
const STEPS: usize = 90;
/// Steps without faults in which everything has to end.
const STEPS_TO_END: usize = 10_000;
const NODES: usize = 3;
const SLOTS: usize = 2;
/// All times are milliseconds.
const LEASE: u64 = 30_000;

/// A generator of numbers that are the same for the same seed (`splitmix64`, public domain, Sebastiano Vigna).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn percent(&mut self, of: u64) -> bool {
        self.next() % 100 < of
    }
}

/// What becomes of a request to the server.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Answered,
    /// It never arrives.
    Lost,
    /// It is done, and the answer never arrives.
    Unanswered,
}

#[derive(Clone, Debug)]
struct Queued {
    sequence: u64,
    job: usize,
    attempt: u32,
    leased_until: Option<u64>,
    delivered: u32,
}

/// Queue, events, and what waits for a time, as JetStream keeps them.
struct Server {
    now: u64,
    sequence: u64,
    queue: Vec<Queued>,
    /// By job and attempt: when it is due.
    waiting: BTreeMap<(usize, u32), u64>,
    /// Ids of messages that were seen lately: job, attempt, whether it was to wait, and the event of whoever
    /// asked for the job again.
    ids: BTreeSet<(usize, u32, bool, u64)>,
    events: Vec<Option<(u64, Report)>>,
}

impl Server {
    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn publish(&mut self, job: usize, attempt: u32, due: Option<u64>) {
        if self.ids.insert((job, attempt, due.is_some(), 0)) {
            self.take(job, attempt, due);
        }
    }

    fn publish_again(&mut self, job: usize, attempt: u32, event: u64) {
        if self.ids.insert((job, attempt, false, event)) {
            self.take(job, attempt, None);
        }
    }

    fn take(&mut self, job: usize, attempt: u32, due: Option<u64>) {
        match due {
            Some(due) => drop(self.waiting.insert((job, attempt), due)),
            None => self.enqueue(job, attempt),
        }
    }

    fn enqueue(&mut self, job: usize, attempt: u32) {
        let sequence = self.next_sequence();
        self.queue.push(Queued { sequence, job, attempt, leased_until: None, delivered: 0 });
    }

    fn store(&mut self, job: usize, report: &Report, after: u64) -> Option<u64> {
        let last = self.events[job].as_ref().map_or(0, |(sequence, _)| *sequence);
        if last != after {
            return None;
        }
        let sequence = self.next_sequence();
        self.events[job] = Some((sequence, report.clone()));
        Some(sequence)
    }

    /// As the server does it: also if the lease has ended meanwhile.
    fn acknowledge(&mut self, sequence: u64) {
        self.queue.retain(|message| message.sequence != sequence);
    }

    fn hand_back(&mut self, sequence: u64) {
        if let Some(message) = self.queue.iter_mut().find(|message| message.sequence == sequence) {
            message.leased_until = None;
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        let due: Vec<(usize, u32)> =
            self.waiting.iter().filter(|(_, due)| **due <= self.now).map(|(of, _)| *of).collect();
        for (job, attempt) in due {
            self.waiting.remove(&(job, attempt));
            self.enqueue(job, attempt);
        }
    }

    fn has_message(&self, job: usize) -> bool {
        self.waiting.keys().any(|(of, _)| *of == job) || self.queue.iter().any(|message| message.job == job)
    }
}

/// Where a slot is with a delivery. Each is one request to the server.
#[derive(Clone, Debug)]
enum Step {
    Read,
    Announce(Box<Report>),
    Run { report: Box<Report>, announced: bool },
    StoreEnd(Box<Report>),
    ReadForEnd(Box<Report>),
    SendNext(Box<Report>),
    Acknowledge,
    HandBack(Option<Box<Report>>),
}

#[derive(Clone, Debug)]
struct Work {
    message: Queued,
    redelivered: bool,
    /// The event that was seen last.
    seen: u64,
    step: Step,
}

#[derive(Clone, Default)]
struct Node {
    slots: Vec<Option<Work>>,
    /// How far its clock is off.
    skew: i64,
    sleeps_until: u64,
    stopping: bool,
    cancels: BTreeSet<usize>,
}

/// What is known of a job by whoever submitted it.
#[derive(Clone)]
struct Asked {
    /// The server said that it has it.
    accepted: bool,
    retry: Retry,
    /// How it ended, until somebody asks for it again.
    end: Option<(State, u64)>,
    /// A `retry` stored that the job is wanted again, and has not sent the message yet.
    again: Option<u32>,
    /// When it expires if it has not started, by the server's clock.
    expires: Option<u64>,
    /// Every node that runs it dies of it.
    kills: bool,
    /// The server said that it has the start of an attempt.
    started: bool,
}

struct World {
    random: Random,
    server: Server,
    nodes: Vec<Node>,
    jobs: Vec<Asked>,
    faults: bool,
    tell: bool,
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut random = Random(seed);
        let server = Server {
            now: 1_000_000,
            sequence: 0,
            queue: Vec::new(),
            waiting: BTreeMap::new(),
            ids: BTreeSet::new(),
            events: Vec::new(),
        };
        let mut node =
            || Node { slots: vec![None; SLOTS], skew: (random.below(600_000) as i64) - 300_000, ..Node::default() };
        let nodes = (0..NODES).map(|_| node()).collect();
        World { random, server, nodes, jobs: Vec::new(), faults: true, tell }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{}", what());
        }
    }

    fn fate(&mut self) -> Fate {
        match self.random.below(100) {
            0..8 if self.faults => Fate::Lost,
            8..16 if self.faults => Fate::Unanswered,
            _ => Fate::Answered,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..12 if self.faults => self.submit(),
            12..15 if self.faults => self.cancel(),
            15..18 if self.faults => self.ask_again(),
            18..20 if self.faults => self.harm_a_node(),
            20..21 if self.faults => self.server.ids.clear(),
            21..23 if self.faults => self.double_a_message(),
            23..24 if self.faults => self.lose_a_message(),
            24..27 => self.mend(),
            27..29 => self.expire(),
            29..40 => self.pass_time(),
            40..55 => self.deliver(),
            _ => self.work(),
        }
    }

    fn submit(&mut self) {
        let max = self.random.below(3) as u32;
        let retry = Retry {
            max,
            on: vec!["error".into()],
            backoff_ms: 10_000,
            factor: 2.0,
            jitter: "full".into(),
            cap_ms: 60_000,
        };
        let job = self.jobs.len();
        let expires = self.random.percent(20).then(|| self.server.now + self.random.next() % 40_000);
        let kills = self.random.percent(2);
        self.jobs.push(Asked { accepted: false, retry, end: None, again: None, expires, kills, started: false });
        self.server.events.push(None);
        // As often as `Broker::submit` tries.
        for _ in 0..3 {
            let fate = self.fate();
            self.tell(|| format!("submit {job}: {fate:?}"));
            if fate != Fate::Lost {
                self.server.publish(job, 1, None);
            }
            if fate == Fate::Answered {
                self.jobs[job].accepted = true;
                return;
            }
        }
    }

    fn some_job(&mut self) -> Option<usize> {
        (!self.jobs.is_empty()).then(|| self.random.below(self.jobs.len()))
    }

    fn known(&self, job: usize) -> (u64, Report) {
        self.server.events[job].clone().unwrap_or_else(|| (0, self.fresh(job)))
    }

    /// What a job's message says of it.
    fn fresh(&self, job: usize) -> Report {
        let can_expire = self.jobs[job].expires.is_some();
        let spec = || JobSpec { expires_ms: Some(1), ..JobSpec::new(id(job), String::new()) };
        Report { spec: can_expire.then(|| spec().into()), ..Report::queued(id(job)) }
    }

    fn has_expired(&self, job: usize) -> bool {
        self.jobs[job].expires.is_some_and(|expires| expires < self.server.now)
    }

    /// Some node ends a job that has not started in time, whoever was given it.
    fn expire(&mut self) {
        let Some(job) = self.some_job().filter(|job| self.has_expired(*job)) else { return };
        let is_unstarted = |message: &Queued| message.job == job && message.attempt == 1;
        if !self.server.queue.iter().any(is_unstarted) {
            return;
        }
        let (sequence, report) = self.known(job);
        let Some(report) = on_expiry(report, Span(std::time::Duration::ZERO)) else { return };
        self.tell(|| format!("{job} has expired"));
        assert!(!self.jobs[job].started, "job {job} expired after it had started");
        self.store(job, &report, sequence);
    }

    fn cancel(&mut self) {
        let Some(job) = self.some_job().filter(|job| self.jobs[*job].accepted) else { return };
        // Some nodes hear of it at once, the others when they look into the bucket.
        for node in 0..NODES {
            if self.random.percent(60) {
                self.nodes[node].cancels.insert(job);
            }
        }
        let (sequence, report) = self.known(job);
        self.tell(|| format!("cancel {job}, which is {}", report.state.name()));
        // A node that only sleeps counts as gone as well.
        let is_abandoned = self.random.percent(30);
        if let Cancel::Finish(report) = on_cancel(report, is_abandoned) {
            self.store(job, &report, sequence);
        }
    }

    fn ask_again(&mut self) {
        let Some(job) = self.some_job() else { return };
        let (sequence, report) = self.known(job);
        let Some(again) = on_ask_again(report) else { return };
        self.tell(|| format!("ask for {job} again, from attempt {}", again.counts_from));
        if let Some(event) = self.store(job, &again, sequence) {
            self.jobs[job].end = None;
            for node in &mut self.nodes {
                node.cancels.remove(&job);
            }
            // Whoever asked may be gone before the message is sent.
            match self.fate() {
                Fate::Lost => self.jobs[job].again = Some(again.counts_from),
                _ => self.server.publish_again(job, again.counts_from, event),
            }
        }
    }

    fn harm_a_node(&mut self) {
        let node = self.random.below(NODES);
        match self.random.below(4) {
            0 => {
                self.tell(|| format!("node {node} crashes"));
                self.nodes[node].slots = vec![None; SLOTS];
            }
            1 => {
                let until = self.server.now + 10_000 + self.random.next() % 90_000;
                self.tell(|| format!("node {node} sleeps until {until}"));
                self.nodes[node].sleeps_until = until;
            }
            2 => self.nodes[node].skew = (self.random.below(600_000) as i64) - 300_000,
            _ => {
                self.tell(|| format!("node {node} stops"));
                self.nodes[node].stopping = true;
            }
        }
    }

    /// Somebody publishes a job once more, or the server delivers what it has forgotten to have delivered.
    fn double_a_message(&mut self) {
        if self.server.queue.is_empty() {
            return;
        }
        let which = self.random.below(self.server.queue.len());
        let Queued { job, attempt, .. } = self.server.queue[which];
        self.tell(|| format!("a second message for attempt {attempt} of {job}"));
        match self.random.percent(50) {
            true => self.server.enqueue(job, attempt),
            false => self.server.queue[which].leased_until = None,
        }
    }

    /// The server loses the message of a job whose node is gone, and has another one, which a node that is gone
    /// as well was given before. Without one it is the reconciler who helps.
    fn lose_a_message(&mut self) {
        let Some(job) = self.some_job().filter(|job| !self.is_worked_on(*job)) else { return };
        let (_, report) = self.known(job);
        let holder = report.message.filter(|_| report.state == State::Running);
        let Some(at) = self.server.queue.iter().position(|message| Some(message.sequence) == holder) else { return };
        let attempt = self.server.queue.remove(at).attempt;
        self.tell(|| format!("a message of {job} is lost, another one is there"));
        self.server.enqueue(job, attempt);
        if let Some(other) = self.server.queue.last_mut() {
            other.delivered = 1;
        }
    }

    /// What the reconciler does: jobs that are to go on and that no message is left of.
    fn mend(&mut self) {
        let Some(job) = self.some_job() else { return };
        let (sequence, report) = self.known(job);
        if sequence == 0 || self.server.has_message(job) || self.is_worked_on(job) {
            return;
        }
        let Some(orphan) = on_orphan(report) else { return };
        self.tell(|| format!("mend {job}: its message is gone"));
        if let Some(event) = self.store(job, &orphan.report, sequence) {
            self.server.publish_again(job, orphan.attempt, event);
            self.jobs[job].again = None;
        }
    }

    fn is_worked_on(&self, job: usize) -> bool {
        let mut slots = self.nodes.iter().flat_map(|node| &node.slots).flatten();
        slots.any(|work| work.message.job == job)
    }

    fn pass_time(&mut self) {
        let time = match self.random.below(10) {
            0 => self.random.next() % 120_000,
            _ => self.random.next() % 5_000,
        };
        // Leases are renewed every third of their length, unless the message about that is lost.
        let mut left = time;
        while left > 0 {
            let step = left.min(LEASE / 3);
            left -= step;
            self.server.pass(step);
            for node in 0..NODES {
                if self.nodes[node].sleeps_until > self.server.now {
                    continue;
                }
                for slot in 0..SLOTS {
                    let Some(work) = &self.nodes[node].slots[slot] else { continue };
                    let sequence = work.message.sequence;
                    if self.fate() == Fate::Lost {
                        continue;
                    }
                    let until = self.server.now + LEASE;
                    if let Some(message) = self.server.queue.iter_mut().find(|message| message.sequence == sequence) {
                        message.leased_until = Some(until);
                    }
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.server.now;
        let free = |node: &Node| node.sleeps_until <= now && !node.stopping && node.slots.iter().any(Option::is_none);
        let ready: Vec<usize> = (0..NODES).filter(|node| free(&self.nodes[*node])).collect();
        let waits = |message: &Queued| message.leased_until.is_none_or(|until| until <= now);
        let messages: Vec<usize> = (0..self.server.queue.len()).filter(|at| waits(&self.server.queue[*at])).collect();
        let (Some(_), Some(_)) = (ready.first(), messages.first()) else { return };
        let node = ready[self.random.below(ready.len())];
        let at = messages[self.random.below(messages.len().min(3))];
        let message = &mut self.server.queue[at];
        message.leased_until = Some(now + LEASE);
        message.delivered += 1;
        let message = message.clone();
        // A delivery can get lost as well; the lease brings it back.
        if self.fate() == Fate::Lost {
            return;
        }
        self.tell(|| {
            format!("node {node} gets message {} for attempt {} of {}", message.sequence, message.attempt, message.job)
        });
        let redelivered = message.delivered > 1;
        let work = Work { message, redelivered, seen: 0, step: Step::Read };
        if let Some(slot) = self.nodes[node].slots.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(work);
        }
    }

    fn work(&mut self) {
        let (node, slot) = (self.random.below(NODES), self.random.below(SLOTS));
        let now = self.server.now;
        if self.nodes[node].sleeps_until > now {
            return;
        }
        if self.nodes[node].stopping && self.nodes[node].slots.iter().all(Option::is_none) {
            self.nodes[node].stopping = false;
        }
        let Some(mut work) = self.nodes[node].slots[slot].take() else { return };
        if self.advance(node, &mut work) {
            self.nodes[node].slots[slot] = Some(work);
        }
    }

    /// One step of a slot; `false` if it is done with the message.
    fn advance(&mut self, node: usize, work: &mut Work) -> bool {
        let (job, fate) = (work.message.job, self.fate());
        match work.step.clone() {
            Step::Read if fate == Fate::Answered => self.read(node, work),
            Step::ReadForEnd(report) if fate == Fate::Answered => match self.look_again(work, &report) {
                Refused::Drop => work.step = Step::Acknowledge,
                Refused::Leave => return false,
                Refused::Again => work.step = Step::StoreEnd(report),
            },
            Step::Read | Step::ReadForEnd(_) => {}
            Step::Announce(report) => return self.announce(work, report, fate),
            Step::Run { .. } if self.jobs[job].kills => {
                self.tell(|| format!("  node {node} dies of job {job}"));
                self.nodes[node].slots = vec![None; SLOTS];
                return false;
            }
            Step::Run { report, announced } => self.run(node, work, report, announced),
            Step::StoreEnd(report) => self.store_end(work, report, fate),
            Step::SendNext(report) => {
                let now = self.clock(node);
                let due = report.due().map(|due| (due - OffsetDateTime::UNIX_EPOCH).whole_milliseconds() as u64);
                if fate != Fate::Lost {
                    self.server.publish(job, report.attempt + 1, due.filter(|due| *due > now));
                }
                if fate == Fate::Answered {
                    work.step = Step::Acknowledge;
                }
            }
            Step::Acknowledge => {
                // Nobody waits for an answer.
                if fate != Fate::Lost {
                    self.server.acknowledge(work.message.sequence);
                }
                return false;
            }
            Step::HandBack(report) => {
                if let Some(report) = report.filter(|_| fate != Fate::Lost) {
                    self.store(job, &report, work.seen);
                }
                self.server.hand_back(work.message.sequence);
                return false;
            }
        }
        true
    }

    fn read(&mut self, node: usize, work: &mut Work) {
        let job = work.message.job;
        let first = !work.redelivered && work.message.attempt == 1;
        let stored = if first { None } else { self.server.events[job].clone() };
        work.seen = stored.as_ref().map_or(0, |(sequence, _)| *sequence);
        let unwanted = match self.nodes[node].cancels.contains(&job) {
            true => Some(Unwanted::Cancelled),
            false => self.has_expired(job).then_some(Unwanted::Expired(Span(std::time::Duration::ZERO))),
        };
        let Queued { sequence, attempt, .. } = work.message;
        let message = Message { sequence, attempt, redelivered: work.redelivered, alone: false };
        let stored = stored.map(|(_, report)| report);
        let fresh = self.fresh(job);
        let decide = |message| on_delivery(fresh.clone(), stored.clone(), message, unwanted, &node.to_string());
        let mut decision = decide(message);
        if let Decision::LookFor { message: other } = decision
            && !self.server.queue.iter().any(|message| message.sequence == other)
        {
            decision = decide(Message { alone: true, ..message });
        }
        self.tell(|| format!("  node {node}, job {job}: {}", name(&decision)));
        work.step = match decision {
            Decision::Drop | Decision::LookFor { .. } => Step::Acknowledge,
            Decision::Finish(report) => Step::StoreEnd(report),
            Decision::SendNext(report) => Step::SendNext(report),
            // Others have all places of its key.
            Decision::Run { .. } if self.random.percent(10) => Step::HandBack(None),
            Decision::Run { report, announce: true } => Step::Announce(report),
            Decision::Run { report, announce: false } => Step::Run { report, announced: false },
        };
    }

    /// Reads the event after a write was refused.
    fn look_again(&mut self, work: &mut Work, report: &Report) -> Refused {
        let event = self.server.events[work.message.job].clone();
        work.seen = event.as_ref().map_or(0, |(sequence, _)| *sequence);
        on_refused(event.as_ref().map(|(_, report)| report), report)
    }

    fn announce(&mut self, work: &mut Work, report: Box<Report>, fate: Fate) -> bool {
        let stored = (fate != Fate::Lost).then(|| self.store(work.message.job, &report, work.seen)).flatten();
        match (fate, stored) {
            (Fate::Answered, Some(sequence)) => {
                work.seen = sequence;
                self.jobs[work.message.job].started = true;
            }
            (Fate::Answered, None) => match self.look_again(work, &report) {
                Refused::Drop => {
                    work.step = Step::Acknowledge;
                    return true;
                }
                Refused::Leave => return false,
                Refused::Again => {
                    let stored = self.known(work.message.job).1;
                    if stored.attempt < report.attempt {
                        work.step = Step::Announce(report);
                        return true;
                    }
                }
            },
            // It is said until there is an answer.
            _ => {
                work.step = Step::Announce(report);
                return true;
            }
        }
        work.step = Step::Run { report, announced: true };
        true
    }

    fn store_end(&mut self, work: &mut Work, report: Box<Report>, fate: Fate) {
        let stored = (fate != Fate::Lost).then(|| self.store(work.message.job, &report, work.seen)).flatten();
        work.step = match (fate, stored) {
            (Fate::Answered, Some(sequence)) => {
                work.seen = sequence;
                match report.state {
                    State::Retrying => Step::SendNext(report),
                    _ => Step::Acknowledge,
                }
            }
            (Fate::Answered, None) => Step::ReadForEnd(report),
            _ => Step::StoreEnd(report),
        };
    }

    fn run(&mut self, node: usize, work: &mut Work, report: Box<Report>, announced: bool) {
        let job = work.message.job;
        if self.nodes[node].stopping && self.random.percent(50) {
            let given_up = (work.seen > 0).then(|| Box::new(on_hand_back(*report)));
            work.step = Step::HandBack(given_up);
            return;
        }
        if !announced && self.random.percent(50) {
            work.step = Step::Announce(report);
            return;
        }
        let outcome = match self.random.below(10) {
            _ if self.nodes[node].cancels.contains(&job) => Outcome::cancelled(),
            0..5 => Outcome::ok(),
            5..8 => Outcome::ended(OutcomeKind::Error, "no", true),
            8 => Outcome::ended(OutcomeKind::Error, "never", false),
            // Still at it.
            _ => return,
        };
        self.tell(|| format!("  node {node}, job {job}: attempt {} ends: {:?}", report.attempt, outcome.kind));
        let now = OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_millis(self.clock(node));
        let ended = AttemptReport::unstarted(outcome);
        let report = on_attempt_end(*report, ended, None, &self.jobs[job].retry, (now, 1.0));
        work.step = Step::StoreEnd(Box::new(report));
    }

    fn clock(&self, node: usize) -> u64 {
        self.server.now.saturating_add_signed(self.nodes[node].skew)
    }

    fn store(&mut self, job: usize, report: &Report, after: u64) -> Option<u64> {
        let sequence = self.server.store(job, report, after)?;
        self.tell(|| format!("  job {job} is {} at attempt {}", report.state.name(), report.attempt));
        if report.state.is_terminal() {
            let end = self.jobs[job].end.replace((report.state, sequence));
            assert!(end.is_none(), "job {job} ended as {end:?} and then as {}", report.state.name());
        }
        Some(sequence)
    }

    fn check(&self) {
        for (job, asked) in self.jobs.iter().enumerate() {
            let (sequence, report) = self.known(job);
            if let Some((state, at)) = asked.end {
                assert_eq!((state, at), (report.state, sequence), "the end of job {job} was replaced");
                continue;
            }
            let goes_on = self.server.has_message(job) || self.is_worked_on(job) || asked.again.is_some();
            assert!(goes_on || !asked.accepted, "job {job} is {} and nothing goes on with it", report.state.name());
            let failures = counted(&report, is_failure);
            assert!(failures <= asked.retry.max as usize + 1, "job {job} was tried {failures} times");
            let lost = counted(&report, |kind| kind == OutcomeKind::Lost);
            assert!(lost <= LOST_MAX + 1, "job {job} was lost {lost} times");
            let attempts: Vec<u32> = report.attempts.iter().map(|record| record.attempt).collect();
            assert!(attempts.is_sorted(), "attempts of job {job}: {attempts:?}");
        }
    }

    fn all_ended(&self) -> bool {
        self.jobs.iter().all(|asked| asked.end.is_some() || !asked.accepted)
    }
}

fn name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Drop | Decision::LookFor { .. } => "drop",
        Decision::Finish(_) => "finish",
        Decision::SendNext(_) => "send the next",
        Decision::Run { announce: true, .. } => "announce and run",
        Decision::Run { announce: false, .. } => "run",
    }
}

/// Jobs of all schedules have the same ids: what they are does not matter.
fn id(job: usize) -> JobId {
    use std::sync::LazyLock;
    static IDS: LazyLock<Vec<JobId>> = LazyLock::new(|| (0..STEPS).map(|_| new_job_id()).collect());
    IDS[job]
}

fn simulate(seed: u64, tell: bool) {
    let mut world = World::new(seed, tell);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.faults = false;
    for node in &mut world.nodes {
        (node.stopping, node.sleeps_until) = (false, 0);
    }
    for _ in 0..STEPS_TO_END {
        if world.all_ended() {
            return;
        }
        world.step();
        world.check();
    }
    let open = world.jobs.iter().enumerate().filter(|(_, asked)| asked.accepted && asked.end.is_none());
    let open: Vec<_> = open.map(|(job, _)| (job, world.known(job).1.state)).collect();
    panic!("not every job has ended: {open:?}");
}

fn simulate_and_name(seed: u64) {
    if let Err(panic) = std::panic::catch_unwind(|| simulate(seed, false)) {
        eprintln!("WASMJOB_SEED={seed} runs this schedule alone");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_schedule_loses_a_job_or_ends_it_twice() {
    if let Some(seed) = std::env::var("WASMJOB_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return simulate(seed, true);
    }
    // The same schedules in every run, so that whoever breaks something sees it.
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..SCHEDULES).step_by(threads as usize).for_each(simulate_and_name));
        }
    });
}
