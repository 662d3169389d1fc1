//! `wasmjob submit`: publishes jobs, and waits for them if asked to.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use wasmjob_runtime::Limits;

use super::{
    CliError, Exit, Global,
    common::{Cluster, JobArgs, upload},
    get,
    placement::{PlacementArgs, StartArgs},
    render,
    wait::Waiter,
    waits,
};
use crate::{
    grants::{Folders, Offers},
    nodes::{self, NodeInfo},
    queue::{QueueError, names::Lane},
    wire::{Grant, Input, JobId, JobSpec, Report, State, new_job_id},
    worker::INLINE_BYTES_MAX,
};

/// Exit code of what was ended by Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Arguments of `submit`.
#[derive(Args)]
#[command(after_help = "\
Prints the job's id, or with --wait its output. Inputs over 64 KiB become artifacts by themselves.
Example: wasmjob submit --wait profile.wasm --input @data.csv
Example: wasmjob submit --wait --repeat 20 hello.wasm")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Wait for the end and print the output
    #[arg(long)]
    wait: bool,
    /// Submit the same job this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Submit the same job once only: with the same key, the first one's id is printed; for another job it is an
    /// error. The key counts as long as the result is kept
    #[arg(long, value_name = "KEY", conflicts_with = "repeat")]
    dedupe: Option<String>,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    start: StartArgs,
}

/// Submits the job, or as many as asked for.
pub(crate) async fn submit(global: &Global, args: SubmitArgs) -> Result<Exit, CliError> {
    let started = Instant::now();
    let cluster = Cluster::connect(global).await?;
    let mut spec = spec(&cluster, &args.job, &args.placement).await?;
    spec.at = args.start.time();
    spec.dedupe_key.clone_from(&args.dedupe);
    spec.check()?;
    let own: Vec<JobId> = std::iter::once(spec.id).chain((1..args.repeat).map(|_| new_job_id())).collect();
    let ids = match spec.dedupe_key {
        Some(_) => vec![cluster.broker.claim(&spec).await?],
        None => own.clone(),
    };
    if let [id] = ids[..]
        && id != spec.id
    {
        tell_of_earlier(&cluster, id).await?;
    }
    let waiter = match args.wait {
        true if ids != own => Some(Waiter::start(&cluster.broker, ids.clone()).await?.looking_first()),
        true => Some(Waiter::start(&cluster.broker, ids.clone()).await?),
        false => None,
    };
    let submitted = Instant::now();
    let published = AtomicUsize::new(0);
    let publish = publish(&cluster, &spec, &own, &published);
    let Some(waiter) = waiter else {
        publish.await?;
        return print_ids(global, &ids);
    };
    let bar = render::spinner(format!("waiting for {}", plural(ids.len())));
    // At the same time: the client keeps only so many ends that nobody has read.
    let both = async { tokio::try_join!(publish, waiter.wait(&cluster.broker, &bar)) };
    let reports = tokio::select! {
        both = both => both.map(|((), reports)| reports),
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            leave(global, &ids, published.load(Ordering::Relaxed));
        }
    };
    bar.finish_and_clear();
    let reports = reports?;
    let took = submitted.elapsed();
    let exit = show(global, &cluster, &reports, args.repeat > 1).await?;
    if args.repeat > 1 && !global.json {
        render::talk(summary(&reports, took, started.elapsed()));
    }
    Ok(exit)
}

/// Ends the process, and says that the jobs do not end with it, as far as they were `published`.
fn leave(global: &Global, ids: &[JobId], published: usize) -> ! {
    let text = match ids {
        [id] if published == 0 => format!("job {id} may have been submitted: `wasmjob get {id}` tells"),
        ids if published == 0 => format!("{} may have been submitted: `wasmjob ps` lists them", plural(ids.len())),
        ids if published < ids.len() => {
            format!("{published} of {} were submitted, or some more, and go on", plural(ids.len()))
        }
        [id] => format!("job {id} goes on: `wasmjob result --wait {id}` waits for it, `wasmjob cancel {id}` ends it"),
        ids => format!("{} jobs go on: `wasmjob ps` lists them", ids.len()),
    };
    match global.json {
        true => render::warn(true, text),
        false => render::talk(text),
    }
    std::process::exit(INTERRUPTED)
}

