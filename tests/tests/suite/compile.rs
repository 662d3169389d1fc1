//! Compiling in another process: what it may take, who waits for it, and what is kept of it.

use std::{
    future::poll_fn,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::future::join_all;
use rustix::process::Signal;
use wasmjob_runtime::{
    Attempt, Blob, CompileCaps, Compiler, Limit, NodeLimits, Outcome, OutcomeKind, Prepared, Sandbox, SandboxConfig,
    Variant,
};
use wasmjob_tests::{Cluster, binary, compilers, guest, is_running, send, until};

fn config(compiler: Compiler) -> SandboxConfig {
    SandboxConfig { compiler, ..SandboxConfig::new(1, std::env::temp_dir()) }
}

fn sandbox_with(caps: CompileCaps) -> Sandbox {
    Sandbox::new(config(Compiler::Process { program: binary(), args: vec!["compile-worker".into()], caps })).unwrap()
}

/// The caps of a node, but with this much processor time, which tells the processes of one test from
/// those of others.
fn marked(cpu_s: u64) -> (Sandbox, impl Fn() -> Vec<u32> + Clone) {
    let running = move || compilers(std::process::id(), &format!("\"cpu_s\":{cpu_s},"));
    (sandbox_with(CompileCaps { cpu_s, ..CompileCaps::default() }), running)
}

fn wat(text: impl AsRef<str>) -> Blob {
    Blob::from_bytes(wat::parse_str(text).unwrap().into())
}

/// Every call is another component that takes about a second.
fn slow(size: usize) -> Blob {
    wat(guest::takes_time_to_compile(size))
}

async fn prepare(sandbox: &Sandbox, component: &Blob) -> Result<Arc<Prepared>, Box<Outcome>> {
    prepare_as(sandbox, component, Variant::Fast).await
}

async fn prepare_as(sandbox: &Sandbox, component: &Blob, variant: Variant) -> Result<Arc<Prepared>, Box<Outcome>> {
    let bytes = component.clone();
    Ok(sandbox.prepare(component.digest(), variant, async { Ok(bytes) }).await?.0)
}

/// Waits on the side until this is so.
async fn eventually(what: &str, so: impl Fn() -> bool + Send + 'static) {
    let what = what.to_owned();
    tokio::task::spawn_blocking(move || until(&what, || so().then_some(()))).await.unwrap();
}

/// Lets a future begin. Panics if it ends at once.
async fn begin<F: Future>(mut future: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending(), "it had to wait for nothing");
        Poll::Ready(())
    })
    .await;
}

#[track_caller]
fn assert_refused(prepared: Result<Arc<Prepared>, Box<Outcome>>, retryable: bool, word: &str) {
    let outcome = prepared.err().expect("it is refused");
    let found = (outcome.kind, outcome.limit, outcome.retryable);
    assert_eq!(found, (OutcomeKind::Limit, Some(Limit::Compile), retryable), "{outcome:?}");
    assert!(outcome.message.as_ref().unwrap().contains(word), "{outcome:?}");
}

#[tokio::test]
async fn each_cap_of_a_compile_ends_it_with_its_own_words() {
    let caps = CompileCaps::default();
    let memory = sandbox_with(caps.clone());
    assert_refused(prepare(&memory, &wat(guest::takes_memory_to_compile())).await, false, "memory");
    let cpu = sandbox_with(CompileCaps { cpu_s: 1, ..caps.clone() });
    assert_refused(prepare(&cpu, &slow(3_000)).await, false, "1 s of processor time");
    let wall = sandbox_with(CompileCaps { wall: Duration::from_millis(20), ..caps.clone() });
    assert_refused(prepare(&wall, &slow(1_000)).await, true, "20 ms");
    let code = sandbox_with(CompileCaps { code_bytes: 1_000, ..caps });
    assert_refused(prepare(&code, &wat(guest::says("hello"))).await, false, "1000 bytes of machine code");
}

#[tokio::test]
async fn an_operator_sets_the_size_of_a_component_and_of_its_stack() {
    let deep = wat(guest::recurses(3_000));
    let ended = async |limits: NodeLimits| {
        let sandbox = Sandbox::new(SandboxConfig { limits, ..config(Compiler::InProcess) }).unwrap();
        match prepare(&sandbox, &deep).await {
            Ok(component) => sandbox.start(Attempt::new(component), ()).report().await.outcome,
            Err(outcome) => *outcome,
        }
    };
    assert!(ended(NodeLimits::default()).await.is_ok());
    let stack = ended(NodeLimits { stack: 64 << 10, ..NodeLimits::default() }).await;
    assert_eq!(stack.limit, Some(Limit::Stack), "{stack:?}");
    let component = ended(NodeLimits { component: 100, ..NodeLimits::default() }).await;
    assert_eq!(component.limit, Some(Limit::Compile));
    let message = component.message.unwrap();
    assert!(message.contains(&deep.size().to_string()) && message.contains("more than the 100"), "{message}");
}

