//! The sandbox alone: what runs, what is refused, and which limit ends what.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wasmjob_runtime::{
    Attempt, AttemptReport, Blob, CompileCaps, Compiler, Limit, Limits, LogSink, LogStream, Outcome, OutcomeKind,
    Sandbox, SandboxConfig, Variant,
};

fn sandbox() -> Sandbox {
    sandbox_in(None)
}

fn sandbox_in(code_dir: Option<&std::path::Path>) -> Sandbox {
    Sandbox::new(SandboxConfig {
        code_dir: code_dir.map(Into::into),
        compiler: compiler(),
        ..SandboxConfig::new(2, std::env::temp_dir())
    })
    .unwrap()
}

/// As a node has it: another process.
fn compiler() -> Compiler {
    Compiler::Process {
        program: wasmjob_tests::binary(),
        args: vec!["compile-worker".into()],
        caps: CompileCaps::default(),
    }
}

/// A folder that only we can get at, as compiled code wants it.
fn private_dir() -> tempfile::TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(mode).tempdir().unwrap()
}

fn wat(text: &str) -> Blob {
    Blob::from_bytes(wat::parse_str(text).unwrap().into())
}

async fn attempt(sandbox: &Sandbox, component: Blob) -> Result<Attempt, Box<Outcome>> {
    let (component, _) = sandbox.prepare(component.digest(), Variant::Fast, async { Ok(component) }).await?;
    let limits = Limits { fuel: 1_000_000_000, wall_ms: 60_000, ..Limits::default() };
    Ok(Attempt { limits, ..Attempt::new(component) })
}

async fn run_with(component: &str, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let sandbox = sandbox();
    match attempt(&sandbox, wat(component)).await {
        Err(outcome) => AttemptReport::unstarted(*outcome),
        Ok(mut attempt) => {
            change(&mut attempt);
            sandbox.start(attempt, ()).report().await
        }
    }
}

async fn run(component: &str) -> AttemptReport {
    run_with(component, |_| {}).await
}

/// A command module: imports of WASI preview 1, one memory, `body` as `_start`.
fn command(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (table 1 funcref)
            {body})"#
    )
}

fn start(body: &str) -> String {
    command(&format!(r#"(func (export "_start") {body})"#))
}

/// Writes `text` to file descriptor `fd`.
fn print(fd: u32, text: &str) -> String {
    let len = text.len();
    format!(
        r#"(data (i32.const 64) "{text}")
           (func (export "_start")
             (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {len}))
             (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8))))"#
    )
}

fn output(report: &AttemptReport) -> Vec<u8> {
    report.output.as_ref().map(|blob| blob.to_bytes(u64::MAX).unwrap().to_vec()).unwrap_or_default()
}

#[track_caller]
fn assert_limit(report: &AttemptReport, limit: Limit) {
    assert_eq!((report.outcome.kind, report.outcome.limit), (OutcomeKind::Limit, Some(limit)), "{:?}", report.outcome);
}

#[tokio::test]
async fn a_plain_command_writes_its_output_and_uses_fuel_and_memory() {
    let report = run(&command(&print(1, "hello"))).await;
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    assert_eq!(output(&report), b"hello");
    assert_eq!((report.usage.bytes_out, report.outcome.exit_code), (5, Some(0)));
    assert!(report.usage.fuel > 0 && report.usage.memory_bytes_peak >= 2 * 65536);
}

const CAT: &str = r#"(func (export "_start") (local $n i32)
    (loop $more
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.load (i32.const 8)))
      (i32.store (i32.const 4) (local.get $n))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $more (local.get $n))))"#;

#[tokio::test]
async fn input_of_any_size_reaches_standard_input_whole() {
    for size in [0, 1, 4096, 300_000, 3_000_000] {
        let input: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let given = Blob::from_bytes(input.clone().into());
        let report = run_with(&command(CAT), |attempt| attempt.input = given).await;
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert!(output(&report) == input, "{size} bytes");
    }
}

