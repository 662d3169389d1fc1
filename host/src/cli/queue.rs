//! `wasmjob queue`: what waits where, and the rules of queues.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;

use super::{CliError, Exit, Global, common::Cluster, render};
use crate::{
    nodes::{self, NodeInfo},
    queue::{self, Depth, Purged},
    rules::{Rate, Rules},
};

/// Subcommands of `queue`.
#[derive(Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: what waits in them, for how long, and who works on them
    Ls,
    /// Start no more jobs of a queue; those that run go on
    Pause(NameArgs),
    /// Start jobs of a queue again
    Resume(NameArgs),
    /// Cancel everything that waits in a queue
    Purge(PurgeArgs),
    /// Limit how fast jobs of a queue start, all nodes together
    Rate(RateArgs),
    /// Say which queue jobs wait in that name none
    Route(RouteArgs),
    /// List the routes
    Routes,
}

/// Which queue.
#[derive(Args)]
pub(crate) struct NameArgs {
    /// Its name
    queue: String,
}

/// Arguments of `queue purge`.
#[derive(Args)]
pub(crate) struct PurgeArgs {
    /// Its name
    queue: String,
    /// Only say how many jobs that would be
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `queue rate`.
#[derive(Args)]
pub(crate) struct RateArgs {
    /// Its name
    queue: String,
    /// Jobs in a second, minute, hour or day, evenly spread, such as 10/s or 100/h; `none` for no limit
    rate: String,
}

/// Arguments of `queue route`.
#[derive(Args)]
#[command(after_help = "\
Of several patterns that fit, the longest counts. A job whose --queue is given goes there.
Example: wasmjob queue route 'train-*' ml
Example: wasmjob queue route --rm 'train-*'")]
pub(crate) struct RouteArgs {
    /// Names and digests of components: * stands for anything, ? for one character. The name of a file counts
    /// without its ending.
    pattern: String,
    /// The queue of their jobs
    #[arg(required_unless_present = "rm", conflicts_with = "rm")]
    queue: Option<String>,
    /// Remove the route
    #[arg(long)]
    rm: bool,
}

/// A queue as `queue ls` shows it.
#[derive(Serialize)]
struct Row {
    queue: String,
    state: &'static str,
    waiting: u64,
    running: u64,
    later: u64,
    /// When the one was stored that has waited longest.
    oldest: Option<String>,
    rate: Option<Rate>,
    nodes: usize,
    slots: usize,
}

/// Does what the subcommand says.
pub(crate) async fn queue(global: &Global, command: QueueCommand) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    match command {
        QueueCommand::Ls => list(global, &cluster).await?,
        QueueCommand::Pause(args) => set_paused(global, &cluster, &args.queue, true).await?,
        QueueCommand::Resume(args) => set_paused(global, &cluster, &args.queue, false).await?,
        QueueCommand::Purge(args) => purge(global, &cluster, &args).await?,
        QueueCommand::Rate(args) => rate(global, &cluster, &args).await?,
        QueueCommand::Route(args) => route(global, &cluster, &args).await?,
        QueueCommand::Routes => routes(global, &cluster).await?,
    }
    Ok(Exit::Done)
}

async fn list(global: &Global, cluster: &Cluster) -> Result<(), CliError> {
    let nodes = nodes::list(&cluster.broker).await?;
    let mut rows = Vec::new();
    for name in queue::queues(&cluster.broker.jetstream).await? {
        rows.push(row(cluster, &nodes, name).await?);
    }
    if global.json {
        return render::json(&rows);
    }
    let cells = |row: &Row| {
        vec![
            row.queue.clone(),
            row.state.to_owned(),
            row.waiting.to_string(),
            row.running.to_string(),
            row.later.to_string(),
            render::age(row.oldest.as_deref()),
            row.rate.map_or("-".into(), |rate| rate.to_string()),
            row.nodes.to_string(),
            row.slots.to_string(),
        ]
    };
    let headings = ["queue", "state", "waiting", "running", "later", "oldest", "rate", "nodes", "slots"];
    render::table(&headings, &rows.iter().map(cells).collect::<Vec<_>>())
}

