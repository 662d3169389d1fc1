//! When something recurs: cron patterns in a time zone, and fixed intervals.
//!
//! When clocks are put forward, a single time of day that does not exist (`30 2 * * *`) is the first
//! moment that does, 3:00; of times that recur within the hours (`*/15 * * * *`, or a list of hours),
//! those that do not exist are left out. When clocks are put back, a single time of day that comes twice
//! is the first of the two; what recurs within the hours goes on through both. Tests hold this.

use std::time::Duration;

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};

use super::zone;

/// Shortest interval: less is a job that loops.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest interval: a year.
pub const EVERY_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Ticks between two moments that are counted one by one; beyond it only the last ones are looked at.
const COUNTED_MAX: u64 = 10_000;

/// Times that recur.
#[derive(Debug, Clone)]
pub enum Calendar {
    /// At the times of a pattern.
    Cron(Box<Cron>, TimeZone),
    /// At `since` plus any number of intervals.
    Every(Duration, Timestamp),
}

/// Why there is no such calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// No pattern.
    #[error("`{pattern}` is no cron pattern: {reason}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// A pattern that no time fits.
    #[error("the cron pattern `{pattern}` never comes: no such day exists")]
    Never {
        /// As given.
        pattern: String,
    },
    /// No zone of the IANA data.
    #[error("there is no time zone `{name}`; they are called like Europe/Berlin or UTC")]
    Zone {
        /// As given.
        name: String,
    },
    /// Too short or too long.
    #[error("an interval is 1s to 366d, not {given}")]
    Interval {
        /// As given.
        given: String,
    },
}

impl Calendar {
    /// The times of a cron pattern in a zone. Errors: one of them makes no sense, or no time fits.
    pub fn cron(pattern: &str, tz: &str) -> Result<Self, CalendarError> {
        let zone = zone(tz)?;
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser
            .parse(pattern)
            .map_err(|error| CalendarError::Pattern { pattern: pattern.to_owned(), reason: reason(pattern, &error) })?;
        let calendar = Calendar::Cron(Box::new(cron), zone);
        match calendar.after(Timestamp::UNIX_EPOCH)? {
            Some(_) => Ok(calendar),
            None => Err(CalendarError::Never { pattern: pattern.to_owned() }),
        }
    }

    /// Every `interval` from `since` on.
    pub fn every(interval: Duration, since: Timestamp) -> Result<Self, CalendarError> {
        match (EVERY_MIN..=EVERY_MAX).contains(&interval) {
            true => Ok(Calendar::Every(interval, since)),
            false => Err(CalendarError::Interval { given: crate::units::Span(interval).to_string() }),
        }
    }

    /// The first time after `moment`.
    pub fn after(&self, moment: Timestamp) -> Result<Option<Timestamp>, CalendarError> {
        Ok(match self {
            Calendar::Cron(cron, zone) => {
                let next = cron.find_next_occurrence(&moment.to_zoned(zone.clone()), false);
                next.ok().map(|next| next.timestamp()).filter(|next| *next > moment)
            }
            Calendar::Every(interval, since) => {
                let passed = moment.as_millisecond().saturating_sub(since.as_millisecond());
                let interval = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
                let steps = passed.div_euclid(interval).saturating_add(1).max(1);
                let next = since.as_millisecond().saturating_add(steps.saturating_mul(interval));
                Timestamp::from_millisecond(next).ok()
            }
        })
    }

    /// Of the times from `due`, which is one, until `now`: the last, and how many come before it.
    pub fn last_until(&self, due: Timestamp, now: Timestamp) -> Result<(Timestamp, u64), CalendarError> {
        if let Calendar::Every(interval, _) = self {
            let passed = now.duration_since(due).unsigned_abs().as_millis() / interval.as_millis().max(1);
            let more = i64::try_from(passed * interval.as_millis()).unwrap_or(0);
            let last = Timestamp::from_millisecond(due.as_millisecond().saturating_add(more)).unwrap_or(due);
            return Ok((last, u64::try_from(passed).unwrap_or(u64::MAX)));
        }
        let (mut last, mut passed) = (due, 0);
        while let Some(next) = self.after(last)?.filter(|next| *next <= now) {
            (last, passed) = (next, passed + 1);
            if passed == COUNTED_MAX {
                return Ok((self.last_before(now, last)?, passed));
            }
        }
        Ok((last, passed))
    }

    /// The last time until `now`, found by going back; at least `known`.
    fn last_before(&self, now: Timestamp, known: Timestamp) -> Result<Timestamp, CalendarError> {
        let Calendar::Cron(cron, zone) = self else { return Ok(known) };
        let last = cron.find_previous_occurrence(&now.to_zoned(zone.clone()), true);
        Ok(last.map_or(known, |last| last.timestamp().max(known)))
    }
}

/// What is wrong with a pattern, in words that say what is wanted.
fn reason(pattern: &str, error: &CronError) -> String {
    match (pattern.split_whitespace().count(), error) {
        (0, _) => "it is empty".into(),
        (1, _) => "it has one field, and 5 or 6 are wanted".into(),
        (fields, _) if !(5..=6).contains(&fields) => format!("it has {fields} fields, and 5 or 6 are wanted"),
        (_, CronError::ComponentError(reason)) if reason.contains("out of bounds") => {
            "a number is out of range: minute 0-59, hour 0-23, day 1-31, month 1-12, day of the week 0-7".into()
        }
        (_, CronError::ComponentError(reason)) => reason.clone(),
        (_, error) => error.to_string(),
    }
}
