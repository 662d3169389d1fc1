//! The node's artifact cache.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::{FutureExt as _, join_all};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use wasmjob_host::artifacts::{ArtifactError, ArtifactStore, ByteStream, Cache, EntryStream, ObjectArtifacts};
use wasmjob_runtime::{Blob, Digest, GROUP_BYTES, Tree};

use crate::artifacts::sample;

const GROUP_LEN: usize = 256 * 1024;
const LARGE: u64 = 1 << 30;

/// A folder that counts how often it is asked, and answers as often as it may.
struct Counted {
    store: ObjectArtifacts,
    asked: AtomicUsize,
    answers: Semaphore,
}

impl Counted {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ArtifactStore for Counted {
    fn name(&self) -> &str {
        self.store.name()
    }

    async fn put(&self, blob: &Blob) -> Result<(), ArtifactError> {
        self.store.put(blob).await
    }

    async fn head(&self, digest: &Digest) -> Result<Tree, ArtifactError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answers.acquire().await.unwrap().forget();
        self.store.head(digest).await
    }

    fn read(&self, tree: &Arc<Tree>, range: Range<u64>) -> ByteStream {
        self.store.read(tree, range)
    }

    fn list(&self) -> EntryStream {
        self.store.list()
    }

    async fn delete(&self, digest: &Digest) -> Result<(), ArtifactError> {
        self.store.delete(digest).await
    }
}

struct Site {
    dir: TempDir,
    counted: Arc<Counted>,
    store: Arc<dyn ArtifactStore>,
}

impl Site {
    fn new() -> Self {
        Self::with_answers(1000)
    }

    /// A store that answers so many times, and after that when it is told to.
    fn with_answers(answers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectArtifacts::folder(&dir.path().join("store")).unwrap();
        let counted = Arc::new(Counted { store, asked: AtomicUsize::new(0), answers: Semaphore::new(answers) });
        let store: Arc<dyn ArtifactStore> = Arc::clone(&counted) as _;
        Self { dir, counted, store }
    }

    fn open(&self, quota_bytes: u64) -> Cache {
        Cache::open(&self.dir.path().join("cache"), quota_bytes).unwrap()
    }

    async fn put(&self, len: usize) -> Blob {
        let blob = Blob::from_bytes(sample(len));
        self.counted.store.put(&blob).await.unwrap();
        blob
    }

    fn stored_file(&self, digest: &Digest) -> std::path::PathBuf {
        let hex = digest.hex();
        self.dir.path().join("store").join(&hex[..2]).join(hex)
    }

    fn cached_file(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.path().join("cache").join(digest.hex())
    }

    /// Files in the cache's folder, the lock not counted.
    fn files(&self) -> usize {
        self.dir.path().join("cache").read_dir().unwrap().count() - 1
    }
}

