//! What happens to a job: pure decisions, without clocks, servers or files.
//!
//! Everything that moves a job from one state to another is decided here. The worker asks, then does
//! the input and output that the answer calls for.

use std::cmp::Ordering;

use time::OffsetDateTime;
use wasmjob_runtime::{AttemptReport, Outcome, OutcomeKind, Usage};

use crate::{
    retry,
    units::Span,
    wire::{JobId, OutputValue, Report, Retry, State, timestamp},
};

/// Attempts that may be lost with their node before a job is given up: it may be what kills them.
pub const LOST_MAX: usize = 5;

/// What a node does with a job that was delivered to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The job has ended, or another message is the one it is worked on by: acknowledge this one and
    /// forget it.
    Drop,
    /// Another message is the one that the job is worked on by. If that is in the queue, this one can be
    /// dropped; if not, decide again with `alone`.
    LookFor {
        /// Its place in the queue.
        message: u64,
    },
    /// End the job without running it.
    Finish(Box<Report>),
    /// The attempt of this message has ended, and its node may have died before it sent the message for
    /// the next one: send that, then acknowledge.
    SendNext(Box<Report>),
    /// Make this attempt.
    Run {
        /// The report while it runs.
        report: Box<Report>,
        /// Store the report before the attempt starts: an earlier one may have killed its node, and
        /// the count of those must not depend on how fast they do it. And one that can expire has
        /// started or has not.
        announce: bool,
    },
}

/// A message of a queue, as far as it matters what becomes of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its place in the queue.
    pub sequence: u64,
    /// The first attempt it may be made for: 1, or the one after that which sent it.
    pub attempt: u32,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether it is known that the message is gone that the job was worked on by.
    pub alone: bool,
}

/// Why a job that was delivered should not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// Somebody asked for its end.
    Cancelled,
    /// Another job has its key.
    Duplicate(JobId),
    /// It has waited longer than this for its first attempt.
    Expired(Span),
}

/// Decides about a job that was delivered to `node` by `message`.
///
/// `stored` is the job's event, if it has one; `unwanted` says why the job should not run.
pub fn on_delivery(
    fresh: Report,
    stored: Option<Report>,
    message: Message,
    unwanted: Option<Unwanted>,
    node: &str,
) -> Decision {
    let mut report = stored.unwrap_or(fresh);
    let can_expire = report.attempt == 0 && report.spec.as_ref().is_some_and(|spec| spec.expires_ms.is_some());
    if report.state.is_terminal() {
        return Decision::Drop;
    }
    match (report.state, report.message) {
        // Whoever was to send the next message may have died. One too many is dropped as this one would be.
        (State::Retrying, _) if message.attempt <= report.attempt => return Decision::SendNext(Box::new(report)),
        (State::Running, Some(holder)) if holder != message.sequence && !message.alone => {
            return Decision::LookFor { message: holder };
        }
        _ if message.attempt < report.counts_from => return Decision::Drop,
        _ => {}
    }
    match report.state {
        // The attempt that the event speaks of has ended without a word, or the message would not be here.
        // A redelivery without an event is an attempt that ended before it was announced.
        State::Running => record_lost(&mut report),
        State::Retrying => record_last(&mut report),
        _ => {}
    }
    report.message = Some(message.sequence);
    let unwanted = match unwanted {
        Some(Unwanted::Cancelled) => Some(Outcome::cancelled()),
        Some(Unwanted::Expired(after)) if report.attempt == 0 => Some(expired(after)),
        Some(Unwanted::Duplicate(other)) => {
            let message = format!("not run: job {other} has its key");
            Some(Outcome { message: Some(message), ..Outcome::cancelled() })
        }
        _ => None,
    };
    if let Some(outcome) = unwanted {
        return Decision::Finish(Box::new(ended(report, outcome, State::Cancelled)));
    }
    let lost = counted(&report, |kind| kind == OutcomeKind::Lost);
    if lost > LOST_MAX {
        let reason = format!("given up after {lost} attempts were lost with their node");
        let outcome = Outcome::ended(OutcomeKind::Lost, reason, false);
        return Decision::Finish(Box::new(ended(report, outcome, State::Dead)));
    }
    // The count comes from an event that another client may have written.
    report.attempt = report.attempt.saturating_add(1);
    report.state = State::Running;
    report.node = Some(node.to_owned());
    (report.outcome, report.output, report.progress) = (None, None, None);
    report.usage = Usage::default();
    (report.times.started, report.times.next) = (None, None);
    Decision::Run { report: Box::new(report), announce: message.redelivered || can_expire }
}

