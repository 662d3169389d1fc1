//! The part of a BLAKE3 tree that proves single groups of bytes against their digest.

use std::fmt;

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use super::{Digest, GROUP_BYTES, GROUP_LEN};

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
        [only] => Digest::from_bytes(*only),
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            Digest::from_bytes(*merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).as_bytes())
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
pub(super) struct Hashing {
    groups: Vec<ChainingValue>,
}

impl Hashing {
    pub(super) fn sealed_bytes(&self) -> u64 {
        GROUP_BYTES * u64::try_from(self.groups.len()).expect("a length fits 64 bits")
    }

    /// Adds a full group that is not the last one.
    pub(super) fn group(&mut self, bytes: &[u8]) {
        self.groups.push(chaining_value(self.sealed_bytes(), bytes));
    }

    pub(super) fn finish(mut self, last: &[u8]) -> Tree {
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
