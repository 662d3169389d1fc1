//! One sandbox without a node, which all tests of what guests can do share.

use std::sync::{Arc, LazyLock, Mutex};

use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, Limits, Sandbox, SandboxConfig, grants::Folder,
};

use crate::guest;

static SPILL: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder can be made"));

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    Sandbox::new(SandboxConfig { code_bytes_max: 256 << 20, ..SandboxConfig::new(4, SPILL.path().to_owned()) })
        .expect("a sandbox can be made")
});

/// Runs `component` after `change` had its say about how.
pub async fn run(component: Blob, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let digest = component.digest();
    let (component, _) = match SANDBOX.prepare(digest, wasmjob_runtime::Variant::Fast, async { Ok(component) }).await {
        Err(outcome) => return AttemptReport::unstarted(*outcome),
        Ok(prepared) => prepared,
    };
    let limits = Limits { fuel: 1_000_000_000, wall_ms: 60_000, ..Limits::default() };
    let mut attempt = Attempt { limits, ..Attempt::new(component) };
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

/// Keeps artifacts in memory.
#[derive(Default)]
pub struct InMemory(Mutex<Vec<Blob>>);

#[async_trait::async_trait]
impl Artifacts for InMemory {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        let all = self.0.lock().expect("nobody panics with it");
        let found = all.iter().find(|blob| blob.digest() == *digest);
        found.cloned().ok_or_else(|| AccessError::NotFound(digest.to_string()))
    }

    async fn publish(&self, blob: &Blob) -> Result<(), AccessError> {
        self.0.lock().expect("nobody panics with it").push(blob.clone());
        Ok(())
    }
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