/// Says what became of the job that was submitted with the same key before.
async fn tell_of_earlier(cluster: &Cluster, job: JobId) -> Result<(), CliError> {
    let earlier = cluster.broker.event(job).await?.map(|stored| stored.report.state);
    let hint = match earlier {
        Some(state) if state.is_terminal() && state != State::Succeeded => {
            format!("; `wasmjob retry {job}` has it again")
        }
        _ => String::new(),
    };
    let is = earlier.unwrap_or(State::Queued).name();
    cluster.warn(format!("this is job {job} ({is}), which was submitted with the same key before{hint}"));
    Ok(())
}

/// The spec that flags describe, with its component and input where nodes find them.
pub(super) async fn spec(cluster: &Cluster, job: &JobArgs, placement: &PlacementArgs) -> Result<JobSpec, CliError> {
    let (given, limits) = job.limits(&cluster.config)?;
    let input = job.input(limits.input)?;
    let mut spec = job.spec(&Offers::of(&cluster.config))?;
    let (digest, file) = cluster.find(&job.component).await?;
    spec.component = digest.to_string();
    let route = if placement.is_routed() { route(cluster, &job.component, &spec.component).await? } else { None };
    placement.put_into(&mut spec, route.as_deref())?;
    spec.limits = given;
    cluster.check_queue(&spec.queue).await?;
    let nodes = nodes::list(&cluster.broker).await?;
    name_folders(&mut spec, &nodes)?;
    spec.check()?;
    check_memory(cluster, &spec, &limits).await?;
    warn_of_waiting(cluster, &spec, &nodes).await?;
    if let Some(file) = file {
        upload(&*cluster.artifacts().await?, &file, &format!("uploading {}", job.component)).await?;
    }
    spec.input = if input.size() > INLINE_BYTES_MAX {
        upload(&*cluster.artifacts().await?, &input, "uploading the input").await?;
        Input::Artifact(input.digest())
    } else {
        Input::inline(&input.to_bytes(INLINE_BYTES_MAX).map_err(CliError::platform)?)
    };
    Ok(spec)
}

/// The queue that routes say for a component, by its name or its file's, and its digest.
async fn route(cluster: &Cluster, component: &str, digest: &str) -> Result<Option<String>, CliError> {
    let (routes, _) = cluster.broker.routes().await?;
    let file = Path::new(component).file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(routes.queue(&[digest, component, file]).map(str::to_owned))
}

/// Tells at once if no node can ever run it.
async fn check_memory(cluster: &Cluster, spec: &JobSpec, limits: &Limits) -> Result<(), CliError> {
    let Some(largest) = nodes::largest(&cluster.broker, &spec.queue, &spec.class()).await? else {
        return Ok(());
    };
    if limits.memory <= largest.memory_bytes {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "the job wants {} of memory, and the largest node ({}) has {} for jobs",
        render::bytes(limits.memory),
        largest.name,
        render::bytes(largest.memory_bytes)
    ))
    .hint("lower --limit memory=SIZE, or raise node.memory on a node"))
}

/// Names folders the way nodes offer them.
fn name_folders(spec: &mut JobSpec, nodes: &[NodeInfo]) -> Result<(), CliError> {
    for grant in &mut spec.grants {
        let Grant::Fs { host, .. } = grant else { continue };
        if Path::new(host).is_absolute() {
            *host = offered_name(nodes, host)?;
        }
    }
    Ok(())
}

