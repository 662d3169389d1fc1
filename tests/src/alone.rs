//! One sandbox without a node, which all tests of what guests can do share.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use wasmjob_runtime::{
    Attempt, AttemptReport, Blob, Grants, Limits, NoArtifacts, NoLog, Sandbox, SandboxConfig, grants::Folder,
};

use crate::guest;

static SPILL: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder can be made"));

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    Sandbox::new(SandboxConfig {
        compiler: wasmjob_runtime::Compiler::InProcess,
        trusted_keys: wasmjob_runtime::TrustedKeys::default(),
        slots: 4,
        code_dir: None,
        code_bytes_max: 256 << 20,
        spill_dir: SPILL.path().to_owned(),
    })
    .expect("a sandbox can be made")
});

/// Runs `component` after `change` had its say about how.
pub async fn run(component: Blob, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let digest = component.digest();
    let (component, _) = match SANDBOX.prepare(digest, wasmjob_runtime::Variant::Fast, async { Ok(component) }).await {
        Err(outcome) => return AttemptReport::unstarted(*outcome),
        Ok(prepared) => prepared,
    };
    let mut attempt = Attempt {
        component,
        job: "01arz3ndektsv4rrffq69g5fav".into(),
        number: 1,
        input: Blob::from_bytes("".into()),
        args: vec![],
        env: vec![],
        limits: Limits { fuel: 1_000_000_000, wall_ms: 60_000, ..Limits::default() },
        soft: Duration::MAX,
        grants: Grants::default(),
        deterministic: None,
        artifacts: Arc::new(NoArtifacts),
        log: Arc::new(NoLog),
        signals: Arc::default(),
    };
    change(&mut attempt);
    SANDBOX.start(attempt, ()).report().await
}

/// Runs this guest of `guest-examples` with these arguments.
pub async fn run_example(name: &str, args: &[&str], change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let bytes = std::fs::read(guest::example(name)).expect("the guest can be read");
    run(Blob::from_bytes(bytes.into()), |attempt| {
        attempt.args = args.iter().map(|&arg| arg.to_owned()).collect();
        change(attempt);
    })
    .await
}

/// Scratch folders that are there now.
#[must_use]
pub fn scratch_folders() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(SPILL.path()).expect("the folder can be read");
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("scratch-"))).collect()
}

/// A granted folder.
#[must_use]
pub fn folder(host: &std::path::Path, guest: &str, write: bool) -> Folder {
    let dir = std::fs::File::open(host).expect("the folder can be opened");
    Folder { dir: Arc::new(dir), guest: guest.into(), write }
}

/// What an attempt printed.
#[must_use]
pub fn output(report: &AttemptReport) -> String {
    let bytes = report.output.as_ref().map(|blob| blob.to_bytes(u64::MAX).expect("it can be read"));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
