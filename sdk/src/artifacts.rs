//! Large inputs and outputs: bytes addressed by their content.
//!
//! ```
//! use std::io::{Read, Write};
//! use wasmjob::artifacts;
//!
//! let mut writer = artifacts::create()?;
//! writeln!(writer, "name,age")?;
//! let table = writer.finish()?;
//!
//! let mut again = artifacts::open(&table.digest())?;
//! let mut text = String::new();
//! again.read_to_string(&mut text)?;
//! assert_eq!(text, "name,age\n");
//! # Ok::<(), wasmjob::Error>(())
//! ```
//!
//! Calls fail with an [`io::Error`]: `NotFound`; `InvalidInput` (that is no digest);
//! `PermissionDenied`; `QuotaExceeded` (a limit of the job); `InvalidData` (the bytes are not what
//! their digest says); `TimedOut` (the store did not answer).

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::host;

/// Bytes asked of the host at a time. A call costs about a microsecond: at this size that is noise,
/// and a job with a hundred open artifacts still holds only 25 MiB.
const CHUNK_BYTES: usize = 256 * 1024;

/// The job's input: an [`Artifact`], whether it was given inline or by digest.
pub type Input = Artifact;

/// Bytes that are stored by their digest: a handle to read from, at any place and as often as
/// wanted.
///
/// It reads like a file: [`Read`], [`BufRead`] and [`Seek`], already buffered, so there is no need
/// for a `BufReader`. A clone shares the bytes and has a position of its own.
#[derive(Clone)]
pub struct Artifact {
    blob: Arc<host::Blob>,
    /// Where `chunk` starts in the artifact.
    chunk_offset: u64,
    chunk: Vec<u8>,
    /// What was consumed of `chunk`.
    consumed: usize,
}

impl Artifact {
    pub(crate) fn new(blob: Arc<host::Blob>) -> Artifact {
        Artifact { blob, chunk_offset: 0, chunk: Vec::new(), consumed: 0 }
    }

    pub(crate) fn blob(&self) -> &host::Blob {
        &self.blob
    }

    #[cfg(target_arch = "wasm32")]
    pub(crate) fn into_blob(self) -> Arc<host::Blob> {
        self.blob
    }

    /// `blake3:` and 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.blob.digest()
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.blob.size()
    }

    /// A reader of its own, from the start.
    #[must_use]
    pub fn reader(&self) -> Artifact {
        Artifact::new(Arc::clone(&self.blob))
    }

    /// Reads into `buffer` from `offset` on, without moving the position.
    ///
    /// Returns how many bytes were read: less than asked only at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let bytes = self.blob.read(offset.saturating_add(filled as u64), buffer.len() - filled)?;
            if bytes.is_empty() {
                break;
            }
            buffer[filled..][..bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
        }
        Ok(filled)
    }

    fn position(&self) -> u64 {
        self.chunk_offset + self.consumed as u64
    }
}

impl BufRead for Artifact {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.chunk.len() {
            let next = self.position();
            self.chunk = self.blob.read(next, CHUNK_BYTES)?;
            self.chunk_offset = next;
            self.consumed = 0;
        }
        Ok(&self.chunk[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed = self.chunk.len().min(self.consumed.saturating_add(amount));
    }
}

impl Read for Artifact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl Seek for Artifact {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => self.position().checked_add_signed(delta),
            SeekFrom::End(delta) => self.size().checked_add_signed(delta),
        };
        let target = target
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek to before the start of the artifact"))?;
        match target.checked_sub(self.chunk_offset).and_then(|n| usize::try_from(n).ok()) {
            Some(inside) if inside <= self.chunk.len() => self.consumed = inside,
            _ => *self = Artifact { chunk_offset: target, ..self.reader() },
        }
        Ok(target)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position())
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("digest", &self.digest())
            .field("size", &self.size())
            .field("position", &self.position())
            .finish()
    }
}

/// An artifact that is being written: [`Write`], already buffered. Dropping it without
/// [`finish`](Writer::finish) discards what was written.
pub struct Writer {
    inner: host::Writer,
    pending: Vec<u8>,
}

impl Writer {
    /// Stores what was written and returns it. Writing the same bytes twice stores them once.
    pub fn finish(mut self) -> io::Result<Artifact> {
        self.flush()?;
        Ok(Artifact::new(Arc::new(self.inner.finish()?)))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..length]);
        if self.pending.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            // What the host refused is refused for good: it must not be offered again by `finish`.
            let pending = std::mem::take(&mut self.pending);
            self.inner.write(&pending)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// Opens the artifact with this digest (`blake3:` and 64 hexadecimal digits).
pub fn open(digest: &str) -> io::Result<Artifact> {
    Ok(Artifact::new(Arc::new(host::open(digest)?)))
}

/// Starts a new artifact. It counts against the job's output limit, and does not exist for anybody
/// before [`Writer::finish`].
pub fn create() -> io::Result<Writer> {
    Ok(Writer { inner: host::create()?, pending: Vec::new() })
}

/// Stores `bytes` as an artifact: [`create`], write and [`finish`](Writer::finish) in one.
///
/// In tests this is how to make an [`Input`].
pub fn put(bytes: impl AsRef<[u8]>) -> io::Result<Artifact> {
    let mut writer = create()?;
    writer.write_all(bytes.as_ref())?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn what_was_written_in_pieces_is_read_back_whole() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 3] {
            let bytes = pattern(length);
            let mut writer = create().unwrap();
            for piece in bytes.chunks(100_003) {
                writer.write_all(piece).unwrap();
            }
            let mut artifact = writer.finish().unwrap();
            let mut read = Vec::new();
            artifact.read_to_end(&mut read).unwrap();
            assert_eq!(artifact.size(), length as u64);
            assert!(read == bytes, "{length} bytes");
        }
    }

    #[test]
    fn any_place_can_be_read_in_any_order() {
        let bytes = pattern(3 * CHUNK_BYTES);
        let mut artifact = put(&bytes).unwrap();
        for offset in [0, 10, 2 * CHUNK_BYTES + 5, CHUNK_BYTES - 2, 5, 3 * CHUNK_BYTES - 4] {
            let mut four = [0; 4];
            artifact.seek(SeekFrom::Start(offset as u64)).unwrap();
            artifact.read_exact(&mut four).unwrap();
            assert_eq!(four, bytes[offset..][..4]);
            assert_eq!(artifact.stream_position().unwrap(), offset as u64 + 4);
            assert_eq!(artifact.read_at(&mut four, offset as u64 + 1).unwrap(), 4.min(bytes.len() - offset - 1));
        }
        assert_eq!(artifact.seek(SeekFrom::End(-1)).unwrap(), bytes.len() as u64 - 1);
        assert_eq!(artifact.seek(SeekFrom::Current(9)).unwrap(), bytes.len() as u64 + 8);
        assert_eq!(artifact.read(&mut [0; 4]).unwrap(), 0);
        assert!(artifact.seek(SeekFrom::End(-(4 * CHUNK_BYTES as i64))).is_err());
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        let mut first = put("one\ntwo\n").unwrap();
        let mut line = String::new();
        first.read_line(&mut line).unwrap();
        let mut second = first.reader();
        second.read_line(&mut line).unwrap();
        first.read_line(&mut line).unwrap();
        assert_eq!(line, "one\none\ntwo\n");
    }

    #[test]
    fn an_unknown_digest_is_not_found_and_nonsense_is_invalid() {
        let digest = format!("blake3:{}", "0".repeat(64));
        assert_eq!(open(&digest).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open("penguins.csv").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
