//! One suite for every artifact store: a folder, S3 and JetStream keep the same promises.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::future::{FutureExt as _, join_all};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tempfile::TempDir;
use url::Url;
use wasmjob_host::artifacts::{ArtifactError, ArtifactStore, Entry, JetStreamArtifacts, ObjectArtifacts, open};
use wasmjob_runtime::{Blob, BlobWriter, Digest, GROUP_BYTES, Tree};
use wasmjob_tests::{NatsServer, S3Server};

const GROUP_LEN: usize = 256 * 1024;

/// Bytes in which no two groups are alike.
pub fn sample(len: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// A blob in a file, as large outputs are.
fn in_file(bytes: &[u8]) -> Blob {
    let mut writer = BlobWriter::new(&std::env::temp_dir(), 0);
    writer.write(bytes).unwrap();
    writer.finish().unwrap()
}

/// A store, and the way behind its back.
struct Site {
    store: Arc<dyn ArtifactStore>,
    behind: Behind,
}

enum Behind {
    Folder(TempDir),
    S3(S3Server),
    Nats { context: Box<jetstream::Context>, _server: NatsServer },
}

impl Site {
    async fn folder() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/artifacts", dir.path().display());
        Self { store: open(Some(&url), None, dir.path()).await.unwrap(), behind: Behind::Folder(dir) }
    }

    async fn s3() -> Self {
        let server = S3Server::start().await;
        let url = Url::parse("s3://artifacts/some/prefix").unwrap();
        let store = ObjectArtifacts::s3_with(server.client(), &url).unwrap();
        Self { store: Arc::new(store), behind: Behind::S3(server) }
    }

    async fn nats() -> Self {
        let server = NatsServer::start();
        let context = jetstream::new(server.connect().await);
        let unused = PathBuf::from("/nonexistent");
        Self {
            store: open(None, Some(context.clone()), &unused).await.unwrap(),
            behind: Behind::Nats { context: Box::new(context), _server: server },
        }
    }

    /// The file of an artifact, where there are files.
    fn file(&self, digest: &Digest, suffix: &str) -> PathBuf {
        let root = match &self.behind {
            Behind::Folder(dir) => dir.path().join("artifacts"),
            Behind::S3(server) => server.bucket_dir().join("some/prefix"),
            Behind::Nats { .. } => panic!("there are no files behind JetStream"),
        };
        let hex = digest.hex();
        root.join(&hex[..2]).join(hex + suffix)
    }

    /// Replaces the stored bytes of one group.
    async fn overwrite_group(&self, digest: &Digest, index: usize, group: Vec<u8>) {
        if let Behind::Nats { context, .. } = &self.behind {
            let subject = format!("wj.art.{}.{index}", digest.hex());
            let ack = context.publish(subject, group.into()).await.unwrap();
            ack.await.unwrap();
            return;
        }
        let file = self.file(digest, "");
        let mut bytes = std::fs::read(&file).unwrap();
        let start = index * GROUP_LEN;
        let end = bytes.len().min(start + GROUP_LEN);
        bytes.splice(start..end, group);
        std::fs::write(file, bytes).unwrap();
    }

    /// Replaces what is said about an artifact.
    async fn overwrite_manifest(&self, digest: &Digest, manifest: Vec<u8>) {
        match &self.behind {
            Behind::Nats { context, .. } => {
                let subject = format!("wj.art.{}.head", digest.hex());
                let ack = context.publish(subject, manifest.into()).await.unwrap();
                ack.await.unwrap();
            }
            _ => std::fs::write(self.file(digest, ".tree"), manifest).unwrap(),
        }
    }

    async fn manifest(&self, digest: &Digest) -> Vec<u8> {
        match &self.behind {
            Behind::Nats { context, .. } => {
                let stream = context.get_stream("WJ_ART").await.unwrap();
                let subject = format!("wj.art.{}.head", digest.hex());
                let head = stream.direct_get_last_for_subject(subject).await;
                head.unwrap().payload.to_vec()
            }
            _ => std::fs::read(self.file(digest, ".tree")).unwrap(),
        }
    }

    /// Takes the last step of a put back, as if it had been interrupted before.
    async fn unpublish(&self, digest: &Digest) {
        match &self.behind {
            Behind::Nats { context, .. } => {
                let stream = context.get_stream("WJ_ART").await.unwrap();
                let head = format!("wj.art.{}.head", digest.hex());
                stream.purge().filter(head).await.unwrap();
            }
            _ => std::fs::remove_file(self.file(digest, ".tree")).unwrap(),
        }
    }

    /// Loses the last group.
    async fn lose_last_group(&self, digest: &Digest, index: usize) {
        match &self.behind {
            Behind::Nats { context, .. } => {
                let stream = context.get_stream("WJ_ART").await.unwrap();
                let group = format!("wj.art.{}.{index}", digest.hex());
                stream.purge().filter(group).await.unwrap();
            }
            _ => {
                let file = std::fs::File::options().write(true).open(self.file(digest, "")).unwrap();
                file.set_len((index * GROUP_LEN) as u64).unwrap();
            }
        }
    }

    async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Vec<u8>, ArtifactError> {
        let pieces: Vec<Bytes> = self.store.get(digest, range).await?.try_collect().await?;
        Ok(pieces.concat())
    }

    async fn listed(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.store.list().try_collect().await.unwrap();
        entries.sort_by_key(|entry| entry.digest);
        entries
    }
}

