//! Calls of every host function, with any arguments and any memory: each ends in a typed outcome, within
//! the limits, and the host goes on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use wasmjob_runtime::grants::{ChildGrant, Children, NameGrants, Names, Secret, Target};
use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, Grants, Limits, LogSink, LogStream, OutcomeKind,
    Prepared, Sandbox, SandboxConfig, Signals, Variant,
};

use super::guest::Guest;

/// Guests can wait, and mostly for nothing.
const LIMITS: Limits = Limits {
    fuel: 3_000_000,
    memory: 4 << 20,
    wall_ms: 50,
    output: 64 << 10,
    input: 1 << 20,
    log: 16 << 10,
    table: 1_000,
    handles: 100,
    instances: 100,
    call: 1 << 20,
};

/// Fuel of the dearest single call within these limits.
const LAST_CALL_FUEL_MAX: u64 = 100_000_000;

/// An artifact there is.
const ARTIFACT: &[u8] = b"an artifact";

/// The guest, compiled.
struct Rig {
    guest: Guest,
    sandbox: Sandbox,
    component: Arc<Prepared>,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let config = SandboxConfig::new(2, std::env::temp_dir());
    let sandbox = Sandbox::new(config).expect("this machine can run guests");
    let guest = Guest::generate();
    let bytes = Blob::from_bytes(guest.component.clone().into());
    let prepared =
        on_runtime(|runtime| runtime.block_on(sandbox.prepare(bytes.digest(), Variant::Fast, async { Ok(bytes) })));
    let (component, _) = prepared.expect("the guest imports what every job may");
    Rig { guest, sandbox, component }
});

fn on_runtime<T>(work: impl FnOnce(&Runtime) -> T) -> T {
    thread_local!(static RUNTIME: RefCell<Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are file descriptors")
    ));
    RUNTIME.with_borrow(work)
}

/// Makes an attempt whose guest calls what `program` says; panics if it costs more than it may or the
/// host fails.
pub fn run(program: &[u8]) {
    let rig = &*RIG;
    let (log, signals) = (Arc::new(Counted::default()), Arc::new(Signals::default()));
    let attempt = Attempt {
        input: Blob::from_bytes(program.to_vec().into()),
        args: vec!["an argument".into()],
        env: vec![("NAME".into(), "value".into())],
        limits: LIMITS,
        grants: grants(),
        soft: Duration::from_secs(1),
        artifacts: Arc::new(Few::default()),
        log: log.clone(),
        signals: signals.clone(),
        ..Attempt::new(rig.component.clone())
    };
    // On this thread: a panic of the host is not caught and turned into a report.
    let report = on_runtime(|runtime| runtime.block_on(rig.sandbox.run_here(attempt)));
    check(&report);
    assert!(log.0.load(Ordering::Relaxed) <= LIMITS.log, "more log than the limit");
    assert!(signals.progress().is_none_or(|progress| progress.message.len() <= 256), "a progress message too long");
}

/// Everything that can be granted without another machine; nobody listens at the address.
fn grants() -> Grants {
    let few = Arc::new(Few::default());
    let nobody = Target { host: "a.test".into(), port: Some(9), addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()] };
    Grants {
        scratch_bytes: Some(64 << 10),
        net: vec![nobody.clone()],
        http: vec![nobody],
        names: Some(NameGrants { prefixes: vec![("a".into(), true)], names: few.clone() }),
        children: Some(ChildGrant { max: 3, children: few }),
        secrets: [("a".to_owned(), Secret::new(*b"a value"))].into(),
        ..Grants::default()
    }
}

fn check(report: &AttemptReport) {
    let outcome = &report.outcome;
    let message = outcome.message.as_deref().unwrap_or_default();
    let ended = [OutcomeKind::Ok, OutcomeKind::Error, OutcomeKind::Trap, OutcomeKind::Limit];
    assert!(ended.contains(&outcome.kind), "{outcome:?}");
    assert_eq!(outcome.kind == OutcomeKind::Limit, outcome.limit.is_some(), "{outcome:?}");
    // A job that gives up says why, or nothing.
    assert!(matches!(outcome.kind, OutcomeKind::Ok | OutcomeKind::Error) || !message.is_empty(), "no reason is given");
    assert!(message.len() <= 8 << 10, "a message of {} bytes", message.len());
    // The call that is over the limit is done before the guest is stopped.
    let fuel_max = LIMITS.fuel + LAST_CALL_FUEL_MAX;
    assert!(report.usage.fuel <= fuel_max && report.usage.memory_bytes_peak <= LIMITS.memory, "{:?}", report.usage);
    assert!(report.output.as_ref().is_none_or(|output| output.size() <= LIMITS.output), "more output than the limit");
}

/// How many bytes were logged.
#[derive(Default)]
struct Counted(AtomicU64);

