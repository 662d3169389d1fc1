//! That hostile guests delay nobody but themselves, and that a node under attack for long neither
//! grows nor leaks.
//!
//! Starts a nats-server and a node of its own and measures, idle and then with every slot of one
//! queue in the hands of hostile guests: how long the node takes to answer and how late its
//! heartbeats are, how long a small job on another queue takes to its stored end and to its
//! acknowledgement, how long a cancel of a spinning job takes to its stored end. Both sides are
//! from one run on one machine; what is promised is the difference of their p99s.
//!
//! ```text
//! cargo build --release -p wasmjob-host
//! cargo bench -p wasmjob-tests --bench isolation -- [--seconds N] [--json]
//! cargo bench -p wasmjob-tests --bench isolation -- --soak MINUTES [--only GUEST,...] [--json]
//! ```
//! Exit code: 0 the promise is kept, 1 it is not, 2 wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

mod attack;
mod guests;
mod measure;
mod rig;
mod soak;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use attack::{Attack, Kind};
use measure::{Measured, Quantiles};
use rig::Rig;

/// How much later than idle the p99 may be under attack.
const P99_MORE_MS_MAX: f64 = 50.0;
/// How long each phase is measured unless told otherwise: long enough for a p99 of cancels.
const PHASE: Duration = Duration::from_secs(12);
/// The least time that is measured idle: what lies between two heartbeats has to fit in.
const IDLE_MIN: Duration = Duration::from_secs(21);

struct Args {
    phase: Duration,
    soak: Option<Duration>,
    only: Option<String>,
    json: bool,
    /// Cargo says so; `cargo test` runs this program too, and wants no measurement.
    bench: bool,
}

impl Args {
    fn read() -> Result<Self, String> {
        let mut args = Args { phase: PHASE, soak: None, only: None, json: false, bench: false };
        let mut given = std::env::args().skip(1);
        while let Some(arg) = given.next() {
            let mut number = |what: &str| {
                let value = given.next().and_then(|value| value.parse::<u64>().ok()).filter(|value| *value > 0);
                value.ok_or_else(|| format!("{arg} is followed by a number of {what}"))
            };
            match arg.as_str() {
                "--seconds" => args.phase = Duration::from_secs(number("seconds")?),
                "--soak" => args.soak = Some(Duration::from_secs(60 * number("minutes")?)),
                "--only" => args.only = given.next(),
                "--json" => args.json = true,
                "--bench" => args.bench = true,
                _ => return Err(format!("{arg}: there are --seconds N, --soak MINUTES, --only GUEST,... and --json")),
            }
        }
        Ok(args)
    }
}

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) if args.bench => args,
        Ok(_) => return ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let rig = Rig::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kept = runtime.block_on(async {
        tokio::select! {
            kept = run(&rig, &args) => kept,
            // Returning is what ends the servers and removes their folder.
            _ = tokio::signal::ctrl_c() => false,
        }
    });
    drop(runtime);
    ExitCode::from(u8::from(!kept))
}

async fn run(rig: &Rig, args: &Args) -> bool {
    match args.soak {
        Some(time) => soak::run(rig, time, args.only.as_deref(), args.json).await,
        None => isolation(rig, args).await,
    }
}

async fn isolation(rig: &Rig, args: &Args) -> bool {
    let (probes, attackers) = (rig.connect().await, rig.connect().await);
    let components = rig.prepare(&attackers).await;
    let heartbeats = measure::Heartbeats::listen(&probes).await;
    let time = args.phase.max(IDLE_MIN);
    eprintln!("idle: {} s", time.as_secs());
    let idle = measure::all(&probes, &heartbeats, &components, time).await;
    let mut phases = Vec::new();
    for kind in Kind::ALL {
        let attack = Attack::start(rig, &attackers, &components, kind, rig::SLOTS);
        rig.until_running(&probes, rig::SLOTS).await;
        eprintln!("{}: {} s", kind.name(), args.phase.as_secs());
        phases.push((kind, measure::all(&probes, &heartbeats, &components, args.phase).await));
        attack.end().await;
    }
    report(&idle, &phases, args.json)
}

fn report(idle: &[Measured], phases: &[(Kind, Vec<Measured>)], json: bool) -> bool {
    let mut rows = Vec::new();
    for (kind, measured) in phases {
        for (before, under) in idle.iter().zip(measured) {
            rows.push((before.what, kind.name(), before.quantiles(), under.quantiles()));
        }
    }
    rows.sort_by_key(|row| measure::WHAT.iter().position(|what| *what == row.0));
    let more = |idle: &Quantiles, under: &Quantiles| under.p99_ms - idle.p99_ms;
    let worst = rows.iter().map(|(_, _, idle, under)| more(idle, under)).fold(f64::MIN, f64::max);
    let kept = worst <= P99_MORE_MS_MAX;
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(what, attack, idle, under)| {
                json!({"what": what, "attack": attack, "idle": idle.json(), "attacked": under.json(),
                       "p99_more_ms": more(idle, under)})
            })
            .collect();
        println!("{}", json!({"rows": rows, "p99_more_ms_max": worst, "allowed_ms": P99_MORE_MS_MAX, "kept": kept}));
        return kept;
    }
    println!("milliseconds{:>42}{:>33}{:>14}", "idle", "under attack", "p99");
    print!("{:<22}{:<14}", "", "attack");
    println!("{0:>8}{1:>8}{2:>8}{3:>7}  {0:>8}{1:>8}{2:>8}{3:>7}{4:>10}", "p50", "p99", "max", "n", "more");
    for (what, attack, idle, under) in &rows {
        println!("{what:<22}{attack:<14}{idle}  {under}{:>10.1}", more(idle, under));
    }
    let word = if kept { "kept" } else { "NOT kept" };
    println!("p99 under attack at most {worst:.1} ms above idle; {P99_MORE_MS_MAX:.0} are promised: {word}");
    kept
}
