//! `wasmjob ps`: the jobs there are.

use std::collections::HashSet;

use clap::{Args, ValueEnum};

use super::{CliError, Exit, Global, common::Cluster, render};
use crate::{
    queue,
    wire::{Report, State},
};

/// Arguments of `ps`.
#[derive(Args)]
pub(crate) struct PsArgs {
    /// At most this many
    #[arg(long, short = 'n', default_value_t = 50)]
    max: usize,
    /// Only those in this state
    #[arg(long)]
    state: Option<StateName>,
}

/// A state as a flag.
#[derive(Clone, Copy, ValueEnum)]
enum StateName {
    Queued,
    Running,
    Succeeded,
    Failed,
    Dead,
    Cancelled,
}

impl StateName {
    fn state(self) -> State {
        match self {
            StateName::Queued => State::Queued,
            StateName::Running => State::Running,
            StateName::Succeeded => State::Succeeded,
            StateName::Failed => State::Failed,
            StateName::Dead => State::Dead,
            StateName::Cancelled => State::Cancelled,
        }
    }
}

/// Lists the jobs, the latest first.
pub(crate) async fn ps(global: &Global, args: PsArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let mut jobs = jobs(&cluster, args.max).await?;
    if let Some(state) = args.state {
        jobs.retain(|job| job.state == state.state());
    }
    jobs.truncate(args.max);
    if global.json {
        render::json(&jobs)?;
        return Ok(Exit::Done);
    }
    let headings = ["job", "state", "attempt", "node", "queue", "component", "age", "took"];
    render::table(&headings, jobs.iter().map(row).collect())?;
    Ok(Exit::Done)
}

/// Jobs with an event and jobs that wait, the latest first.
pub(crate) async fn jobs(cluster: &Cluster, max: usize) -> Result<Vec<Report>, CliError> {
    let mut waiting = Vec::new();
    for name in queue::queues(&cluster.broker.jetstream).await? {
        waiting.extend(queue::list_queued(&cluster.broker, &name, max).await?);
    }
    // The events are read last: a job that leaves its queue meanwhile has one.
    let mut jobs = queue::list_events(&cluster.broker, max).await?;
    let known: HashSet<_> = jobs.iter().map(|job| job.job).collect();
    jobs.extend(waiting.into_iter().filter(|job| !known.contains(&job.job)));
    jobs.sort_by_key(|job| std::cmp::Reverse(job.job));
    Ok(jobs)
}

fn row(job: &Report) -> Vec<String> {
    let spec = job.spec.as_ref();
    let took = if job.state.is_terminal() { render::millis(job.usage.wall_ms) } else { "-".into() };
    vec![
        job.job.to_string(),
        job.state.name().to_owned(),
        job.attempt.to_string(),
        job.node.clone().unwrap_or("-".into()),
        spec.map_or("-".into(), |spec| spec.queue.clone()),
        spec.map_or("-".into(), |spec| short(&spec.component)),
        render::age(job.times.submitted.as_deref()),
        took,
    ]
}

/// The start of a digest, or a name.
fn short(component: &str) -> String {
    component.chars().take(19).collect()
}
