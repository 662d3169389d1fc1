//! Artifacts without a cluster: the store that is configured, or a folder of this machine.

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_nats::jetstream::Context;
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{runtime::Handle, sync::OnceCell};
use wasmjob_runtime::{AccessError, Artifacts, Blob, Digest};

use super::CliError;
use crate::{
    artifacts::{self, ArtifactStore, Cache},
    config::Config,
    node_artifacts::NodeArtifacts,
};

/// How the folders of caches begin.
const CACHE_PREFIX: &str = "cache-";

/// Opens the store when something is first asked of it; most jobs never do.
pub(crate) struct LocalArtifacts {
    url: Option<String>,
    folder: PathBuf,
    cache_bytes: u64,
    scratch: PathBuf,
    /// The cluster whose artifacts these are, if they are of one.
    jetstream: Option<Context>,
    opened: OnceCell<Opened>,
}

struct Opened {
    store: Arc<dyn ArtifactStore>,
    artifacts: NodeArtifacts,
    /// Goes with the process: several may run at the same time and each has its own.
    _cache: TempDir,
}

impl LocalArtifacts {
    /// What the configuration names, by default the data folder's `artifacts`. What is fetched is
    /// kept below `scratch` until the process ends.
    pub(crate) fn new(config: &Config, scratch: &Path) -> Self {
        LocalArtifacts {
            url: config.artifacts.url.clone(),
            folder: config.data.join("artifacts"),
            cache_bytes: config.node.cache,
            scratch: scratch.to_owned(),
            jetstream: None,
            opened: OnceCell::new(),
        }
    }

    /// The artifacts of a cluster.
    pub(crate) fn of_cluster(config: &Config, scratch: &Path, jetstream: Context) -> Self {
        LocalArtifacts { jetstream: Some(jetstream), ..LocalArtifacts::new(config, scratch) }
    }

    /// The store itself.
    pub(crate) async fn store(&self) -> Result<&dyn ArtifactStore, CliError> {
        Ok(&*self.opened().await?.store)
    }

    async fn opened(&self) -> Result<&Opened, CliError> {
        self.opened.get_or_try_init(|| self.open_all()).await
    }

    async fn open_all(&self) -> Result<Opened, CliError> {
        let store = artifacts::open(self.url.as_deref(), self.jetstream.clone(), &self.folder).await?;
        remove_leftovers(&self.scratch);
        let cache = tempfile::Builder::new()
            .prefix(CACHE_PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&self.scratch)
            .map_err(|error| CliError::platform(format!("{}: {error}", self.scratch.display())))?;
        let artifacts =
            NodeArtifacts::new(store.clone(), Cache::open(cache.path(), self.cache_bytes)?, Handle::current());
        Ok(Opened { store, artifacts, _cache: cache })
    }
}

/// Removes the caches of processes that were killed: those that nobody holds the lock of.
fn remove_leftovers(scratch: &Path) {
    for entry in scratch.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(CACHE_PREFIX);
        let unused = || File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if ours && unused() {
            // What cannot be removed now is tried again next time.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

fn unavailable(error: &CliError) -> AccessError {
    AccessError::Unavailable(error.to_string())
}

#[async_trait]
impl Artifacts for LocalArtifacts {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        self.opened().await.map_err(|error| unavailable(&error))?.artifacts.open(digest).await
    }

    async fn publish(&self, blob: &Blob) -> Result<(), AccessError> {
        self.opened().await.map_err(|error| unavailable(&error))?.artifacts.publish(blob).await
    }
}