#[test]
fn what_an_operator_allows_a_compile_follows_from_the_limits_of_the_node() {
    let limits = NodeLimits { component: 1_000, compile_memory: 5, compile_time_ms: 2_500, ..NodeLimits::default() };
    let caps = CompileCaps { memory_bytes: 5, cpu_s: 3, wall: Duration::from_millis(3_750), code_bytes: 2_000 };
    assert_eq!(CompileCaps::of(&limits), caps);
}

#[test]
fn a_component_that_exhausts_the_compiler_costs_its_job_and_nothing_else() {
    let cluster = Cluster::up();
    let bomb = cluster.guest(&guest::takes_memory_to_compile());
    let jobs = [0; 5].map(|_| cluster.submit(&[&bomb]));
    let said = cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::says("hello"))]).succeeded();
    assert_eq!(said.text(), "hello");
    for job in jobs {
        let outcome = cluster.until_state(&job, "failed")["outcome"].clone();
        assert_eq!((outcome["kind"].as_str(), outcome["limit"].as_str()), (Some("limit"), Some("compile")));
    }
    // Nothing of it goes on.
    let node = u32::try_from(cluster.node("n1")["pid"].as_u64().unwrap()).unwrap();
    assert!(compilers(node, "").is_empty());
}

#[tokio::test]
async fn a_component_that_cannot_be_compiled_is_tried_once_for_a_queue_of_jobs() {
    let caps = CompileCaps { memory_bytes: 256 << 20, ..CompileCaps::default() };
    let sandbox = sandbox_with(caps);
    for component in [wat(guest::takes_memory_to_compile()), wat("(module)")] {
        let tried = sandbox.cache_counts().compiled;
        let together = join_all((0..50).map(|_| prepare(&sandbox, &component))).await;
        assert!(together.iter().all(Result::is_err));
        for _ in 0..50 {
            assert_eq!(prepare(&sandbox, &component).await.err(), together[0].as_ref().err().cloned());
        }
        assert_eq!(sandbox.cache_counts().compiled - tried, 1);
    }
}

#[tokio::test]
async fn that_the_compiler_does_not_work_is_no_fault_of_the_component() {
    let component = wat(guest::says("hello"));
    for (program, word) in
        [("/no/such/program", "could not be started"), ("/bin/true", "without an answer"), ("/bin/cat", "answer")]
    {
        let (program, args, caps) = (PathBuf::from(program), vec![], CompileCaps::default());
        let sandbox = Sandbox::new(config(Compiler::Process { program, args, caps })).unwrap();
        for tries in 1..3 {
            let outcome = prepare(&sandbox, &component).await.err().expect("there is no compiler");
            assert_eq!((outcome.kind, outcome.retryable), (OutcomeKind::Error, true), "{outcome:?}");
            assert!(outcome.message.as_ref().unwrap().contains(word), "{outcome:?}");
            assert_eq!(sandbox.cache_counts().compiled, tries);
        }
    }
}

#[tokio::test]
async fn a_compiler_that_is_killed_is_an_outcome() {
    let (sandbox, running) = marked(51);
    let component = slow(5_000);
    let mut prepared = pin!(prepare(&sandbox, &component));
    begin(prepared.as_mut()).await;
    let looking = running.clone();
    tokio::select! {
        _ = &mut prepared => panic!("it cannot be done yet"),
        () = eventually("the compiler runs", move || !looking().is_empty()) => {}
    }
    running().into_iter().for_each(|pid| send(pid, Signal::KILL));
    assert_refused(prepared.await, true, "killed");
}

#[tokio::test]
async fn a_compile_that_nobody_waits_for_ends() {
    let (sandbox, running) = marked(52);
    let component = slow(5_000);
    {
        let mut prepared = pin!(prepare(&sandbox, &component));
        let looking = running.clone();
        tokio::select! {
            _ = &mut prepared => panic!("it cannot be done yet"),
            () = eventually("the compiler runs", move || !looking().is_empty()) => {}
        }
    }
    eventually("the compiler is gone", move || running().is_empty()).await;
    // And nothing was remembered of it.
    assert!(prepare(&sandbox, &wat(guest::says("hello"))).await.is_ok());
}

#[tokio::test]
async fn a_compile_goes_on_for_those_who_wait_when_who_started_it_does_not() {
    let (sandbox, running) = marked(53);
    let component = slow(1_500);
    let mut starter = Box::pin(prepare(&sandbox, &component));
    tokio::select! {
        _ = &mut starter => panic!("it cannot be done yet"),
        () = eventually("the compiler runs", move || !running().is_empty()) => {}
    }
    let mut other = pin!(prepare(&sandbox, &component));
    begin(other.as_mut()).await;
    drop(starter);
    assert!(other.await.is_ok());
    assert_eq!(sandbox.cache_counts().compiled, 1);
}

