//! Recurring jobs: when a schedule ticks, and what a tick does. Pure; `ticks` does the input and output.
//!
//! Each schedule has one message that waits in NATS for its next tick. Whoever receives it decides here
//! what becomes of it, writes that into the history, submits under an id made of the schedule and the tick's
//! time, stores the next message and only then acknowledges: wherever that breaks off, the next one goes on with
//! what was decided, and the same id means the same job.

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
    /// Ticks are after this: when it was made or resumed, or for an interval its last tick before that.
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
    /// Each is run once, in order: when the one before it has ended.
    All,
}

/// What is known of a schedule's past. Kept as JSON under `state.NAME`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last ticks, the oldest first, and the last one before that had a job if they have none.
    #[serde(default)]
    pub ticks: Vec<Ticked>,
    /// When somebody was there again after ticks were missed that are to be made up for, if any ever were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Timestamp>,
    /// The revision of its entry: who replaces it must have seen it.
    #[serde(skip)]
    pub revision: u64,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticked {
    /// When it was due. Of ticks that were left out nobody tells but the one after them.
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

/// What becomes of a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Its job is submitted.
    Run,
    /// The last job is cancelled, then its own is submitted.
    Replace,
    /// Nothing is submitted, for this reason.
    Skip(&'static str),
    /// It comes again: the last job has to end first.
    Wait,
}

/// What is decided about a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The tick that this is about. Those between the one that came and this one are left out.
    pub tick: Timestamp,
    /// What becomes of it.
    pub action: Action,
    /// Ticks that were left out.
    pub missed: u64,
    /// The history's `back` from now on.
    pub back: Option<Timestamp>,
}

impl Schedule {
    /// When it ticks, ready to be asked.
    pub fn calendar(&self) -> Result<Calendar, CalendarError> {
        match &self.when {
            When::Cron { pattern, tz } => Calendar::cron(pattern, tz),
            When::EveryMs(ms) => Calendar::every(Duration::from_millis(*ms), self.since),
        }
    }

    /// Decides about the tick that was `due`, at `now`. `history` is that of the ticks before, and `last` the state of
    /// their last job.
    pub fn on_tick(
        &self,
        due: Timestamp,
        now: Timestamp,
        history: &History,
        last: Option<State>,
    ) -> Result<Decision, CalendarError> {
        let calendar = self.calendar()?;
        // A clock that is behind the server's says that the tick has not come: it has.
        let now = now.max(due);
        let (tick, missed) = match self.missed {
            Missed::All => (due, 0),
            Missed::Last | Missed::Skip => calendar.last_until(due, now)?,
        };
        let is_late = now.duration_since(tick).unsigned_abs() > MISSED_AFTER;
        let back = match self.missed {
            Missed::All => history.back(tick, now, is_late || calendar.after(tick)?.is_some_and(|next| next <= now)),
            Missed::Last | Missed::Skip => None,
        };
        let runs = last.is_some_and(|state| !state.is_terminal());
        let is_made_up_for = back.is_some_and(|back| tick <= back);
        let action = match (self.missed, self.overlap) {
            (Missed::Skip, _) if is_late => Action::Skip("nobody was there for it in time"),
            (Missed::All, overlap) if runs && (is_made_up_for || overlap == Overlap::Queue) => Action::Wait,
            (_, Overlap::Skip) if runs => Action::Skip("the job before it has not ended"),
            (_, Overlap::Replace) if runs => Action::Replace,
            _ => Action::Run,
        };
        Ok(Decision { tick, action, missed, back })
    }

    /// The tick after `last`, which was the last one there was.
    pub fn next(&self, last: Option<&Ticked>) -> Option<Timestamp> {
        let after = last.map_or(self.since, |last| last.due.max(self.since));
        self.calendar().ok()?.after(after).ok()?
    }

    /// Itself, paused or going on from `now`.
    pub fn paused(self, paused: bool, now: Timestamp) -> Result<Self, CalendarError> {
        let since = match &self.when {
            // An interval goes on as it was counted.
            When::EveryMs(_) => self.calendar()?.last_until(self.since, now.max(self.since))?.0,
            When::Cron { .. } => now,
        };
        Ok(Schedule { paused, since, ..self })
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

    /// Adds a tick, or what is known of it now.
    pub fn add(&mut self, ticked: Ticked) {
        self.ticks.retain(|known| known.due != ticked.due);
        self.ticks.push(ticked);
        while self.ticks.len() > HISTORY_MAX {
            // By the last job there was it is seen whether the next one may run.
            let last = self.ticks.iter().rposition(|tick| tick.job.is_some());
            self.ticks.remove(usize::from(last == Some(0)));
        }
    }

    /// What was decided about the tick that was `due`, if that was: by somebody who then died, before or after the
    /// job was submitted.
    pub fn decided(&self, due: Timestamp) -> Option<&Ticked> {
        self.ticks.last().filter(|known| known.due >= due)
    }

    /// When somebody was there again, as known after a tick that was `due`. One that is late because those before it
    /// had to wait was not missed.
    fn back(&self, due: Timestamp, now: Timestamp, is_late: bool) -> Option<Timestamp> {
        let is_known = self.back.is_some_and(|back| due <= back);
        let was_held_up = self.ticks.last().is_some_and(|before| due <= before.handled());
        if is_late && !is_known && !was_held_up { Some(now) } else { self.back }
    }
}

impl Ticked {
    fn handled(&self) -> Timestamp {
        self.due.checked_add(Duration::from_millis(self.lag_ms)).unwrap_or(Timestamp::MAX)
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
