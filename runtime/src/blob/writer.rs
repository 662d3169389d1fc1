//! From a stream of bytes to a blob, never whole in memory.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Blob, GROUP_LEN, Source, tree::Hashing};

/// A blob that is being written: hashed on the way, never whole in memory.
///
/// Bytes stay in memory up to a maximum and move to an unnamed file after that; the group being
/// filled is always in memory, so many tiny writes cost little. Dropping the writer leaves nothing
/// behind, and so does dropping the blob that came of it.
pub struct BlobWriter {
    spill_dir: PathBuf,
    memory_bytes_max: usize,
    hashing: Hashing,
    /// What is not in the file: everything while there is no file, at most one group after that.
    held: Vec<u8>,
    /// How many of the held bytes are in `hashing` already.
    held_hashed: usize,
    file: Option<File>,
}

impl BlobWriter {
    /// A writer that keeps up to `memory_bytes_max` bytes in memory (but always up to a group) and
    /// then continues in an unnamed file in `spill_dir`.
    #[must_use]
    pub fn new(spill_dir: &Path, memory_bytes_max: usize) -> Self {
        Self {
            spill_dir: spill_dir.to_owned(),
            memory_bytes_max,
            hashing: Hashing::default(),
            held: Vec::new(),
            held_hashed: 0,
            file: None,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        let open = self.held.len() - self.held_hashed;
        self.hashing.sealed_bytes() + u64::try_from(open).expect("a length fits 64 bits")
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`. Errors: what the operating system says about the spill file; a writer that
    /// has returned an error is good for nothing but being dropped.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = GROUP_LEN - (self.held.len() - self.held_hashed);
            // A full group is sealed only when more follows: a blob of one group is hashed as a
            // whole, and only its end tells that it is one.
            if room == 0 {
                self.seal_group()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The blob of everything that was written. Errors: as [`BlobWriter::write`].
    pub fn finish(mut self) -> io::Result<Blob> {
        let tree = std::mem::take(&mut self.hashing).finish(&self.held[self.held_hashed..]);
        self.held_hashed = self.held.len();
        self.spill_if_due()?;
        let Some(file) = self.file else {
            self.held.shrink_to_fit();
            return Ok(Blob { tree: Arc::new(tree), source: Source::Memory(self.held.into()) });
        };
        Ok(Blob::in_file(Arc::new(file), Arc::new(tree)))
    }

    fn seal_group(&mut self) -> io::Result<()> {
        self.hashing.group(&self.held[self.held_hashed..]);
        self.held_hashed = self.held.len();
        self.spill_if_due()
    }

    /// Moves hashed bytes to the file once there are too many of them, and always from then on.
    fn spill_if_due(&mut self) -> io::Result<()> {
        if self.file.is_none() && self.held.len() > self.memory_bytes_max {
            self.file = Some(tempfile::tempfile_in(&self.spill_dir)?);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.write_all(&self.held)?;
        self.held.clear();
        self.held.shrink_to(GROUP_LEN);
        self.held_hashed = 0;
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter")
            .field("len_bytes", &self.len())
            .field("spilled", &self.file.is_some())
            .finish_non_exhaustive()
    }
}
