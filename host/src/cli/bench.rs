//! `wasmjob bench`: how fast jobs go through a server and a node of its own on this machine.
//!
//! The floor is the same in everything but the guest: a node that takes the same messages, parses the
//! same specs, stores the same reports behind the same fence, and does not call the guest. Both sides
//! take turns, so that what else the machine does meets both.

mod full;
mod load;
mod machine;
mod servers;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use tokio_util::sync::CancellationToken;

use super::{CliError, Exit, Global, node::end_on_signals, render};
use full::Full;
use load::{Load, Rate};
use machine::Rig;

/// Rounds of each side.
const ROUNDS: usize = 5;
/// How long the idle node is watched.
const IDLE: Duration = Duration::from_secs(10);

/// Arguments of `bench`.
#[derive(Args)]
#[command(after_help = "\
Starts a NATS server and nodes in a temporary folder, measures, and removes all of it. Takes about a minute.
Example: wasmjob bench
Example: wasmjob bench --json --jobs 20000")]
pub(crate) struct BenchArgs {
    /// Jobs in each of the rounds
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    jobs: u32,
    /// Single jobs that are timed
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    singles: u32,
    /// Also a million waiting jobs, a server that writes to its disk before it answers, and three servers: a few
    /// minutes and a gigabyte of disk
    #[arg(long)]
    full: bool,
    /// Jobs the node runs at the same time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    slots: u32,
}

/// What was measured.
#[derive(Serialize)]
struct Results {
    noop: Noop,
    single: Single,
    idle: Idle,
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<Full>,
    slots: u32,
    jobs: u32,
}

/// Jobs that do nothing, many at a time: submitted, run, result known.
#[derive(Serialize)]
struct Noop {
    jobs_per_s: f64,
    floor_per_s: f64,
    ratio: f64,
}

/// One job that does nothing, on an idle system.
#[derive(Serialize)]
struct Single {
    p50_us: f64,
    p99_us: f64,
    floor_p50_us: f64,
    floor_p99_us: f64,
}

/// The node while there is nothing to do; `None` where the system does not tell.
#[derive(Serialize)]
struct Idle {
    cpu_percent: Option<f64>,
    rss_bytes: Option<u64>,
}

/// Measures and prints.
pub(crate) async fn bench(global: &Global, args: BenchArgs) -> Result<Exit, CliError> {
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(end_on_signals(stop.clone(), hurry));
    let rig = {
        let bar = render::spinner("starting a server and nodes");
        let rig = Rig::start(args.slots).await;
        bar.finish_and_clear();
        rig?
    };
    let results = tokio::select! {
        results = measure(&rig, &args) => results,
        () = stop.cancelled() => Err(CliError::platform("interrupted")),
    };
    rig.stop().await;
    show(global, &results?)?;
    Ok(Exit::Done)
}

async fn measure(rig: &Rig, args: &BenchArgs) -> Result<Results, CliError> {
    let bar = render::spinner("warming up");
    let (real, floor) = (Load::new(rig, machine::QUEUE), Load::new(rig, machine::FLOOR));
    for side in [&real, &floor] {
        side.noop(args.jobs / 10).await?;
    }
    bar.set_message(format!("watching the idle node for {} s", IDLE.as_secs()));
    let idle = rig.idle(IDLE).await;
    let (mut rates, mut floors) = (Rate::default(), Rate::default());
    for round in 1..=ROUNDS {
        bar.set_message(format!("{} jobs, round {round} of {ROUNDS}", args.jobs));
        rates.add(real.noop(args.jobs).await?);
        floors.add(floor.noop(args.jobs).await?);
    }
    bar.set_message(format!("{} jobs one by one", args.singles));
    let (times, floor_times) = load::singles(&real, &floor, args.singles).await?;
    bar.finish_and_clear();
    let full = if args.full { Some(full::measure(rig, args.slots, args.jobs).await?) } else { None };
    let (jobs_per_s, floor_per_s) = (rates.median(), floors.median());
    Ok(Results {
        noop: Noop { jobs_per_s, floor_per_s, ratio: jobs_per_s / floor_per_s },
        single: Single {
            p50_us: times.percentile(50),
            p99_us: times.percentile(99),
            floor_p50_us: floor_times.percentile(50),
            floor_p99_us: floor_times.percentile(99),
        },
        idle: Idle { cpu_percent: idle.cpu_percent, rss_bytes: idle.rss_bytes },
        full,
        slots: args.slots,
        jobs: args.jobs,
    })
}

fn show(global: &Global, results: &Results) -> Result<(), CliError> {
    if global.json {
        return render::json(results);
    }
    let Results { noop, single, idle, full, .. } = results;
    let row = |what: &str, measured: String, floor: String, ratio: String| vec![what.into(), measured, floor, ratio];
    let mut rows = vec![
        row(
            "no-op jobs, end to end",
            format!("{:.0}/s", noop.jobs_per_s),
            format!("{:.0}/s", noop.floor_per_s),
            format!("{:.2}", noop.ratio),
        ),
        row(
            "one job, median",
            render::millis(single.p50_us / 1e3),
            render::millis(single.floor_p50_us / 1e3),
            format!("{:.2}", single.p50_us / single.floor_p50_us),
        ),
        row(
            "one job, 99th percentile",
            render::millis(single.p99_us / 1e3),
            render::millis(single.floor_p99_us / 1e3),
            format!("{:.2}", single.p99_us / single.floor_p99_us),
        ),
        row(
            "idle node, processor",
            idle.cpu_percent.map_or("-".into(), |cpu| format!("{cpu:.2} %")),
            "-".into(),
            "-".into(),
        ),
        row("idle node, memory", idle.rss_bytes.map_or("-".into(), render::bytes), "-".into(), "-".into()),
    ];
    rows.extend(full.iter().flat_map(full::rows));
    render::table(&["", "wasmjob", "floor", "ratio"], &rows)?;
    render::talk("the floor is the same without the guest: same messages, fence, specs and reports");
    Ok(())
}
