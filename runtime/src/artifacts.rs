//! How the sandbox gets at content-addressed bytes: the host has the stores, this says what is
//! asked of them.

use async_trait::async_trait;

use crate::blob::{Blob, Digest};

/// Opens and keeps artifacts for guests.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// The artifact with this digest.
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError>;

    /// Stores `blob`, so that anybody who has its digest can open it.
    async fn publish(&self, blob: &Blob) -> Result<(), AccessError>;
}

/// Why an artifact could not be had or stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nobody has it.
    #[error("{0}")]
    NotFound(String),
    /// Its bytes are not what the digest says.
    #[error("{0}")]
    Corrupt(String),
    /// The store does not answer; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// It has more bytes than were asked for at most.
    #[error("{0}")]
    TooLarge(String),
    /// The store does not take it: it is full, the artifact too large, the access not allowed.
    #[error("{0}")]
    Refused(String),
}

/// Has nothing and keeps nothing.
pub struct NoArtifacts;

#[async_trait]
impl Artifacts for NoArtifacts {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        Err(AccessError::NotFound(format!("{digest} is not here: this sandbox has no artifacts")))
    }

    async fn publish(&self, _: &Blob) -> Result<(), AccessError> {
        Err(AccessError::Unavailable("this sandbox has no artifacts".into()))
    }
}