#[tokio::test]
async fn the_exit_code_of_a_plain_module_arrives_as_it_was_given() {
    for code in [0, 1, 3, 42, 255] {
        let report = run(&start(&format!("(call $exit (i32.const {code}))"))).await;
        let kind = if code == 0 { OutcomeKind::Ok } else { OutcomeKind::Error };
        assert_eq!((report.outcome.kind, report.outcome.exit_code), (kind, Some(code)));
    }
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_fuel() {
    let report = run(&start("(loop $l (br $l))")).await;
    assert_limit(&report, Limit::Fuel);
    assert_eq!(report.usage.fuel, 1_000_000_000);
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_wall_limit() {
    let report = run_with(&start("(loop $l (br $l))"), |attempt| {
        attempt.limits = Limits { wall_ms: 50, ..Limits::default() };
    })
    .await;
    assert_limit(&report, Limit::Wall);
    assert!(report.usage.wall_ms >= 50.0);
}

#[tokio::test]
async fn an_endless_loop_in_a_start_function_ends_too() {
    let module = command(r#"(func $spin (loop $l (br $l))) (start $spin) (func (export "_start"))"#);
    assert_limit(&run(&module).await, Limit::Fuel);
}

#[tokio::test]
async fn a_growth_that_the_budget_refuses_ends_the_attempt() {
    let report = run(&start("(loop $l (drop (memory.grow (i32.const 16))) (br $l))")).await;
    assert_limit(&report, Limit::Memory);
    assert!(report.usage.memory_bytes_peak <= 512 << 20);
}

#[tokio::test]
async fn a_growth_that_the_module_itself_forbids_returns_minus_one() {
    let module = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1 2)
        (func (export "_start")
          (if (i32.eq (memory.grow (i32.const 5)) (i32.const -1)) (then (call $exit (i32.const 7))))))"#;
    assert_eq!(run(module).await.outcome.exit_code, Some(7));
}

#[tokio::test]
async fn a_memory_too_large_from_the_start_is_refused_at_instantiation() {
    let report = run_with(&start(""), |attempt| attempt.limits.memory = 65536).await;
    assert_limit(&report, Limit::Memory);
}

#[tokio::test]
async fn a_growing_table_counts_against_the_memory() {
    let grow = "(loop $l (drop (table.grow (ref.null func) (i32.const 1000))) (br $l))";
    assert_limit(&run(&start(grow)).await, Limit::Table);
    let report = run_with(&start(grow), |attempt| attempt.limits.memory = 1 << 20).await;
    assert_limit(&report, Limit::Memory);
}

#[tokio::test]
async fn deep_recursion_ends_at_the_stack() {
    let module = command(
        r#"(func $f (param i32) (result i32) (i32.add (i32.const 1) (call $f (local.get 0))))
        (func (export "_start") (drop (call $f (i32.const 1))))"#,
    );
    assert_limit(&run(&module).await, Limit::Stack);
}

#[tokio::test]
async fn an_output_flood_ends_at_its_limit_and_keeps_the_prefix() {
    let flood = start(
        "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096))
         (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))",
    );
    let report = run_with(&flood, |attempt| attempt.limits.output = 10_000).await;
    assert_limit(&report, Limit::Output);
    assert_eq!(output(&report).len(), 10_000);
}

#[tokio::test]
async fn too_much_standard_error_is_counted_and_does_not_end_the_attempt() {
    let report = run_with(&command(&print(2, "0123456789")), |attempt| attempt.limits.log = 4).await;
    assert!(report.outcome.is_ok());
    assert_eq!(report.usage.log_bytes_dropped, 6);
}

#[tokio::test]
async fn an_input_over_its_limit_is_refused_before_anything_runs() {
    let report = run_with(&start(""), |attempt| {
        attempt.input = Blob::from_bytes("12345".into());
        attempt.limits.input = 4;
    })
    .await;
    assert_limit(&report, Limit::Input);
    assert!(!report.outcome.retryable);
}

#[tokio::test]
async fn a_trap_says_what_happened_and_how_standard_error_ended() {
    let text = command(&print(2, "boom")).replace("(i32.const 8))))", "(i32.const 8))) unreachable)");
    let report = run(&text).await;
    assert_eq!(report.outcome.kind, OutcomeKind::Trap);
    let message = report.outcome.message.unwrap();
    assert!(message.contains("unreachable") && message.ends_with("boom"), "{message}");
}

