//! Artifacts in a folder or in S3, through `object_store`.
//!
//! Two objects per artifact: `<2 hex>/<64 hex>`, the bytes themselves, so that any tool can read
//! them, and `<64 hex>.tree` beside it. The tree is written last and deleted first: an artifact is
//! there when its tree is, and then its bytes are there too.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::future::join;
use futures_util::stream::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart,
};
use url::Url;
use wasmjob_runtime::{Blob, Digest, READ_BYTES_MAX, Tree};

use super::manifest::{self, MANIFEST_BYTES_MAX};
use super::read::{self, Ahead};
use super::{ArtifactError, ArtifactStore, ByteStream, Entry, EntryStream, Place};

/// Up to this size an artifact is one request, and the parts of larger ones have at least it.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// Parts on their way at once. Together with [`PART_BYTES`] this bounds the memory of a put.
const PARTS_AHEAD: usize = 4;

/// S3 takes no more parts than this; parts grow beyond [`PART_BYTES`] to stay below.
const PARTS_MAX: u64 = 10_000;

/// A read is a row of requests of 4 MiB, one ahead, instead of one request for everything: memory
/// stays bounded whoever reads how slowly, and a lost connection costs one piece.
const AHEAD: Ahead = Ahead { groups: 16, requests: 2 };

/// How long a request is tried again before the store counts as unavailable. Jobs are retried by
/// the queue, which knows better how long to wait.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRIES_MAX: usize = 5;

const TREE_SUFFIX: &str = ".tree";

/// Artifacts in anything `object_store` speaks.
pub struct ObjectArtifacts {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    name: Arc<str>,
}