#[track_caller]
fn assert_corrupt<T>(result: Result<T, ArtifactError>, expected: &Digest) {
    match result {
        Err(error @ ArtifactError::Corrupt { .. }) => {
            assert!(error.to_string().contains(&expected.to_string()));
        }
        Err(other) => panic!("expected `Corrupt`, got {other:?}"),
        Ok(_) => panic!("damaged bytes were returned"),
    }
}

#[track_caller]
fn assert_not_found<T>(result: Result<T, ArtifactError>) {
    match result {
        Err(ArtifactError::NotFound { .. }) => {}
        Err(other) => panic!("expected `NotFound`, got {other:?}"),
        Ok(_) => panic!("expected `NotFound`"),
    }
}

/// Makes each case a test of every store.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        on_every_store!(@ folder $($case)*);
        on_every_store!(@ s3 $($case)*);
        on_every_store!(@ nats $($case)*);
    };
    (@ $site:ident $($case:ident)*) => {
        mod $site {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(&super::Site::$site().await).await;
                }
            )*
        }
    };
}

on_every_store![
    what_was_put_is_read_back,
    every_range_is_the_slice_it_names,
    a_large_artifact_passes_in_small_pieces,
    a_flipped_byte_is_refused,
    what_is_incomplete_is_refused,
    a_manifest_that_lies_is_refused,
    a_size_that_lies_is_refused,
    what_was_never_put_is_not_found,
    what_was_deleted_is_gone,
    a_list_names_everything_once,
    a_half_done_put_is_invisible_and_can_be_repeated,
    a_put_that_is_given_up_is_invisible,
    many_writers_of_the_same_bytes_agree,
];

async fn what_was_put_is_read_back(site: &Site) {
    for size in [0, 1, 1024, GROUP_LEN - 1, GROUP_LEN, GROUP_LEN + 1, 3 * GROUP_LEN + 5] {
        let bytes = sample(size);
        let digest = Digest::of(&bytes);
        for blob in [in_file(&bytes), Blob::from_bytes(bytes.clone())] {
            site.store.put(&blob).await.unwrap();
            assert_eq!(site.store.head(&digest).await.unwrap(), *blob.tree());
            assert_eq!(site.read(&digest, None).await.unwrap(), bytes, "{size}");
        }
    }
}

