//! What can go wrong with artifacts, folded into the few kinds that callers tell apart.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use async_nats::jetstream;
use jetstream::ErrorCode;
use jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, PublishError, PublishErrorKind, RequestError,
    RequestErrorKind,
};
use jetstream::stream::{DirectGetError, DirectGetErrorKind};
use object_store::client::{HttpError, HttpErrorKind};
use wasmjob_runtime::{BlobError, Digest};

/// The error underneath. Shared, because everybody who waited for one download gets it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// What an error is about: a store, or one artifact in it.
#[derive(Debug, Clone)]
pub struct Place {
    store: Arc<str>,
    digest: Option<Digest>,
}

impl Place {
    /// The store as a whole.
    pub fn store(store: &Arc<str>) -> Self {
        Self { store: Arc::clone(store), digest: None }
    }

    /// One artifact in the store.
    pub fn artifact(store: &Arc<str>, digest: &Digest) -> Self {
        Self { store: Arc::clone(store), digest: Some(*digest) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "{digest} in {}", self.store),
            None => f.write_str(&self.store),
        }
    }
}

/// Why an artifact could not be stored, found or read.
///
/// The messages are complete: they name the artifact and the store and say what the error
/// underneath said.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// The store does not have it.
    #[error("nobody stored {digest} (looked in {store})")]
    NotFound {
        /// What was looked for.
        digest: Digest,
        /// Where.
        store: Arc<str>,
    },
    /// What is stored is not what its name says. It was not returned.
    #[error("{digest} in {store} is damaged: {what}")]
    Corrupt {
        /// The artifact.
        digest: Digest,
        /// Where it is stored.
        store: Arc<str>,
        /// What is wrong with it.
        what: String,
    },
    /// Larger than the store takes.
    #[error("{digest} has {size_bytes} bytes, and {store} takes at most {max_bytes}")]
    TooLarge {
        /// The artifact.
        digest: Digest,
        /// The store that refused it.
        store: Arc<str>,
        /// Its size.
        size_bytes: u64,
        /// What the store takes.
        max_bytes: u64,
    },
    /// There is no room left: a full disk, a quota or a limit of the account.
    #[error("no room for {place}: {cause}")]
    Full {
        /// What was to be written.
        place: Place,
        /// What the store said.
        cause: Cause,
    },
    /// The store does not let these credentials do this.
    #[error("no permission for {place}: {cause}")]
    Denied {
        /// What was asked for.
        place: Place,
        /// What the store said.
        cause: Cause,
    },
    /// The store does not answer. Trying again later may help.
    #[error("cannot reach {place}: {cause}")]
    Unavailable {
        /// What was asked for.
        place: Place,
        /// What went wrong on the way.
        cause: Cause,
    },
    /// The text names no store.
    #[error(
        "`{url}` names no artifact store: {reason}; use a folder, `s3://bucket/prefix`, or leave \
         it out to keep artifacts in NATS"
    )]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else.
    #[error("{place}: {cause}")]
    Other {
        /// What was asked for.
        place: Place,
        /// What went wrong.
        cause: Cause,
    },
}

impl ArtifactError {
    /// Whether trying again later may help.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The kind that `error`, or anything underneath it, belongs to.
    pub(super) fn fold(place: Place, error: impl Error + Send + Sync + 'static) -> Self {
        let kind = chain(&error).map(kind_of).max().unwrap_or(Kind::Other);
        let cause: Cause = Arc::new(error);
        match kind {
            Kind::Full => Self::Full { place, cause },
            Kind::Denied => Self::Denied { place, cause },
            Kind::Unavailable => Self::Unavailable { place, cause },
            Kind::Other => Self::Other { place, cause },
        }
    }

    /// An error that reading a local blob gave on its way to `store`.
    pub(super) fn blob(store: &Arc<str>, error: BlobError) -> Self {
        match error {
            BlobError::Corrupt { digest, .. } => {
                Self::Corrupt { digest, store: Arc::clone(store), what: format!("{error}, in the copy that was read") }
            }
            BlobError::TooLarge { digest, size_bytes, max_bytes } => {
                Self::TooLarge { digest, store: Arc::clone(store), size_bytes, max_bytes }
            }
            BlobError::Io { digest, source } => Self::fold(Place::artifact(store, &digest), source),
        }
    }
}

/// The kinds that are found by looking, the one that explains most last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Other,
    Unavailable,
    Denied,
    Full,
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn kind_of(error: &(dyn Error + 'static)) -> Kind {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return io_kind(error.kind());
    }
    if let Some(error) = error.downcast_ref::<HttpError>() {
        return match error.kind() {
            HttpErrorKind::Decode | HttpErrorKind::Unknown => Kind::Other,
            _ => Kind::Unavailable,
        };
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return object_kind(error);
    }
    nats_kind(error)
}