/// Decides about a job that may have expired `after` a time without a start. `None` if it has started, or ended.
pub fn on_expiry(report: Report, after: Span) -> Option<Report> {
    let waits = report.attempt == 0 && matches!(report.state, State::Queued | State::Waiting);
    waits.then(|| ended(report, expired(after), State::Cancelled))
}

fn expired(after: Span) -> Outcome {
    let message = format!("expired: it had not started {after} after it could");
    Outcome { message: Some(message), ..Outcome::cancelled() }
}

fn record(report: &mut Report, outcome: Outcome) {
    let record = report.as_record(outcome);
    report.attempts.push(record);
}

/// Moves an attempt that ended without a word into the history.
fn record_lost(report: &mut Report) {
    record(report, Outcome::ended(OutcomeKind::Lost, "its node disappeared", true));
}

/// Moves the end of the last attempt into the history.
fn record_last(report: &mut Report) {
    // What ended before its first attempt has none to be remembered.
    if let Some(outcome) = report.outcome.take().filter(|_| report.attempt > 0) {
        record(report, outcome);
    }
}

/// The report of a job whose attempt its node ends without a result, because the node stops or somebody else may have
/// the job's place by now. Not the job's fault: it does not count as lost.
pub fn on_hand_back(mut report: Report) -> Report {
    let node = report.node.as_deref().unwrap_or("its node");
    let outcome = Outcome::ended(OutcomeKind::Cancelled, format!("handed back by {node}"), true);
    let record = report.as_record(outcome);
    report.attempts.push(record);
    report.state = State::Queued;
    report
}

/// Attempts that ended in one of these ways since the job was submitted or somebody asked for it again.
fn counted(report: &Report, how: impl Fn(OutcomeKind) -> bool) -> usize {
    let since = report.attempts.iter().filter(|record| record.attempt >= report.counts_from);
    since.filter(|record| how(record.outcome.kind)).count()
}

/// The report of a job whose attempt ended now: it has ended too, or is tried again.
///
/// `random`, from 0 to 1, spreads retries.
pub fn on_attempt_end(
    mut report: Report,
    attempt: AttemptReport,
    output: Option<OutputValue>,
    retry: &Retry,
    (now, random): (OffsetDateTime, f64),
) -> Report {
    let outcome = attempt.outcome;
    report.output = output;
    report.usage = Usage { queue_ms: report.usage.queue_ms, compile_ms: report.usage.compile_ms, ..attempt.usage };
    let state = match outcome.kind {
        OutcomeKind::Ok => State::Succeeded,
        OutcomeKind::Cancelled => State::Cancelled,
        _ if !retry::allows(retry, &outcome) => State::Failed,
        _ => match retry::wait(retry, counted(&report, is_failure), random) {
            None => State::Dead,
            Some(wait) => {
                report.times.next = timestamp(now + wait);
                State::Retrying
            }
        },
    };
    ended(report, outcome, state)
}

/// Whether an attempt that ended like this was retried: one that its node lost or handed back was not.
fn is_failure(kind: OutcomeKind) -> bool {
    !matches!(kind, OutcomeKind::Lost | OutcomeKind::Cancelled)
}

/// What somebody can do with a job that has ended, or `None` while it has not: have it again. The report
/// says from which attempt on the retries count anew.
pub fn on_ask_again(mut report: Report) -> Option<Report> {
    if !report.state.is_terminal() {
        return None;
    }
    record_last(&mut report);
    if report.state == State::Cancelled {
        // The message of the attempt that was waited for may still be somewhere. It is not to be taken for
        // the one that is sent now.
        report.attempt = report.attempt.saturating_add(1);
    }
    report.state = State::Queued;
    report.counts_from = report.attempt.saturating_add(1);
    (report.output, report.progress, report.message) = (None, None, None);
    (report.times.started, report.times.finished, report.times.next) = (None, None, None);
    Some(report)
}

fn ended(mut report: Report, outcome: Outcome, state: State) -> Report {
    report.state = state;
    report.outcome = Some(outcome);
    report
}

