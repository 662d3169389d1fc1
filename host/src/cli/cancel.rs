//! `wasmjob cancel`: ends jobs, waiting or running.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{CliError, Exit, Global, common::Cluster, get, render, wait::Waiter};
use crate::{
    lifecycle::{self, Cancel},
    queue::QueueError,
    wire::{JobId, State, timestamp},
};

/// How long a node may take to say that a running job has ended.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `cancel`.
#[derive(Args)]
pub(crate) struct CancelArgs {
    /// The jobs' ids
    #[arg(required = true)]
    jobs: Vec<JobId>,
}

/// Asks for the end of all the jobs, then sees each of them end.
pub(crate) async fn cancel(global: &Global, args: CancelArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let ends = join_all(args.jobs.iter().map(|job| cancel_one(&cluster, *job))).await;
    let mut exit = Exit::Done;
    let mut rows = Vec::new();
    for (job, end) in args.jobs.iter().zip(ends) {
        let row = match end {
            Ok((state, ended_before)) => {
                let already = if ended_before { "had ended already: " } else { "" };
                exit = exit.worse(if state == State::Cancelled { Exit::Done } else { Exit::Failed });
                if !global.json {
                    render::talk(format!("job {job} {already}{}", state.name()));
                }
                serde_json::json!({ "job": job, "state": state })
            }
            Err(error) => {
                exit = exit.worse(error.report(global.json));
                serde_json::json!({ "job": job, "error": error.to_string() })
            }
        };
        rows.push(row);
    }
    if global.json {
        render::json(&rows)?;
    }
    Ok(exit)
}

/// The state the job ended in, and whether it had before.
async fn cancel_one(cluster: &Cluster, job: JobId) -> Result<(State, bool), CliError> {
    let broker = &cluster.broker;
    let mut report = get::find(cluster, job).await?;
    if report.state.is_terminal() {
        return Ok((report.state, true));
    }
    let waiter = Waiter::start(broker, vec![job]).await?;
    broker.ask_to_cancel(job).await?;
    loop {
        let stored = broker.event(job).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        report = stored.map_or(report, |stored| stored.report);
        match lifecycle::on_cancel(report.clone()) {
            Cancel::TooLate(state) => return Ok((state, false)),
            Cancel::Wait => break,
            Cancel::Finish(mut cancelled) => {
                cancelled.times.finished = timestamp(time::OffsetDateTime::now_utc());
                match broker.store(&cancelled, sequence).await {
                    Ok(_) => {
                        if let Some(spec) = &cancelled.spec {
                            broker.take_out(&spec.queue, job).await;
                        }
                        return Ok((State::Cancelled, false));
                    }
                    Err(QueueError::Refused { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    let hidden = indicatif::ProgressBar::hidden();
    match timeout(NODE_PATIENCE, waiter.wait(broker, &hidden)).await {
        Ok(reports) => Ok((reports?.pop().map_or(State::Running, |report| report.state), false)),
        Err(_) => Err(CliError::platform(format!("job {job} will be cancelled, but its node does not answer"))
            .hint("if the node is gone, the job ends when its lease does; `wasmjob get` tells")),
    }
}
