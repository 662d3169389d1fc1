//! The node's cache: artifacts that jobs use, on the node's own disk, up to a quota.
//!
//! One download per artifact however many jobs want it; the least recently used make room. A blob
//! that a job holds keeps working after its file was evicted, because it keeps the file open.
//!
//! The folder belongs to one process at a time and is locked. Files have the digest's 64
//! hexadecimal digits as their name, and `.tree` beside it. After a restart they are believed only
//! once they were read through and verified; a damaged one is downloaded again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use futures_util::stream::StreamExt as _;
use lru::LruCache;
use tokio::io::AsyncWriteExt as _;
use wasmjob_runtime::{Blob, Digest, GROUP_BYTES, READ_BYTES_MAX, Tree};

use crate::private;

use super::manifest::{self, MANIFEST_BYTES_MAX};
use super::read;
use super::{ArtifactError, ArtifactStore, ByteStream, Place};

const LOCK_FILE: &str = "lock";
const TREE_SUFFIX: &str = ".tree";

type Outcome = Result<Blob, ArtifactError>;
type Download = BoxFuture<'static, Outcome>;

/// A folder of artifacts with a byte quota. Clones are the same cache.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Folder>,
}

/// What a cache holds and how often it helped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Artifacts on the disk.
    pub artifacts: usize,
    /// Their bytes, with those of downloads under way.
    pub bytes: u64,
    /// The most bytes there may be.
    pub quota_bytes: u64,
    /// Fetches that found the artifact there.
    pub hits: u64,
    /// Fetches that had to wait for a download.
    pub misses: u64,
}

struct Folder {
    dir: PathBuf,
    name: Arc<str>,
    state: Mutex<State>,
    /// Held open for its lock.
    _lock: File,
}

struct State {
    entries: LruCache<Digest, Held>,
    downloads: HashMap<Digest, WeakShared<Download>>,
    usage: CacheUsage,
}

/// An artifact on the disk.
struct Held {
    size_bytes: u64,
    /// Known once the file was verified by this process.
    tree: Option<Arc<Tree>>,
}

impl Cache {
    /// Opens the cache in `dir`, which is created, for its owner only, if it is missing.
    ///
    /// Takes over what an earlier process left there. Errors: `Other` if another process uses the
    /// folder; `Denied`, `Full` and `Other` as the disk says.
    pub fn open(dir: &Path, quota_bytes: u64) -> Result<Self, ArtifactError> {
        let name: Arc<str> = format!("cache {}", dir.display()).into();
        let opened = open_folder(dir).and_then(|lock| Ok((lock, scan(dir)?)));
        let (lock, found) = opened.map_err(|error| ArtifactError::fold(Place::store(&name), error))?;
        let mut state = State {
            entries: LruCache::unbounded(),
            downloads: HashMap::new(),
            usage: CacheUsage { quota_bytes, ..CacheUsage::default() },
        };
        for (digest, size_bytes) in found {
            state.insert(digest, size_bytes, None);
        }
        let folder = Folder { dir: dir.to_owned(), name, state: Mutex::new(state), _lock: lock };
        folder.make_room(0);
        Ok(Self { shared: Arc::new(folder) })
    }

    /// The artifact, from the disk or else from `store`.
    ///
    /// Errors: those of the store; `TooLarge` if it is larger than the whole quota; `Full` if the
    /// disk is.
    pub async fn fetch(&self, store: &Arc<dyn ArtifactStore>, digest: &Digest) -> Outcome {
        if let Some(blob) = self.shared.hit(digest) {
            return Ok(blob);
        }
        let store = Arc::clone(store);
        self.once(digest, |folder, digest| {
            async move {
                match folder.verified_hit(digest).await {
                    Some(blob) => Ok(blob),
                    None => folder.download(&*store, digest).await,
                }
            }
            .boxed()
        })
        .await
    }

