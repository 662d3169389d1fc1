//! Bytes that are known by their digest: immutable, verified on every read.
//!
//! A digest is the BLAKE3 hash of the bytes, and BLAKE3 is a tree. We keep the tree's nodes one
//! level above groups of 256 KiB ([`Tree`]): whoever holds them can prove any single group against
//! the digest without touching the rest. That is what makes ranged reads, from a local file or
//! from a store nobody trusts, as safe as reading everything.
//!
//! [`BlobWriter`] turns a stream into a [`Blob`], in memory while it is small and in an unnamed
//! file after that. Nothing here knows where blobs are stored or how trees travel.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use bytes::{Bytes, BytesMut};

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

const DIGEST_PREFIX: &str = "blake3:";

/// The BLAKE3 hash of some bytes, written `blake3:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest with this value.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest written as 64 lower-case hexadecimal digits, without the prefix. Errors: as for
    /// [`FromStr`].
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.bytes().all(lower)
            && let Ok(hash) = blake3::Hash::from_hex(hex)
        {
            return Ok(Self(*hash.as_bytes()));
        }
        Err(DigestError { text: shortened(hex) })
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, without the prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = blake3::Hash::from_bytes(self.0).to_hex();
        write!(f, "{DIGEST_PREFIX}{hex}")
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(DIGEST_PREFIX).ok_or(DigestError { text: shortened(text) })?;
        Self::from_hex(hex)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that should have been a digest and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no digest: a digest is `blake3:` and 64 lower-case hexadecimal digits")]
pub struct DigestError {
    text: String,
}

/// The text comes from strangers and ends up in messages: enough of it to recognise it.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Why a tree is not the tree of the digest it was said to belong to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The number of groups does not fit the size.
    #[error("a blob of {size_bytes} bytes does not have {groups} groups")]
    GroupCount {
        /// The size that was claimed.
        size_bytes: u64,
        /// The number of groups that came with it.
        groups: usize,
    },
    /// The groups are those of other bytes.
    #[error("the tree belongs to {found}, not to {expected}")]
    Root {
        /// The digest it should have had.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
}

/// The part of a blob's BLAKE3 tree that proves its groups against its digest.
///
/// Holds the chaining value of each group; a blob of one group (or none) has the plain hash there,
/// since its only group is the root.
///
/// The size in a tree that came from outside is proven together with the last group, not before:
/// a wrong one makes that group fail.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    size_bytes: u64,
    groups: Vec<[u8; 32]>,
    root: Digest,
}

