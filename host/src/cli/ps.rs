//! `wasmjob ps`: the jobs there are.

use std::collections::HashSet;

use clap::{Args, ValueEnum};
use futures_util::{StreamExt, TryStreamExt};

use super::{CliError, Exit, Global, common::Cluster, render};
use crate::{
    nodes,
    queue::{self, QueueError},
    wire::{Report, State},
};

/// Events that are read at the same time.
const EVENTS_AT_ONCE: usize = 32;

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
    Waiting,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Dead,
    Cancelled,
}

impl StateName {
    fn state(self) -> State {
        match self {
            StateName::Queued => State::Queued,
            StateName::Waiting => State::Waiting,
            StateName::Running => State::Running,
            StateName::Retrying => State::Retrying,
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
    let wanted = |state| args.state.is_none_or(|only| state == only.state());
    let jobs = jobs(&cluster, args.max, wanted).await?;
    if global.json {
        render::json(&jobs)?;
        return Ok(Exit::Done);
    }
    let headings = ["job", "state", "attempt", "node", "queue", "component", "age", "took"];
    render::table(&headings, &jobs.iter().map(row).collect::<Vec<_>>())?;
    Ok(Exit::Done)
}

/// Jobs with an event, the latest, and jobs that wait, the oldest; those in a state that is `wanted`, by their ids with
/// the latest first.
pub(crate) async fn jobs(
    cluster: &Cluster,
    max: usize,
    wanted: impl Fn(State) -> bool,
) -> Result<Vec<Report>, CliError> {
    let broker = &cluster.broker;
    let queues = queue::queues(&broker.jetstream).await?;
    // Those that nodes have are first in their queues: it takes as many more to find those that wait.
    let looked_at = match wanted(State::Queued) && !wanted(State::Running) {
        true => nodes::list(broker).await?.iter().fold(max, |sum, node| sum.saturating_add(node.slots)),
        false => max,
    };
    let mut queued = Vec::new();
    for name in queues {
        queued.extend(queue::list_queued(broker, &name, looked_at).await?);
    }
    // The events are read last: a job that leaves its queue meanwhile has one.
    let mut jobs = queue::list_events(broker, max, &wanted).await?;
    let known: HashSet<_> = jobs.iter().map(|job| job.job).collect();
    queued.retain(|job| !known.contains(&job.job));
    // One that is in its queue and runs may have an event that is older than those just read.
    let queued = futures_util::stream::iter(queued).map(|job| async move {
        Ok::<_, QueueError>(broker.event(job.job).await?.map_or(job, |stored| stored.report))
    });
    let queued: Vec<Report> = queued.buffer_unordered(EVENTS_AT_ONCE).try_collect().await?;
    jobs.extend(queued.into_iter().filter(|job| wanted(job.state)));
    jobs.sort_by_key(|job| std::cmp::Reverse(job.job));
    jobs.truncate(max);
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
