//! Digests, trees, manifests and ranged reads against a plain slice of the bytes.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use tokio::runtime::Runtime;
use wasmjob_host::artifacts::{ArtifactStore as _, ObjectArtifacts, read_and_write_manifest};
use wasmjob_runtime::{Blob, BlobError, BlobWriter, Digest, GROUP_BYTES, READ_BYTES_MAX, Tree};

use super::input::Input;

/// Some groups and a bit: every boundary there is.
const BYTES_MAX: u64 = 3 * GROUP_BYTES + 4_096;

/// Does with `data` what its first byte says; panics if bytes come back that are not those of the digest.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 8 {
        0 | 1 => manifest(input.rest()),
        2 | 3 => tree(&mut input),
        4 | 5 => blob(&mut input),
        6 => damaged_file(&mut input),
        _ => store(&mut input),
    }
}

/// Bytes that differ everywhere, of a length that is interesting more often than not.
fn bytes(input: &mut Input<'_>) -> Vec<u8> {
    let (groups, near) = (u64::from(input.byte() % 4), u64::from(input.u16()));
    let length = (groups * GROUP_BYTES + near).saturating_sub(1 << 15).min(BYTES_MAX);
    let seed = u64::from(input.byte()) | 1;
    (0..length).map(|at| (at.wrapping_mul(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// An offset or a length: near a boundary, or anything.
fn place(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        255 => input.u64(),
        254 => u64::MAX,
        groups => (u64::from(groups % 5) * GROUP_BYTES + u64::from(input.u16())).saturating_sub(1 << 15),
    }
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> &[u8] {
    let size = bytes.len() as u64;
    let start = offset.min(size);
    let end = start.saturating_add(len).min(size);
    &bytes[start as usize..end as usize]
}

/// A manifest from a store that lies, under the digest it would need.
fn manifest(text: &[u8]) {
    let digests = [Digest::of(b""), Digest::of(text), Tree::of(text).root()];
    for digest in digests {
        if let Ok((tree, written)) = read_and_write_manifest(text, &digest) {
            assert_eq!(tree.root(), digest);
            let (again, rewritten) = read_and_write_manifest(&written, &digest).expect("it reads what it writes");
            assert_eq!((again, rewritten), (tree, written));
        }
    }
}

/// Groups and a size from a store that lies.
fn tree(input: &mut Input<'_>) {
    let (size, own) = (place(input), bytes(input));
    let honest = Tree::of(&own);
    assert_eq!(honest.root(), Digest::of(&own));
    let mut groups = honest.groups().to_vec();
    if input.byte().is_multiple_of(2) {
        groups = input.rest().chunks(32).map(|chunk| Input::new(chunk).array()).collect();
    }
    let Ok(tree) = Tree::from_parts(size, groups, honest.root()) else { return };
    for index in 0..6 {
        let Some(range) = tree.group_range(index) else { continue };
        let group = slice(&own, range.start, range.end - range.start);
        if tree.verify_group(index, group) {
            let honest = slice(&own, index * GROUP_BYTES, GROUP_BYTES);
            assert_eq!(group, honest, "a group of another length was believed");
        }
    }
}

/// Written in any pieces, read by any ranges, in memory and in a file.
fn blob(input: &mut Input<'_>) {
    let bytes = bytes(input);
    let mut writer = BlobWriter::new(&std::env::temp_dir(), place(input) as usize);
    let mut left = &bytes[..];
    while !left.is_empty() {
        let piece = (place(input).max(1) as usize).min(left.len());
        writer.write(&left[..piece]).expect("there is a temporary folder");
        left = &left[piece..];
        assert_eq!(writer.len(), (bytes.len() - left.len()) as u64);
    }
    let blob = writer.finish().expect("there is a temporary folder");
    assert_eq!((blob.digest(), blob.size()), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(blob.tree(), &Tree::of(&bytes));
    assert_eq!(blob.to_bytes(u64::MAX).expect("it is undamaged"), bytes);
    while !input.is_empty() {
        let (offset, len) = (place(input), place(input));
        let read = blob.read_at(offset, len).expect("it is undamaged");
        assert_eq!(read, slice(&bytes, offset, len.min(READ_BYTES_MAX)));
    }
}

/// A file that changed after it was written.
fn damaged_file(input: &mut Input<'_>) {
    let bytes = bytes(input);
    let tree = Tree::of(&bytes);
    let file = tempfile::tempfile().expect("there is a temporary folder");
    file.write_all_at(&bytes, 0).expect("it can be written");
    let at = place(input);
    let damage = input.byte();
    if at < bytes.len() as u64 {
        file.write_all_at(&[bytes[at as usize] ^ damage], at).expect("it can be written");
    }
    let damaged = damage != 0 && at < bytes.len() as u64;
    let blob = Blob::open(file, tree).expect("it is long enough");
    while !input.is_empty() {
        let (offset, len) = (place(input), place(input));
        let expected = slice(&bytes, offset, len.min(READ_BYTES_MAX));
        match blob.read_at(offset, len) {
            Ok(read) => assert_eq!(read, expected),
            Err(BlobError::Corrupt { offset_bytes, .. }) => {
                assert!(damaged && offset_bytes == at / GROUP_BYTES * GROUP_BYTES, "undamaged bytes were refused");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A folder as a store, undamaged and then damaged.
fn store(input: &mut Input<'_>) {
    thread_local!(static RUNTIME: RefCell<Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are file descriptors")
    ));
    let bytes = bytes(input);
    let dir = tempfile::tempdir().expect("there is a temporary folder");
    let store = ObjectArtifacts::folder(dir.path()).expect("a folder is a store");
    let blob = Blob::from_bytes(bytes.clone().into());
    let read = async |from: u64, to: u64| {
        let tree = Arc::new(store.head(&blob.digest()).await?);
        let pieces: Vec<_> = store.read(&tree, from..to).try_collect().await?;
        Ok::<_, wasmjob_host::artifacts::ArtifactError>(pieces.concat())
    };
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            store.put(&blob).await.expect("the folder takes it");
            let (from, to) = (place(input), place(input));
            let expected = slice(&bytes, from, to.saturating_sub(from));
            assert_eq!(read(from, to).await.expect("it is undamaged"), expected);
            damage(dir.path(), input);
            if let Ok(read) = read(from, to).await {
                assert_eq!(read, expected, "damaged bytes were handed out");
            }
        });
    });
}

/// Changes a byte, or the length, of one of the files of a folder.
fn damage(dir: &std::path::Path, input: &mut Input<'_>) {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is ours").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let Some(path) = files.get(usize::from(input.byte()) % files.len().max(1)) else { return };
    let mut content = fs::read(path).expect("it is ours");
    let at = place(input) as usize;
    match (input.byte(), content.get_mut(at)) {
        (0, _) => content.truncate(at),
        (change, Some(byte)) => *byte ^= change,
        (change, None) => content.push(change),
    }
    fs::write(path, content).expect("it is ours");
}
