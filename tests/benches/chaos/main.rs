//! Jobs of all kinds on three servers and three nodes, while one after the other of these is killed, put to
//! sleep, cut off or out of disk. Run by `tests/chaos`, in networks of its own.
//!
//! What counts: every job that was accepted ends, and none has two ends.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

mod faults;
mod load;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use faults::{Fault, Recovery};
use load::{Load, Verdict};
use world::World;

/// How long the load runs undisturbed between two faults.
const CALM: Duration = Duration::from_secs(6);
/// How long everything that was accepted may take to end once the faults are over.
const PATIENCE: Duration = Duration::from_secs(180);

struct Args {
    rounds: usize,
    seed: u64,
    only: Option<String>,
    json: bool,
    bench: bool,
}

impl Args {
    fn read() -> Result<Self, String> {
        let mut args = Args { rounds: 1, seed: 1, only: None, json: false, bench: false };
        let mut given = std::env::args().skip(1);
        while let Some(arg) = given.next() {
            let mut value = || given.next().ok_or_else(|| format!("{arg} is followed by a value"));
            match arg.as_str() {
                "--rounds" => args.rounds = value()?.parse().map_err(|_| "--rounds is followed by a number")?,
                "--seed" => args.seed = value()?.parse().map_err(|_| "--seed is followed by a number")?,
                "--only" => args.only = Some(value()?),
                "--json" => args.json = true,
                "--bench" => args.bench = true,
                _ => return Err(format!("{arg}: there are --rounds N, --seed N, --only FAULT and --json")),
            }
        }
        let known = |name: &String| Fault::ALL.iter().any(|fault| fault.name() == name);
        match args.only.as_ref().filter(|name| !known(name)) {
            Some(name) => Err(format!("{name}: there are {:?}", Fault::ALL.map(Fault::name))),
            None => Ok(args),
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) if args.bench => args,
        // `cargo test` runs this program too.
        Ok(_) => return ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kept = runtime.block_on(run(&args));
    ExitCode::from(u8::from(!kept))
}

async fn run(args: &Args) -> bool {
    let mut world = World::start().await;
    let load = Load::start(&world, args.seed).await;
    tokio::time::sleep(CALM).await;
    let mut recoveries = Vec::new();
    for round in 0..args.rounds {
        for fault in Fault::ALL {
            if args.only.as_ref().is_some_and(|only| only != fault.name()) {
                continue;
            }
            let victim = (usize::try_from(args.seed).unwrap_or(0) + round) % world::MACHINES;
            let recovery = faults::strike(&mut world, &load, fault, victim).await;
            eprintln!("{recovery}");
            recoveries.push(recovery);
            tokio::time::sleep(CALM).await;
        }
    }
    let verdict = load.finish(PATIENCE).await;
    let mended = world.metric("wasmjob_reconciled_total{kind=\"job\"}").await;
    let redelivered = world.metric("wasmjob_redeliveries_total").await;
    report(args, &recoveries, &verdict, mended, redelivered)
}

fn report(args: &Args, recoveries: &[Recovery], verdict: &Verdict, mended: f64, redelivered: f64) -> bool {
    let kept = verdict.lost.is_empty() && verdict.doubled.is_empty() && verdict.accepted > 0;
    let slowest = recoveries.iter().map(|recovery| recovery.silent.as_secs_f64()).fold(0.0, f64::max);
    if args.json {
        let rows: Vec<_> = recoveries
            .iter()
            .map(|row| json!({"fault": row.fault.name(), "lasted_s": row.lasted.as_secs_f64(), "silent_s": row.silent.as_secs_f64()}))
            .collect();
        println!(
            "{}",
            json!({"accepted": verdict.accepted, "lost": verdict.lost.len(), "doubled": verdict.doubled.len(),
                   "ends": verdict.ends, "recovery_s_max": slowest, "faults": rows, "mended": mended,
                   "redelivered": redelivered, "seed": args.seed, "kept": kept})
        );
        return kept;
    }
    println!("jobs accepted {}, lost {}, doubled {}", verdict.accepted, verdict.lost.len(), verdict.doubled.len());
    let ends: Vec<String> = verdict.ends.iter().map(|(state, jobs)| format!("{jobs} {state}")).collect();
    println!("they ended: {}", ends.join(", "));
    println!(
        "longest time without any result: {slowest:.1} s; messages delivered again: {redelivered}; jobs mended: {mended}"
    );
    for job in verdict.lost.iter().take(10) {
        println!("lost: {job}");
    }
    for job in verdict.doubled.iter().take(10) {
        println!("doubled: {job}");
    }
    kept
}
