//! Bytes that are known by their digest: immutable, verified on every read.
//!
//! A digest is the BLAKE3 hash of the bytes, and BLAKE3 is a tree. We keep the tree's nodes one
//! level above groups of 256 KiB ([`Tree`]): whoever holds them can prove any single group against
//! the digest without touching the rest. That is what makes ranged reads, from a local file or
//! from a store nobody trusts, as safe as reading everything.
//!
//! [`BlobWriter`] turns a stream into a [`Blob`], in memory while it is small and in an unnamed
//! file after that. Nothing here knows where blobs are stored or how trees travel.

mod digest;
mod tree;
mod writer;

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

pub use digest::{Digest, DigestError};
pub use tree::{Tree, TreeError};
pub use writer::BlobWriter;

/// Bytes in a group, the unit that is verified on its own.
///
/// Large enough that the tree is nothing beside the data (32 bytes in 256 KiB) and hashing runs at
/// full vector width; small enough for one message of any queue and one small read. It is part of
/// every stored tree: changing it makes stored artifacts unreadable.
pub const GROUP_BYTES: u64 = 256 * 1024;

/// Most bytes that one [`Blob::read_at`] returns. Guests choose the length of their reads, and the
/// host pays for the buffer.
pub const READ_BYTES_MAX: u64 = 1024 * 1024;

/// [`GROUP_BYTES`] as a length in memory.
const GROUP_LEN: usize = 256 * 1024;

/// Why bytes of a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The stored bytes are not what the digest says. They were not returned.
    #[error("the bytes of {digest} are damaged at offset {offset_bytes}")]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// Start of the group that failed.
        offset_bytes: u64,
    },
    /// More bytes than the caller is ready to hold.
    #[error("{digest} has {size_bytes} bytes, more than the {max_bytes} that are allowed here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// What the caller allowed.
        max_bytes: u64,
    },
    /// The file behind the blob could not be read.
    #[error("cannot read the bytes of {digest}")]
    Io {
        /// The blob.
        digest: Digest,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Immutable bytes with a digest, in memory or in a file.
///
/// Cloning is cheap and shares the bytes. Bytes from a file are verified whenever they enter
/// memory, however often that is; each clone keeps the last group it read, so that reading on in
/// small steps does not hash a group per step.
pub struct Blob {
    tree: Arc<Tree>,
    source: Source,
}

enum Source {
    Memory(Bytes),
    File { file: Arc<File>, last: Mutex<Option<(u64, Bytes)>> },
}

impl Blob {
    /// A blob in memory.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { tree: Arc::new(Tree::of(&bytes)), source: Source::Memory(bytes) }
    }

    /// The blob whose bytes `file` should hold from its start, as `tree` says.
    ///
    /// Only the length is looked at here; bytes are verified as they are read. The file may be
    /// unlinked while the blob lives. Errors: `Corrupt` if it is shorter than the tree says; `Io`.
    pub fn open(file: File, tree: impl Into<Arc<Tree>>) -> Result<Self, BlobError> {
        let tree = tree.into();
        let digest = tree.root();
        let length = file.metadata().map_err(|source| BlobError::Io { digest, source })?.len();
        if length < tree.size() {
            return Err(BlobError::Corrupt { digest, offset_bytes: length });
        }
        Ok(Self::in_file(Arc::new(file), tree))
    }

    fn in_file(file: Arc<File>, tree: Arc<Tree>) -> Self {
        let last = Mutex::new(None);
        Self { tree, source: Source::File { file, last } }
    }

    /// The digest of the whole.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.tree.root()
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// What proves single groups against the digest.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Reads up to `len` bytes from `offset` (both in bytes), at most [`READ_BYTES_MAX`].
    ///
    /// Fewer than asked for only at the end, none at or past it. Blocks on the file.
    /// Errors: `Corrupt`, naming the group; `Io`.
    pub fn read_at(&self, offset: u64, len: u64) -> Result<Bytes, BlobError> {
        let start = offset.min(self.size());
        let end = start.saturating_add(len.min(READ_BYTES_MAX)).min(self.size());
        if start == end {
            return Ok(Bytes::new());
        }
        match &self.source {
            Source::Memory(bytes) => Ok(bytes.slice(in_memory(start)..in_memory(end))),
            Source::File { file, last } => self.read_groups(file, last, start, end),
        }
    }

    /// All bytes in one piece. Errors: `TooLarge` if there are more than `max_bytes`, before
    /// anything is read; otherwise as [`Blob::read_at`].
    pub fn to_bytes(&self, max_bytes: u64) -> Result<Bytes, BlobError> {
        if self.size() > max_bytes {
            return Err(BlobError::TooLarge { digest: self.digest(), size_bytes: self.size(), max_bytes });
        }
        match &self.source {
            Source::Memory(bytes) => Ok(bytes.clone()),
            Source::File { file, last } => self.read_groups(file, last, 0, self.size()),
        }
    }

    fn read_groups(
        &self,
        file: &File,
        last: &Mutex<Option<(u64, Bytes)>>,
        start: u64,
        end: u64,
    ) -> Result<Bytes, BlobError> {
        let first = start / GROUP_BYTES;
        let from = in_memory(start % GROUP_BYTES);
        if end <= (first + 1) * GROUP_BYTES {
            let group = self.group(file, last, first)?;
            return Ok(group.slice(from..from + in_memory(end - start)));
        }
        let mut bytes = BytesMut::with_capacity(in_memory(end - start));
        for index in first..end.div_ceil(GROUP_BYTES) {
            let group = self.group(file, last, index)?;
            let from = if index == first { from } else { 0 };
            let to = in_memory((end - index * GROUP_BYTES).min(GROUP_BYTES));
            bytes.extend_from_slice(&group[from..to]);
        }
        Ok(bytes.freeze())
    }

    /// One group, verified: the one read last, or a new one from the file.
    fn group(&self, file: &File, last: &Mutex<Option<(u64, Bytes)>>, index: u64) -> Result<Bytes, BlobError> {
        if let Some((held, bytes)) = &*last.lock().unwrap_or_else(PoisonError::into_inner)
            && *held == index
        {
            return Ok(bytes.clone());
        }
        let bytes = self.read_group(file, index)?;
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, bytes.clone()));
        Ok(bytes)
    }

    fn read_group(&self, file: &File, index: u64) -> Result<Bytes, BlobError> {
        let digest = self.digest();
        let offset_bytes = index * GROUP_BYTES;
        let corrupt = BlobError::Corrupt { digest, offset_bytes };
        let Some(range) = self.tree.group_range(index) else {
            return Err(corrupt);
        };
        let mut bytes = vec![0; in_memory(range.end - range.start)];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) if self.tree.verify_group(index, &bytes) => Ok(bytes.into()),
            Ok(()) => Err(corrupt),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(corrupt),
            Err(source) => Err(BlobError::Io { digest, source }),
        }
    }
}

/// A length that was already clamped to what is held in memory.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is held in memory has a length in memory")
}

impl Clone for Blob {
    fn clone(&self) -> Self {
        let tree = Arc::clone(&self.tree);
        match &self.source {
            Source::Memory(bytes) => Self { tree, source: Source::Memory(bytes.clone()) },
            Source::File { file, .. } => Self::in_file(Arc::clone(file), tree),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.digest()).field("size_bytes", &self.size()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