/// The report of a message that is no job, or of a job that cannot be run at all.
pub fn dead_letter(mut report: Report, reason: String) -> Report {
    report.attempts.clear();
    ended(report, Outcome::invalid(reason), State::Dead)
}

/// A job that is to go on, once this is stored and a message for the attempt is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Orphan {
    /// The job without the attempt that nobody will end.
    pub report: Report,
    /// Its next attempt.
    pub attempt: u32,
}

/// Decides about a job that no message is left of: whoever was to send it died before, or the server lost
/// what it had not yet written to its disk. `None` if the job has ended.
pub fn on_orphan(mut report: Report) -> Option<Orphan> {
    match report.state {
        state if state.is_terminal() => return None,
        State::Running => record(&mut report, Outcome::ended(OutcomeKind::Lost, "its message disappeared", true)),
        _ => record_last(&mut report),
    }
    report.state = State::Queued;
    (report.message, report.times.next) = (None, None);
    let attempt = report.attempt.saturating_add(1);
    Some(Orphan { report, attempt })
}

/// What to do when storing a report was refused because the event had changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else finished the job, theirs counts; or another message takes care of it: acknowledge and
    /// forget this one.
    Drop,
    /// A later attempt is made for the same message, which whoever makes it acknowledges.
    Leave,
    /// What came between does not matter: store again, after this one.
    Again,
}

/// Decides about a refused write of `report`, given what is stored now.
///
/// A node that slept for longer than its lease must not undo what was done meanwhile. Only a success counts
/// however late it comes.
pub fn on_refused(stored: Option<&Report>, report: &Report) -> Refused {
    let Some(stored) = stored else { return Refused::Again };
    if stored.state.is_terminal() {
        return Refused::Drop;
    }
    let same_message = stored.message == report.message;
    let overtaken = match stored.attempt.cmp(&report.attempt) {
        Ordering::Greater => true,
        Ordering::Equal => {
            // Two nodes can decide to make the same attempt, if the first one does not get to say so in time.
            let is_anothers = stored.state == State::Running && stored.node != report.node;
            report.attempt < stored.counts_from || is_anothers || !same_message && stored.state != State::Queued
        }
        Ordering::Less => false,
    };
    match overtaken && report.state != State::Succeeded {
        false => Refused::Again,
        true if same_message => Refused::Leave,
        true => Refused::Drop,
    }
}

/// What a cancel does to a job in this state.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancel {
    /// It has ended already.
    TooLate(State),
    /// It waits: its end can be stored at once.
    Finish(Box<Report>),
    /// A node has it and will end it.
    Wait,
}