async fn every_range_is_the_slice_it_names(site: &Site) {
    let bytes = sample(3 * GROUP_LEN + 5);
    let blob = Blob::from_bytes(bytes.clone());
    site.store.put(&blob).await.unwrap();
    let group = GROUP_LEN;
    let end = bytes.len();
    let edges = [0, 1, group - 1, group, 2 * group + 9, end - 1, end, end + 1];
    for from in edges {
        for to in edges {
            let range = from as u64..to as u64;
            let read = site.read(&blob.digest(), Some(range)).await.unwrap();
            let to = to.min(end);
            assert_eq!(read, bytes[from.min(to)..to], "{from}..{to}");
        }
    }
    let read = site.read(&blob.digest(), Some(1..u64::MAX)).await;
    assert_eq!(read.unwrap(), bytes[1..]);
}

async fn a_large_artifact_passes_in_small_pieces(site: &Site) {
    let bytes = sample(20_000_000);
    let blob = in_file(&bytes);
    site.store.put(&blob).await.unwrap();
    let mut pieces = site.store.get(&blob.digest(), None).await.unwrap();
    let mut offset = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 4 * 1024 * 1024);
        assert_eq!(piece, bytes[offset..offset + piece.len()]);
        offset += piece.len();
    }
    assert_eq!(offset, bytes.len());
}

async fn a_flipped_byte_is_refused(site: &Site) {
    let bytes = sample(3 * GROUP_LEN + 5);
    let blob = Blob::from_bytes(bytes.clone());
    let digest = blob.digest();
    site.store.put(&blob).await.unwrap();
    let mut group = bytes[GROUP_LEN..2 * GROUP_LEN].to_vec();
    group[77] ^= 1;
    site.overwrite_group(&digest, 1, group).await;

    assert_corrupt(site.read(&digest, None).await, &digest);
    assert_corrupt(site.read(&digest, Some(GROUP_BYTES..GROUP_BYTES + 1)).await, &digest);
}

async fn what_is_incomplete_is_refused(site: &Site) {
    let blob = Blob::from_bytes(sample(3 * GROUP_LEN + 5));
    let digest = blob.digest();
    site.store.put(&blob).await.unwrap();
    site.lose_last_group(&digest, 3).await;
    assert_corrupt(site.read(&digest, None).await, &digest);
}

async fn a_manifest_that_lies_is_refused(site: &Site) {
    let blob = Blob::from_bytes(sample(2 * GROUP_LEN));
    let other = Blob::from_bytes(sample(2 * GROUP_LEN + 1));
    let digest = blob.digest();
    site.store.put(&blob).await.unwrap();
    site.store.put(&other).await.unwrap();
    let of_other = site.manifest(&other.digest()).await;
    let deep = b"[".repeat(500_000);
    for lie in [of_other, deep, Vec::new(), b"{}".to_vec(), b"\xff\x00".to_vec()] {
        site.overwrite_manifest(&digest, lie).await;
        assert_corrupt(site.store.head(&digest).await, &digest);
        assert_corrupt(site.read(&digest, Some(0..1)).await, &digest);
    }
    // A put repairs it: the bytes are there, and what is said about them is written again.
    site.store.put(&blob).await.unwrap();
    assert_eq!(site.store.head(&digest).await.unwrap(), *blob.tree());
}

async fn a_size_that_lies_is_refused(site: &Site) {
    let bytes = sample(GROUP_LEN + 500);
    let blob = Blob::from_bytes(bytes.clone());
    let digest = blob.digest();
    site.store.put(&blob).await.unwrap();
    let honest = String::from_utf8(site.manifest(&digest).await).unwrap();
    let lie = honest.replace("262644", "262643");
    assert_ne!(lie, honest);
    site.overwrite_manifest(&digest, lie.into_bytes()).await;
    let last = bytes[GROUP_LEN..GROUP_LEN + 499].to_vec();
    site.overwrite_group(&digest, 1, last).await;

    assert_corrupt(site.read(&digest, None).await, &digest);
    assert_corrupt(site.read(&digest, Some(262_643..262_644)).await, &digest);
}