struct Lines(Mutex<Vec<u8>>);

impl LogSink for Lines {
    fn write(&self, _: LogStream, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

#[tokio::test]
async fn standard_error_reaches_the_log() {
    let lines = Arc::new(Lines(Mutex::default()));
    let sink = lines.clone();
    run_with(&command(&print(2, "a line")), move |attempt| attempt.log = sink).await;
    assert_eq!(*lines.0.lock().unwrap(), b"a line");
}

#[tokio::test]
async fn a_cancel_ends_a_spinning_guest() {
    let sandbox = sandbox();
    let attempt = attempt(&sandbox, wat(&start("(loop $l (br $l))"))).await.unwrap();
    let attempt = Attempt { limits: Limits::default(), ..attempt };
    let signals = attempt.signals.clone();
    let mut running = sandbox.start(attempt, ());
    signals.cancel();
    let report = tokio::time::timeout(Duration::from_secs(20), running.report()).await.unwrap();
    assert_eq!(report.outcome.kind, OutcomeKind::Cancelled);
}

#[tokio::test]
async fn a_spinning_guest_does_not_keep_another_from_running() {
    let sandbox = sandbox();
    let spinning = attempt(&sandbox, wat(&start("(loop $l (br $l))"))).await.unwrap();
    let signals = spinning.signals.clone();
    let _spinning = sandbox.start(Attempt { limits: Limits::default(), ..spinning }, ());
    let quick = attempt(&sandbox, wat(&command(&print(1, "hello")))).await.unwrap();
    assert!(sandbox.start(quick, ()).report().await.outcome.is_ok());
    signals.cancel();
}

async fn refusal(bytes: &[u8]) -> String {
    let refused = attempt(&sandbox(), Blob::from_bytes(bytes.to_vec().into())).await;
    let outcome = refused.err().expect("it is refused");
    assert_eq!((outcome.kind, outcome.retryable), (OutcomeKind::Invalid, false));
    outcome.message.unwrap()
}

#[tokio::test]
async fn what_is_not_wasm_is_refused_with_the_reason() {
    assert!(refusal(b"").await.contains("empty"));
    assert!(refusal(b"#!/bin/sh\n").await.contains("does not begin with"));
    assert!(refusal(b"(module)").await.contains("text format"));
    let truncated = &wat::parse_str(start("")).unwrap()[..40];
    assert!(refusal(truncated).await.contains("not valid"));
}

async fn refusal_of(text: &str) -> String {
    refusal(&wat::parse_str(text).unwrap()).await
}

#[tokio::test]
async fn a_module_that_is_no_command_is_refused() {
    assert!(refusal_of("(module (memory 1))").await.contains("`_start`"));
    let foreign = r#"(module (import "env" "f" (func)) (func (export "_start")))"#;
    assert!(refusal_of(foreign).await.contains("`env.f`"));
}

#[tokio::test]
async fn an_import_nobody_granted_is_named_with_its_flag() {
    let report = run(wasmjob_tests::guest::WANTS_HTTP).await;
    assert_eq!((report.outcome.kind, report.usage.fuel), (OutcomeKind::Invalid, 0));
    let message = report.outcome.message.unwrap();
    assert!(message.contains("`wasi:http/types@0.2.3`") && message.contains("--grant http=HOST"), "{message}");
    let other = r#"(component (import "acme:thing/api@1.0.0" (instance (export "x" (func)))))"#;
    assert!(refusal_of(other).await.contains("`acme:thing/api@1.0.0`"));
}

#[tokio::test]
async fn a_component_of_another_world_is_refused() {
    assert!(refusal_of("(component)").await.contains("exports nothing"));
    let wrong_type = r#"(component
        (core module $m (func (export "run") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;
    assert!(refusal_of(wrong_type).await.contains("wrong type"));
}

#[tokio::test]
async fn a_component_is_compiled_once_and_a_warm_start_compiles_nothing() {
    let dir = private_dir();
    let component = wat(&command(&print(1, "hello")));
    let cold = sandbox_in(Some(dir.path()));
    let prepared = futures_util::future::join_all((0..8).map(|_| attempt(&cold, component.clone()))).await;
    assert!(prepared.iter().all(Result::is_ok));
    assert_eq!((cold.cache_counts().compiled, cold.cache_counts().disk_hits), (1, 0));
    let warm = sandbox_in(Some(dir.path()));
    let never = async { panic!("the bytes are not needed") };
    warm.prepare(component.digest(), Variant::Fast, never).await.unwrap();
    assert_eq!((warm.cache_counts().compiled, warm.cache_counts().disk_hits), (0, 1));
}

#[tokio::test]
async fn damaged_compiled_code_is_compiled_again() {
    let dir = private_dir();
    let component = wat(&command(&print(1, "hello")));
    attempt(&sandbox_in(Some(dir.path())), component.clone()).await.unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let sandbox = sandbox_in(Some(dir.path()));
    attempt(&sandbox, component).await.unwrap();
    assert_eq!((sandbox.cache_counts().compiled, sandbox.cache_counts().disk_hits), (1, 0));
}

/// A component that exports `wasi:cli/run` of this version; `body` is the core function behind it.
/// `before` can import things and say how they are lowered, in `with`.
fn component(version: &str, before: &str, with: &str, imports: &str, body: &str) -> String {
    format!(
        r#"(component
            {before}
            (core module $m {imports} (func (export "run") (result i32) {body}))
            (core instance $i (instantiate $m {with}))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (component $run-only (import "f" (func $f (result (result)))) (export "run" (func $f)))
            (instance $exported (instantiate $run-only (with "f" (func $run))))
            (export "wasi:cli/run@{version}" (instance $exported)))"#
    )
}

fn bare_component(version: &str) -> String {
    component(version, "", "", "", "i32.const 0")
}

#[tokio::test]
async fn a_component_of_any_patch_release_of_wasi_runs() {
    for version in ["0.2.0", "0.2.3", "0.2.12", "0.2.99"] {
        let import = format!(
            r#"(import "wasi:clocks/monotonic-clock@{version}" (instance $clock (export "now" (func (result u64)))))
               (core func $now (canon lower (func $clock "now")))"#
        );
        let with = r#"(with "" (instance (export "now" (func $now))))"#;
        let text = component(
            version,
            &import,
            with,
            r#"(import "" "now" (func $now (result i64)))"#,
            "(drop (call $now)) i32.const 0",
        );
        assert!(run(&text).await.outcome.is_ok(), "{version}: {:?}", run(&text).await.outcome);
    }
    let failing = component("0.2.0", "", "", "", "i32.const 1");
    assert_eq!(run(&failing).await.outcome.exit_code, Some(1));
}

#[tokio::test]
async fn a_component_inside_a_component_runs() {
    let inner = bare_component("0.2.0").replacen("(component", "(component $inner", 1);
    let outer = format!(
        r#"(component {inner} (instance $x (instantiate $inner))
            (export "wasi:cli/run@0.2.0" (instance $x "wasi:cli/run@0.2.0")))"#
    );
    let report = run(&outer).await;
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
}

#[tokio::test]
async fn a_trap_or_an_exit_in_a_start_function_ends_the_attempt_as_anywhere_else() {
    let trap = command(r#"(func $f unreachable) (start $f) (func (export "_start"))"#);
    assert_eq!(run(&trap).await.outcome.kind, OutcomeKind::Trap);
    let exit = command(r#"(func $f (call $exit (i32.const 5))) (start $f) (func (export "_start"))"#);
    assert_eq!(run(&exit).await.outcome.exit_code, Some(5));
}

#[tokio::test]
async fn a_trap_says_in_which_functions_it_happened() {
    let text =
        command(r#"(func $inner unreachable) (func $outer (call $inner)) (func (export "_start") (call $outer))"#);
    let message = run(&text).await.outcome.message.unwrap();
    assert!(message.contains("in `inner`, called by `outer`"), "{message}");
}

/// A component with `count` core instances of a module made of `field`.
fn many(count: usize, field: &str) -> String {
    let instances = "(core instance (instantiate $many))".repeat(count);
    component("0.2.0", &format!("(core module $many {field}) {instances}"), "", "", "i32.const 0")
}

#[tokio::test]
async fn too_many_instances_memories_or_tables_are_a_limit() {
    for (most, field) in [(100, ""), (10, "(memory 1)"), (40, "(table 1 funcref)")] {
        let report = run(&many(most, field)).await;
        assert!(report.outcome.is_ok(), "{field}: {:?}", report.outcome);
        assert_limit(&run(&many(2 * most, field)).await, Limit::Instances);
    }
    assert_limit(&run(&many(1, "(table 200001 funcref)")).await, Limit::Table);
    assert_limit(&run(&many(1, "(table 10000000 funcref)")).await, Limit::Table);
    assert_limit(&run(&many(1, "(memory 65536)")).await, Limit::Memory);
    assert_limit(&run(&many(9, "(memory 1024)")).await, Limit::Memory);
}

#[tokio::test]
async fn a_guest_that_never_lets_go_of_a_handle_ends_at_its_handles() {
    let host_owned = component(
        "0.2.0",
        r#"(import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
           (alias export $streams "output-stream" (type $stream))
           (import "wasi:cli/stdout@0.2.0" (instance $stdout
             (alias outer 1 $stream (type $stream))
             (export "output-stream" (type $exported (eq $stream)))
             (export "get-stdout" (func (result (own $exported))))))
           (core func $get (canon lower (func $stdout "get-stdout")))"#,
        r#"(with "" (instance (export "get" (func $get))))"#,
        r#"(import "" "get" (func $get (result i32)))"#,
        "(loop $l (drop (call $get)) (br $l)) i32.const 0",
    );
    assert_limit(&run(&host_owned).await, Limit::Handles);
    let guest_owned = component(
        "0.2.0",
        "(type $own (resource (rep i32))) (core func $get (canon resource.new $own))",
        r#"(with "" (instance (export "get" (func $get))))"#,
        r#"(import "" "get" (func $get (param i32) (result i32)))"#,
        "(loop $l (drop (call $get (i32.const 1))) (br $l)) i32.const 0",
    );
    assert_limit(&run(&guest_owned).await, Limit::Handles);
}

/// A command with one more import of WASI preview 1.
fn command_with(import: &str, body: &str) -> String {
    start(body).replacen("(memory", &format!("(import \"wasi_snapshot_preview1\" {import}) (memory"), 1)
}

async fn run_for_100_ms(text: &str) -> AttemptReport {
    run_with(text, |attempt| attempt.limits = Limits { wall_ms: 100, ..Limits::default() }).await
}

#[tokio::test]
async fn a_guest_that_only_calls_the_host_ends_at_its_wall_limit() {
    let clock = command_with(
        r#""clock_time_get" (func $clock (param i32 i64 i32) (result i32))"#,
        "(loop $l (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 0))) (br $l))",
    );
    assert_limit(&run_for_100_ms(&clock).await, Limit::Wall);
    let nothing =
        start("(loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8))) (br $l))");
    assert_limit(&run_for_100_ms(&nothing).await, Limit::Wall);
}

#[tokio::test]
async fn a_guest_that_sleeps_for_an_hour_is_woken_at_its_wall_limit() {
    // One subscription at address 0: a relative time of 3600 s on the monotonic clock.
    let text = command_with(
        r#""poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32))"#,
        "(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 3600000000000))
         (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))",
    );
    let report = run_for_100_ms(&text).await;
    assert_limit(&report, Limit::Wall);
    assert!(report.usage.fuel < 1_000_000, "it slept");
}

#[tokio::test]
async fn a_flood_of_single_bytes_ends_at_the_output_limit_and_one_of_standard_error_does_not() {
    let flood = |fd: u32, writes: u32| {
        start(&format!(
            "(local $n i32) (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
             (loop $l
               (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))
               (br_if $l (i32.ne (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {writes}))))"
        ))
    };
    let report = run_with(&flood(1, 0), |attempt| attempt.limits.output = 1000).await;
    assert_limit(&report, Limit::Output);
    assert_eq!(output(&report).len(), 1000);
    let report = run_with(&flood(2, 5000), |attempt| attempt.limits.log = 1000).await;
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    assert_eq!(report.usage.log_bytes_dropped, 4000);
}

#[tokio::test]
async fn more_random_bytes_than_one_call_gives_are_refused_with_the_reason() {
    let ask = |bytes: u32| {
        command_with(
            r#""random_get" (func $random (param i32 i32) (result i32))"#,
            &format!("(drop (memory.grow (i32.const 300))) (drop (call $random (i32.const 64) (i32.const {bytes})))"),
        )
    };
    for bytes in [65536, 1 << 20, 16 << 20] {
        assert!(run(&ask(bytes)).await.outcome.is_ok(), "{bytes}");
    }
    let report = run(&ask((16 << 20) + 1)).await;
    assert_limit(&report, Limit::Call);
    assert!(report.outcome.message.unwrap().contains("16MiB of random"));
}

#[tokio::test]
async fn a_refusal_does_not_repeat_thousands_of_names() {
    let exports: String = (0..5000).map(|i| format!(r#"(export "some-name-{i}" (func $run))"#)).collect();
    let text = format!(
        r#"(component (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m)) (func $run (result u32) (canon lift (core func $i "f"))) {exports})"#
    );
    let message = refusal_of(&text).await;
    assert!(message.len() < 1000 && message.contains("`some-name-0`") && message.contains("4992 more"), "{message}");
    let long = format!(r#"(component (import "a:{}/b" (instance)))"#, "x".repeat(50_000));
    assert!(refusal_of(&long).await.len() <= 4096);
}

#[tokio::test]
async fn a_component_with_a_foreign_import_is_refused_before_it_is_compiled() {
    // The code is not valid, which only the compiler would notice.
    let text = r#"(component (core module (func (result i32))) (import "acme:thing/api@1.0.0" (instance)))"#;
    assert!(refusal_of(text).await.contains("`acme:thing/api@1.0.0`"));
    let inside = r#"(component (component (import "acme:thing/api@1.0.0" (instance))))"#;
    assert!(refusal_of(inside).await.contains("exports nothing"));
}

#[tokio::test]
async fn a_module_without_a_memory_runs_too() {
    assert!(run(r#"(module (func (export "_start")))"#).await.outcome.is_ok());
    assert!(run(r#"(module (memory 3) (global i32 i32.const 0) (func (export "_start")))"#).await.outcome.is_ok());
    let spin = r#"(module (global i32 i32.const 0) (func (export "_start") (loop $l (br $l))))"#;
    assert_limit(&run(spin).await, Limit::Fuel);
    let exit = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "_start") (call $exit (i32.const 4))))"#;
    assert_eq!(run(exit).await.outcome.exit_code, Some(4));
}

#[tokio::test]
async fn components_that_are_nested_without_end_are_not_compiled() {
    let empty = wat::parse_str("(component)").unwrap();
    let nested = (0..1000).fold(empty, |inner, _| {
        let header = &inner[..8];
        [header, &component_section(&inner)].concat()
    });
    let refused = attempt(&sandbox(), Blob::from_bytes(nested.into())).await.err().expect("it is refused");
    assert_eq!((refused.limit, refused.retryable), (Some(Limit::Compile), false));
}

/// Section 4, a component.
fn component_section(component: &[u8]) -> Vec<u8> {
    section(4, component)
}

/// A section: its number, its length in LEB128, its bytes.
#[allow(clippy::cast_possible_truncation)]
fn section(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut section, mut length) = (vec![number], bytes.len());
    while length > 0x7f {
        section.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    section.push(length as u8);
    section.extend_from_slice(bytes);
    section
}

/// A component with one type: 5000 types inside each other, of components (0x41) or instances
/// (0x42), each the only declaration of the one around it.
fn nested_types(opcode: u8) -> Vec<u8> {
    let types = [&[1], [opcode, 1, 1].repeat(5000).as_slice(), &[opcode, 0]].concat();
    [wat::parse_str("(component)").unwrap(), section(7, &types)].concat()
}

#[tokio::test]
async fn types_that_are_nested_without_end_are_not_validated() {
    let metadata = [b"\x10component-type:x".as_slice(), &nested_types(0x41)].concat();
    let module = [wat::parse_str(start("")).unwrap(), section(0, &metadata)].concat();
    for bytes in [nested_types(0x41), nested_types(0x42), module] {
        let refused = attempt(&sandbox(), Blob::from_bytes(bytes.into())).await.err().expect("it is refused");
        assert_eq!((refused.limit, refused.retryable), (Some(Limit::Compile), false), "{refused:?}");
    }
}

#[tokio::test]
async fn a_module_with_several_tables_runs() {
    let report = run(&command(r#"(table 3 funcref) (table 3 funcref) (func (export "_start"))"#)).await;
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
}

#[tokio::test]
async fn memory_that_is_nearly_all_zeros_takes_no_room_in_the_cache_of_compiled_code() {
    let dir = private_dir();
    let sparse = r#"(module (memory 256) (data (i32.const 0) "a") (data (i32.const 16000000) "b")
        (func (export "_start")))"#;
    attempt(&sandbox_in(Some(dir.path())), wat(sparse)).await.unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
    assert!(file.metadata().unwrap().len() < 1 << 20);
}

#[tokio::test]
async fn compiled_code_of_another_component_does_not_pass_under_this_name() {
    let dir = private_dir();
    let (mine, other) = (wat(&command(&print(1, "mine"))), wat(&command(&print(1, "other"))));
    let files = || -> Vec<_> { std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect() };
    attempt(&sandbox_in(Some(dir.path())), mine.clone()).await.unwrap();
    let of_mine = files().remove(0);
    attempt(&sandbox_in(Some(dir.path())), other).await.unwrap();
    let of_other = files().into_iter().find(|path| *path != of_mine).unwrap();
    std::fs::rename(of_other, of_mine).unwrap();
    let sandbox = sandbox_in(Some(dir.path()));
    let attempt = attempt(&sandbox, mine).await.unwrap();
    assert_eq!((sandbox.cache_counts().compiled, sandbox.cache_counts().disk_hits), (1, 0));
    assert_eq!(output(&sandbox.start(attempt, ()).report().await), b"mine");
}

#[tokio::test]
async fn a_folder_of_compiled_code_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = private_dir();
    let (open, link) = (dir.path().join("open"), dir.path().join("link"));
    let refusal = |code_dir: &std::path::Path| {
        let config = SandboxConfig { code_dir: Some(code_dir.into()), ..SandboxConfig::new(1, std::env::temp_dir()) };
        let error = Sandbox::new(config)
            .err()
            .map(|error| (error.to_string(), std::error::Error::source(&error).map(ToString::to_string)));
        format!("{error:?}")
    };
    symlink(dir.path(), &link).unwrap();
    assert!(refusal(&link).contains("a link to one"), "{}", refusal(&link));
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o770)).unwrap();
    assert!(refusal(&open).contains("chmod 700"), "{}", refusal(&open));
}

/// A host whose log breaks.
struct BrokenLog;

impl LogSink for BrokenLog {
    fn write(&self, _: LogStream, _: &[u8]) {
        panic!("the log is broken");
    }
}

#[tokio::test]
async fn a_panic_of_the_host_ends_that_attempt_only() {
    let sandbox = sandbox();
    let complains = wat(&wasmjob_tests::guest::ticks_ms(0));
    let mut broken = attempt(&sandbox, complains.clone()).await.unwrap();
    broken.log = Arc::new(BrokenLog);
    let report = sandbox.start(broken, ()).report().await;
    assert_eq!((report.outcome.kind, report.outcome.retryable), (OutcomeKind::Error, true));
    assert!(report.outcome.message.unwrap().contains("the log is broken"));
    // As often as there are threads, and once more.
    for _ in 0..3 {
        let again = attempt(&sandbox, complains.clone()).await.unwrap();
        assert!(sandbox.start(again, ()).report().await.outcome.is_ok());
    }
}
