//! What an attempt costs beyond wasmtime itself.
//!
//! The warm life of an attempt (store, instantiate, call, drop) through the sandbox, against the
//! same thing written directly on wasmtime: the same engine, pool, fuel, yield interval, limiter,
//! WASI context, wall limit and captured output. Both go in turns on one thread, so that whatever
//! else this machine does hits both; the ratio that SPECIFICATION.md promises is printed last.
//!
//! ```text
//! cargo bench -p wasmjob-runtime --bench attempt
//! ```
//! Guests built from guest-examples/ are measured as well where they are.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::{
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::Criterion;
use tokio::runtime::{Builder, Runtime};
use wasmjob_runtime::{Attempt, Blob, Prepared, Sandbox, SandboxConfig, Variant};
use wit_component::ComponentEncoder;

mod raw;

/// Batches of each side that the ratio is made of, and attempts in a batch.
const BATCHES: usize = 200;
const BATCH: usize = 50;

/// A guest and what it is given.
struct Case {
    name: &'static str,
    component: Vec<u8>,
    input: &'static str,
    args: &'static [&'static str],
}

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let sandbox = Sandbox::new(SandboxConfig::new(1, env::temp_dir())).unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    let cases = cases();
    let sides: Vec<(&Case, Arc<Prepared>, raw::Guest)> = cases
        .iter()
        .map(|case| (case, prepare(&runtime, &sandbox, case), raw::Guest::new(sandbox.engine(), case)))
        .collect();
    for (case, ours, raw) in &sides {
        let mut group = criterion.benchmark_group(case.name);
        group.bench_function("wasmtime", |bencher| bencher.iter(|| runtime.block_on(raw.run(case))));
        group.bench_function("wasmjob", |bencher| {
            bencher.iter(|| runtime.block_on(sandbox.run_here(attempt(case, ours))));
        });
        group.bench_function("wasmjob, handed to a guest thread", |bencher| {
            bencher.iter(|| runtime.block_on(sandbox.start(attempt(case, ours), ()).report()));
        });
        group.finish();
    }
    criterion.final_summary();
    // `cargo test` and `--list` run this binary too, and want no measurement.
    if env::args().any(|arg| arg == "--bench") {
        println!("\n{:<12}{:>12}{:>12}{:>8}", "", "wasmtime", "wasmjob", "ratio");
        for (case, ours, raw) in &sides {
            let (raw, ours) = in_turns(
                || drop(black_box(runtime.block_on(raw.run(case)))),
                || drop(black_box(runtime.block_on(sandbox.run_here(attempt(case, ours))))),
            );
            let ratio = ours.as_secs_f64() / raw.as_secs_f64();
            println!("{:<12}{:>9.2} us{:>9.2} us{ratio:>8.2}", case.name, micros(raw), micros(ours));
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Median time of one call of each.
fn in_turns(mut one: impl FnMut(), mut other: impl FnMut()) -> (Duration, Duration) {
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        times.0.push(batch(&mut one));
        times.1.push(batch(&mut other));
    }
    (median(times.0), median(times.1))
}

fn batch(call: &mut impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..BATCH {
        call();
    }
    started.elapsed() / u32::try_from(BATCH).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn cases() -> Vec<Case> {
    let mut cases =
        vec![Case { name: "command", component: command(), input: "some input", args: &["an", "argument"] }];
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples/target/wasm32-wasip2/release");
    for (name, input) in [("wordcount", "to be or not to be"), ("hello", r#"{"iterations":1}"#)] {
        let path: PathBuf = examples.join(name).with_extension("wasm");
        match fs::read(&path) {
            Ok(component) => cases.push(Case { name, component, input, args: &[] }),
            Err(error) => eprintln!("{name} is left out: {}: {error}", path.display()),
        }
    }
    cases
}

/// A plain module that writes a line, made a component as `wasm-tools component new` does it.
fn command() -> Vec<u8> {
    let module = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 64) "hello\0a")
            (func (export "_start")
              (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 6))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    );
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER;
    let encoder = ComponentEncoder::default().module(&module.unwrap()).unwrap();
    encoder.adapter("wasi_snapshot_preview1", adapter).unwrap().encode().unwrap()
}

fn prepare(runtime: &Runtime, sandbox: &Sandbox, case: &Case) -> Arc<Prepared> {
    let bytes = Blob::from_bytes(case.component.clone().into());
    runtime.block_on(sandbox.prepare(bytes.digest(), Variant::Fast, async { Ok(bytes) })).unwrap().0
}

fn attempt(case: &Case, component: &Arc<Prepared>) -> Attempt {
    let args = case.args.iter().map(|&arg| arg.to_owned()).collect();
    Attempt { input: Blob::from_bytes(case.input.into()), args, ..Attempt::new(component.clone()) }
}
