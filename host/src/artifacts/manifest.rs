//! How a tree is written next to the bytes it proves: one JSON object, the same in every store.
//!
//! Whoever wrote it is not trusted. A manifest is bounded before it is parsed, and what it says is
//! believed once its root is the digest it was asked for under.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmjob_runtime::{Digest, GROUP_BYTES, Tree, TreeError};

/// Largest manifest that is read; that of an artifact of 380 GB. It is held in memory.
pub(super) const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Manifest bytes per group, and for the rest, at most: what a store needs to know how large an
/// artifact it can take.
const GROUP_TEXT_BYTES: u64 = 43;
const REST_TEXT_BYTES: u64 = 128;

const VERSION: u32 = 1;
const HASH_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest<'a> {
    v: u32,
    size: u64,
    group_bytes: u64,
    /// The groups' values one after another, in base64.
    #[serde(borrow)]
    groups: Cow<'a, str>,
}

/// Why a stored manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("its manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its manifest has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    #[error("its manifest has groups of {0} bytes instead of {GROUP_BYTES}")]
    GroupBytes(u64),
    #[error("its manifest has groups that are no hashes")]
    Groups,
    #[error("its manifest is wrong: {0}")]
    Tree(#[from] TreeError),
}

/// The manifest of `tree`.
pub(super) fn encode(tree: &Tree) -> Bytes {
    let manifest = Manifest {
        v: VERSION,
        size: tree.size(),
        group_bytes: GROUP_BYTES,
        groups: BASE64.encode(tree.groups().as_flattened()).into(),
    };
    serde_json::to_vec(&manifest).expect("numbers and a string are always JSON").into()
}

/// The tree in `manifest`, if it is the one of `digest`.
pub(super) fn decode(manifest: &[u8], digest: &Digest) -> Result<Tree, ManifestError> {
    let manifest: Manifest<'_> = serde_json::from_slice(manifest)?;
    if manifest.v != VERSION {
        return Err(ManifestError::Version(manifest.v));
    }
    if manifest.group_bytes != GROUP_BYTES {
        return Err(ManifestError::GroupBytes(manifest.group_bytes));
    }
    let groups = BASE64.decode(manifest.groups.as_bytes()).map_err(|_| ManifestError::Groups)?;
    let (groups, rest) = groups.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() {
        return Err(ManifestError::Groups);
    }
    Ok(Tree::from_parts(manifest.size, groups.to_vec(), *digest)?)
}

/// The largest artifact whose manifest has at most `manifest_bytes`.
pub(super) fn artifact_bytes_max(manifest_bytes: u64) -> u64 {
    manifest_bytes.saturating_sub(REST_TEXT_BYTES) / GROUP_TEXT_BYTES * GROUP_BYTES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tree() -> Tree {
        Tree::of(&vec![7; 600_000])
    }

    #[test]
    fn a_manifest_reads_back_as_the_tree_it_was_made_of() {
        for tree in [tree(), Tree::of(b""), Tree::of(b"x")] {
            assert_eq!(decode(&encode(&tree), &tree.root()).unwrap(), tree);
        }
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        let tree = tree();
        let honest = String::from_utf8(encode(&tree).to_vec()).unwrap();
        let other = Digest::of(b"other");
        assert!(decode(honest.as_bytes(), &other).is_err());
        for (from, to) in [
            ("\"v\":1", "\"v\":2"),
            ("\"size\":600000", "\"size\":0"),
            ("\"size\":600000", "\"size\":18446744073709551615"),
            ("\"size\":600000", "\"size\":-1"),
            ("\"group_bytes\":262144", "\"group_bytes\":1"),
            ("\"groups\":\"", "\"groups\":\"AAAA"),
            ("\"groups\":\"", "\"groups\":\"?"),
            ("{", "{\"more\":1,"),
            ("}", ""),
        ] {
            assert!(honest.contains(from), "{from}");
            let lie = honest.replacen(from, to, 1);
            assert!(decode(lie.as_bytes(), &tree.root()).is_err(), "{to}");
        }
    }

    #[test]
    fn the_largest_artifact_fits_its_manifest() {
        for limit in [1024 * 1024, 4096] {
            let groups = artifact_bytes_max(limit) / GROUP_BYTES;
            let text = Manifest {
                v: VERSION,
                size: u64::MAX,
                group_bytes: GROUP_BYTES,
                groups: BASE64.encode(vec![0; usize::try_from(groups).unwrap() * 32]).into(),
            };
            assert!(serde_json::to_vec(&text).unwrap().len() as u64 <= limit);
        }
    }
}
