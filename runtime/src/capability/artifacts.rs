//! `wasmjob:job/types` and `wasmjob:job/artifacts`: reading and writing content-addressed bytes.

use std::{sync::Arc, time::Instant};

use wasmtime::component::Resource;

use super::{
    bindings::wasmjob::job::{artifacts, types},
    shown,
};
use crate::{
    artifacts::{AccessError, Artifacts},
    blob::{Blob, BlobError, BlobWriter, Digest, GROUP_BYTES},
    limits,
    store::State,
};

use types::Error;

/// Fuel of opening or storing an artifact, besides its bytes: a file or a question to the store.
const OPEN_FUEL: u64 = 20_000;
/// What an artifact costs of the output limit besides its bytes: even an empty one takes room.
const ARTIFACT_BYTES_MIN: u64 = 4 * 1024;

pub(super) fn too_many_blobs() -> Error {
    Error::Limit(format!("no more than {} blobs can be held at the same time", limits::BLOBS_MAX))
}

fn over_output_limit() -> Error {
    Error::Limit("this is over the job's output limit".into())
}

/// An artifact that a guest is writing.
pub struct ArtifactWriter(BlobWriter);

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::NotFound(text) => Error::NotFound(text),
            AccessError::Corrupt(text) => Error::Corrupt(text),
            AccessError::Unavailable(text) => Error::Unavailable(text),
            AccessError::TooLarge(text) => Error::Limit(text),
            AccessError::Refused(text) => Error::Other(text),
        }
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Corrupt { .. } => Error::Corrupt(error.to_string()),
            _ => Error::Unavailable(error.to_string()),
        }
    }
}

impl types::Host for State {}

impl types::HostBlob for State {
    async fn digest(&mut self, blob: Resource<Blob>) -> wasmtime::Result<String> {
        Ok(self.table.get(&blob)?.digest().to_string())
    }

    async fn size(&mut self, blob: Resource<Blob>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&blob)?.size())
    }

    async fn read(&mut self, blob: Resource<Blob>, offset: u64, len: u32) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let started = Instant::now();
        let read = self.table.get(&blob)?.read_at(offset, u64::from(len));
        self.host_time += started.elapsed();
        let bytes = read.as_ref().map_or(0, |bytes| bytes.len());
        self.charge_bytes(bytes);
        self.charge_groups(&blob, offset, bytes as u64)?;
        Ok(read.map(Vec::from).map_err(Error::from))
    }

    async fn drop(&mut self, blob: Resource<Blob>) -> wasmtime::Result<()> {
        self.take_back(blob)?;
        Ok(())
    }
}

impl State {
    /// Fuel for the groups that had to be hashed for a read: all but the one that the last read of this
    /// blob ended in. Where the bytes lie makes no difference, so that a job costs the same everywhere.
    fn charge_groups(&mut self, blob: &Resource<Blob>, offset: u64, len: u64) -> wasmtime::Result<()> {
        let Some(last_byte) = len.checked_sub(1).map(|more| offset.saturating_add(more)) else { return Ok(()) };
        let (first, last) = (offset / GROUP_BYTES, last_byte / GROUP_BYTES);
        let held = self.groups.insert(blob.rep(), last) == Some(first);
        let groups = last - first + u64::from(!held);
        let group = self.table.get(blob)?.size().min(GROUP_BYTES);
        self.charge(groups.saturating_mul(group).saturating_mul(limits::BYTE_FUEL));
        Ok(())
    }
}

impl artifacts::Host for State {
    async fn open(&mut self, digest: String) -> wasmtime::Result<Result<Resource<Blob>, Error>> {
        if self.blobs >= limits::BLOBS_MAX {
            return Ok(Err(too_many_blobs()));
        }
        let Ok(digest) = digest.parse::<Digest>() else {
            let shown = shown(&digest);
            return Ok(Err(Error::Invalid(format!("`{shown}` is not a digest: blake3: and 64 hexadecimal digits"))));
        };
        self.charge(OPEN_FUEL);
        let started = Instant::now();
        let opened = self.artifacts.clone().open(&digest).await;
        self.host_time += started.elapsed();
        Ok(match opened {
            Ok(blob) => Ok(self.hand_out(blob)?),
            Err(error) => Err(error.into()),
        })
    }

    async fn create(&mut self) -> wasmtime::Result<Result<Resource<ArtifactWriter>, Error>> {
        if self.writers >= limits::WRITERS_MAX {
            let max = limits::WRITERS_MAX;
            return Ok(Err(Error::Limit(format!("no more than {max} artifacts can be written at the same time"))));
        }
        if !self.output.lock().spend(ARTIFACT_BYTES_MIN) {
            return Ok(Err(over_output_limit()));
        }
        self.meter.hold(limits::WRITER_BYTES)?;
        let writer = self.table.push(ArtifactWriter(self.writer()))?;
        self.writers += 1;
        Ok(Ok(writer))
    }
}

impl State {
    fn let_go(&mut self, writer: Resource<ArtifactWriter>) -> wasmtime::Result<ArtifactWriter> {
        let writer = self.table.delete(writer)?;
        self.meter.release(limits::WRITER_BYTES);
        self.writers -= 1;
        Ok(writer)
    }
}

impl artifacts::HostWriter for State {
    async fn write(&mut self, writer: Resource<ArtifactWriter>, bytes: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        self.charge_bytes(bytes.len());
        if !self.output.lock().spend(bytes.len() as u64) {
            return Ok(Err(over_output_limit()));
        }
        let started = Instant::now();
        let written = self.table.get_mut(&writer)?.0.write(&bytes);
        self.host_time += started.elapsed();
        if let Err(error) = written {
            return Ok(Err(Error::Unavailable(format!("writing an artifact: {error}"))));
        }
        Ok(Ok(()))
    }

    async fn finish(&mut self, writer: Resource<ArtifactWriter>) -> wasmtime::Result<Result<Resource<Blob>, Error>> {
        let writer = self.let_go(writer)?;
        if self.blobs >= limits::BLOBS_MAX {
            return Ok(Err(too_many_blobs()));
        }
        self.charge(OPEN_FUEL);
        let started = Instant::now();
        let stored = store(self.artifacts.clone(), writer.0).await;
        self.host_time += started.elapsed();
        Ok(match stored {
            Ok(blob) => Ok(self.hand_out(blob)?),
            Err(error) => Err(error),
        })
    }

    async fn drop(&mut self, writer: Resource<ArtifactWriter>) -> wasmtime::Result<()> {
        self.let_go(writer)?;
        Ok(())
    }
}

async fn store(artifacts: Arc<dyn Artifacts>, writer: BlobWriter) -> Result<Blob, Error> {
    let blob = writer.finish().map_err(|error| Error::Unavailable(format!("writing an artifact: {error}")))?;
    artifacts.publish(&blob).await?;
    Ok(blob)
}