impl Tree {
    /// The tree of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hashing = Hashing::default();
        let (sealed, last) = bytes.split_at(bytes.len().saturating_sub(1) / GROUP_LEN * GROUP_LEN);
        for group in sealed.chunks_exact(GROUP_LEN) {
            hashing.group(group);
        }
        hashing.finish(last)
    }

    /// The tree with these `groups`, once they are shown to have the root `expected`.
    ///
    /// Meant for trees that were stored or sent: afterwards each group can be trusted as much as
    /// the digest itself. Errors: see [`TreeError`].
    pub fn from_parts(size_bytes: u64, groups: Vec<[u8; 32]>, expected: Digest) -> Result<Self, TreeError> {
        if u64::try_from(groups.len()) != Ok(group_count(size_bytes)) {
            return Err(TreeError::GroupCount { size_bytes, groups: groups.len() });
        }
        let found = root_of(&groups);
        if found != expected {
            return Err(TreeError::Root { expected, found });
        }
        // The only group of an empty blob is never read, so that it is empty is checked here.
        if size_bytes == 0 && found != Digest::of(b"") {
            return Err(TreeError::Root { expected, found: Digest::of(b"") });
        }
        Ok(Self { size_bytes, groups, root: found })
    }

    /// The digest of the whole.
    #[must_use]
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// Length of the whole in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size_bytes
    }

    /// One value per group, in order; never empty.
    #[must_use]
    pub fn groups(&self) -> &[[u8; 32]] {
        &self.groups
    }

    /// Where group `index` starts and ends, in bytes; `None` behind the last one.
    #[must_use]
    pub fn group_range(&self, index: u64) -> Option<std::ops::Range<u64>> {
        if index >= group_count(self.size_bytes) {
            return None;
        }
        let start = index * GROUP_BYTES;
        Some(start..self.size_bytes.min(start + GROUP_BYTES))
    }

    /// Whether `bytes` are the group `index`, all of it.
    #[must_use]
    pub fn verify_group(&self, index: u64, bytes: &[u8]) -> bool {
        let Some(range) = self.group_range(index) else {
            return false;
        };
        // The length comes first: the hash functions below refuse more than a group by panicking.
        if u64::try_from(bytes.len()) != Ok(range.end - range.start) {
            return false;
        }
        let value = match self.groups.len() {
            1 => *blake3::hash(bytes).as_bytes(),
            _ => chaining_value(range.start, bytes),
        };
        usize::try_from(index).ok().and_then(|index| self.groups.get(index)).is_some_and(|expected| *expected == value)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// How many groups a blob of `size_bytes` has. An empty blob has one, which is empty.
const fn group_count(size_bytes: u64) -> u64 {
    if size_bytes == 0 { 1 } else { size_bytes.div_ceil(GROUP_BYTES) }
}

fn chaining_value(offset: u64, group: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(group).finalize_non_root()
}

fn root_of(groups: &[ChainingValue]) -> Digest {
    match groups {
        [only] => Digest(*only),
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            Digest(*merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).as_bytes())
        }
    }
}

