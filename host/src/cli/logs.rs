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
    let lines = LogReader::so_far(&cluster.broker, args.job).await?;
    match global.json {
        true => render::json(&lines)?,
        false => print(&lines)?,
    }
    Ok(Exit::Done)
}

async fn follow(global: &Global, cluster: &Cluster, job: JobId) -> Result<Exit, CliError> {
    let mut pieces = LogReader::follow(&cluster.broker.jetstream, job).await?;
    let mut ended = false;
    loop {
        match timeout(QUIET, pieces.next()).await {
            Ok(Some(lines)) if global.json => {
                for line in &lines {
                    render::line(&serde_json::to_string(line).map_err(CliError::platform)?)?;
                }
            }
            Ok(Some(lines)) => print(&lines)?,
            Ok(None) => return Ok(Exit::Done),
            // The job had ended before, and nothing has come since.
            Err(_) if ended => return Ok(Exit::Done),
            Err(_) => {
                let stored = cluster.broker.event(job).await;
                ended = stored.is_ok_and(|stored| stored.is_some_and(|stored| stored.report.state.is_terminal()));
            }
        }
    }
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