async fn row(cluster: &Cluster, nodes: &[NodeInfo], queue: String) -> Result<Row, CliError> {
    let Depth { waiting, running, later } = queue::depth(&cluster.broker, &queue).await?;
    let (rules, _) = cluster.broker.rules(&queue).await?;
    let mut of_queue: Vec<&NodeInfo> = nodes.iter().filter(|node| node.queues.contains(&queue)).collect();
    of_queue.retain(|node| node.state == "ready");
    Ok(Row {
        state: rules.state(),
        waiting,
        running,
        later,
        oldest: if waiting > 0 { queue::oldest(&cluster.broker, &queue).await? } else { None },
        rate: rules.rate,
        nodes: of_queue.len(),
        slots: of_queue.iter().filter_map(|node| node.queue_slots.get(&queue)).sum(),
        queue,
    })
}

async fn set_paused(global: &Global, cluster: &Cluster, queue: &str, paused: bool) -> Result<(), CliError> {
    cluster.check_queue(queue).await?;
    let word = if paused { "paused" } else { "resumed" };
    let (rules, revision) = cluster.broker.rules(queue).await?;
    if rules.paused == paused {
        return tell(global, queue, &format!("was {word} already"));
    }
    cluster.broker.keep_rules(queue, &Rules { paused, ..rules }, revision).await?;
    tell(global, queue, word)
}

async fn rate(global: &Global, cluster: &Cluster, args: &RateArgs) -> Result<(), CliError> {
    let rate: Option<Rate> = match args.rate.as_str() {
        "none" => None,
        rate => Some(rate.parse().map_err(CliError::usage)?),
    };
    cluster.check_queue(&args.queue).await?;
    let (rules, revision) = cluster.broker.rules(&args.queue).await?;
    cluster.broker.keep_rules(&args.queue, &Rules { rate, ..rules }, revision).await?;
    tell(
        global,
        &args.queue,
        &rate.map_or("starts jobs as fast as it can".into(), |rate| format!("starts {rate} at most")),
    )
}

async fn purge(global: &Global, cluster: &Cluster, args: &PurgeArgs) -> Result<(), CliError> {
    cluster.check_queue(&args.queue).await?;
    let bar = render::spinner(format!("looking through queue {}", args.queue));
    let purged = queue::purge(&cluster.broker, &args.queue, args.dry_run).collect::<Vec<_>>().await;
    bar.finish_and_clear();
    let mut lanes: BTreeMap<String, u64> = BTreeMap::new();
    for purged in purged {
        if let Some(Purged { lane }) = purged? {
            *lanes.entry(lane).or_default() += 1;
        }
    }
    let jobs: u64 = lanes.values().sum();
    if global.json {
        return render::json(&json!({ "queue": args.queue, "jobs": jobs, "lanes": lanes, "dry_run": args.dry_run }));
    }
    let rows: Vec<_> = lanes.iter().map(|(lane, jobs)| vec![lane.clone(), jobs.to_string()]).collect();
    if !rows.is_empty() {
        render::table(&["class and priority", "jobs"], &rows)?;
    }
    let would = if args.dry_run { " would be" } else { "" };
    render::talk(render::jobs(jobs, &format!("that waited in queue {}{would} cancelled", args.queue)));
    Ok(())
}

async fn route(global: &Global, cluster: &Cluster, args: &RouteArgs) -> Result<(), CliError> {
    if args.pattern.is_empty() {
        return Err(CliError::usage("an empty pattern fits no component").hint("`*` fits every one"));
    }
    let (mut routes, revision) = cluster.broker.routes().await?;
    let done = match &args.queue {
        Some(queue) => {
            cluster.check_queue(queue).await?;
            routes.0.insert(args.pattern.clone(), queue.clone());
            format!("goes to {queue}")
        }
        None if routes.0.remove(&args.pattern).is_none() => {
            return Err(CliError::usage(format!("there is no route for `{}`", args.pattern))
                .hint("`wasmjob queue routes` lists them"));
        }
        None => "goes to no queue of its own any more".into(),
    };
    cluster.broker.keep_routes(&routes, revision).await?;
    if global.json {
        return render::json(&routes);
    }
    render::talk(format!("{} {done}", args.pattern));
    Ok(())
}

async fn routes(global: &Global, cluster: &Cluster) -> Result<(), CliError> {
    let (routes, _) = cluster.broker.routes().await?;
    if global.json {
        return render::json(&routes);
    }
    let rows: Vec<_> = routes.0.iter().map(|(pattern, queue)| vec![pattern.clone(), queue.clone()]).collect();
    render::table(&["pattern", "queue"], &rows)
}

fn tell(global: &Global, queue: &str, what: &str) -> Result<(), CliError> {
    if global.json {
        return render::json(&json!({ "queue": queue, "done": what }));
    }
    render::talk(format!("queue {queue} {what}"));
    Ok(())
}
