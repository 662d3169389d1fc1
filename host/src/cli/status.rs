//! `wasmjob status`: nodes, queues and recent failures at a glance.

use serde::Serialize;

use super::{CliError, Exit, Global, common::Cluster, render};
use crate::{
    nodes::{self, NodeInfo},
    queue::{self, Depth},
    wire::{Report, State},
};

/// The latest events that are looked at for failures.
const RECENT: usize = 200;
/// Failures that are shown.
const FAILURES: usize = 5;

#[derive(Serialize)]
struct Status {
    nodes: Vec<NodeInfo>,
    slots: usize,
    slots_used: usize,
    memory_bytes: u64,
    memory_promised_bytes: u64,
    queues: Vec<QueueStatus>,
    recent_failures: Vec<Report>,
}

#[derive(Serialize)]
struct QueueStatus {
    queue: String,
    state: &'static str,
    waiting: u64,
    running: u64,
    later: u64,
}

/// Shows the cluster.
pub(crate) async fn status(global: &Global) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let status = look(&cluster).await?;
    match global.json {
        true => render::json(&status)?,
        false => show(&status)?,
    }
    Ok(Exit::Done)
}

async fn look(cluster: &Cluster) -> Result<Status, CliError> {
    let nodes = nodes::list_now(&cluster.broker).await?;
    let mut queues = Vec::new();
    for name in queue::queues(&cluster.broker.jetstream).await? {
        let Depth { waiting, running, later } = queue::depth(&cluster.broker, &name).await?;
        let state = cluster.broker.rules(&name).await?.0.state();
        queues.push(QueueStatus { queue: name, state, waiting, running, later });
    }
    let failed = |state| matches!(state, State::Failed | State::Dead);
    let recent = queue::list_events(&cluster.broker, RECENT, |_| true).await?;
    Ok(Status {
        slots: nodes.iter().fold(0, |sum, node| sum.saturating_add(node.slots)),
        slots_used: nodes.iter().fold(0, |sum, node| sum.saturating_add(node.running)),
        memory_bytes: nodes.iter().fold(0, |sum, node| sum.saturating_add(node.memory_bytes)),
        memory_promised_bytes: nodes.iter().fold(0, |sum, node| sum.saturating_add(node.memory_promised_bytes)),
        nodes,
        queues,
        recent_failures: recent.into_iter().filter(|job| failed(job.state)).take(FAILURES).collect(),
    })
}

fn show(status: &Status) -> Result<(), CliError> {
    render::line(&format!(
        "{} {}, {} of {} slots used, {} of {} memory promised",
        status.nodes.len(),
        if status.nodes.len() == 1 { "node" } else { "nodes" },
        status.slots_used,
        status.slots,
        render::bytes(status.memory_promised_bytes),
        render::bytes(status.memory_bytes),
    ))?;
    let rows = status.queues.iter().map(|queue| {
        let numbers = [queue.waiting, queue.running, queue.later].map(|number| number.to_string());
        [queue.queue.clone(), queue.state.to_owned()].into_iter().chain(numbers).collect()
    });
    render::table(&["queue", "state", "waiting", "running", "later"], &rows.collect::<Vec<_>>())?;
    if status.recent_failures.is_empty() {
        return render::line("no recent failures");
    }
    render::line("recent failures:")?;
    for job in &status.recent_failures {
        render::line(&format!("  {} ago: {}", render::age(job.times.finished.as_deref()), render::failure(job)))?;
    }
    Ok(())
}
