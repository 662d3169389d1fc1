//! Artifacts in a JetStream stream: what there is wherever there is a NATS.
//!
//! One message per group of 256 KiB, `wj.art.<64 hex>.<index>`, and one with the manifest,
//! `wj.art.<64 hex>.head`, which is published last: an artifact is there when its head is.
//! Subjects keep one message each, so putting the same bytes twice changes nothing.
//!
//! A NATS object store bucket was ruled out: it hashes with SHA-256 under a random name, waits for
//! each chunk before it sends the next, and cannot prove a range without reading everything.

use std::ops::Range;
use std::sync::Arc;

use async_nats::jetstream;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use futures_util::{TryStreamExt as _, future};
use jetstream::ErrorCode;
use jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use jetstream::message::StreamMessage;
use jetstream::stream::{Config, DirectGetErrorKind, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream};
use wasmjob_runtime::{Blob, Digest, GROUP_BYTES, Tree};

use super::manifest;
use super::read::{self, Ahead};
use super::{ArtifactError, ArtifactStore, ByteStream, Entry, EntryStream, Place};

/// The stream that holds the artifacts.
const STREAM: &str = "WJ_ART";

const SUBJECT_PREFIX: &str = "wj.art.";
const HEAD_SUFFIX: &str = ".head";

/// Messages on their way at once, in either direction: 2 MiB in memory per transfer, which is
/// enough to keep a connection busy and leaves room on it for everything else.
const MESSAGES_AHEAD: usize = 8;

const AHEAD: Ahead = Ahead { groups: 1, requests: MESSAGES_AHEAD };

/// Heads read at once by a list.
const HEADS_AHEAD: usize = 16;

/// Artifacts in the stream `WJ_ART`.
#[derive(Clone)]
pub struct JetStreamArtifacts {
    context: jetstream::Context,
    stream: Arc<Stream>,
    name: Arc<str>,
}

impl JetStreamArtifacts {
    /// The artifacts of the NATS that `context` speaks to.
    ///
    /// Looks for the stream and creates it only if it is missing: a node's credentials need not
    /// allow that, and whoever made it may have given it limits and replicas.
    pub async fn open(context: jetstream::Context) -> Result<Self, ArtifactError> {
        Self::open_or_make(context, 1).await
    }

    /// The same, with so many copies on different servers if it is made now.
    pub async fn open_or_make(context: jetstream::Context, replicas: usize) -> Result<Self, ArtifactError> {
        let name: Arc<str> = format!("JetStream stream {STREAM}").into();
        let stream = find_or_create(&context, replicas, &name).await?;
        Ok(Self { context, stream: Arc::new(stream), name })
    }

    fn place(&self, digest: &Digest) -> Place {
        Place::artifact(&self.name, digest)
    }

    fn not_found(&self, digest: &Digest) -> ArtifactError {
        ArtifactError::NotFound { digest: *digest, store: Arc::clone(&self.name) }
    }

    fn corrupt(&self, digest: &Digest, what: String) -> ArtifactError {
        ArtifactError::Corrupt { digest: *digest, store: Arc::clone(&self.name), what }
    }

    /// The largest artifact whose manifest still is one message.
    fn artifact_bytes_max(&self) -> u64 {
        let message_bytes = self.context.client().max_payload();
        manifest::artifact_bytes_max(u64::try_from(message_bytes).unwrap_or(u64::MAX))
    }

    async fn publish(&self, digest: &Digest, subject: String, payload: Bytes) -> Result<(), ArtifactError> {
        let failed = |error| ArtifactError::fold(self.place(digest), error);
        let ack = self.context.publish(subject, payload).await;
        ack.map_err(failed)?.await.map(drop).map_err(failed)
    }

    /// Publishes every group, then the head that makes them an artifact.
    async fn publish_all(&self, blob: &Blob) -> Result<(), ArtifactError> {
        stream::iter((0..).take(blob.tree().groups().len()))
            .map(|index| self.publish_group(blob, index))
            .buffer_unordered(MESSAGES_AHEAD)
            .try_for_each(|()| future::ready(Ok(())))
            .await?;
        let digest = blob.digest();
        self.publish(&digest, head_subject(&digest), manifest::encode(blob.tree())).await
    }

    async fn publish_group(&self, blob: &Blob, index: u64) -> Result<(), ArtifactError> {
        let digest = blob.digest();
        let group = read::read_piece(blob.clone(), index * GROUP_BYTES, GROUP_BYTES)
            .await
            .map_err(|error| ArtifactError::blob(&self.name, error))?;
        self.publish(&digest, group_subject(&digest, index), group).await
    }

