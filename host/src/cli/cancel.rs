//! `wasmjob cancel`: ends jobs, waiting or running.

use std::time::Duration;

use clap::Args;
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

/// Cancels the jobs one after the other.
pub(crate) async fn cancel(global: &Global, args: CancelArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let mut states = Vec::new();
    for job in args.jobs {
        let (state, ended_before) = cancel_one(&cluster, job).await?;
        if !global.json {
            let already = if ended_before { "had ended already: " } else { "" };
            render::talk(format!("job {job} {already}{}", state.name()));
        }
        states.push((job, state));
    }
    if global.json {
        let rows: Vec<_> =
            states.iter().map(|(job, state)| serde_json::json!({ "job": job, "state": state })).collect();
        render::json(&rows)?;
    }
    match states.iter().all(|(_, state)| *state == State::Cancelled) {
        true => Ok(Exit::Done),
        false => Ok(Exit::Failed),
    }
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
                    Ok(_) => return Ok((State::Cancelled, false)),
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