    /// Whether it is on the disk, as far as is known without reading it.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.shared.state().entries.contains(digest)
    }

    /// Keeps a copy of `blob`, so that a later fetch finds it. Errors: as [`Cache::fetch`].
    pub async fn adopt(&self, blob: &Blob) -> Outcome {
        if let Some(held) = self.shared.hit(&blob.digest()) {
            return Ok(held);
        }
        let blob = blob.clone();
        self.once(&blob.digest(), |folder, _| {
            async move {
                let name = Arc::clone(&folder.name);
                let pieces = read::pieces(&blob, READ_BYTES_MAX)
                    .map(move |piece| piece.map_err(|error| ArtifactError::blob(&name, error)));
                let tree = Arc::new(blob.tree().clone());
                folder.keep(tree, pieces.boxed()).await
            }
            .boxed()
        })
        .await
    }

    /// Forgets the copy of an artifact, one that turned out to be damaged, say.
    pub fn discard(&self, digest: &Digest) {
        self.shared.discard(digest);
    }

    /// What the cache holds now.
    #[must_use]
    pub fn usage(&self) -> CacheUsage {
        let state = self.shared.state();
        CacheUsage { artifacts: state.entries.len(), ..state.usage }
    }

    /// Joins the work under way for `digest`, or starts it. It goes on as long as anybody waits.
    async fn once(&self, digest: &Digest, start: impl FnOnce(Arc<Folder>, Digest) -> Download) -> Outcome {
        let download: Shared<Download> = {
            let mut state = self.shared.state();
            state.usage.misses += 1;
            match state.downloads.get(digest).and_then(WeakShared::upgrade) {
                Some(download) => download,
                None => {
                    let download = start(Arc::clone(&self.shared), *digest).shared();
                    let weak = download.downgrade();
                    state.downloads.retain(|_, held| held.upgrade().is_some());
                    state.downloads.extend(weak.map(|weak| (*digest, weak)));
                    download
                }
            }
        };
        download.await
    }
}

impl Folder {
    fn state(&self) -> MutexGuard<'_, State> {
        // No invariant spans a panic: every change of the state is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    fn tree_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex() + TREE_SUFFIX)
    }

    /// The artifact, if it is there and this process has verified it.
    fn hit(&self, digest: &Digest) -> Option<Blob> {
        let tree = self.state().entries.get(digest)?.tree.clone()?;
        let file = File::open(self.data_path(digest)).ok()?;
        // The order of use outlives the process in the files' times, as far as they can be set.
        let _ = file.set_modified(SystemTime::now());
        let blob = Blob::open(file, tree).ok()?;
        self.state().usage.hits += 1;
        Some(blob)
    }

    /// The artifact, if an earlier process left it and it proves to be undamaged. What cannot be
    /// used is removed.
    async fn verified_hit(self: &Arc<Self>, digest: Digest) -> Option<Blob> {
        self.state().entries.peek(&digest)?;
        let folder = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || folder.verify(&digest)).await;
        let Ok(Some((blob, tree))) = verified else {
            self.discard(&digest);
            return None;
        };
        let mut state = self.state();
        let held = state.entries.get_mut(&digest)?;
        held.tree = Some(tree);
        Some(blob)
    }

    /// Reads a file of an earlier process from end to end.
    fn verify(&self, digest: &Digest) -> Option<(Blob, Arc<Tree>)> {
        let manifest = self.tree_path(digest);
        if fs::metadata(&manifest).ok()?.len() > MANIFEST_BYTES_MAX {
            return None;
        }
        let tree = Arc::new(manifest::decode(&fs::read(manifest).ok()?, digest).ok()?);
        let file = File::open(self.data_path(digest)).ok()?;
        let blob = Blob::open(file, Arc::clone(&tree)).ok()?;
        let mut offset = 0;
        while offset < blob.size() {
            blob.read_at(offset, GROUP_BYTES).ok()?;
            offset += GROUP_BYTES;
        }
        Some((blob, tree))
    }

    async fn download(self: Arc<Self>, store: &dyn ArtifactStore, digest: Digest) -> Outcome {
        let tree = Arc::new(store.head(&digest).await?);
        let bytes = store.read(&tree, 0..tree.size());
        self.keep(tree, bytes).await
    }

    /// Writes what `bytes` brings, verified already, and keeps it under its digest.
    async fn keep(self: Arc<Self>, tree: Arc<Tree>, mut bytes: ByteStream) -> Outcome {
        let digest = tree.root();
        let room = self.reserve(&tree)?;
        let failed = |error| ArtifactError::fold(Place::artifact(&self.name, &digest), error);
        let manifest = manifest::encode(&tree);
        let staged = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(staged.reopen().map_err(failed)?);
        while let Some(piece) = bytes.next().await {
            file.write_all(&piece?).await.map_err(failed)?;
        }
        // What is written in the background may still fail; the flush waits for it.
        file.flush().await.map_err(failed)?;
        self.publish(&tree, &manifest, staged).map_err(failed)?;
        let file = File::open(self.data_path(&digest)).map_err(failed)?;
        drop(room);
        self.state().insert(digest, tree.size(), Some(Arc::clone(&tree)));
        Blob::open(file, tree).map_err(|error| ArtifactError::blob(&self.name, error))
    }

    /// Gives a staged file its name, after the tree has its own: a file without a tree would be
    /// thrown away by the next process.
    fn publish(&self, tree: &Tree, manifest: &Bytes, staged: tempfile::NamedTempFile) -> io::Result<()> {
        let mut staged_tree = tempfile::NamedTempFile::new_in(&self.dir)?;
        io::Write::write_all(&mut staged_tree, manifest)?;
        staged_tree.persist(self.tree_path(&tree.root()))?;
        staged.persist(self.data_path(&tree.root()))?;
        Ok(())
    }

    /// Room for an artifact while it is being written, given back when that is over: from then on
    /// its entry counts. Errors: `TooLarge`.
    fn reserve(self: &Arc<Self>, tree: &Tree) -> Result<Room, ArtifactError> {
        let quota_bytes = self.state().usage.quota_bytes;
        if tree.size() > quota_bytes {
            return Err(ArtifactError::TooLarge {
                digest: tree.root(),
                store: Arc::clone(&self.name),
                size_bytes: tree.size(),
                max_bytes: quota_bytes,
            });
        }
        self.make_room(tree.size());
        self.state().usage.bytes += tree.size();
        Ok(Room { folder: Arc::clone(self), bytes: tree.size() })
    }

    /// Evicts what was not used for longest until `bytes` more fit the quota, or nothing is left.
    ///
    /// Downloads under way are not waited for: together they may exceed the quota for a while.
    fn make_room(&self, bytes: u64) {
        let mut state = self.state();
        while state.usage.bytes.saturating_add(bytes) > state.usage.quota_bytes {
            let Some((digest, held)) = state.entries.pop_lru() else {
                return;
            };
            state.usage.bytes -= held.size_bytes;
            self.remove_files(&digest);
        }
    }

    fn discard(&self, digest: &Digest) {
        let mut state = self.state();
        if let Some(held) = state.entries.pop(digest) {
            state.usage.bytes -= held.size_bytes;
        }
        self.remove_files(digest);
    }

    /// The data goes first: a tree that is left alone is removed by the next process. Errors are
    /// left to it as well.
    fn remove_files(&self, digest: &Digest) {
        let _ = fs::remove_file(self.data_path(digest));
        let _ = fs::remove_file(self.tree_path(digest));
    }
}

