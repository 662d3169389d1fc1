//! Flags about where and when a job runs and how often it is tried: the same for `submit` and `schedule add`.

use std::time::Duration;

use clap::Args;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{CliError, common::pair};
use crate::{
    units::Span,
    wire::{Concurrency, JobSpec, Retry, timestamp},
};

/// A result must outlive a late look.
const KEEP_MIN: Duration = Duration::from_secs(60);

/// Where and when a job runs.
#[derive(Args, Clone)]
pub(crate) struct PlacementArgs {
    /// Queue to wait in [default: what `wasmjob queue routes` says, else default]
    #[arg(long, help_heading = "Where and when")]
    queue: Option<String>,
    /// 0 to 9, 9 first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9), allow_negative_numbers = true, help_heading = "Where and when")]
    priority: u8,
    /// Label a node must have (repeatable; see `wasmjob nodes ls`)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair, help_heading = "Where and when")]
    label: Vec<(String, String)>,
    /// Run at most N jobs with this key at the same time; the others wait
    #[arg(long, value_name = "KEY=N", value_parser = concurrency, help_heading = "Where and when")]
    concurrency: Option<Concurrency>,
    /// Cancel the job if it has not started this long after it could, such as 10m
    #[arg(long, value_name = "TIME", help_heading = "Where and when")]
    expires: Option<Span>,
    /// How long the result is kept, such as 1h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", help_heading = "Where and when")]
    keep: Span,
    /// Try again this often if it fails
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, help_heading = "Retries")]
    retries: u32,
    /// What to try again: error, trap, limit (repeatable) [default: error, trap]
    #[arg(long, value_name = "KIND", requires = "retries", help_heading = "Retries")]
    retry_on: Vec<String>,
    /// Longest wait before the first retry; it doubles each time, and a random part of it is waited
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "retries", help_heading = "Retries")]
    backoff: Span,
    /// Longest wait before any retry
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "retries", help_heading = "Retries")]
    backoff_max: Span,
    /// Tell the job that it should come to an end after this time (`cancelled()`)
    #[arg(long, value_name = "TIME", default_value = "1h", help_heading = "Where and when")]
    soft: Span,
}

/// When a job starts.
#[derive(Args, Clone)]
pub(crate) struct StartArgs {
    /// Not before this time, such as 2026-01-31T07:30:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "delay", value_parser = time_of_day, help_heading = "Where and when")]
    at: Option<OffsetDateTime>,
    /// Not before this much time has passed, such as 90s or 2h
    #[arg(long = "in", id = "delay", value_name = "TIME", help_heading = "Where and when")]
    delay: Option<Span>,
}

impl PlacementArgs {
    /// Whether the job goes where routes say.
    pub(crate) fn is_routed(&self) -> bool {
        self.queue.is_none()
    }

    /// Puts the flags into a spec; its queue is the one of its route if no flag names one. Errors: a flag that
    /// makes no sense.
    pub(crate) fn put_into(&self, spec: &mut JobSpec, route: Option<&str>) -> Result<(), CliError> {
        if self.keep.0 < KEEP_MIN {
            return Err(CliError::usage(format!("--keep {} is too short; at least {}", self.keep, Span(KEEP_MIN))));
        }
        if let Some(queue) = self.queue.as_deref().or(route) {
            queue.clone_into(&mut spec.queue);
        }
        spec.priority = self.priority;
        for (key, value) in &self.label {
            if let Some(other) = spec.labels.insert(key.clone(), value.clone()).filter(|other| other != value) {
                let both = format!("--label {key}={other} and --label {key}={value} cannot both be met");
                return Err(CliError::usage(both).hint("give each label once"));
            }
        }
        spec.concurrency.clone_from(&self.concurrency);
        spec.expires_ms = self.expires.map(millis);
        spec.result_ttl_ms = millis(self.keep);
        spec.soft_ms = millis(self.soft);
        let usual = Retry::default();
        spec.retry = Retry {
            max: self.retries,
            on: if self.retry_on.is_empty() { usual.on } else { self.retry_on.clone() },
            backoff_ms: millis(self.backoff),
            cap_ms: millis(self.backoff_max),
            ..Retry::default()
        };
        Ok(())
    }
}

impl StartArgs {
    /// When the job may start; nothing if that is at once.
    pub(crate) fn time(&self) -> Option<String> {
        let after = self.delay.map(|delay| OffsetDateTime::now_utc() + delay.0);
        self.at.or(after).and_then(timestamp)
    }
}

fn concurrency(text: &str) -> Result<Concurrency, String> {
    let (key, max) = pair(text)?;
    let max = max.parse().map_err(|_| format!("`{max}` is no number of jobs; KEY=N is wanted, such as gpu=2"))?;
    Ok(Concurrency { key, max })
}

fn millis(span: Span) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}

fn time_of_day(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "a time with its zone is wanted, like 2026-01-31T07:30:00Z or 2026-01-31T08:30:00+01:00".into())
}
