//! `wasmjob get` and `wasmjob result`: what became of a job.

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use serde::Serialize;
use wasmjob_runtime::Usage;

use super::{CliError, Exit, Global, common::Cluster, render, wait::Waiter, waits};
use crate::{
    queue,
    wire::{JobId, OutputValue, Report, State},
};

/// Arguments of `get`.
#[derive(Args)]
pub(crate) struct GetArgs {
    /// The job's id
    job: JobId,
}

/// Arguments of `result`.
#[derive(Args)]
pub(crate) struct ResultArgs {
    /// The job's id
    job: JobId,
    /// Wait for the job to end
    #[arg(long)]
    wait: bool,
}

/// A report, and what the job waits for if it does.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

/// Shows a job.
pub(crate) async fn get(global: &Global, args: GetArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let report = find(&cluster, args.job).await?;
    let waits_for = waits::for_what(&cluster, &report).await?;
    match global.json {
        true => render::json(&Shown { report: &report, waits_for })?,
        false => render::line(&describe(&report, waits_for))?,
    }
    Ok(Exit::Done)
}

/// Prints a job's output.
pub(crate) async fn result(global: &Global, args: ResultArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let mut report = find(&cluster, args.job).await?;
    if args.wait && !report.state.is_terminal() {
        let waiter = Waiter::start(&cluster.broker, vec![args.job]).await?;
        // It may have ended between the look and the listening.
        report = find(&cluster, args.job).await?;
        if !report.state.is_terminal() {
            let bar = render::spinner("waiting for the job");
            let ended = waiter.wait(&cluster.broker, &bar).await;
            bar.finish_and_clear();
            report = ended?.pop().unwrap_or(report);
        }
    }
    if global.json {
        render::json(&report)?;
        return Ok(exit_of(&[report]));
    }
    if !report.state.is_terminal() {
        let message = format!("job {} has no result yet: it is {}", report.job, report.state.name());
        render::talk(format!("error: {message}\nhint: `wasmjob result --wait {}` waits for it", report.job));
        return Ok(Exit::Failed);
    }
    print_output(&cluster, &report, false).await?;
    tell_failure(&report);
    Ok(exit_of(&[report]))
}

/// The report of a job: its event, or what its queue knows of it.
pub(crate) async fn find(cluster: &Cluster, job: JobId) -> Result<Report, CliError> {
    if let Some(stored) = cluster.broker.event(job).await? {
        return Ok(stored.report);
    }
    if let Some(report) = queue::find_queued(&cluster.broker, job).await? {
        return Ok(report);
    }
    // It may have left the queue between the two looks.
    match cluster.broker.event(job).await? {
        Some(stored) => Ok(stored.report),
        None => Err(CliError::usage(format!("nobody knows job {job}"))
            .hint("results are kept for a day unless submitted with --keep; `wasmjob ps` lists jobs")),
    }
}

/// Prints a job's output, from the report or from the artifacts. With `lines`, each output ends
/// with a line end.
pub(crate) async fn print_output(cluster: &Cluster, report: &Report, lines: bool) -> Result<(), CliError> {
    match &report.output {
        None => Ok(()),
        Some(OutputValue::Artifact(digest)) => {
            let store = cluster.artifacts().await?;
            let mut pieces = store.get(digest, None).await?;
            let mut last = Bytes::new();
            while let Some(piece) = pieces.next().await {
                last = piece?;
                render::data(&last)?;
            }
            end_output(&last, lines)
        }
        Some(carried) => {
            let bytes = carried.bytes().unwrap_or_default();
            render::data(&bytes)?;
            end_output(&bytes, lines)
        }
    }
}

fn end_output(last: &[u8], lines: bool) -> Result<(), CliError> {
    if lines && !last.ends_with(b"\n") { render::data(b"\n") } else { render::end_line(last) }
}

/// Says on stderr why a job did not succeed.
pub(crate) fn tell_failure(report: &Report) {
    if report.state != State::Succeeded {
        render::talk(format!("error: {}", render::failure(report)));
    }
}

/// The exit code that says how these jobs ended.
pub(crate) fn exit_of(reports: &[Report]) -> Exit {
    match reports.iter().all(|report| report.state == State::Succeeded) {
        true => Exit::Done,
        false => Exit::Failed,
    }
}

/// A report for a person.
fn describe(report: &Report, waits_for: Option<String>) -> String {
    let mut lines = vec![
        ("job", report.job.to_string()),
        ("state", report.state.name().to_owned()),
        ("attempt", report.attempt.to_string()),
    ];
    lines.extend(waits_for.map(|what| ("waits for", what)));
    lines.extend(report.node.clone().map(|node| ("node", node)));
    if let Some(spec) = &report.spec {
        lines.push(("component", spec.component.clone()));
        lines.push(("queue", spec.queue.clone()));
    }
    let times = &report.times;
    for (name, time) in [
        ("submitted", &times.submitted),
        ("started", &times.started),
        ("finished", &times.finished),
        ("next", &times.next),
    ] {
        lines.extend(time.clone().map(|time| (name, time)));
    }
    if let Some(progress) = &report.progress {
        let total = progress.total.map_or(String::new(), |total| format!(" of {total}"));
        lines.push(("progress", format!("{}{total} {}", progress.done, progress.message)));
    }
    if let Some(message) = report.outcome.as_ref().and_then(|outcome| outcome.message.clone()) {
        lines.push(("message", message));
    }
    for earlier in &report.attempts {
        let message = earlier.outcome.message.clone().unwrap_or_else(|| "it ended well".into());
        lines.push((
            "earlier",
            format!("attempt {} on {}: {message}", earlier.attempt, earlier.node.as_deref().unwrap_or("-")),
        ));
    }
    lines.extend(report.output.as_ref().map(|output| ("output", describe_output(output))));
    if report.state.is_terminal() && report.usage != Usage::default() {
        lines.push(("cost", render::cost(report)));
    }
    lines.iter().map(|(name, value)| format!("{name:<10} {}", render::plain(value))).collect::<Vec<_>>().join("\n")
}

fn describe_output(output: &OutputValue) -> String {
    match output {
        OutputValue::Artifact(digest) => format!("artifact {digest}"),
        carried => {
            let bytes = carried.bytes().unwrap_or_default();
            format!("{} (print it with `wasmjob result`)", render::bytes(bytes.len() as u64))
        }
    }
}