impl State {
    fn insert(&mut self, digest: Digest, size_bytes: u64, tree: Option<Arc<Tree>>) {
        let replaced = self.entries.put(digest, Held { size_bytes, tree });
        self.usage.bytes -= replaced.map_or(0, |held| held.size_bytes);
        self.usage.bytes += size_bytes;
    }
}

/// Bytes set aside for a download.
struct Room {
    folder: Arc<Folder>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.folder.state().usage.bytes -= self.bytes;
    }
}

/// How long a lock may stay with a process that ends, or that was just started by its owner and has not
/// let go yet.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Creates and locks the folder.
fn open_folder(dir: &Path) -> io::Result<File> {
    private::folder(dir)?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE))?;
    let asked = Instant::now();
    let mut locked = lock.try_lock();
    while matches!(locked, Err(fs::TryLockError::WouldBlock)) && asked.elapsed() < LOCK_WAIT {
        thread::sleep(LOCK_WAIT / 100);
        locked = lock.try_lock();
    }
    match locked {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(io::Error::other("another process uses this folder")),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The artifacts an earlier process left, the one used last at the end. Everything else there is
/// the rest of something that was interrupted, and is removed.
fn scan(dir: &Path) -> io::Result<Vec<(Digest, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == LOCK_FILE || has_partner(dir, name, TREE_SUFFIX) {
            continue;
        }
        let tree = dir.join(format!("{name}{TREE_SUFFIX}"));
        match Digest::from_hex(name) {
            Ok(digest) if tree.is_file() => {
                let meta = entry.metadata()?;
                found.push((meta.modified()?, digest, meta.len()));
            }
            _ => fs::remove_file(entry.path())?,
        }
    }
    found.sort_unstable();
    let by_use = found.into_iter();
    Ok(by_use.map(|(_, digest, size)| (digest, size)).collect())
}

/// Whether `name` is an artifact's tree and the artifact is there as well.
fn has_partner(dir: &Path, name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|hex| Digest::from_hex(hex).is_ok() && dir.join(hex).is_file())
}
