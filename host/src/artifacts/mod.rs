//! Artifacts: bytes stored by their digest, wherever the operator keeps them.
//!
//! [`ArtifactStore`] is the contract, and there are two stores: [`ObjectArtifacts`] over a folder
//! or S3, and [`JetStreamArtifacts`] over a NATS stream. [`Cache`] keeps what a node uses on its
//! own disk. [`open`] chooses the store from what the operator wrote.
//!
//! What holds for all of them:
//!
//! - A [`Blob`] knows its digest before it is put, so it is uploaded under its final name. What
//!   makes it visible is written last; a half-done put is visible to nobody and a second put of
//!   the same bytes repeats it.
//! - The store also keeps the blob's tree ([`Tree`]). Its root is the digest, so no store has to be
//!   trusted: every byte handed out was proven first, also when only a range was asked for.
//! - Nothing is ever whole in memory.
//!
//! Absent on purpose: who still needs an artifact. Stores keep everything until it is deleted, and
//! whoever deletes must leave young artifacts alone ([`Entry::stored`]): a delete that runs
//! together with a put of the same digest may leave an artifact that is damaged.

mod cache;
mod error;
mod jetstream;
mod manifest;
mod object;
mod read;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use url::Url;
use wasmjob_runtime::{Blob, Digest, Tree};

pub use cache::{Cache, CacheUsage};
pub use error::{ArtifactError, Cause, Place};
pub use jetstream::JetStreamArtifacts;
pub use object::{ObjectArtifacts, install_tls_provider};

/// Verified bytes in order, in pieces of at most 4 MiB. Ends with its first error.
pub type ByteStream = BoxStream<'static, Result<Bytes, ArtifactError>>;

/// The artifacts of a store, in no particular order.
pub type EntryStream = BoxStream<'static, Result<Entry, ArtifactError>>;

/// One stored artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub digest: Digest,
    /// Its length, as the store has it.
    pub size_bytes: u64,
    /// When it became visible, by the store's clock.
    pub stored: SystemTime,
}

/// Where artifacts are kept. One suite holds every implementation to this contract.
#[async_trait]
pub trait ArtifactStore: Send + Sync {
    /// The store as a person would name it, for messages.
    fn name(&self) -> &str;

    /// Stores `blob`. It is there for everybody when this returns, and for nobody before.
    ///
    /// Does nothing if the store has the digest already; bytes that were damaged there are replaced
    /// by deleting them first. Errors: `Full`; `TooLarge`; `Denied`; `Unavailable`; `Corrupt` if
    /// the blob itself turns out to be.
    async fn put(&self, blob: &Blob) -> Result<(), ArtifactError>;

    /// The tree of an artifact, and with it its size. Errors: `NotFound`; `Corrupt` if what is
    /// stored is no tree of this digest; `Denied`; `Unavailable`.
    async fn head(&self, digest: &Digest) -> Result<Tree, ArtifactError>;

    /// Reads `range` (in bytes, cut to the size) of the artifact with this `tree`.
    ///
    /// Errors come in the stream: `Corrupt`, before any byte of the damaged piece; `NotFound` if
    /// the artifact is gone; `Denied`; `Unavailable`.
    fn read(&self, tree: &Arc<Tree>, range: Range<u64>) -> ByteStream;

    /// Reads an artifact, all of it or a `range`: [`ArtifactStore::head`], then
    /// [`ArtifactStore::read`].
    async fn get(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<ByteStream, ArtifactError> {
        let tree = Arc::new(self.head(digest).await?);
        let range = range.unwrap_or(0..tree.size());
        Ok(self.read(&tree, range))
    }

    /// Everything that is visible, found as the stream is read.
    fn list(&self) -> EntryStream;

    /// Removes an artifact, or what a half-done put left of it. That there is none is no error.
    async fn delete(&self, digest: &Digest) -> Result<(), ArtifactError>;
}

/// Opens the store that `url` names: a folder (a path or `file:///...`) or `s3://bucket/prefix`.
///
/// Without a `url` artifacts are kept in NATS where there is one, and in `default_dir` otherwise.
/// Errors: `Url` if it names no store; otherwise why the store cannot be used.
pub async fn open(
    url: Option<&str>,
    nats: Option<async_nats::jetstream::Context>,
    default_dir: &Path,
) -> Result<Arc<dyn ArtifactStore>, ArtifactError> {
    match (url, nats) {
        (Some(url), _) => open_url(url),
        (None, Some(context)) => Ok(Arc::new(JetStreamArtifacts::open(context).await?)),
        (None, None) => Ok(Arc::new(ObjectArtifacts::folder(default_dir)?)),
    }
}

fn open_url(text: &str) -> Result<Arc<dyn ArtifactStore>, ArtifactError> {
    let refused = |reason: &str| ArtifactError::Url { url: without_password(text), reason: reason.to_owned() };
    if text.is_empty() {
        return Err(refused("it is empty"));
    }
    if !text.contains("://") {
        return Ok(Arc::new(ObjectArtifacts::folder(Path::new(text))?));
    }
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    match url.scheme() {
        "file" => {
            let path: PathBuf =
                url.to_file_path().map_err(|()| refused("`file://` is followed by an absolute path"))?;
            Ok(Arc::new(ObjectArtifacts::folder(&path)?))
        }
        "s3" => Ok(Arc::new(ObjectArtifacts::s3(&url)?)),
        scheme => Err(refused(&format!("`{scheme}` is none of `file`, `s3`"))),
    }
}

/// Reads a manifest as it is stored beside an artifact, and writes one of the same tree. For the
/// fuzzers: manifests come from stores that nobody trusts.
#[doc(hidden)]
pub fn read_and_write_manifest(manifest: &[u8], digest: &Digest) -> Result<(Tree, Bytes), String> {
    let tree = manifest::decode(manifest, digest).map_err(|error| error.to_string())?;
    let written = manifest::encode(&tree);
    Ok((tree, written))
}

/// The text of a URL as it may be shown.
fn without_password(text: &str) -> String {
    match text.split_once("://").zip(text.rsplit_once('@')) {
        Some(((scheme, _), (_, rest))) => format!("{scheme}://...@{rest}"),
        None => text.to_owned(),
    }
}