fn merged(groups: &[ChainingValue]) -> ChainingValue {
    match groups {
        [only] => *only,
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

/// How many of `count` groups are in the left half of their subtree.
fn left_groups(count: usize) -> usize {
    let bytes = GROUP_BYTES * u64::try_from(count).expect("a length fits 64 bits");
    usize::try_from(left_subtree_len(bytes) / GROUP_BYTES).expect("the left half has fewer groups than the whole")
}

/// A tree that is growing: every group but the last, which decides whether there is only one.
#[derive(Default)]
struct Hashing {
    groups: Vec<ChainingValue>,
}

impl Hashing {
    fn sealed_bytes(&self) -> u64 {
        GROUP_BYTES * u64::try_from(self.groups.len()).expect("a length fits 64 bits")
    }

    /// Adds a full group that is not the last one.
    fn group(&mut self, bytes: &[u8]) {
        self.groups.push(chaining_value(self.sealed_bytes(), bytes));
    }

    fn finish(mut self, last: &[u8]) -> Tree {
        let size_bytes = self.sealed_bytes() + u64::try_from(last.len()).expect("a length fits 64 bits");
        if self.groups.is_empty() {
            self.groups.push(*blake3::hash(last).as_bytes());
        } else {
            self.group(last);
        }
        let root = root_of(&self.groups);
        Tree { size_bytes, groups: self.groups, root }
    }
}

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SIZES: [usize; 14] = [
        0,
        1,
        1023,
        1024,
        1025,
        GROUP_LEN - 1,
        GROUP_LEN,
        GROUP_LEN + 1,
        2 * GROUP_LEN,
        2 * GROUP_LEN + 1,
        3 * GROUP_LEN + 5,
        5 * GROUP_LEN,
        7 * GROUP_LEN + 1023,
        8 * GROUP_LEN,
    ];

    /// Bytes without a period near the group size, so that swapped groups are noticed.
    fn sample(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("wasmjob blob test").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn written(bytes: &[u8], step: usize, memory_bytes_max: usize) -> Blob {
        let mut writer = BlobWriter::new(&std::env::temp_dir(), memory_bytes_max);
        for part in bytes.chunks(step) {
            writer.write(part).unwrap();
        }
        assert_eq!(writer.len(), bytes.len() as u64);
        writer.finish().unwrap()
    }

    #[test]
    fn a_digest_is_the_blake3_hash_at_every_size() {
        for size in SIZES {
            let bytes = sample(size);
            let expected = Digest::of(&bytes);
            assert_eq!(Tree::of(&bytes).root(), expected, "size {size}");
            for (step, memory) in [(1000, 0), (GROUP_LEN, 600_000), (777_777, usize::MAX)] {
                let blob = written(&bytes, step, memory);
                assert_eq!(blob.digest(), expected, "size {size}, step {step}");
                assert_eq!(blob.size(), size as u64);
                assert_eq!(blob.to_bytes(u64::MAX).unwrap(), bytes, "size {size}");
            }
        }
    }

    #[test]
    fn every_range_reads_as_the_slice_it_names() {
        let bytes = sample(3 * GROUP_LEN + 5);
        let end = bytes.len();
        for blob in [written(&bytes, 4096, 0), Blob::from_bytes(bytes.clone().into())] {
            for offset in [0, 1, GROUP_LEN - 1, GROUP_LEN, 2 * GROUP_LEN + 7, end - 1] {
                for len in [0, 1, 5, GROUP_LEN, GROUP_LEN + 1, 2 * GROUP_LEN + 3] {
                    let read = blob.read_at(offset as u64, len as u64).unwrap();
                    assert_eq!(read, bytes[offset..end.min(offset + len)], "{offset}+{len}");
                }
            }
            assert!(blob.read_at(end as u64, 1).unwrap().is_empty());
            assert!(blob.read_at(u64::MAX, u64::MAX).unwrap().is_empty());
        }
        let large = written(&sample(8 * GROUP_LEN), GROUP_LEN, 0);
        let read = large.read_at(0, u64::MAX).unwrap();
        assert_eq!(read.len() as u64, READ_BYTES_MAX);
    }

    #[test]
    fn a_flipped_byte_is_found_in_its_group_and_nowhere_else() {
        let bytes = sample(3 * GROUP_LEN + 5);
        for flipped in [0, GROUP_LEN - 1, GROUP_LEN, 3 * GROUP_LEN + 4] {
            let mut damaged = bytes.clone();
            damaged[flipped] ^= 1;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&damaged).unwrap();
            let blob = Blob::open(file, Tree::of(&bytes)).unwrap();
            for group in 0..4 {
                let read = blob.read_at(group * GROUP_BYTES + 1, 3);
                if group == flipped as u64 / GROUP_BYTES {
                    assert!(
                        matches!(read, Err(BlobError::Corrupt { offset_bytes, .. }) if offset_bytes == group * GROUP_BYTES)
                    );
                } else {
                    assert!(read.is_ok());
                }
            }
            assert!(blob.to_bytes(u64::MAX).is_err());
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_corrupt() {
        let bytes = sample(GROUP_LEN + 9);
        let file = tempfile::tempfile().unwrap();
        file.set_len(GROUP_BYTES + 8).unwrap();
        let opened = Blob::open(file, Tree::of(&bytes));
        assert!(matches!(opened, Err(BlobError::Corrupt { .. })));

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let same = file.try_clone().unwrap();
        let blob = Blob::open(file, Tree::of(&bytes)).unwrap();
        same.set_len(10).unwrap();
        assert!(matches!(blob.read_at(0, 10), Err(BlobError::Corrupt { .. })));
    }

    #[test]
    fn a_tree_with_another_root_or_size_is_refused() {
        let bytes = sample(3 * GROUP_LEN + 5);
        let tree = Tree::of(&bytes);
        let (size, groups, root) = (tree.size(), tree.groups().to_vec(), tree.root());
        assert_eq!(Tree::from_parts(size, groups.clone(), root).unwrap(), tree);

        let mut swapped = groups.clone();
        swapped.swap(0, 1);
        let error = Tree::from_parts(size, swapped, root).unwrap_err();
        assert!(matches!(error, TreeError::Root { expected, .. } if expected == root));

        for wrong in [0, size - 6, size + GROUP_BYTES, u64::MAX] {
            let error = Tree::from_parts(wrong, groups.clone(), root).unwrap_err();
            assert!(matches!(error, TreeError::GroupCount { .. }));
        }
        assert!(Tree::from_parts(0, Vec::new(), Digest::of(b"")).is_err());

        // A blob of one group that is called empty: its value is the root, as it should be.
        let small = Tree::of(b"not empty");
        assert!(Tree::from_parts(0, small.groups().to_vec(), small.root()).is_err());
        assert!(Tree::from_parts(0, Tree::of(b"").groups().to_vec(), Digest::of(b"")).is_ok());
    }

    #[test]
    fn a_size_that_lies_within_the_last_group_fails_with_that_group() {
        let bytes = sample(GROUP_LEN + 100);
        let tree = Tree::of(&bytes);
        for wrong in [tree.size() - 1, tree.size() + 1] {
            let lying = Tree::from_parts(wrong, tree.groups().to_vec(), tree.root()).unwrap();
            let mut padded = bytes.clone();
            padded.resize(in_memory(wrong), 0);
            assert!(lying.verify_group(0, &padded[..GROUP_LEN]));
            assert!(!lying.verify_group(1, &padded[GROUP_LEN..]));
        }
    }

    #[test]
    fn a_group_is_verified_by_its_place_and_its_whole_length() {
        let bytes = sample(2 * GROUP_LEN + 1);
        let tree = Tree::of(&bytes);
        let first = &bytes[..GROUP_LEN];
        assert!(tree.verify_group(0, first));
        assert!(!tree.verify_group(1, first));
        assert!(!tree.verify_group(0, &bytes[..GROUP_LEN - 1]));
        assert!(!tree.verify_group(0, &bytes[..=GROUP_LEN]));
        assert!(!tree.verify_group(3, b""));
        assert!(!tree.verify_group(u64::MAX, b""));
        assert!(Tree::of(b"").verify_group(0, b""));
    }

    #[test]
    fn a_small_blob_never_touches_the_disk_and_a_large_one_leaves_nothing_there() {
        let absent = Path::new("/nonexistent/wasmjob");
        let mut writer = BlobWriter::new(absent, 300_000);
        writer.write(&sample(300_000)).unwrap();
        assert_eq!(writer.finish().unwrap().size(), 300_000);
        let mut writer = BlobWriter::new(absent, 300_000);
        let outcome = writer.write(&sample(3 * GROUP_LEN));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::NotFound);

        let dir = tempfile::tempdir().unwrap();
        let mut writer = BlobWriter::new(dir.path(), 0);
        writer.write(&sample(3 * GROUP_LEN)).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        let blob = writer.finish().unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert_eq!(blob.size(), 3 * GROUP_BYTES);
    }

    #[test]
    fn too_many_bytes_are_refused_before_they_are_read() {
        let blob = Blob::from_bytes(sample(11).into());
        assert_eq!(blob.to_bytes(11).unwrap().len(), 11);
        assert!(matches!(blob.to_bytes(10), Err(BlobError::TooLarge { size_bytes: 11, .. })));
    }

    #[test]
    fn a_digest_is_written_and_read_in_one_form_only() {
        let digest = Digest::of(b"wasmjob");
        let text = digest.to_string();
        assert_eq!(text, format!("blake3:{}", digest.hex()));
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let bad = [
            String::new(),
            digest.hex(),
            format!("blake3:{}", digest.hex().to_uppercase()),
            format!("sha256:{}", digest.hex()),
            text[..70].to_owned(),
            format!("{text}0"),
            format!("blake3:{}", "é".repeat(32)),
        ];
        for bad in bad {
            let error = bad.parse::<Digest>().unwrap_err();
            assert!(error.to_string().contains("is no digest"), "{bad}");
        }
    }
}
