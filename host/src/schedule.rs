//! Recurring jobs: when a schedule ticks, and what a tick does. Pure; `ticks` does the input and output.
//!
//! Each schedule has one message that waits in NATS for its next tick. Whoever receives it decides here
//! what becomes of it, submits under an id made of the schedule and the tick's time, stores the next
//! message and only then acknowledges: wherever that breaks off, the next one does it again, and the
//! same id means the same job.

mod calendar;

use std::{fmt, str::FromStr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub use calendar::{Calendar, CalendarError};

use crate::wire::{Concurrency, JobId, JobSpec, State};

/// A tick that is handled later than this, or after the one that follows it, was missed.
pub const MISSED_AFTER: Duration = Duration::from_secs(60);
/// Ticks that are remembered.
pub const HISTORY_MAX: usize = 20;
/// Longest jitter.
pub const JITTER_MS_MAX: u64 = 86_400_000;

/// What is to recur, and when. Kept as JSON under `def.NAME` of the bucket of schedules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Version of this.
    pub v: u32,
    /// Its name.
    pub name: String,
    /// When it ticks.
    pub when: When,
    /// What happens if the last job has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens to ticks that nobody was there for.
    #[serde(default)]
    pub missed: Missed,
    /// A job starts up to this much after its tick, always the same for the same tick.
    #[serde(default)]
    pub jitter_ms: u64,
    /// Whether it ticks at all.
    #[serde(default)]
    pub paused: bool,
    /// Ticks are after this: when it was made, or resumed.
    pub since: Timestamp,
    /// The job; its id and times are those of the tick.
    pub job: JobSpec,
}

/// When a schedule ticks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At the times of a calendar, in a time zone.
    Cron {
        /// Five fields, or six with seconds first.
        pattern: String,
        /// IANA name of the zone.
        tz: String,
    },
    /// Every so many milliseconds, counted from `since`.
    EveryMs(u64),
}

/// What happens if the last job has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// Nothing is submitted.
    #[default]
    Skip,
    /// The next job is submitted all the same.
    Queue,
    /// The last job is cancelled.
    Replace,
}

/// What happens to ticks that nobody was there for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// Of all that were missed the last one is run.
    #[default]
    Last,
    /// Each is run once, in order.
    All,
}

