//! The report: a job's state, result and history, as events carry it and `--json` prints it.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use wasmjob_runtime::{Digest, Outcome, Progress, Usage, millis};

use super::{JobId, JobSpec};

/// Bytes of most events.
const EVENT_BYTES_USUAL: usize = 2048;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for a node.
    Queued,
    /// Waits for a time or for other jobs.
    Waiting,
    /// An attempt runs.
    Running,
    /// An attempt failed and another will be made.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended wrongly.
    Failed,
    /// Given up on after retries or deliveries were used up, or not a job at all.
    Dead,
    /// Ended because somebody asked.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        matches!(self, State::Succeeded | State::Failed | State::Dead | State::Cancelled)
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Waiting => "waiting",
            State::Running => "running",
            State::Retrying => "retrying",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }
}

/// A job's state, result and history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The job's id.
    pub job: JobId,
    /// Where it is in its life.
    pub state: State,
    /// The last attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// The node of the last attempt.
    pub node: Option<String>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
    /// What it put out.
    pub output: Option<OutputValue>,
    /// Attempts before the last one.
    #[serde(default)]
    pub attempts: Vec<AttemptRecord>,
    /// How far it says it is.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// What the last attempt used.
    #[serde(default)]
    pub usage: Usage,
    /// When things happened.
    #[serde(default)]
    pub times: Times,
    /// The message in its queue that the last attempt was made for, by its sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<u64>,
    /// The first attempt that retries and losses are counted from; later than 1 for a job that somebody
    /// asked for again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub counts_from: u32,
    /// What was asked for, so that an event is enough to run the job again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<JobSpec>>,
}

impl Report {
    /// A job that waits in its queue.
    pub fn queued(job: JobId) -> Self {
        let submitted = job.submitted().and_then(timestamp);
        Report {
            job,
            state: State::Queued,
            attempt: 0,
            node: None,
            outcome: None,
            output: None,
            attempts: Vec::new(),
            progress: None,
            usage: Usage::default(),
            times: Times { submitted, ..Times::default() },
            message: None,
            counts_from: 0,
            spec: None,
        }
    }

    /// When the job may start, or be tried again, as far as that was ever to be waited for.
    pub fn due(&self) -> Option<OffsetDateTime> {
        let next = self.times.next.as_deref().and_then(|next| OffsetDateTime::parse(next, &Rfc3339).ok());
        next.or_else(|| self.spec.as_ref()?.starts_at())
    }

    /// Reads a report from an event. A spec that this version does not know all of is left out: what became of the job
    /// can be told without it.
    pub fn parse(event: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(event).or_else(|error| {
            let mut event: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(event)?;
            event.remove("spec").ok_or(error)?;
            serde_json::from_value(event.into())
        })
    }

    /// Takes note of how long the job has waited until now, if it never started.
    pub fn note_wait(&mut self, now: OffsetDateTime) {
        let submitted = self.job.submitted();
        if let Some(since) = submitted.max(self.due()).filter(|_| self.attempt == 0) {
            self.usage.queue_ms = millis(Duration::try_from(now - since).unwrap_or_default());
        }
    }

    /// The event to publish.
    pub fn to_event(&self) -> Bytes {
        super::spec::json(self, EVENT_BYTES_USUAL)
    }

    /// The last attempt as an entry of the history.
    pub fn as_record(&self, outcome: Outcome) -> AttemptRecord {
        AttemptRecord {
            attempt: self.attempt,
            node: self.node.clone(),
            outcome,
            usage: self.usage.clone(),
            times: self.times.clone(),
        }
    }
}

/// One attempt of the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which, from 1.
    pub attempt: u32,
    /// Where it ran.
    pub node: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used, as far as is known.
    pub usage: Usage,
    /// When.
    pub times: Times,
}

/// When things happened: RFC 3339, UTC, to the millisecond.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Submitted, by the submitter's clock.
    pub submitted: Option<String>,
    /// Started, by the node's clock.
    pub started: Option<String>,
    /// Finished, by the node's clock.
    pub finished: Option<String>,
    /// When the next attempt is due, by the clock of the NATS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `time` the way reports have it: always with three decimals, so that times sort as texts.
/// `None` for years that RFC 3339 has not.
pub fn timestamp(time: OffsetDateTime) -> Option<String> {
    let time = time.to_offset(UtcOffset::UTC);
    let year = u16::try_from(time.year()).ok().filter(|year| *year <= 9999)?;
    let (month, day) = (u8::from(time.month()), time.day());
    let (hour, minute, second, millis) = time.to_hms_milli();
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"))
}

/// What a job put out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputValue {
    /// UTF-8.
    Text(String),
    /// Anything else, in base64.
    Base64(String),
    /// More than fits into a report: the artifact's digest.
    Artifact(Digest),
}

impl OutputValue {
    /// Bytes as text if they are, else in base64.
    pub fn inline(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => OutputValue::Text(text.to_owned()),
            Err(_) => OutputValue::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    /// The bytes, if the report carries them. Wrong base64 is an empty output: it comes from a
    /// client that wrote the event itself.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            OutputValue::Text(text) => Some(Bytes::from(text.clone())),
            OutputValue::Base64(text) => Some(BASE64_STANDARD.decode(text).unwrap_or_default().into()),
            OutputValue::Artifact(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_decimals_and_sort_as_texts() {
        let at = |nanos: i128| timestamp(OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap()).unwrap();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_530_999_999), "1970-01-01T00:00:01.530Z");
        assert_eq!(at(1_790_000_009_087_000_000), "2026-09-21T14:13:29.087Z");
        assert_eq!(timestamp(OffsetDateTime::UNIX_EPOCH.replace_year(-1).unwrap()), None);
        assert!(at(1_530_000_000) < at(1_531_000_000) && at(1_999_000_000) < at(2_000_000_000));
    }

    #[test]
    fn what_became_of_a_job_is_told_also_if_its_spec_is_of_a_newer_version() {
        let job = crate::wire::new_job_id();
        let report = Report {
            state: State::Succeeded,
            attempt: 3,
            output: Some(OutputValue::inline(b"42")),
            spec: Some(JobSpec::new(job, "x").into()),
            ..Report::queued(job)
        };
        let event = serde_json::to_value(&report).unwrap();
        assert_eq!(Report::parse(event.to_string().as_bytes()).unwrap(), report);
        let mut newer = event.clone();
        newer["spec"]["from_the_future"] = true.into();
        assert_eq!(Report::parse(newer.to_string().as_bytes()).unwrap(), Report { spec: None, ..report });
        let mut nonsense = event;
        nonsense["attempt"] = "many".into();
        assert!(Report::parse(nonsense.to_string().as_bytes()).is_err());
    }

    #[test]
    fn who_never_started_waited_all_the_time_since_it_could() {
        let job = crate::wire::new_job_id();
        let submitted = job.submitted().unwrap();
        let waited = |mut report: Report| {
            report.note_wait(submitted + Duration::from_secs(5));
            report.usage.queue_ms
        };
        assert!((waited(Report::queued(job)) - 5_000.0).abs() < 1.0);
        let at = timestamp(submitted + Duration::from_secs(2));
        let later = JobSpec { at, ..JobSpec::new(job, "x") };
        assert!((waited(Report { spec: Some(later.into()), ..Report::queued(job) }) - 3_000.0).abs() < 2.0);
        assert!(waited(Report { attempt: 1, ..Report::queued(job) }).abs() < 1.0);
    }
}
