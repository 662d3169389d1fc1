//! When a job that failed is tried again: pure arithmetic.

use std::time::Duration;

use wasmjob_runtime::{Outcome, OutcomeKind};

use crate::wire::Retry;

/// Most retries of one job: its event carries the end of each attempt.
pub const RETRIES_MAX: u32 = 100;
/// Longest wait between two attempts: a year.
pub const WAIT_MS_MAX: u64 = 366 * 86_400_000;
/// Largest factor between two waits.
pub const FACTOR_MAX: f64 = 1_000.0;
/// Kinds of outcome that can be retried.
pub const KINDS: [&str; 3] = ["error", "trap", "limit"];
/// How waits can be spread.
pub const JITTERS: [&str; 2] = ["full", "none"];

/// Whether an attempt that ended like this may be followed by another one.
pub fn allows(retry: &Retry, outcome: &Outcome) -> bool {
    let kind = match outcome.kind {
        OutcomeKind::Error => "error",
        OutcomeKind::Trap => "trap",
        OutcomeKind::Limit => "limit",
        _ => return false,
    };
    retry.max > 0 && outcome.retryable && retry.on.iter().any(|on| on == kind)
}

/// The wait before the next retry, after this many; `None` if there is none left.
///
/// `random` is from 0 to 1: with full jitter the wait is that part of what it would be without, so that
/// jobs that failed together do not come back together.
pub fn wait(retry: &Retry, retries: usize, random: f64) -> Option<Duration> {
    let retries = i32::try_from(retries).ok().filter(|retries| i64::from(*retries) < i64::from(retry.max))?;
    #[allow(clippy::cast_precision_loss)]
    let (backoff, cap) = (retry.backoff_ms as f64, retry.cap_ms as f64);
    let wait = (backoff * retry.factor.powi(retries)).min(cap);
    let spread = if retry.jitter == "full" { random.clamp(0.0, 1.0) } else { 1.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(Duration::from_millis((wait * spread) as u64))
}

/// Checks what a spec says. Errors: what is wrong.
pub fn check(retry: &Retry) -> Result<(), String> {
    let unknown = |kind: &&String| !KINDS.contains(&kind.as_str());
    if retry.max > RETRIES_MAX {
        return Err(format!("`max` is {}, more than {RETRIES_MAX}", retry.max));
    }
    if let Some(kind) = retry.on.iter().find(unknown) {
        return Err(format!("`{kind}` in `on` cannot be retried; what can is {}", KINDS.join(", ")));
    }
    if !JITTERS.contains(&retry.jitter.as_str()) {
        return Err(format!("`jitter` is `{}`, and can be {}", retry.jitter, JITTERS.join(" or ")));
    }
    if !(1.0..=FACTOR_MAX).contains(&retry.factor) {
        return Err(format!("`factor` is {}, and can be 1 to {FACTOR_MAX}", retry.factor));
    }
    let longest = retry.backoff_ms.max(retry.cap_ms);
    if longest > WAIT_MS_MAX {
        return Err(format!("a wait of {longest} ms is more than {WAIT_MS_MAX}, a year"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(max: u32) -> Retry {
        Retry { max, backoff_ms: 1_000, factor: 2.0, cap_ms: 5_000, ..Retry::default() }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_end_with_the_retries() {
        let waits: Vec<_> = (0..6).map(|done| wait(&retry(5), done, 1.0).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(1_000), Some(2_000), Some(4_000), Some(5_000), Some(5_000), None]);
        assert_eq!(wait(&retry(5), 1, 0.25), Some(Duration::from_millis(500)));
        assert_eq!(wait(&Retry { jitter: "none".into(), ..retry(5) }, 1, 0.25), Some(Duration::from_secs(2)));
        assert_eq!(wait(&retry(RETRIES_MAX), 99, 1.0), Some(Duration::from_secs(5)));
    }

    #[test]
    fn only_what_was_asked_for_and_can_end_differently_is_retried() {
        let ended = |kind, retryable| Outcome::ended(kind, "why", retryable);
        for (kind, allowed) in [
            (OutcomeKind::Error, true),
            (OutcomeKind::Trap, true),
            (OutcomeKind::Limit, false),
            (OutcomeKind::Invalid, false),
            (OutcomeKind::Cancelled, false),
            (OutcomeKind::Ok, false),
        ] {
            assert_eq!(allows(&retry(1), &ended(kind, true)), allowed, "{kind:?}");
            assert!(!allows(&retry(1), &ended(kind, false)) && !allows(&retry(0), &ended(kind, true)));
        }
        let limits = Retry { on: vec!["limit".into()], ..retry(1) };
        assert!(allows(&limits, &ended(OutcomeKind::Limit, true)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (wrong, named) in [
            (Retry { max: 101, ..retry(1) }, "101"),
            (Retry { on: vec!["lost".into()], ..retry(1) }, "`lost`"),
            (Retry { jitter: "some".into(), ..retry(1) }, "full or none"),
            (Retry { factor: 0.5, ..retry(1) }, "0.5"),
            (Retry { factor: f64::NAN, ..retry(1) }, "NaN"),
            (Retry { cap_ms: u64::MAX, ..retry(1) }, "a year"),
        ] {
            let error = check(&wrong).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(check(&Retry::default()), Ok(()));
    }
}