#[tokio::test]
async fn no_more_are_compiled_at_the_same_time_than_there_are_turns() {
    let (sandbox, running) = marked(54);
    let components: Vec<Blob> = (600..604).map(slow).collect();
    let mut all = pin!(join_all(components.iter().map(|component| prepare(&sandbox, component))));
    let turns = std::thread::available_parallelism().unwrap().get().min(2);
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let done = loop {
        tokio::select! {
            done = &mut all => break done,
            _ = look.tick() => assert!(running().len() <= turns),
        }
    };
    assert!(done.iter().all(Result::is_ok));
}

#[test]
fn a_compiler_does_not_outlive_its_node() {
    let cluster = Cluster::up();
    let path = cluster.guest(&guest::takes_time_to_compile(5_000));
    let _job = cluster.submit(&[&path]);
    let node = u32::try_from(cluster.node("n1")["pid"].as_u64().unwrap()).unwrap();
    let compiler = until("the node compiles", || compilers(node, "").first().copied());
    send(node, Signal::KILL);
    until("the compiler is gone", || (!is_running(compiler)).then_some(()));
}

/// A folder that only we can get at, as compiled code wants it.
fn private_dir() -> tempfile::TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(mode).tempdir().unwrap()
}

fn keeping(dir: &Path) -> Sandbox {
    let config = config(Compiler::Process {
        program: binary(),
        args: vec!["compile-worker".into()],
        caps: CompileCaps::default(),
    });
    Sandbox::new(SandboxConfig { code_dir: Some(dir.into()), ..config }).unwrap()
}

/// The files in which compiled code is kept.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn compiled_code_that_is_not_what_was_kept_is_compiled_again() {
    let dir = private_dir();
    let component = wat(guest::says("hello"));
    prepare(&keeping(dir.path()), &component).await.unwrap();
    let file = files(dir.path()).remove(0);
    let good = std::fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let half = good.len() / 2;
    let truncated = [0, 1, 31, 32, 33, half, good.len() - 1].map(|length| good[..length].to_vec());
    let changed = [flipped(0), flipped(32), flipped(half), flipped(good.len() - 1), [good.as_slice(), b"x"].concat()];
    for bad in truncated.into_iter().chain(changed) {
        std::fs::write(&file, bad).unwrap();
        let sandbox = keeping(dir.path());
        prepare(&sandbox, &component).await.unwrap();
        assert_eq!((sandbox.cache_counts().compiled, sandbox.cache_counts().disk_hits), (1, 0));
        assert!(std::fs::read(&file).unwrap() == good, "it is there again");
    }
}

#[tokio::test]
async fn compiled_code_of_another_variant_is_not_found_and_does_not_pass_under_this_name() {
    let dir = private_dir();
    let component = wat(guest::says("hello"));
    prepare(&keeping(dir.path()), &component).await.unwrap();
    let of_this = files(dir.path()).remove(0);
    let other = keeping(dir.path());
    prepare_as(&other, &component, Variant::Deterministic).await.unwrap();
    assert_eq!((other.cache_counts().compiled, other.cache_counts().disk_hits), (1, 0));
    let of_other = files(dir.path()).into_iter().find(|file| *file != of_this).unwrap();
    std::fs::copy(of_other, &of_this).unwrap();
    let sandbox = keeping(dir.path());
    prepare(&sandbox, &component).await.unwrap();
    assert_eq!((sandbox.cache_counts().compiled, sandbox.cache_counts().disk_hits), (1, 0));
}

/// Ends with 1 if adding to a NaN gives the one NaN that all processors have in common.
const ADDS_TO_A_NAN: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func $add (param f32) (result i32) (i32.reinterpret_f32 (f32.add (local.get 0) (f32.const 1))))
    (func (export "_start")
      (call $exit (i32.eq (call $add (f32.const nan:0x600001)) (i32.const 0x7fc00000)))))"#;

#[tokio::test]
async fn the_deterministic_variant_has_one_nan() {
    let sandbox = sandbox_with(CompileCaps::default());
    let component = wat(ADDS_TO_A_NAN);
    for variant in [Variant::Deterministic, Variant::Fast] {
        let component = prepare_as(&sandbox, &component, variant).await.unwrap();
        let exit_code = sandbox.start(Attempt::new(component), ()).report().await.outcome.exit_code;
        // What the other one has is the processor's choice.
        assert!(variant == Variant::Fast || exit_code == Some(1), "{exit_code:?}");
    }
    assert_eq!(sandbox.cache_counts().compiled, 2);
}

#[tokio::test]
async fn what_is_compiled_here_and_in_another_process_is_the_same() {
    let dirs = [private_dir(), private_dir()];
    let component = wat(guest::cat());
    prepare(&keeping(dirs[0].path()), &component).await.unwrap();
    let here = SandboxConfig { code_dir: Some(dirs[1].path().into()), ..config(Compiler::InProcess) };
    prepare(&Sandbox::new(here).unwrap(), &component).await.unwrap();
    let [there, here] = dirs.map(|dir| files(dir.path()).iter().map(|file| std::fs::read(file).unwrap()).collect());
    let (there, here): (Vec<_>, Vec<_>) = (there, here);
    assert!(there == here && there.len() == 1);
}
