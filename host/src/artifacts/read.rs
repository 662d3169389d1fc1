//! From what a store holds to bytes that were proven, and from a blob to what a store is given.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use wasmjob_runtime::{Blob, BlobError, GROUP_BYTES, Tree};

use super::ArtifactError;

/// How a store is read: so much at once, so many of them under way.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Groups per request.
    pub groups: u64,
    /// Requests under way at once.
    pub requests: usize,
}

/// Reads `range` of the artifact through `fetch`, which returns the stored bytes of a range that
/// consists of whole groups.
///
/// Nothing is passed on before its groups were verified. A range that reaches past the end also
/// proves where the end is, since a stored size is only proven by the last group.
pub(super) fn verified<F>(
    store: &Arc<str>,
    tree: &Arc<Tree>,
    range: Range<u64>,
    ahead: Ahead,
    fetch: impl Fn(Range<u64>) -> F + Send + 'static,
) -> BoxStream<'static, Result<Bytes, ArtifactError>>
where
    F: Future<Output = Result<Bytes, ArtifactError>> + Send + 'static,
{
    let size = tree.size();
    if range.start >= range.end || size == 0 {
        return stream::empty().boxed();
    }
    let first = range.start.min(size - 1) / GROUP_BYTES;
    let end = range.end.min(size);
    let wanted = range.start.min(end)..end;
    let step = ahead.groups.max(1);
    let windows = (0..)
        .map(move |number| first.saturating_add(step.saturating_mul(number)).saturating_mul(GROUP_BYTES))
        .take_while(move |start| *start < end)
        .map(move |start| start..groups_end(start, step, end, size));

    let (store, tree) = (Arc::clone(store), Arc::clone(tree));
    stream::iter(windows)
        .map(move |window| {
            let bytes = fetch(window.clone());
            async move { Ok((window, bytes.await?)) }
        })
        .buffered(ahead.requests)
        .map(move |fetched| {
            let (window, bytes) = fetched?;
            verify(&store, &tree, &window, &bytes)?;
            Ok(cut(&bytes, &window, &wanted))
        })
        .filter(|piece| {
            let empty = piece.as_ref().is_ok_and(Bytes::is_empty);
            std::future::ready(!empty)
        })
        .boxed()
}

/// Where a window of `groups` groups from `start` ends: not after the group that holds `end`.
fn groups_end(start: u64, groups: u64, end: u64, size: u64) -> u64 {
    let full = start.saturating_add(groups.saturating_mul(GROUP_BYTES));
    let last = end.div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES);
    full.min(last).min(size)
}

fn verify(store: &Arc<str>, tree: &Tree, window: &Range<u64>, bytes: &Bytes) -> Result<(), ArtifactError> {
    let corrupt = |what: String| ArtifactError::Corrupt { digest: tree.root(), store: Arc::clone(store), what };
    if u64::try_from(bytes.len()) != Ok(window.end - window.start) {
        return Err(corrupt(format!(
            "{} bytes at offset {}, {} expected",
            bytes.len(),
            window.start,
            window.end - window.start
        )));
    }
    let group_len = usize::try_from(GROUP_BYTES).expect("a group fits in memory");
    for (index, group) in (window.start / GROUP_BYTES..).zip(bytes.chunks(group_len)) {
        if !tree.verify_group(index, group) {
            let offset = index * GROUP_BYTES;
            return Err(corrupt(format!("wrong bytes at offset {offset}")));
        }
    }
    Ok(())
}

/// The part of a window that was asked for; nothing if the window was only read to be verified.
fn cut(bytes: &Bytes, window: &Range<u64>, wanted: &Range<u64>) -> Bytes {
    let start = wanted.start.max(window.start);
    let end = wanted.end.min(window.end);
    if start >= end {
        return Bytes::new();
    }
    let within =
        |offset: u64| usize::try_from(offset - window.start).expect("a window in memory has offsets in memory");
    bytes.slice(within(start)..within(end))
}