/// Says so if the job will not start for now.
async fn warn_of_waiting(cluster: &Cluster, spec: &JobSpec, nodes: &[NodeInfo]) -> Result<(), CliError> {
    if cluster.broker.rules(&spec.queue).await?.0.paused {
        let queue = &spec.queue;
        cluster.warn(format!("queue {queue} is paused; the job waits until `wasmjob queue resume {queue}`"));
    }
    if let Some(reason) = waits::no_node(spec, nodes) {
        cluster.warn(format!("{reason}; the job waits until one does"));
    }
    Ok(())
}

fn offered_name(nodes: &[NodeInfo], path: &str) -> Result<String, CliError> {
    let named = nodes.iter().find_map(|node| Folders::by_name(&node.folders, Path::new(path)));
    named.ok_or_else(|| {
        CliError::usage(format!("no node offers a folder that {path} is in"))
            .hint("offer it on a node: `[grants.fs]` with `NAME = \"/folder:ro\"` in its configuration")
    })
}

/// Submits the jobs, many at a time, and counts in `published` those that were.
async fn publish(cluster: &Cluster, spec: &JobSpec, ids: &[JobId], published: &AtomicUsize) -> Result<(), CliError> {
    use futures_util::{StreamExt, TryStreamExt};
    let jobs = futures_util::stream::iter(ids.iter().map(|id| JobSpec { id: *id, ..spec.clone() }));
    let broker = &cluster.broker;
    let submit = |job| async move {
        broker.submit(&job).await?;
        published.fetch_add(1, Ordering::Relaxed);
        Ok::<_, QueueError>(())
    };
    jobs.map(submit).buffer_unordered(256).try_collect::<()>().await?;
    let lane = Lane { class: spec.class(), word: format!("p{}", spec.priority) };
    if lane != Lane::usual() {
        broker.announce_lane(&spec.queue).await;
    }
    Ok(())
}

fn print_ids(global: &Global, ids: &[JobId]) -> Result<Exit, CliError> {
    match (global.json, ids) {
        (true, [id]) => render::json(&serde_json::json!({ "job": id }))?,
        (true, ids) => render::json(&ids.iter().map(|id| serde_json::json!({ "job": id })).collect::<Vec<_>>())?,
        (false, ids) => {
            for id in ids {
                render::line(&id.to_string())?;
            }
        }
    }
    if !global.json && std::io::stderr().is_terminal() {
        render::talk("see `wasmjob get JOB`, `wasmjob result --wait JOB`, `wasmjob logs -f JOB`");
    }
    Ok(Exit::Done)
}

async fn show(global: &Global, cluster: &Cluster, reports: &[Report], many: bool) -> Result<Exit, CliError> {
    if global.json {
        match reports {
            [report] if !many => render::json(report)?,
            reports => render::json(&reports)?,
        }
        return Ok(get::exit_of(reports));
    }
    for report in reports {
        get::print_output(cluster, report, many).await?;
        if !many {
            render::tell_cost(report);
        }
        get::tell_failure(report);
    }
    Ok(get::exit_of(reports))
}

fn plural(jobs: usize) -> String {
    if jobs == 1 { "the job".into() } else { format!("{jobs} jobs") }
}

/// How many jobs ended how, in what time and where.
fn summary(reports: &[Report], took: Duration, in_all: Duration) -> String {
    let tally = |keys: Vec<String>| {
        let mut counts = BTreeMap::<String, usize>::new();
        for key in keys {
            *counts.entry(key).or_default() += 1;
        }
        counts.iter().map(|(key, count)| format!("{key} {count}")).collect::<Vec<_>>().join(", ")
    };
    let states = tally(reports.iter().map(|report| report.state.name().to_owned()).collect());
    let nodes = tally(reports.iter().map(|report| report.node.clone().unwrap_or("-".into())).collect());
    let busy: f64 = reports.iter().map(|report| report.usage.wall_ms).sum();
    format!(
        "{} jobs in {} ({} with connecting and uploading): {states}\nguest time {}, jobs per node: {nodes}",
        reports.len(),
        render::millis(took.as_secs_f64() * 1e3),
        render::millis(in_all.as_secs_f64() * 1e3),
        render::millis(busy),
    )
}
