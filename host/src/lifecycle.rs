//! What happens to a job: pure decisions, without clocks, servers or files.
//!
//! Everything that moves a job from one state to another is decided here. The worker asks, then does
//! the input and output that the answer calls for.

use wasmjob_runtime::{AttemptReport, Outcome, OutcomeKind, Usage};

use crate::wire::{AttemptRecord, OutputValue, Report, State};

/// Attempts that may be lost with their node before a job is given up: it may be what kills them.
pub const LOST_MAX: usize = 5;

/// What a node does with a job that was delivered to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The job has ended: acknowledge the message and forget it.
    Drop,
    /// End the job without running it.
    Finish(Box<Report>),
    /// Make this attempt.
    Run {
        /// The report while it runs.
        report: Box<Report>,
        /// Store the report before the attempt starts: an earlier one may have killed its node, and
        /// the count of those must not depend on how fast they do it.
        announce: bool,
    },
}

/// Decides about a job that was delivered to `node`.
///
/// `stored` is the job's event, if it has one; `redelivered` says whether the queue delivered the
/// message before; `cancelled` whether somebody asked for the job's end.
pub fn on_delivery(fresh: Report, stored: Option<Report>, redelivered: bool, cancelled: bool, node: &str) -> Decision {
    let mut report = stored.unwrap_or(fresh);
    if report.state.is_terminal() {
        return Decision::Drop;
    }
    // The attempt that the event speaks of has ended without a word, or the message would not be
    // here. A redelivery without an event is an attempt that ended before it was announced.
    if report.state == State::Running {
        let lost = Outcome::ended(OutcomeKind::Lost, "its node disappeared", true);
        let record = report.as_record(lost);
        report.attempts.push(record);
    }
    if cancelled {
        return Decision::Finish(Box::new(ended(report, Outcome::cancelled(), State::Cancelled)));
    }
    if lost(&report.attempts) > LOST_MAX {
        let outcome = Outcome::ended(
            OutcomeKind::Lost,
            format!("given up after {} attempts were lost with their node", lost(&report.attempts)),
            false,
        );
        return Decision::Finish(Box::new(ended(report, outcome, State::Dead)));
    }
    // The count comes from an event that another client may have written.
    report.attempt = report.attempt.saturating_add(1);
    report.state = State::Running;
    report.node = Some(node.to_owned());
    report.usage = Usage::default();
    report.progress = None;
    report.times.started = None;
    Decision::Run { report: Box::new(report), announce: redelivered }
}

/// The report of a job whose attempt its node ends without a result, because the node stops. Not
/// the job's fault: it does not count as lost.
pub fn on_hand_back(mut report: Report) -> Report {
    let node = report.node.as_deref().unwrap_or("its node");
    let outcome = Outcome::ended(OutcomeKind::Cancelled, format!("handed back because {node} was stopping"), true);
    let record = report.as_record(outcome);
    report.attempts.push(record);
    report.state = State::Queued;
    report
}

fn lost(attempts: &[AttemptRecord]) -> usize {
    attempts.iter().filter(|attempt| attempt.outcome.kind == OutcomeKind::Lost).count()
}

/// The report of a job whose attempt ended.
pub fn on_attempt_end(mut report: Report, attempt: AttemptReport, output: Option<OutputValue>) -> Report {
    let state = match attempt.outcome.kind {
        OutcomeKind::Ok => State::Succeeded,
        OutcomeKind::Cancelled => State::Cancelled,
        _ => State::Failed,
    };
    report.output = output;
    report.usage = Usage { queue_ms: report.usage.queue_ms, compile_ms: report.usage.compile_ms, ..attempt.usage };
    ended(report, attempt.outcome, state)
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

/// What to do when storing a report was refused because the event had changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else finished the job: theirs counts.
    Drop,
    /// Only an announcement came between: store again, after this one.
    Again,
}

/// Decides about a refused write, given what is stored now.
pub fn on_refused(stored: Option<&Report>) -> Refused {
    match stored {
        Some(report) if report.state.is_terminal() => Refused::Drop,
        _ => Refused::Again,
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

/// Decides about a cancel, given the job's event or, without one, what is known of it.
pub fn on_cancel(report: Report) -> Cancel {
    match report.state {
        state if state.is_terminal() => Cancel::TooLate(state),
        State::Running => Cancel::Wait,
        _ => Cancel::Finish(Box::new(ended(report, Outcome::cancelled(), State::Cancelled))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::new_job_id;

    fn queued() -> Report {
        Report::queued(new_job_id())
    }

    fn run(decision: Decision) -> (Report, bool) {
        match decision {
            Decision::Run { report, announce } => (*report, announce),
            other => panic!("expected a run: {other:?}"),
        }
    }

    #[test]
    fn the_first_delivery_runs_without_an_announcement() {
        let (report, announce) = run(on_delivery(queued(), None, false, false, "a"));
        assert_eq!(
            (report.state, report.attempt, report.node.as_deref(), announce),
            (State::Running, 1, Some("a"), false)
        );
    }

    #[test]
    fn a_job_that_has_ended_is_never_run_again() {
        for state in [State::Succeeded, State::Failed, State::Dead, State::Cancelled] {
            let stored = Report { state, ..queued() };
            assert_eq!(on_delivery(queued(), Some(stored), true, false, "a"), Decision::Drop);
        }
    }

    #[test]
    fn an_attempt_that_was_lost_is_recorded_and_made_again_until_too_many_are() {
        let mut stored = None;
        for attempt in 1..=u32::try_from(LOST_MAX).unwrap() + 1 {
            let (report, announce) = run(on_delivery(queued(), stored, attempt > 1, false, "a"));
            assert_eq!((report.attempt, report.attempts.len()), (attempt, attempt as usize - 1));
            assert_eq!(announce, attempt > 1);
            stored = Some(report);
        }
        let Decision::Finish(report) = on_delivery(queued(), stored, true, false, "a") else { panic!() };
        assert_eq!((report.state, report.attempts.len()), (State::Dead, LOST_MAX + 1));
    }

    #[test]
    fn an_attempt_that_was_handed_back_is_recorded_and_not_counted_as_lost() {
        let mut stored = None;
        for attempt in 1..20 {
            let (report, _) = run(on_delivery(queued(), stored, true, false, "a"));
            assert_eq!((report.attempt as usize, report.attempts.len()), (attempt, attempt - 1));
            stored = Some(on_hand_back(report));
        }
        assert_eq!(stored.unwrap().state, State::Queued);
    }

    #[test]
    fn a_cancelled_job_ends_instead_of_running() {
        let Decision::Finish(report) = on_delivery(queued(), None, false, true, "a") else { panic!() };
        assert_eq!(report.state, State::Cancelled);
    }

    #[test]
    fn a_refused_write_is_dropped_only_if_the_job_has_ended() {
        assert_eq!(on_refused(None), Refused::Again);
        assert_eq!(on_refused(Some(&Report { state: State::Running, ..queued() })), Refused::Again);
        assert_eq!(on_refused(Some(&Report { state: State::Cancelled, ..queued() })), Refused::Drop);
    }

    #[test]
    fn a_cancel_finishes_what_waits_and_leaves_what_runs_to_its_node() {
        assert!(matches!(on_cancel(queued()), Cancel::Finish(_)));
        assert_eq!(on_cancel(Report { state: State::Running, ..queued() }), Cancel::Wait);
        assert_eq!(on_cancel(Report { state: State::Dead, ..queued() }), Cancel::TooLate(State::Dead));
    }
}
