//! Blobs of many sizes: hashed, spilled, read back, damaged.
#![allow(clippy::unwrap_used)]

use std::{io::Write as _, path::Path};

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