fn flip_a_byte(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[GROUP_LEN + 1] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn however_many_ask_it_is_downloaded_once() {
    let site = Site::with_answers(0);
    let cache = site.open(LARGE);
    let blob = site.put(3 * GROUP_LEN + 5).await;
    let digest = blob.digest();
    let mut fetches = join_all((0..20).map(|_| cache.fetch(&site.store, &digest)));
    assert!((&mut fetches).now_or_never().is_none());
    site.counted.answers.add_permits(1);
    for fetched in fetches.await {
        let fetched = fetched.unwrap();
        assert_eq!(fetched.to_bytes(LARGE).unwrap(), sample(3 * GROUP_LEN + 5));
    }
    cache.fetch(&site.store, &digest).await.unwrap();
    assert_eq!(site.counted.asked(), 1);
    let usage = cache.usage();
    assert_eq!((usage.artifacts, usage.bytes), (1, blob.size()));
    assert_eq!((usage.hits, usage.misses), (1, 20));
}

#[tokio::test]
async fn one_who_gives_up_does_not_take_the_download_from_the_others() {
    let site = Site::with_answers(0);
    let cache = site.open(LARGE);
    let blob = site.put(3 * GROUP_LEN).await;
    let digest = blob.digest();
    let mut first = Box::pin(cache.fetch(&site.store, &digest));
    let mut second = Box::pin(cache.fetch(&site.store, &digest));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    site.counted.answers.add_permits(1);
    second.await.unwrap();
    assert_eq!(site.counted.asked(), 1);

    // All of them gave up: nothing is left, and the next one starts anew.
    cache.discard(&digest);
    assert!(cache.fetch(&site.store, &digest).now_or_never().is_none());
    assert_eq!(site.files(), 0);
    assert_eq!(cache.usage().bytes, 0);
    site.counted.answers.add_permits(1);
    cache.fetch(&site.store, &digest).await.unwrap();
    assert_eq!(site.counted.asked(), 3);
    assert_eq!(cache.usage().bytes, blob.size());
}

#[tokio::test]
async fn a_failure_reaches_everybody_and_is_not_remembered() {
    let site = Site::with_answers(0);
    let cache = site.open(LARGE);
    let blob = Blob::from_bytes(sample(7));
    let digest = blob.digest();
    let mut fetches = join_all((0..5).map(|_| cache.fetch(&site.store, &digest)));
    assert!((&mut fetches).now_or_never().is_none());
    site.counted.answers.add_permits(1);
    for fetched in fetches.await {
        let error = fetched.unwrap_err();
        assert!(matches!(error, ArtifactError::NotFound { .. }), "{error:?}");
    }
    assert_eq!(site.counted.asked(), 1);
    site.counted.store.put(&blob).await.unwrap();
    site.counted.answers.add_permits(1);
    cache.fetch(&site.store, &digest).await.unwrap();
}

#[tokio::test]
async fn the_least_recently_used_makes_room_and_stays_readable_while_held() {
    let site = Site::new();
    let cache = site.open(3 * GROUP_BYTES);
    let (a, b, c) = (site.put(GROUP_LEN).await, site.put(GROUP_LEN - 1).await, site.put(GROUP_LEN + 2).await);
    let held_b = cache.fetch(&site.store, &b.digest()).await.unwrap();
    cache.fetch(&site.store, &a.digest()).await.unwrap();
    cache.fetch(&site.store, &b.digest()).await.unwrap();
    cache.fetch(&site.store, &a.digest()).await.unwrap();
    cache.fetch(&site.store, &c.digest()).await.unwrap();
    assert_eq!(site.counted.asked(), 3);
    assert_eq!(cache.usage().bytes, 2 * GROUP_BYTES + 2);
    assert!(!site.cached_file(&b.digest()).exists());
    assert_eq!(held_b.to_bytes(LARGE).unwrap(), sample(GROUP_LEN - 1));

    cache.fetch(&site.store, &a.digest()).await.unwrap();
    assert_eq!(site.counted.asked(), 3);
    cache.fetch(&site.store, &b.digest()).await.unwrap();
    assert_eq!(site.counted.asked(), 4);
    assert_eq!(site.files(), 4);
}

#[tokio::test]
async fn what_exceeds_the_quota_is_refused() {
    let site = Site::new();
    let cache = site.open(GROUP_BYTES);
    let small = site.put(9).await;
    let large = site.put(GROUP_LEN + 1).await;
    cache.fetch(&site.store, &small.digest()).await.unwrap();
    let error = cache.fetch(&site.store, &large.digest()).await.unwrap_err();
    assert!(matches!(error, ArtifactError::TooLarge { .. }), "{error:?}");
    assert_eq!(cache.usage().artifacts, 1);
}

#[tokio::test]
async fn a_new_process_takes_over_what_is_there_and_nothing_else() {
    let site = Site::new();
    let blob = site.put(3 * GROUP_LEN).await;
    let cache = site.open(LARGE);
    cache.fetch(&site.store, &blob.digest()).await.unwrap();
    drop(cache);
    let dir = site.dir.path().join("cache");
    std::fs::write(dir.join(".tmp123"), b"interrupted").unwrap();
    std::fs::write(dir.join(Digest::of(b"1").hex()), b"no tree").unwrap();
    std::fs::write(dir.join(Digest::of(b"2").hex() + ".tree"), b"alone").unwrap();

    let cache = site.open(LARGE);
    assert_eq!(site.files(), 2);
    let digest = blob.digest();
    let fetches = (0..3).map(|_| cache.fetch(&site.store, &digest));
    for fetched in join_all(fetches).await {
        assert_eq!(fetched.unwrap().to_bytes(LARGE).unwrap(), sample(3 * GROUP_LEN));
    }
    assert_eq!(site.counted.asked(), 1);
    drop(cache);

    // A smaller quota holds from the start.
    let cache = site.open(GROUP_BYTES);
    assert_eq!(cache.usage().artifacts, 0);
    assert_eq!(site.files(), 0);
}

#[tokio::test]
async fn what_was_damaged_between_two_processes_is_downloaded_again() {
    let site = Site::new();
    let blob = site.put(3 * GROUP_LEN).await;
    let cache = site.open(LARGE);
    cache.fetch(&site.store, &blob.digest()).await.unwrap();
    drop(cache);
    flip_a_byte(&site.cached_file(&blob.digest()));
    let cache = site.open(LARGE);
    let fetched = cache.fetch(&site.store, &blob.digest()).await.unwrap();
    assert_eq!(fetched.to_bytes(LARGE).unwrap(), sample(3 * GROUP_LEN));
    assert_eq!(site.counted.asked(), 2);
    assert_eq!(cache.usage().bytes, blob.size());
}

#[tokio::test]
async fn damage_is_noticed_on_reading_and_healed_by_discarding() {
    let site = Site::new();
    let blob = site.put(3 * GROUP_LEN).await;
    let cache = site.open(LARGE);
    cache.fetch(&site.store, &blob.digest()).await.unwrap();
    flip_a_byte(&site.cached_file(&blob.digest()));
    let fetched = cache.fetch(&site.store, &blob.digest()).await.unwrap();
    assert!(fetched.read_at(0, 10).is_ok());
    assert!(fetched.read_at(GROUP_BYTES, 10).is_err());
    cache.discard(&blob.digest());
    let fetched = cache.fetch(&site.store, &blob.digest()).await.unwrap();
    assert!(fetched.to_bytes(LARGE).is_ok());
}

#[tokio::test]
async fn damaged_bytes_never_enter_the_cache() {
    let site = Site::new();
    let blob = site.put(3 * GROUP_LEN).await;
    flip_a_byte(&site.stored_file(&blob.digest()));
    let cache = site.open(LARGE);
    let error = cache.fetch(&site.store, &blob.digest()).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error:?}");
    assert_eq!(site.files(), 0);
    assert_eq!(cache.usage().bytes, 0);
}

#[tokio::test]
async fn what_was_written_here_need_not_be_downloaded() {
    let site = Site::new();
    let cache = site.open(LARGE);
    let blob = Blob::from_bytes(sample(3 * GROUP_LEN));
    cache.adopt(&blob).await.unwrap();
    let fetched = cache.fetch(&site.store, &blob.digest()).await.unwrap();
    assert_eq!(fetched.to_bytes(LARGE).unwrap(), sample(3 * GROUP_LEN));
    assert_eq!(site.counted.asked(), 0);
}

#[tokio::test]
async fn a_folder_has_one_process_and_is_private() {
    let site = Site::new();
    let cache = site.open(LARGE);
    let dir = site.dir.path().join("cache");
    let mode = std::os::unix::fs::PermissionsExt::mode(&dir.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let error = Cache::open(&dir, LARGE).err().unwrap();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(cache);
    site.open(LARGE);
}