async fn what_was_never_put_is_not_found(site: &Site) {
    let digest = Digest::of(b"nobody has this");
    let error = site.read(&digest, None).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&digest.to_string()), "{message}");
    assert!(message.contains(site.store.name()), "{message}");
    assert_not_found(site.store.head(&digest).await);

    // Gone between looking and reading.
    let blob = Blob::from_bytes(sample(GROUP_LEN + 1));
    let tree = Arc::new(blob.tree().clone());
    let mut read = site.store.read(&tree, 0..tree.size());
    assert_not_found(read.next().await.unwrap());
}

async fn what_was_deleted_is_gone(site: &Site) {
    let (kept, blob) = (sample(10), Blob::from_bytes(sample(GROUP_LEN + 1)));
    let kept = Blob::from_bytes(kept);
    site.store.put(&kept).await.unwrap();
    site.store.put(&blob).await.unwrap();
    site.store.delete(&blob.digest()).await.unwrap();
    assert_not_found(site.store.head(&blob.digest()).await);
    assert_not_found(site.read(&blob.digest(), None).await);
    let listed = site.listed().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].digest, kept.digest());
    site.store.delete(&blob.digest()).await.unwrap();
    site.store.put(&blob).await.unwrap();
    assert_eq!(site.read(&blob.digest(), None).await.unwrap().len(), GROUP_LEN + 1);
}

async fn a_list_names_everything_once(site: &Site) {
    assert!(site.listed().await.is_empty());
    let blobs: Vec<Blob> = (0..40).map(|n| Blob::from_bytes(sample(n * 100))).collect();
    for blob in blobs.iter().chain(&blobs[..3]) {
        site.store.put(blob).await.unwrap();
    }
    let mut expected: Vec<_> = blobs.iter().map(|blob| (blob.digest(), blob.size())).collect();
    expected.sort_unstable();
    let listed = site.listed().await;
    let found: Vec<_> = listed.iter().map(|entry| (entry.digest, entry.size_bytes)).collect();
    assert_eq!(found, expected);
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    assert!(listed.iter().all(|entry| entry.stored > an_hour_ago));
}

async fn a_half_done_put_is_invisible_and_can_be_repeated(site: &Site) {
    let blob = Blob::from_bytes(sample(3 * GROUP_LEN));
    let digest = blob.digest();
    site.store.put(&blob).await.unwrap();
    site.unpublish(&digest).await;
    assert_not_found(site.store.head(&digest).await);
    assert_not_found(site.read(&digest, None).await);
    assert!(site.listed().await.is_empty());
    site.store.put(&blob).await.unwrap();
    assert_eq!(site.read(&digest, None).await.unwrap().len(), 3 * GROUP_LEN);
}

async fn a_put_that_is_given_up_is_invisible(site: &Site) {
    let blob = in_file(&sample(20_000_000));
    if site.store.put(&blob).now_or_never().is_some() {
        // Only a folder can be that quick.
        return;
    }
    assert_not_found(site.store.head(&blob.digest()).await);
    assert!(site.listed().await.is_empty());
}

async fn many_writers_of_the_same_bytes_agree(site: &Site) {
    let bytes = sample(5 * GROUP_LEN + 3);
    let blob = in_file(&bytes);
    let puts = join_all((0..6).map(|_| site.store.put(&blob))).await;
    for put in puts {
        put.unwrap();
    }
    assert_eq!(site.read(&blob.digest(), None).await.unwrap(), bytes);
    assert_eq!(site.listed().await.len(), 1);
}

#[tokio::test]
async fn a_full_stream_says_so_and_keeps_what_it_has() {
    let server = NatsServer::start();
    let context = jetstream::new(server.connect().await);
    // Whoever makes the stream first decides about its limits; the store takes it as it is.
    context
        .create_stream(jetstream::stream::Config {
            name: "WJ_ART".to_owned(),
            subjects: vec!["wj.art.>".to_owned()],
            max_bytes: 1_500_000,
            max_messages_per_subject: 1,
            discard: jetstream::stream::DiscardPolicy::New,
            allow_direct: true,
            ..Default::default()
        })
        .await
        .unwrap();
    let store = JetStreamArtifacts::open(context).await.unwrap();
    let small = Blob::from_bytes(sample(900_000));
    store.put(&small).await.unwrap();
    let large = Blob::from_bytes(sample(5_000_000));
    let error = store.put(&large).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains(&large.digest().to_string()), "{error}");
    assert_not_found(store.head(&large.digest()).await);
    assert_eq!(store.head(&small.digest()).await.unwrap(), *small.tree());
}

