//! `wasmjob retry` and `wasmjob dead`: having jobs again that have ended.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{CliError, Exit, Global, common::Cluster, get, ps, render};
use crate::{
    lifecycle,
    queue::QueueError,
    wire::{JobId, JobSpec, Report, State},
};

/// Dead jobs that one command looks at.
const DEAD_MAX: usize = 10_000;

/// Arguments of `retry`.
#[derive(Args)]
pub(crate) struct RetryArgs {
    /// The jobs' ids
    #[arg(required = true)]
    jobs: Vec<JobId>,
}

/// Subcommands of `dead`.
#[derive(Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead jobs: given up on, and kept until somebody has looked
    Ls,
    /// Have dead jobs again, with all their retries
    Retry(WhichArgs),
    /// Forget dead jobs
    Rm(WhichArgs),
}

/// Which dead jobs.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhichArgs {
    /// The jobs' ids
    jobs: Vec<JobId>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// Has jobs again.
pub(crate) async fn retry(global: &Global, args: RetryArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    again(global, &cluster, &args.jobs).await
}

/// Does what the subcommand says.
pub(crate) async fn dead(global: &Global, command: DeadCommand) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    match command {
        DeadCommand::Ls => list(global, &cluster).await,
        DeadCommand::Retry(which) => {
            let jobs = which.jobs(&cluster).await?;
            again(global, &cluster, &jobs).await
        }
        DeadCommand::Rm(which) => {
            let jobs = which.jobs(&cluster).await?;
            for job in &jobs {
                cluster.broker.forget(&get::find(&cluster, *job).await?).await?;
            }
            tell(global, &jobs, "forgotten")?;
            Ok(Exit::Done)
        }
    }
}

impl WhichArgs {
    /// The jobs that are meant, all of them dead.
    async fn jobs(&self, cluster: &Cluster) -> Result<Vec<JobId>, CliError> {
        if self.all {
            let dead = all(cluster).await?;
            if dead.len() == DEAD_MAX {
                render::talk(format!("there may be more than {DEAD_MAX} dead jobs: the same command has the others"));
            }
            return Ok(dead.iter().map(|report| report.job).collect());
        }
        for job in &self.jobs {
            let report = get::find(cluster, *job).await?;
            if report.state != State::Dead {
                let state = report.state.name();
                return Err(CliError::usage(format!("job {job} is not dead but {state}"))
                    .hint("`wasmjob retry` takes jobs that ended in any way; `wasmjob dead ls` lists dead ones"));
            }
        }
        Ok(self.jobs.clone())
    }
}

async fn all(cluster: &Cluster) -> Result<Vec<Report>, CliError> {
    ps::jobs(cluster, DEAD_MAX, |state| state == State::Dead).await
}

async fn list(global: &Global, cluster: &Cluster) -> Result<Exit, CliError> {
    let dead = all(cluster).await?;
    if global.json {
        render::json(&dead)?;
        return Ok(Exit::Done);
    }
    let row = |report: &Report| {
        let message = report.outcome.as_ref().and_then(|outcome| outcome.message.clone()).unwrap_or_default();
        vec![
            report.job.to_string(),
            report.spec.as_ref().map_or("-".into(), |spec| spec.queue.clone()),
            report.attempt.to_string(),
            render::age(report.times.finished.as_deref()),
            render::plain(&message),
        ]
    };
    render::table(&["job", "queue", "attempts", "dead for", "why"], &dead.iter().map(row).collect::<Vec<_>>())?;
    Ok(Exit::Done)
}

/// Has every one of these again that can be.
async fn again(global: &Global, cluster: &Cluster, jobs: &[JobId]) -> Result<Exit, CliError> {
    let (mut exit, mut done) = (Exit::Done, Vec::new());
    for job in jobs {
        match again_one(cluster, *job).await {
            Ok(()) => done.push(*job),
            Err(error) => exit = exit.worse(error.report(global.json)),
        }
    }
    tell(global, &done, "queued again")?;
    Ok(exit)
}

async fn again_one(cluster: &Cluster, job: JobId) -> Result<(), CliError> {
    let (report, sequence) = match cluster.broker.event(job).await? {
        Some(stored) => (stored.report, stored.sequence),
        None => (get::find(cluster, job).await?, 0),
    };
    let state = report.state.name();
    let mut again = lifecycle::on_ask_again(report).ok_or_else(|| {
        CliError::usage(format!("job {job} has not ended: it is {state}")).hint("`wasmjob cancel` ends it")
    })?;
    let Some(spec) = again.spec.as_deref() else {
        return Err(CliError::usage(format!("what job {job} was to do is not known: it was no valid job spec"))
            .hint("submit it anew"));
    };
    cluster.broker.take_cancel_back(job).await?;
    // It is wanted now, and the time it was not to start before has come.
    let spec = Arc::new(JobSpec { at: None, expires_ms: None, ..spec.clone() });
    again.spec = Some(spec.clone());
    let event = match cluster.broker.store(&again, sequence).await {
        Ok(event) => event,
        Err(QueueError::Refused { .. }) => {
            return Err(
                CliError::platform(format!("job {job} changed meanwhile")).hint("look at it with `wasmjob get`")
            );
        }
        Err(error) => return Err(error.into()),
    };
    Ok(cluster.broker.send_again(&spec, again.counts_from, event).await?)
}

fn tell(global: &Global, jobs: &[JobId], what: &str) -> Result<(), CliError> {
    if global.json {
        return render::json(&jobs.iter().map(|job| serde_json::json!({ "job": job })).collect::<Vec<_>>());
    }
    for job in jobs {
        render::talk(format!("job {job} {what}"));
    }
    Ok(())
}