/// Decides about a cancel, given the job's event or, without one, what is known of it, and whether the node that it runs
/// on is gone.
pub fn on_cancel(mut report: Report, is_abandoned: bool) -> Cancel {
    match report.state {
        state if state.is_terminal() => return Cancel::TooLate(state),
        State::Running if !is_abandoned => return Cancel::Wait,
        State::Running => record_lost(&mut report),
        _ => record_last(&mut report),
    }
    Cancel::Finish(Box::new(ended(report, Outcome::cancelled(), State::Cancelled)))
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{JobSpec, new_job_id};

    const AT_ONCE: Retry =
        Retry { max: 0, on: Vec::new(), backoff_ms: 0, factor: 1.0, jitter: String::new(), cap_ms: 0 };

    fn queued() -> Report {
        Report::queued(new_job_id())
    }

    fn message(sequence: u64, attempt: u32, redelivered: bool) -> Message {
        Message { sequence, attempt, redelivered, alone: false }
    }

    fn deliver(stored: Option<Report>, message: Message) -> Decision {
        on_delivery(queued(), stored, message, None, "a")
    }

    fn run(decision: Decision) -> (Report, bool) {
        match decision {
            Decision::Run { report, announce } => (*report, announce),
            other => panic!("expected a run: {other:?}"),
        }
    }

    fn fails(report: Report, retryable: bool, retry: &Retry) -> Report {
        let outcome = Outcome::ended(OutcomeKind::Error, "no", retryable);
        on_attempt_end(report, AttemptReport::unstarted(outcome), None, retry, (OffsetDateTime::UNIX_EPOCH, 1.0))
    }

    fn retries(max: u32) -> Retry {
        Retry { max, on: vec!["error".into()], backoff_ms: 1_000, cap_ms: 2_000, factor: 2.0, ..AT_ONCE }
    }

    #[test]
    fn the_first_delivery_runs_without_an_announcement() {
        let (report, announce) = run(deliver(None, message(1, 1, false)));
        assert_eq!(
            (report.state, report.attempt, report.node.as_deref(), announce),
            (State::Running, 1, Some("a"), false)
        );
    }

    #[test]
    fn a_job_that_has_ended_is_never_run_again() {
        for state in [State::Succeeded, State::Failed, State::Dead, State::Cancelled] {
            let stored = Report { state, ..queued() };
            assert_eq!(deliver(Some(stored), message(1, 1, true)), Decision::Drop);
        }
    }

    #[test]
    fn an_attempt_that_was_lost_is_recorded_and_made_again_until_too_many_are() {
        let mut stored = None;
        for attempt in 1..=u32::try_from(LOST_MAX).unwrap() + 1 {
            let (report, announce) = run(deliver(stored, message(1, 1, attempt > 1)));
            assert_eq!((report.attempt, report.attempts.len()), (attempt, attempt as usize - 1));
            assert_eq!(announce, attempt > 1);
            stored = Some(report);
        }
        let Decision::Finish(report) = deliver(stored, message(1, 1, true)) else { panic!() };
        assert_eq!((report.state, report.attempts.len()), (State::Dead, LOST_MAX + 1));
        // Whoever wants it again gets as many attempts as before.
        let again = on_ask_again(*report).unwrap();
        let (report, _) = run(deliver(Some(again), message(2, 7, false)));
        assert_eq!((report.attempt, report.attempts.len()), (7, LOST_MAX + 2));
    }

    #[test]
    fn an_attempt_that_was_handed_back_is_recorded_and_not_counted_as_lost() {
        let mut stored = None;
        for attempt in 1..20 {
            let (report, _) = run(deliver(stored, message(1, 1, true)));
            assert_eq!((report.attempt as usize, report.attempts.len()), (attempt, attempt - 1));
            stored = Some(on_hand_back(report));
        }
        assert_eq!(stored.unwrap().state, State::Queued);
    }

    #[test]
    fn a_delivery_that_was_handed_back_costs_no_attempt() {
        let (report, announce) = run(deliver(None, message(1, 1, true)));
        assert_eq!((report.attempt, report.attempts.len(), announce), (1, 0, true));
    }

    #[test]
    fn a_job_that_fails_is_tried_again_until_its_retries_are_used_up() {
        let retry = retries(2);
        let (first, _) = run(deliver(None, message(1, 1, false)));
        let first = fails(first, true, &retry);
        assert_eq!((first.state, first.times.next.as_deref()), (State::Retrying, Some("1970-01-01T00:00:01.000Z")));
        let (second, _) = run(deliver(Some(first), message(2, 2, false)));
        assert_eq!((second.attempt, second.attempts.len(), second.outcome.is_none()), (2, 1, true));
        // One that was lost in between costs no retry.
        let (third, _) = run(deliver(Some(second), message(2, 2, true)));
        let third = fails(third, true, &retry);
        assert_eq!((third.state, third.times.next.as_deref()), (State::Retrying, Some("1970-01-01T00:00:02.000Z")));
        let (fourth, _) = run(deliver(Some(third), message(3, 4, false)));
        let dead = fails(fourth, true, &retry);
        let kinds: Vec<_> = dead.attempts.iter().map(|record| record.outcome.kind).collect();
        assert_eq!((dead.state, kinds), (State::Dead, vec![OutcomeKind::Error, OutcomeKind::Lost, OutcomeKind::Error]));
    }

    #[test]
    fn what_is_permanent_or_was_not_to_be_retried_ends_at_once() {
        let (report, _) = run(deliver(None, message(1, 1, false)));
        assert_eq!(fails(report.clone(), false, &retries(2)).state, State::Failed);
        assert_eq!(fails(report, true, &AT_ONCE).state, State::Failed);
    }

    #[test]
    fn a_message_whose_attempt_has_ended_sends_the_next_one() {
        let (report, _) = run(deliver(None, message(1, 1, false)));
        let retrying = fails(report, true, &retries(2));
        // Its node stored the end and died.
        assert!(matches!(deliver(Some(retrying.clone()), message(1, 1, true)), Decision::SendNext(_)));
        // Or it did not, and somebody published the job twice. The server drops what it has had before.
        assert!(matches!(deliver(Some(retrying), message(9, 1, false)), Decision::SendNext(_)));
    }

    #[test]
    fn a_second_message_for_an_attempt_that_runs_is_dropped() {
        let (running, _) = run(deliver(None, message(1, 1, false)));
        assert_eq!(deliver(Some(running.clone()), message(2, 1, true)), Decision::LookFor { message: 1 });
        let alone = Message { alone: true, ..message(2, 1, true) };
        assert_eq!(run(deliver(Some(running.clone()), alone)).0.attempt, 2);
        let (_, announce) = run(deliver(Some(running), message(1, 1, true)));
        assert!(announce);
    }

    #[test]
    fn a_job_that_nobody_wants_ends_instead_of_running() {
        let end =
            |stored: Option<Report>, unwanted| on_delivery(queued(), stored, message(1, 1, false), Some(unwanted), "a");
        let expired = Unwanted::Expired(Span(std::time::Duration::from_secs(5)));
        for (unwanted, said) in [(Unwanted::Cancelled, "cancelled"), (expired, "5s")] {
            let Decision::Finish(report) = end(None, unwanted) else { panic!() };
            assert_eq!(report.state, State::Cancelled);
            assert!(report.outcome.unwrap().message.unwrap().contains(said));
        }
        // It has started before.
        let (running, _) = run(deliver(None, message(1, 1, false)));
        assert!(matches!(end(Some(running), expired), Decision::Run { .. }));
    }

    #[test]
    fn a_job_expires_only_before_it_starts_and_says_that_it_starts() {
        let after = Span(std::time::Duration::from_secs(5));
        let spec = JobSpec { expires_ms: Some(5_000), ..JobSpec::new(new_job_id(), String::new()) };
        let fresh = Report { spec: Some(spec.into()), ..queued() };
        let Decision::Run { report, announce } = on_delivery(fresh.clone(), None, message(1, 1, false), None, "a")
        else {
            panic!()
        };
        assert!(announce);
        assert_eq!(on_expiry(*report.clone(), after), None);
        assert_eq!(on_expiry(on_hand_back(*report), after), None);
        let expired = on_expiry(fresh, after).unwrap();
        assert_eq!((expired.state, expired.attempt), (State::Cancelled, 0));
        assert!(expired.outcome.clone().unwrap().message.unwrap().contains("5s"));
        assert_eq!(on_expiry(expired, after), None);
    }

    #[test]
    fn a_late_write_replaces_neither_an_end_nor_a_later_attempt() {
        let at = |attempt, state, message| Report { attempt, state, message: Some(message), ..queued() };
        let mine = at(1, State::Failed, 7);
        assert_eq!(on_refused(None, &mine), Refused::Again);
        for (stored, answer) in [
            (at(1, State::Running, 7), Refused::Again),
            (at(1, State::Cancelled, 7), Refused::Drop),
            (Report { node: Some("b".into()), ..at(1, State::Running, 7) }, Refused::Leave),
            (at(2, State::Running, 7), Refused::Leave),
            (at(2, State::Running, 8), Refused::Drop),
            (at(1, State::Retrying, 8), Refused::Drop),
            (Report { counts_from: 2, message: None, ..at(1, State::Queued, 0) }, Refused::Drop),
        ] {
            assert_eq!(on_refused(Some(&stored), &mine), answer, "{stored:?}");
        }
        assert_eq!(on_refused(Some(&at(2, State::Running, 7)), &at(1, State::Succeeded, 7)), Refused::Again);
    }

    #[test]
    fn a_cancel_finishes_what_waits_and_leaves_what_runs_to_its_node() {
        let running = Report { state: State::Running, attempt: 1, ..queued() };
        assert!(matches!(on_cancel(queued(), false), Cancel::Finish(_)));
        assert_eq!(on_cancel(running.clone(), false), Cancel::Wait);
        for is_abandoned in [false, true] {
            let dead = Report { state: State::Dead, ..queued() };
            assert_eq!(on_cancel(dead, is_abandoned), Cancel::TooLate(State::Dead));
        }
        let Cancel::Finish(ended) = on_cancel(running, true) else { panic!("nobody has it") };
        assert_eq!((ended.state, ended.attempts[0].outcome.kind), (State::Cancelled, OutcomeKind::Lost));
    }
}