/// The bytes of `blob`, in order, in pieces of `piece_bytes`. Reading may block, so it does that
/// elsewhere.
pub(super) fn pieces(blob: &Blob, piece_bytes: u64) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let (blob, size) = (blob.clone(), blob.size());
    let offsets = (0..).map(move |number| number * piece_bytes);
    stream::iter(offsets.take_while(move |offset| *offset < size))
        .then(move |offset| read_piece(blob.clone(), offset, piece_bytes))
        .boxed()
}

/// One piece of `blob`, read where blocking is allowed.
pub(super) async fn read_piece(blob: Blob, offset: u64, len: u64) -> Result<Bytes, BlobError> {
    let digest = blob.digest();
    tokio::task::spawn_blocking(move || blob.read_at(offset, len))
        .await
        .unwrap_or_else(|error| Err(BlobError::Io { digest, source: std::io::Error::other(error) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use futures_util::TryStreamExt as _;

    fn read(bytes: &[u8], tree: Tree, range: Range<u64>, groups: u64) -> Result<Vec<u8>, String> {
        let stored = bytes.to_vec();
        let ahead = Ahead { groups, requests: 2 };
        let tree = Arc::new(tree);
        let stream = verified(&"memory".into(), &tree, range, ahead, move |window| {
            let end = usize::try_from(window.end).unwrap().min(stored.len());
            let start = usize::try_from(window.start).unwrap().min(end);
            let bytes = Bytes::copy_from_slice(&stored[start..end]);
            async move { Ok(bytes) }
        });
        let read = stream.try_collect::<Vec<Bytes>>();
        futures_util::FutureExt::now_or_never(read)
            .unwrap()
            .map(|pieces| pieces.concat())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_range_is_the_slice_it_names_whatever_the_window() {
        let group = usize::try_from(GROUP_BYTES).unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * group + 5).collect();
        let size = bytes.len() as u64;
        for groups in [1, 2, 16, u64::MAX] {
            for start in [0, 1, GROUP_BYTES - 1, GROUP_BYTES, size - 1, size, size + 1] {
                for end in [0, 1, GROUP_BYTES, GROUP_BYTES + 1, size, size + 9, u64::MAX] {
                    let read = read(&bytes, Tree::of(&bytes), start..end, groups).unwrap();
                    let end = usize::try_from(end.min(size)).unwrap();
                    let start = usize::try_from(start).unwrap().min(end);
                    assert_eq!(read, bytes[start..end], "{start}..{end} by {groups}");
                }
            }
        }
    }

    #[test]
    fn reading_past_a_size_that_lies_is_an_error() {
        let bytes = vec![3; 300_000];
        let tree = Tree::of(&bytes);
        let lying = Tree::from_parts(299_000, tree.groups().to_vec(), tree.root()).unwrap();
        assert!(read(&bytes, lying.clone(), 0..100, 1).is_ok());
        assert!(read(&bytes, lying.clone(), 0..299_000, 1).is_err());
        assert!(read(&bytes, lying.clone(), 299_500..299_600, 1).is_err());
        assert!(read(&bytes, lying, 400_000..400_001, 16).is_err());
    }

    #[test]
    fn short_or_wrong_bytes_are_refused_with_their_offset() {
        let mut bytes = vec![3; 300_000];
        let tree = Tree::of(&bytes);
        let short = read(&bytes[..299_999], tree.clone(), 0..300_000, 1).unwrap_err();
        assert!(short.contains("37855 bytes at offset 262144"), "{short}");
        bytes[299_999] = 0;
        assert!(read(&bytes, tree.clone(), 0..GROUP_BYTES, 1).is_ok());
        let wrong = read(&bytes, tree, 0..300_000, 16).unwrap_err();
        assert!(wrong.contains("wrong bytes at offset 262144"), "{wrong}");
    }
}