/// What is known of a schedule's past. Kept as JSON under `state.NAME`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last ticks, the oldest first.
    #[serde(default)]
    pub ticks: Vec<Ticked>,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticked {
    /// When it was due.
    pub due: Timestamp,
    /// How late it was handled.
    pub lag_ms: u64,
    /// The job that was submitted.
    pub job: Option<JobId>,
    /// Why none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Ticks before this one that were left out because nobody was there for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a tick does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The tick whose job is submitted, if one is.
    pub run: Option<Timestamp>,
    /// Cancel the last job before.
    pub replace: bool,
    /// Why nothing is submitted.
    pub skipped: Option<String>,
    /// Ticks that were left out.
    pub missed: u64,
    /// The next tick; `None` if there is none any more.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// When it ticks, ready to be asked.
    pub fn calendar(&self) -> Result<Calendar, CalendarError> {
        match &self.when {
            When::Cron { pattern, tz } => Calendar::cron(pattern, tz),
            When::EveryMs(ms) => Calendar::every(Duration::from_millis(*ms), self.since),
        }
    }

    /// Decides about the tick that was `due`, at `now`. `last` is the state of the job of the tick before.
    pub fn on_tick(&self, due: Timestamp, now: Timestamp, last: Option<State>) -> Result<Decision, CalendarError> {
        let calendar = self.calendar()?;
        // A clock that is behind the server's says that the tick has not come: it has.
        let now = now.max(due);
        let following = calendar.after(due)?;
        let (run, missed, next) = match self.missed {
            Missed::All => (Some(due), 0, following),
            Missed::Last | Missed::Skip => {
                let (latest, passed) = calendar.last_until(due, now)?;
                let late = now.duration_since(latest).unsigned_abs() > MISSED_AFTER;
                let next = calendar.after(latest)?;
                match self.missed {
                    Missed::Skip if late => (None, passed + 1, next),
                    _ => (Some(latest), passed, next),
                }
            }
        };
        let running = last.is_some_and(|state| !state.is_terminal());
        let (run, replace, skipped) = match (run, self.overlap) {
            (None, _) => (None, false, Some("nobody was there for it in time".to_owned())),
            (Some(_), Overlap::Skip) if running => (None, false, Some("the job before it has not ended".to_owned())),
            (Some(run), Overlap::Replace) => (Some(run), running, None),
            (Some(run), _) => (Some(run), false, None),
        };
        Ok(Decision { run, replace, skipped, missed, next })
    }

    /// The job of a tick.
    pub fn job_at(&self, tick: Timestamp) -> JobSpec {
        let start = tick.checked_add(self.jitter(tick)).unwrap_or(tick);
        let at = (self.jitter_ms > 0).then(|| start.to_string());
        // Jobs of ticks that are not to overlap run one after the other.
        let alone =
            (self.overlap == Overlap::Queue).then(|| Concurrency { key: format!("schedule {}", self.name), max: 1 });
        let concurrency = self.job.concurrency.clone().or(alone);
        JobSpec { id: JobId::of_tick(&self.name, tick.as_millisecond()), at, concurrency, ..self.job.clone() }
    }

    /// How much later than its tick a job starts.
    fn jitter(&self, tick: Timestamp) -> Duration {
        let hash = blake3::hash(format!("{}@{tick}", self.name).as_bytes());
        let random = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        Duration::from_millis(random % self.jitter_ms.saturating_add(1))
    }
}

impl History {
    /// The job of the last tick that had one.
    pub fn last_job(&self) -> Option<JobId> {
        self.ticks.iter().rev().find_map(|tick| tick.job)
    }

    /// Adds a tick, or what was said of it before by somebody who then died.
    pub fn add(&mut self, ticked: Ticked) {
        self.ticks.retain(|known| known.due != ticked.due);
        self.ticks.push(ticked);
        let excess = self.ticks.len().saturating_sub(HISTORY_MAX);
        self.ticks.drain(..excess);
    }
}

/// Whether `name` can name a schedule: it becomes part of subjects and keys.
pub fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(valid)
}

/// What is wrong with a word for a policy.
fn unknown<T>(text: &str, words: &str) -> Result<T, String> {
    Err(format!("`{text}` is none of {words}"))
}

impl Overlap {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Overlap::Skip => "skip",
            Overlap::Queue => "queue",
            Overlap::Replace => "replace",
        }
    }
}

impl Missed {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Missed::Skip => "skip",
            Missed::Last => "last",
            Missed::All => "all",
        }
    }
}

impl FromStr for Overlap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "skip" => Ok(Overlap::Skip),
            "queue" => Ok(Overlap::Queue),
            "replace" => Ok(Overlap::Replace),
            _ => unknown(text, "skip, queue and replace"),
        }
    }
}

impl FromStr for Missed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "skip" => Ok(Missed::Skip),
            "last" => Ok(Missed::Last),
            "all" => Ok(Missed::All),
            _ => unknown(text, "skip, last and all"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Cron { pattern, tz } => write!(f, "{pattern} ({tz})"),
            When::EveryMs(ms) => write!(f, "every {}", crate::units::Span(Duration::from_millis(*ms))),
        }
    }
}

/// A zone by its IANA name, from the data that comes with the program: the same on every node.
fn zone(name: &str) -> Result<TimeZone, CalendarError> {
    jiff::tz::TimeZoneDatabase::bundled().get(name).map_err(|_| CalendarError::Zone { name: name.to_owned() })
}

#[cfg(test)]
mod tests;
