//! What is printed: tables, reports, the line of what a job cost.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wasmjob_runtime::{Outcome, Usage};

use super::CliError;
use crate::{
    units::{Size, Span},
    wire::{Report, State},
};

/// Text from jobs, clients and nodes as one harmless line: no control characters, so that nobody can
/// move the reader's cursor or forge lines.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes data to stdout. A reader that went away (`| head`) ends the command quietly.
pub(crate) fn data(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::quiet()),
        Err(error) => Err(CliError::platform(format!("stdout cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Ends the line that data left open, if a person is reading.
pub(crate) fn end_line(last: &[u8]) -> Result<(), CliError> {
    let open = !last.is_empty() && !last.ends_with(b"\n");
    if open && io::stdout().is_terminal() { data(b"\n") } else { Ok(()) }
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    data(format!("{text}\n").as_bytes())
}

/// Writes a value as JSON to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::platform)?;
    line(&text)
}

/// Says something on stderr.
pub(crate) fn talk(text: impl AsRef<str>) {
    // There is nobody to tell if stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Says on stderr what to look out for; as a JSON object if that is how the rest is said.
pub(crate) fn warn(json: bool, text: impl AsRef<str>) {
    match json {
        true => talk(serde_json::json!({ "warning": text.as_ref() }).to_string()),
        false => talk(format!("warning: {}", text.as_ref())),
    }
}

/// So many jobs, of which there is this to say.
pub(crate) fn jobs(number: u64, what: &str) -> String {
    format!("{} {} {what}", count(number), if number == 1 { "job" } else { "jobs" })
}

/// A table with these headings and rows, without lines, for people and for `awk`.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| plain(cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
    line(&text)
}

/// A bar or spinner on stderr, if a person is watching.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message(message.into());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Milliseconds for a person.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.2} s", ms / 1e3),
        // What an event says may be anything.
        ms => match Duration::try_from_secs_f64((ms / 1e3).round()) {
            Ok(time) => Span(time).to_string(),
            Err(_) => format!("{ms:e} ms"),
        },
    }
}

/// Bytes for a person.
pub(crate) fn bytes(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// A large number for a person.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long ago a time of a report was.
pub(crate) fn age(time: Option<&str>) -> String {
    let then = time.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    then.map_or("-".into(), |then| {
        let seconds = (OffsetDateTime::now_utc() - then).whole_seconds().max(0).unsigned_abs();
        match seconds {
            0..120 => format!("{seconds}s"),
            120..7_200 => format!("{}m", seconds / 60),
            7_200..172_800 => format!("{}h", seconds / 3_600),
            _ => format!("{}d", seconds / 86_400),
        }
    })
}

/// Says what a job cost, if it got so far.
pub(crate) fn tell_cost(report: &Report) {
    if report.usage != Usage::default() {
        talk(cost(report));
    }
}

/// One line of how a job ended and what it cost.
pub(crate) fn cost(report: &Report) -> String {
    let usage = &report.usage;
    let node = report.node.as_ref().map_or(String::new(), |node| format!(" on {}", plain(node)));
    let mut line = format!(
        "{}{node} in {}: fuel {}, peak memory {}, in {}, out {}",
        report.state.name(),
        millis(usage.wall_ms),
        count(usage.fuel),
        bytes(usage.memory_bytes_peak),
        bytes(usage.bytes_in),
        bytes(usage.bytes_out),
    );
    if usage.compile_ms > 0.0 {
        line += &format!(", compiled in {}", millis(usage.compile_ms));
    }
    if usage.queue_ms >= 1.0 {
        line += &format!(", queued {}", millis(usage.queue_ms));
    }
    if usage.log_bytes_dropped > 0 {
        line += &format!(", {} of log dropped", bytes(usage.log_bytes_dropped));
    }
    line
}

/// Why a job did not succeed, for a person.
pub(crate) fn failure(report: &Report) -> String {
    let (limit, message) = match &report.outcome {
        Some(outcome) => (outcome.limit, outcome.message.clone().unwrap_or_default()),
        None => (None, "no outcome".into()),
    };
    let message = plain(&message);
    match (report.state, limit) {
        (State::Cancelled, _) if Some(&message) == Outcome::cancelled().message.as_ref() => {
            format!("job {} was cancelled", report.job)
        }
        (State::Cancelled, _) => format!("job {} was cancelled: {message}", report.job),
        (_, Some(limit)) => format!("job {} reached its {limit} limit: it {message}", report.job),
        _ => format!("job {} did not succeed: {message}", report.job),
    }
}