    /// The message of a subject, if there is one.
    async fn message(&self, digest: &Digest, subject: &str) -> Result<Option<StreamMessage>, ArtifactError> {
        match self.stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => self.leader_message(digest, subject).await,
            Err(error) => Err(ArtifactError::fold(self.place(digest), error)),
        }
    }

    /// Asks the stream's leader where a replica did not have the message: it may lag behind.
    async fn leader_message(&self, digest: &Digest, subject: &str) -> Result<Option<StreamMessage>, ArtifactError> {
        if self.stream.cached_info().config.num_replicas <= 1 {
            return Ok(None);
        }
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ArtifactError::fold(self.place(digest), error)),
        }
    }

    async fn head_message(&self, digest: &Digest) -> Result<StreamMessage, ArtifactError> {
        self.message(digest, &head_subject(digest)).await?.ok_or_else(|| self.not_found(digest))
    }

    fn tree(&self, digest: &Digest, head: &StreamMessage) -> Result<Tree, ArtifactError> {
        manifest::decode(&head.payload, digest).map_err(|error| self.corrupt(digest, error.to_string()))
    }

    async fn group(self, digest: Digest, index: u64) -> Result<Bytes, ArtifactError> {
        let found = self.message(&digest, &group_subject(&digest, index)).await?;
        match found {
            Some(message) => Ok(message.payload),
            None => {
                // Deleted while it was read, or really incomplete?
                self.head_message(&digest).await?;
                Err(self.corrupt(&digest, format!("group {index} is missing")))
            }
        }
    }

    async fn purge(&self, digest: &Digest, subject: String) -> Result<(), ArtifactError> {
        self.stream
            .purge()
            .filter(subject)
            .await
            .map(drop)
            .map_err(|error| ArtifactError::fold(self.place(digest), error))
    }

    /// One line of a list; `None` for what is gone again, or damaged.
    async fn entry(self, digest: Digest) -> Result<Option<Entry>, ArtifactError> {
        let head = match self.head_message(&digest).await {
            Ok(head) => head,
            Err(ArtifactError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(self.tree(&digest, &head).ok().map(|tree| Entry {
            digest,
            size_bytes: tree.size(),
            stored: head.time.into(),
        }))
    }
}

#[async_trait]
impl ArtifactStore for JetStreamArtifacts {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, blob: &Blob) -> Result<(), ArtifactError> {
        let digest = blob.digest();
        let max_bytes = self.artifact_bytes_max();
        if blob.size() > max_bytes {
            return Err(ArtifactError::TooLarge {
                digest,
                store: Arc::clone(&self.name),
                size_bytes: blob.size(),
                max_bytes,
            });
        }
        match self.head(&digest).await {
            Ok(tree) if tree.size() == blob.size() => return Ok(()),
            Ok(_) | Err(ArtifactError::NotFound { .. } | ArtifactError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        let put = self.publish_all(blob).await;
        if matches!(put, Err(ArtifactError::Full { .. })) {
            // What did arrive would keep the store full for nothing. The first error says more than
            // one about cleaning up after it.
            let _ = self.delete(&digest).await;
        }
        put
    }

    async fn head(&self, digest: &Digest) -> Result<Tree, ArtifactError> {
        let head = self.head_message(digest).await?;
        self.tree(digest, &head)
    }

    fn read(&self, tree: &Arc<Tree>, range: Range<u64>) -> ByteStream {
        let (store, digest) = (self.clone(), tree.root());
        read::verified(&self.name, tree, range, AHEAD, move |window| {
            store.clone().group(digest, window.start / GROUP_BYTES)
        })
    }

    fn list(&self) -> EntryStream {
        let store = self.clone();
        let failed = {
            let name = Arc::clone(&self.name);
            move |error| ArtifactError::fold(Place::store(&name), error)
        };
        let first = failed.clone();
        let entries = async move {
            let filter = format!("{SUBJECT_PREFIX}*{HEAD_SUFFIX}");
            let subjects = store.stream.info_with_subjects(filter).await.map_err(first)?;
            Ok(subjects
                .map_err(failed)
                .map_ok(move |(subject, _)| {
                    let digest = digest_of(&subject);
                    entry_of(store.clone(), digest)
                })
                .try_buffer_unordered(HEADS_AHEAD)
                .try_filter_map(|entry| future::ready(Ok(entry))))
        };
        stream::once(entries).try_flatten().boxed()
    }

    async fn delete(&self, digest: &Digest) -> Result<(), ArtifactError> {
        // Two steps, so that a reader never sees a head without its groups.
        self.purge(digest, head_subject(digest)).await?;
        let everything = format!("{SUBJECT_PREFIX}{}.*", digest.hex());
        self.purge(digest, everything).await
    }
}

/// Anybody may publish under any subject that looks like a head's: what is none is passed over.
async fn entry_of(store: JetStreamArtifacts, digest: Option<Digest>) -> Result<Option<Entry>, ArtifactError> {
    match digest {
        Some(digest) => store.entry(digest).await,
        None => Ok(None),
    }
}

async fn find_or_create(
    context: &jetstream::Context,
    replicas: usize,
    name: &Arc<str>,
) -> Result<Stream, ArtifactError> {
    let error = match context.get_stream(STREAM).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            let created = context.create_stream(config(replicas)).await;
            created.map_err(|error| match error.kind() {
                CreateStreamErrorKind::JetStream(refusal) => ArtifactError::fold(Place::store(name), refusal),
                _ => ArtifactError::fold(Place::store(name), error),
            })
        }
        GetStreamErrorKind::JetStream(refusal) => Err(ArtifactError::fold(Place::store(name), refusal)),
        _ => Err(ArtifactError::fold(Place::store(name), error)),
    }
}

fn config(replicas: usize) -> Config {
    Config {
        name: STREAM.to_owned(),
        description: Some("wasmjob artifacts".to_owned()),
        subjects: vec![format!("{SUBJECT_PREFIX}>")],
        storage: StorageType::File,
        max_messages_per_subject: 1,
        // A full store refuses what is new. Making room by itself it would take groups out of
        // artifacts that are in use.
        discard: DiscardPolicy::New,
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

fn head_subject(digest: &Digest) -> String {
    format!("{SUBJECT_PREFIX}{}{HEAD_SUFFIX}", digest.hex())
}

fn group_subject(digest: &Digest, index: u64) -> String {
    format!("{SUBJECT_PREFIX}{}.{index}", digest.hex())
}

fn digest_of(head_subject: &str) -> Option<Digest> {
    let hex = head_subject.strip_prefix(SUBJECT_PREFIX)?.strip_suffix(HEAD_SUFFIX)?;
    Digest::from_hex(hex).ok()
}
