//! Why a job has not started, as far as that can be told from outside.

use super::{CliError, common::Cluster, render};
use crate::{
    nodes::{self, NodeInfo},
    queue,
    wire::{JobSpec, Report, State, class},
};

/// What the job waits for. `None` if it does not wait, or if it is not known what it is.
pub(super) async fn for_what(cluster: &Cluster, report: &Report) -> Result<Option<String>, CliError> {
    let time = || report.times.next.clone().or_else(|| report.spec.as_ref()?.at.clone());
    let Some(spec) = report.spec.as_deref() else { return Ok(None) };
    match report.state {
        State::Waiting => Ok(time().map(|time| format!("its time, {time}"))),
        State::Retrying => Ok(time().map(|time| format!("its next attempt, {time}"))),
        State::Queued => queued(cluster, spec).await.map(Some),
        _ => Ok(None),
    }
}

async fn queued(cluster: &Cluster, spec: &JobSpec) -> Result<String, CliError> {
    let queue = &spec.queue;
    let (rules, _) = cluster.broker.rules(queue).await?;
    if rules.paused {
        return Ok(format!("queue {queue} is paused (`wasmjob queue resume {queue}`)"));
    }
    let nodes = nodes::list(&cluster.broker).await?;
    if let Some(reason) = no_node(spec, &nodes) {
        return Ok(reason);
    }
    if let Some(concurrency) = &spec.concurrency
        && cluster.broker.holders(&concurrency.key).await? >= concurrency.max as usize
    {
        let (key, max) = (render::plain(&concurrency.key), concurrency.max);
        return Ok(format!("a place of key `{key}`, of which {max} at once may run"));
    }
    let waiting = queue::depth(&cluster.broker, queue).await?.waiting;
    let slot = match rules.rate {
        Some(rate) => format!("its turn: queue {queue} starts {rate} at most"),
        None => format!("a free slot of queue {queue}"),
    };
    Ok(match waiting {
        0 | 1 => slot,
        waiting => format!("{slot}, where {waiting} jobs wait"),
    })
}

/// Why no node can have the job. `None` if one can.
pub(super) fn no_node(spec: &JobSpec, nodes: &[NodeInfo]) -> Option<String> {
    let (queue, class) = (&spec.queue, spec.class());
    let of_queue: Vec<&NodeInfo> = nodes.iter().filter(|node| node.queues.contains(queue)).collect();
    if of_queue.is_empty() {
        return Some(format!("no node works on queue {queue} now (`wasmjob nodes ls`)"));
    }
    let of_class: Vec<&NodeInfo> = of_queue.into_iter().filter(|node| class::is_met(&class, &node.labels)).collect();
    if of_class.is_empty() {
        let required = class.replace('+', ", ");
        return Some(format!("no node of queue {queue} has all of {required} (`wasmjob nodes inspect NODE`)"));
    }
    let largest = of_class.iter().map(|node| node.memory_bytes).max().unwrap_or_default();
    let wanted = *spec.limits.0.get("memory").filter(|wanted| **wanted > largest)?;
    let (wanted, largest) = (render::bytes(wanted), render::bytes(largest));
    Some(format!("it wants {wanted} of memory, and the largest node of queue {queue} has {largest}"))
}
