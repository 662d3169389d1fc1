//! `wasmjob logs`: what a job wrote to standard error and its log.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use tokio::time::timeout;
use wasmjob_runtime::LogStream;

use super::{CliError, Exit, Global, common::Cluster, get, render};
use crate::{
    queue::{LogLine, LogReader},
    wire::JobId,
};

/// How long nothing may come before the end of a job is the end of its log.
const QUIET: Duration = Duration::from_millis(500);

/// Arguments of `logs`.
#[derive(Args)]
pub(crate) struct LogsArgs {
    /// The job's id
    job: JobId,
    /// Go on until the job ends; with --json each line is an object of its own
    #[arg(short, long)]
    follow: bool,
}

/// Prints the log.
pub(crate) async fn logs(global: &Global, args: LogsArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    get::find(&cluster, args.job).await?;
    if args.follow {
        return follow(global, &cluster, args.job).await;
    }
    let lines = LogReader::so_far(&cluster.broker, args.job, 1).await?;
    match global.json {
        true => render::json(&lines)?,
        false => print(&lines)?,
    }
    Ok(Exit::Done)
}

async fn follow(global: &Global, cluster: &Cluster, job: JobId) -> Result<Exit, CliError> {
    let mut pieces = LogReader::follow(&cluster.broker.jetstream, job).await?;
    let (mut ended, mut last) = (false, 0);
    loop {
        match timeout(QUIET, pieces.next()).await {
            Ok(Some((sequence, lines))) => {
                print_each(global, &lines)?;
                last = sequence;
            }
            Ok(None) => return Ok(Exit::Done),
            // The job had ended before, and nothing has come since: what there is may be late, as after the server was
            // started again.
            Err(_) if ended => {
                print_each(global, &LogReader::so_far(&cluster.broker, job, last + 1).await?)?;
                return Ok(Exit::Done);
            }
            Err(_) => {
                let stored = cluster.broker.event(job).await;
                ended = stored.is_ok_and(|stored| stored.is_some_and(|stored| stored.report.state.is_terminal()));
            }
        }
    }
}

/// Prints lines; with `--json` each as an object of its own.
fn print_each(global: &Global, lines: &[LogLine]) -> Result<(), CliError> {
    if !global.json {
        return print(lines);
    }
    for line in lines {
        render::line(&serde_json::to_string(line).map_err(CliError::platform)?)?;
    }
    Ok(())
}

fn print(lines: &[LogLine]) -> Result<(), CliError> {
    for line in lines {
        match line.stream {
            // Pieces of standard error carry their own line ends.
            LogStream::Stderr => render::data(line.text.as_bytes())?,
            level => render::line(&format!("{level}: {}", line.text))?,
        }
    }
    Ok(())
}