impl ObjectArtifacts {
    /// Artifacts in the folder `dir`, which is created, for its owner only, if it is missing.
    ///
    /// What is put there is on the disk, not only in its cache, when the put returns: as with S3.
    pub fn folder(dir: &Path) -> Result<Self, ArtifactError> {
        let name: Arc<str> = format!("folder {}", dir.display()).into();
        // One that is there may be shared with others on purpose.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| ArtifactError::fold(Place::store(&name), error))?;
        let store = LocalFileSystem::new_with_prefix(dir)
            .map_err(|error| ArtifactError::fold(Place::store(&name), error))?
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: ObjectPath::default(), name })
    }

    /// Artifacts in `s3://bucket/prefix`, with what the usual `AWS_*` variables say: credentials,
    /// `AWS_REGION`, and `AWS_ENDPOINT` for other servers that speak S3.
    pub fn s3(url: &Url) -> Result<Self, ArtifactError> {
        Self::s3_with(AmazonS3Builder::from_env(), url)
    }

    /// As [`ObjectArtifacts::s3`], with settings from somewhere else than the environment.
    pub fn s3_with(builder: AmazonS3Builder, url: &Url) -> Result<Self, ArtifactError> {
        install_tls_provider();
        let refused = |reason: String| ArtifactError::Url { url: super::without_password(url.as_str()), reason };
        let bucket = url
            .host_str()
            .filter(|_| url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| refused("it should be `s3://bucket/prefix`".to_owned()))?;
        let prefix = ObjectPath::from_url_path(url.path()).map_err(|error| refused(error.to_string()))?;
        // Only an endpoint that says `http` is spoken to without TLS: one's own, on one's own net.
        let plain = builder
            .get_config_value(&AmazonS3ConfigKey::Endpoint)
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store = builder
            .with_bucket_name(bucket)
            .with_retry(RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_FOR, ..RetryConfig::default() })
            .with_client_options(ClientOptions::new().with_allow_http(plain))
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { store: Arc::new(store), name: format!("s3://{bucket}/{prefix}").into(), prefix })
    }

    fn data_path(&self, digest: &Digest) -> ObjectPath {
        let hex = digest.hex();
        self.prefix.clone().join(&hex[..2]).join(hex)
    }

    fn tree_path(&self, digest: &Digest) -> ObjectPath {
        let hex = digest.hex();
        self.prefix.clone().join(&hex[..2]).join(format!("{hex}{TREE_SUFFIX}"))
    }

    /// The kind of an error about one artifact.
    fn failed(&self, digest: &Digest, error: object_store::Error) -> ArtifactError {
        fold(&self.name, digest, error)
    }

    fn corrupt(&self, digest: &Digest, what: String) -> ArtifactError {
        ArtifactError::Corrupt { digest: *digest, store: Arc::clone(&self.name), what }
    }

    async fn has(&self, blob: &Blob) -> Result<bool, ArtifactError> {
        match self.head(&blob.digest()).await {
            Ok(tree) => Ok(tree.size() == blob.size()),
            // Written again, which repairs a tree that was damaged.
            Err(ArtifactError::NotFound { .. } | ArtifactError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_data(&self, blob: &Blob) -> Result<(), ArtifactError> {
        let path = self.data_path(&blob.digest());
        if blob.size() <= PART_BYTES {
            let payload: PutPayload = read::pieces(blob, READ_BYTES_MAX)
                .try_collect::<Vec<Bytes>>()
                .await
                .map_err(|error| ArtifactError::blob(&self.name, error))?
                .into_iter()
                .collect();
            let put = self.store.put(&path, payload).await;
            return put.map(drop).map_err(|error| self.failed(&blob.digest(), error));
        }
        let upload = self.store.put_multipart(&path).await.map_err(|error| self.failed(&blob.digest(), error))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part_len(blob.size()));
        match self.put_parts(blob, &mut upload).await {
            Ok(()) => upload.finish().await.map(drop).map_err(|error| self.failed(&blob.digest(), error)),
            Err(error) => {
                // The first error says more than one about cleaning up after it.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn put_parts(&self, blob: &Blob, upload: &mut WriteMultipart) -> Result<(), ArtifactError> {
        let mut pieces = read::pieces(blob, READ_BYTES_MAX);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| ArtifactError::blob(&self.name, error))?;
            upload.wait_for_capacity(PARTS_AHEAD).await.map_err(|error| self.failed(&blob.digest(), error))?;
            upload.put(piece);
        }
        Ok(())
    }

    /// The stored tree, not yet known to belong to bytes of the right length.
    async fn tree(&self, digest: &Digest) -> Result<Tree, ArtifactError> {
        let found = self.store.get(&self.tree_path(digest)).await.map_err(|error| self.failed(digest, error))?;
        if found.meta.size > MANIFEST_BYTES_MAX {
            let what = format!("its manifest has {} bytes", found.meta.size);
            return Err(self.corrupt(digest, what));
        }
        let bytes = found.bytes().await.map_err(|error| self.failed(digest, error))?;
        manifest::decode(&bytes, digest).map_err(|error| self.corrupt(digest, error.to_string()))
    }

    async fn data_meta(&self, digest: &Digest) -> Result<ObjectMeta, ArtifactError> {
        self.store.head(&self.data_path(digest)).await.map_err(|error| self.failed(digest, error))
    }

    async fn delete_object(&self, digest: &Digest, path: ObjectPath) -> Result<(), ArtifactError> {
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(digest, error)),
        }
    }
}

