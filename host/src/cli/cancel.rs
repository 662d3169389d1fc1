//! `wasmjob cancel`: ends jobs, waiting or running.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{CliError, Exit, Global, common::Cluster, get, render, wait::Waiter};
use crate::{
    lifecycle::{self, Cancel},
    nodes,
    queue::{Broker, QueueError},
    wire::{JobId, Report, State, timestamp},
};

/// How long a node may take to say that a running job has ended.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the job of a node waits for another attempt instead.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    let report = get::find(cluster, job).await?;
    if report.state.is_terminal() {
        return Ok((report.state, true));
    }
    let waiter = Waiter::start(broker, vec![job]).await?;
    broker.ask_to_cancel(job).await?;
    if let Some(state) = end_what_waits(broker, job, &report).await? {
        return Ok((state, false));
    }
    let hidden = indicatif::ProgressBar::hidden();
    let ended = async {
        let reports = waiter.wait(broker, &hidden).await?;
        Ok::<_, CliError>(reports.last().map_or(State::Running, |report| report.state))
    };
    // Its attempt may have failed just before its node heard of this: then the job waits for the next one.
    let waits = async {
        loop {
            sleep(LOOK_EVERY).await;
            if let Some(state) = end_what_waits(broker, job, &report).await? {
                return Ok(state);
            }
        }
    };
    let either = async {
        tokio::select! {
            state = ended => state,
            state = waits => state,
        }
    };
    match timeout(NODE_PATIENCE, either).await {
        Ok(state) => Ok((state?, false)),
        Err(_) => Err(CliError::platform(format!("job {job} will be cancelled, but its node does not answer"))
            .hint("once `wasmjob nodes` does not show the node any more, cancelling the job again ends it")),
    }
}

/// Stores the end of a job that no node has; what is `known` of it counts if it has no event. Gives the state of a
/// job that has ended, or nothing if a node has it.
async fn end_what_waits(broker: &Broker, job: JobId, known: &Report) -> Result<Option<State>, CliError> {
    loop {
        let stored = broker.event(job).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let report = stored.map_or_else(|| known.clone(), |stored| stored.report);
        let is_abandoned = is_abandoned(broker, &report).await?;
        let mut cancelled = match lifecycle::on_cancel(report, is_abandoned) {
            Cancel::TooLate(state) => return Ok(Some(state)),
            Cancel::Wait => return Ok(None),
            Cancel::Finish(cancelled) => cancelled,
        };
        let now = time::OffsetDateTime::now_utc();
        cancelled.note_wait(now);
        cancelled.times.finished = timestamp(now);
        match broker.store(&cancelled, sequence).await {
            Ok(_) => {
                if let Some(spec) = &cancelled.spec {
                    broker.take_out(&spec.queue, job).await;
                }
                return Ok(Some(State::Cancelled));
            }
            Err(QueueError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the node that a job runs on is gone, or was started again since. Another one might never take the job up, as
/// in a queue that is paused.
async fn is_abandoned(broker: &Broker, report: &Report) -> Result<bool, CliError> {
    let Some(node) = report.node.as_ref().filter(|_| report.state == State::Running) else { return Ok(false) };
    // Both times are by that node's clock, and written alike.
    Ok(nodes::get(broker, node).await?.is_none_or(|node| node.started > report.times.started))
}