#[tokio::test]
async fn a_full_server_says_so() {
    let server = NatsServer::start_with("  max_file_store: 2MB", "");
    let context = jetstream::new(server.connect().await);
    let store = JetStreamArtifacts::open(context).await.unwrap();
    let error = store.put(&Blob::from_bytes(sample(5_000_000))).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Full { .. }), "{error:?}");
}

#[tokio::test]
async fn an_artifact_too_large_for_its_manifest_is_refused_at_once() {
    let server = NatsServer::start_with("", "max_payload: 280000");
    let context = jetstream::new(server.connect().await);
    let store = JetStreamArtifacts::open(context).await.unwrap();
    // 2 GB of nothing: a file with a hole, and a tree that nobody will check.
    let groups = vec![[0; 32]; 8000];
    let size = 8000 * GROUP_BYTES;
    let wrong = Tree::from_parts(size, groups.clone(), Digest::of(b"")).unwrap_err();
    let wasmjob_runtime::TreeError::Root { found, .. } = wrong else {
        panic!("{wrong}");
    };
    let tree = Tree::from_parts(size, groups, found).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    let error = store.put(&Blob::open(file, tree).unwrap()).await.unwrap_err();
    assert!(matches!(error, ArtifactError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_blob_that_is_damaged_on_the_way_in_is_refused() {
    let site = Site::nats().await;
    let tree = Tree::of(&sample(2 * GROUP_LEN));
    let digest = tree.root();
    let file = tempfile::tempfile().unwrap();
    file.set_len(tree.size()).unwrap();
    let blob = Blob::open(file, tree).unwrap();
    assert_corrupt(site.store.put(&blob).await, &digest);
    assert_not_found(site.store.head(&digest).await);
}

#[tokio::test]
async fn a_store_that_went_away_is_unavailable() {
    let digest = Digest::of(b"");
    let server = NatsServer::start();
    let mut context = jetstream::new(server.connect().await);
    context.set_timeout(Duration::from_millis(200));
    let store = JetStreamArtifacts::open(context).await.unwrap();
    drop(server);
    let error = store.head(&digest).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let error = store.put(&Blob::from_bytes(sample(1))).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");

    let server = S3Server::start().await;
    let url = Url::parse("s3://artifacts").unwrap();
    let store = ObjectArtifacts::s3_with(server.client(), &url).unwrap();
    drop(server);
    tokio::task::yield_now().await;
    let error = store.head(&digest).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn wrong_credentials_are_not_a_missing_artifact() {
    let server = S3Server::start().await;
    let url = Url::parse("s3://artifacts").unwrap();
    let stranger = server.client().with_secret_access_key("wrong");
    let store = ObjectArtifacts::s3_with(stranger, &url).unwrap();
    let error = store.head(&Digest::of(b"")).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_url_names_a_store_or_is_refused_with_what_it_could_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain/path");
    let store = open(path.to_str(), None, dir.path()).await.unwrap();
    assert_eq!(store.name(), format!("folder {}", path.display()));
    let default = dir.path().join("default");
    open(None, None, &default).await.unwrap();
    for made in [path, default] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&made.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }

    for bad in ["", "ftp://host/path", "file://host/path", "s3://", "http://u:secret@host/"] {
        let error = open(Some(bad), None, dir.path()).await.err().unwrap();
        let message = error.to_string();
        assert!(matches!(error, ArtifactError::Url { .. }), "{bad}: {message}");
        assert!(message.contains("s3://bucket/prefix"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}
