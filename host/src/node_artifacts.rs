//! Artifacts as jobs on this node see them: a store behind a cache.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{runtime::Handle, task::JoinError};
use tokio_util::task::AbortOnDropHandle;
use wasmjob_runtime::{AccessError, Artifacts, Blob, Digest};

use crate::artifacts::{ArtifactError, ArtifactStore, Cache};

/// A store behind this node's cache. Transfers run on the I/O runtime, not on the guest's thread, and end
/// with the attempt that asked for them.
#[derive(Clone)]
pub struct NodeArtifacts {
    store: Arc<dyn ArtifactStore>,
    cache: Arc<Cache>,
    io: Handle,
}

impl NodeArtifacts {
    /// Uses `store` through `cache`; `io` is the runtime that waits for the store.
    pub fn new(store: Arc<dyn ArtifactStore>, cache: Cache, io: Handle) -> Self {
        NodeArtifacts { store, cache: Arc::new(cache), io }
    }

    /// The artifact, if it has no more than `bytes_max` bytes: one that has is not even fetched, which would
    /// cost the cache what others need.
    pub async fn open_within(&self, digest: &Digest, bytes_max: u64) -> Result<Blob, AccessError> {
        if !self.cache.holds(digest) {
            let size = self.store.head(digest).await.map_err(|error| access_error(&error))?.size();
            if size > bytes_max {
                return Err(AccessError::TooLarge(format!("{digest} has {size} bytes, more than {bytes_max}")));
            }
        }
        self.open(digest).await
    }

    /// The cache, for its counts.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }
}

#[async_trait]
impl Artifacts for NodeArtifacts {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        let (store, cache, digest) = (self.store.clone(), self.cache.clone(), *digest);
        let fetched = AbortOnDropHandle::new(self.io.spawn(async move { cache.fetch(&store, &digest).await })).await;
        fetched.map_err(|error| stopped(&error))?.map_err(|error| access_error(&error))
    }

    async fn publish(&self, blob: &Blob) -> Result<(), AccessError> {
        let (store, cache, blob) = (self.store.clone(), self.cache.clone(), blob.clone());
        let publish = async move {
            store.put(&blob).await?;
            // Whoever uses it next is often here. Without room in the cache it is fetched again.
            let _ = cache.adopt(&blob).await;
            Ok(())
        };
        let stored = AbortOnDropHandle::new(self.io.spawn(publish)).await;
        stored.map_err(|error| stopped(&error))?.map_err(|error| access_error(&error))
    }
}

fn stopped(error: &JoinError) -> AccessError {
    AccessError::Unavailable(format!("the transfer was stopped: {error}"))
}

fn access_error(error: &ArtifactError) -> AccessError {
    let text = error.to_string();
    match error {
        ArtifactError::NotFound { .. } => AccessError::NotFound(text),
        ArtifactError::Corrupt { .. } => AccessError::Corrupt(text),
        ArtifactError::Full { .. } | ArtifactError::TooLarge { .. } | ArtifactError::Denied { .. } => {
            AccessError::Refused(text)
        }
        _ => AccessError::Unavailable(text),
    }
}