#[async_trait]
impl ArtifactStore for ObjectArtifacts {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, blob: &Blob) -> Result<(), ArtifactError> {
        let digest = blob.digest();
        let tree = manifest::encode(blob.tree());
        let tree_bytes = u64::try_from(tree.len()).unwrap_or(u64::MAX);
        if tree_bytes > MANIFEST_BYTES_MAX {
            return Err(ArtifactError::TooLarge {
                digest,
                store: Arc::clone(&self.name),
                size_bytes: blob.size(),
                max_bytes: manifest::artifact_bytes_max(MANIFEST_BYTES_MAX),
            });
        }
        if self.has(blob).await? {
            return Ok(());
        }
        self.put_data(blob).await?;
        self.store
            .put(&self.tree_path(&digest), tree.into())
            .await
            .map(drop)
            .map_err(|error| self.failed(&digest, error))
    }

    async fn head(&self, digest: &Digest) -> Result<Tree, ArtifactError> {
        let (tree, data) = join(self.tree(digest), self.data_meta(digest)).await;
        // The tree's error comes first: what answers a HEAD request cannot say what is missing.
        let (tree, data) = (tree?, data?);
        if tree.size() != data.size {
            let what = format!("it has {} bytes instead of {}", data.size, tree.size());
            return Err(self.corrupt(digest, what));
        }
        Ok(tree)
    }

    fn read(&self, tree: &Arc<Tree>, range: Range<u64>) -> ByteStream {
        let digest = tree.root();
        let (store, name) = (Arc::clone(&self.store), Arc::clone(&self.name));
        let path = self.data_path(&digest);
        read::verified(&self.name, tree, range, AHEAD, move |window| {
            let (store, name, path) = (Arc::clone(&store), Arc::clone(&name), path.clone());
            async move {
                let read = store.get_range(&path, window).await;
                read.map_err(|error| fold(&name, &digest, error))
            }
        })
    }

    fn list(&self) -> EntryStream {
        let name = Arc::clone(&self.name);
        let mut halves = Halves::default();
        self.store
            .list(Some(&self.prefix))
            .map_err(move |error| ArtifactError::fold(Place::store(&name), error))
            .try_filter_map(move |object| std::future::ready(Ok(halves.add(&object))))
            .boxed()
    }

    async fn delete(&self, digest: &Digest) -> Result<(), ArtifactError> {
        self.delete_object(digest, self.tree_path(digest)).await?;
        self.delete_object(digest, self.data_path(digest)).await
    }
}

/// Artifacts of which the list named one object so far. In S3's order the two follow each other;
/// in a folder they come as they come.
#[derive(Default)]
struct Halves {
    data: HashMap<Digest, u64>,
    trees: HashMap<Digest, std::time::SystemTime>,
}

impl Halves {
    /// The artifact that `object` completes.
    fn add(&mut self, object: &ObjectMeta) -> Option<Entry> {
        let file = object.location.filename()?;
        let (digest, size_bytes, stored) = if let Some(hex) = file.strip_suffix(TREE_SUFFIX) {
            let digest = Digest::from_hex(hex).ok()?;
            let stored = object.last_modified.into();
            let Some(size_bytes) = self.data.remove(&digest) else {
                self.trees.insert(digest, stored);
                return None;
            };
            (digest, size_bytes, stored)
        } else {
            let digest = Digest::from_hex(file).ok()?;
            let Some(stored) = self.trees.remove(&digest) else {
                self.data.insert(digest, object.size);
                return None;
            };
            (digest, object.size, stored)
        };
        Some(Entry { digest, size_bytes, stored })
    }
}

fn fold(name: &Arc<str>, digest: &Digest, error: object_store::Error) -> ArtifactError {
    match error {
        // A bucket that does not exist is no artifact that does not exist.
        object_store::Error::NotFound { .. } if !error.to_string().contains("NoSuchBucket") => {
            ArtifactError::NotFound { digest: *digest, store: Arc::clone(name) }
        }
        error => ArtifactError::fold(Place::artifact(name, digest), error),
    }
}

fn part_len(size_bytes: u64) -> usize {
    let part = PART_BYTES.max(size_bytes.div_ceil(PARTS_MAX));
    usize::try_from(part).expect("a part is a small share of what the store takes")
}

/// Says which TLS implementation the process uses, unless that was said already.
///
/// `object_store` is built without one of its own, so that the program contains one and not two.
pub fn install_tls_provider() {
    // An error only says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_within_what_s3_takes() {
        for size in [PART_BYTES + 1, 80 << 30, 380 << 30] {
            let part = u64::try_from(part_len(size)).unwrap_or(0);
            assert!(part >= PART_BYTES);
            assert!(size.div_ceil(part) <= PARTS_MAX);
        }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_artifact() {
        let not_found = |body: &str| {
            let error = object_store::Error::NotFound { path: "some/path".to_owned(), source: body.into() };
            fold(&"s3://bucket".into(), &Digest::of(b""), error)
        };
        let key = not_found("404: <Code>NoSuchKey</Code>");
        assert!(matches!(key, ArtifactError::NotFound { .. }), "{key}");
        let bucket = not_found("404: <Code>NoSuchBucket</Code>");
        assert!(matches!(bucket, ArtifactError::Other { .. }), "{bucket}");
        assert!(bucket.to_string().contains("NoSuchBucket"), "{bucket}");
    }
}