impl LogSink for Counted {
    fn write(&self, _: LogStream, bytes: &[u8]) {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// One artifact, and those of this attempt.
#[derive(Default)]
struct Few(Mutex<VecDeque<Blob>>);

#[async_trait::async_trait]
impl Artifacts for Few {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        let few = self.0.lock().expect("nobody panics with it");
        let found = few.iter().find(|blob| blob.digest() == *digest).cloned();
        let known = || Some(Blob::from_bytes(ARTIFACT.into())).filter(|blob| blob.digest() == *digest);
        found.or_else(known).ok_or_else(|| AccessError::NotFound(digest.to_string()))
    }

    async fn publish(&self, blob: &Blob) -> Result<(), AccessError> {
        let mut few = self.0.lock().expect("nobody panics with it");
        few.push_back(blob.clone());
        few.truncate(8);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Names for Few {
    async fn get(&self, name: &str) -> Result<Digest, AccessError> {
        let few = self.0.lock().expect("nobody panics with it");
        few.back().map(Blob::digest).ok_or_else(|| AccessError::NotFound(name.to_owned()))
    }

    async fn set(&self, _: &str, _: Digest) -> Result<(), AccessError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Children for Few {
    async fn submit(&self, number: u32, _: &str) -> Result<String, AccessError> {
        Ok(number.to_string())
    }
}

/// Programs to begin with: each function once with plain arguments, and chains in which one needs what
/// another returned. Made anew each time, since the numbers of functions move as there are more.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let guest = &RIG.guest;
    let each = guest.names.iter().enumerate().map(|(at, name)| {
        // The newest result, then pointers and small numbers.
        let arguments = [0x40, 0x84, 8, 1, 0, 0, 0, 0].into_iter().chain(std::iter::repeat(0));
        (name.clone(), call(at, arguments.take(guest.arguments[at])))
    });
    let chains = CHAINS.iter().map(|chain| {
        let mut program = Vec::new();
        for (name, arguments) in *chain {
            let at = guest.names.iter().position(|known| is_called(known, name));
            let at = at.unwrap_or_else(|| panic!("no function {name}; there are {:#?}", guest.names));
            program.extend(call(at, arguments.iter().copied()));
        }
        // Pointers into the program find a digest at its end.
        program.resize(program.len().next_multiple_of(4).max(64), b' ');
        program.extend(Digest::of(ARTIFACT).to_string().bytes());
        (chain.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("+"), program)
    });
    each.chain(chains).collect()
}

/// Whether `wasi:io/poll@0.2.12 poll` is `poll poll`; methods are known without their interface.
fn is_called(known: &str, name: &str) -> bool {
    match (known.split_once(' '), name.split_once(' ')) {
        (Some((interface, function)), Some((wanted, name))) => {
            function == name && interface.contains(&format!("/{wanted}@"))
        }
        _ => known == name || known.ends_with(&format!("]{name}")),
    }
}

fn call(at: usize, arguments: impl Iterator<Item = u8>) -> Vec<u8> {
    let at = u16::try_from(at).expect("there are fewer functions");
    at.to_le_bytes().into_iter().chain(arguments).collect()
}

/// A program in which each call names its function and its arguments as the guest reads them: below 64 a
/// number, from 0x40 a result (0x40 is the input), from 0x80 the program's own bytes in steps of four.
type Chain = &'static [(&'static str, &'static [u8])];

const CHAINS: [Chain; 8] = [
    &[
        ("stdout get-stdout", &[]),
        ("output-stream.check-write", &[0x41, 0]),
        ("output-stream.write", &[0x41, 0x80, 9, 0]),
        ("output-stream.blocking-flush", &[0x41, 0]),
        ("output-stream.subscribe", &[0x41]),
    ],
    &[
        ("stdin get-stdin", &[]),
        ("input-stream.read", &[0x41, 32, 0]),
        ("input-stream.blocking-skip", &[0x41, 32, 0]),
        ("input-stream.subscribe", &[0x41]),
        ("pollable.block", &[0x46]),
    ],
    &[("monotonic-clock subscribe-duration", &[63]), ("pollable.ready", &[0x41]), ("poll poll", &[0x80, 0, 0])],
    &[("random get-random-bytes", &[60, 0]), ("load", &[0xc0]), ("random get-random-u64", &[])],
    &[
        ("artifacts create", &[0]),
        ("writer.write", &[0x41, 0x80, 50, 0]),
        ("writer.finish", &[0x41, 0]),
        ("blob.size", &[0x45]),
        ("blob.read", &[0x45, 3, 40, 0]),
        ("blob", &[0x45]),
    ],
    &[("artifacts open", &[0x90, 0xff, 71, 0, 0, 0, 0, 0, 0, 0, 0]), ("blob.digest", &[0x41, 0])],
    &[("context progress", &[3, 1, 9, 0x80, 20]), ("context cancelled", &[]), ("log log", &[2, 0x80, 30])],
    &[
        ("environment get-environment", &[0]),
        ("environment get-arguments", &[0]),
        ("realloc", &[2]),
        ("environment get-arguments", &[0]),
    ],
];