fn io_kind(kind: io::ErrorKind) -> Kind {
    use io::ErrorKind as Io;
    match kind {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::Full,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
        Io::ConnectionRefused
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::NotConnected
        | Io::BrokenPipe
        | Io::TimedOut
        | Io::StaleNetworkFileHandle => Kind::Unavailable,
        _ => Kind::Other,
    }
}

fn object_kind(error: &object_store::Error) -> Kind {
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Kind::Denied,
        // The status is in the text only: the type that carries it is private.
        object_store::Error::Generic { .. } => {
            let text = error.to_string();
            let says = |what: &str| text.contains(what);
            if says("status code: 507") || says("StorageFull") || says("QuotaExceeded") {
                Kind::Full
            } else if says("status code: 5") || says("status code: 429") || says("SlowDown") {
                Kind::Unavailable
            } else {
                Kind::Other
            }
        }
        _ => Kind::Other,
    }
}

fn nats_kind(error: &(dyn Error + 'static)) -> Kind {
    if let Some((status, code)) = refusal(error) {
        return refusal_kind(status, code);
    }
    let unanswered = if let Some(error) = error.downcast_ref::<PublishError>() {
        matches!(
            error.kind(),
            PublishErrorKind::StreamNotFound | PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe
        )
    } else if let Some(error) = error.downcast_ref::<DirectGetError>() {
        matches!(
            error.kind(),
            DirectGetErrorKind::TimedOut
                | DirectGetErrorKind::Request
                | DirectGetErrorKind::ErrorResponse(async_nats::StatusCode::NO_RESPONDERS, _)
        )
    } else if let Some(error) = error.downcast_ref::<RequestError>() {
        matches!(error.kind(), RequestErrorKind::TimedOut | RequestErrorKind::NoResponders)
    } else if let Some(error) = error.downcast_ref::<CreateStreamError>() {
        matches!(error.kind(), CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable)
    } else {
        false
    };
    if unanswered { Kind::Unavailable } else { Kind::Other }
}

/// The status and the code in a refusal of the JetStream server.
fn refusal(error: &(dyn Error + 'static)) -> Option<(usize, ErrorCode)> {
    // Its type has no public name, so it is inferred from a kind that carries it.
    let refusal = GetStreamErrorKind::JetStream(Clone::clone(error.downcast_ref()?));
    match refusal {
        GetStreamErrorKind::JetStream(refusal) => Some((refusal.code(), refusal.error_code())),
        _ => None,
    }
}

fn refusal_kind(status: usize, code: ErrorCode) -> Kind {
    match code {
        // A stream only ever fails to store for want of room: its limits, or the disk under it.
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES => Kind::Full,
        _ if status == 503 => Kind::Unavailable,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(error: impl Error + Send + Sync + 'static) -> ArtifactError {
        let place = Place::artifact(&"folder /data".into(), &Digest::of(b""));
        ArtifactError::fold(place, error)
    }

    fn in_store(source: impl Into<Box<dyn Error + Send + Sync>>) -> object_store::Error {
        let (store, source) = ("test", source.into());
        object_store::Error::Generic { store, source }
    }

    #[test]
    fn a_full_disk_is_full_however_deep_the_error_is() {
        for error in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let folded = folded(in_store(io::Error::from(error)));
            assert!(matches!(folded, ArtifactError::Full { .. }), "{folded:?}");
            let text = folded.to_string();
            assert!(text.contains("blake3:") && text.contains("/data"), "{text}");
        }
        let s3 = folded(in_store("non-2xx status code: 507 Insufficient Storage"));
        assert!(matches!(s3, ArtifactError::Full { .. }), "{s3:?}");
    }

    #[test]
    fn what_may_pass_is_unavailable_and_what_may_not_is_denied() {
        for error in [
            in_store(io::Error::from(io::ErrorKind::ConnectionRefused)),
            in_store("non-2xx status code: 503 Service Unavailable"),
            in_store("non-2xx status code: 429 Too Many Requests"),
        ] {
            assert!(folded(error).is_unavailable());
        }
        assert!(folded(PublishError::new(PublishErrorKind::TimedOut)).is_unavailable());
        for denied in [
            folded(io::Error::from(io::ErrorKind::PermissionDenied)),
            folded(in_store(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))),
        ] {
            assert!(matches!(denied, ArtifactError::Denied { .. }), "{denied:?}");
        }
        let other = folded(in_store("something else"));
        assert!(matches!(other, ArtifactError::Other { .. }), "{other:?}");
    }
}
