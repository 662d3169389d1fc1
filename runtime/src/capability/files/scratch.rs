//! The scratch folder of one attempt and its quota; dropping it removes everything in it.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use rustix::fs::{AtFlags, FileType, unlinkat};

use super::walk::walk;
use crate::{
    limits::{self, Limit},
    meter::{Charges, LimitReached},
};

/// A folder that one attempt has for itself.
///
/// What is kept is an upper bound: bytes that files grew by and entries that were made. Only when it
/// would pass the quota is it measured what is really there. So most writes cost nothing extra, and
/// no trick with links, holes, renaming or deleted files that are still open gets around it.
pub(crate) struct ScratchFolder {
    path: PathBuf,
    dir: File,
    bytes: u64,
    bytes_max: u64,
    entries: u64,
    /// Files that were opened: one that was deleted takes its room until it is closed.
    opened: Vec<Weak<File>>,
    charges: Charges,
}

impl ScratchFolder {
    /// Makes an empty one in `parent` that holds `bytes_max`.
    pub(super) fn make(parent: &Path, bytes_max: u64, charges: Charges) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix("scratch-").tempdir_in(parent)?.keep();
        let dir = File::open(&path)?;
        Ok(ScratchFolder { path, dir, bytes: 0, bytes_max, entries: 0, opened: Vec::new(), charges })
    }

    pub(super) fn dir(&self) -> io::Result<File> {
        self.dir.try_clone()
    }

    /// Remembers an open file.
    pub(super) fn opened(&mut self, file: &Arc<File>) {
        if self.opened.len() >= 2 * limits::FILES_MAX {
            self.opened.retain(|file| file.strong_count() > 0);
        }
        self.opened.push(Arc::downgrade(file));
    }

    /// To be called before `len` bytes are written to `file`, `at` this offset or at its end.
    pub(super) fn extend(&mut self, file: &File, at: Option<u64>, len: u64) -> wasmtime::Result<()> {
        let size = file.metadata()?.len();
        let end = at.unwrap_or(size).saturating_add(len);
        // No file can be that long: the system says so.
        if i64::try_from(end).is_err() {
            return Ok(());
        }
        self.grow(end.saturating_sub(size), 0)
    }

    /// To be called before the folder grows. Errors: it may not.
    pub(super) fn grow(&mut self, bytes: u64, entries: u64) -> wasmtime::Result<()> {
        if !self.has_room(bytes, entries) {
            self.measure()?;
            if !self.has_room(bytes, entries) {
                return Err(LimitReached(Limit::Scratch).into());
            }
        }
        self.bytes += bytes;
        self.entries += entries;
        Ok(())
    }

    /// To be called after something was removed.
    pub(super) fn removed_entry(&mut self) {
        self.entries = self.entries.saturating_sub(1);
    }

    fn has_room(&self, bytes: u64, entries: u64) -> bool {
        self.bytes.saturating_add(bytes) <= self.bytes_max
            && self.entries.saturating_add(entries) <= limits::SCRATCH_ENTRIES_MAX
    }

    /// Finds out what is really there.
    fn measure(&mut self) -> io::Result<()> {
        let (mut bytes, mut entries, mut seen) = (0_u64, 0_u64, HashSet::new());
        walk(&self.dir, |_, _, stat| {
            entries += 1;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_folder && seen.insert(stat.st_ino) {
                bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
            Ok(())
        })?;
        self.opened.retain(|file| file.strong_count() > 0);
        for file in self.opened.iter().filter_map(Weak::upgrade) {
            let metadata = file.metadata()?;
            if seen.insert(metadata.ino()) {
                bytes = bytes.saturating_add(metadata.len());
            }
        }
        self.charges.add(limits::ENTRY_FUEL.saturating_mul(entries + self.opened.len() as u64));
        (self.bytes, self.entries) = (bytes, entries);
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        walk(&self.dir, |folder, name, stat| {
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            Ok(unlinkat(folder, name, if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() })?)
        })?;
        std::fs::remove_dir(&self.path)
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, path = %self.path.display(), "a scratch folder could not be removed");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    use super::*;

    fn folder(bytes_max: u64) -> (tempfile::TempDir, ScratchFolder) {
        let parent = tempfile::tempdir().unwrap();
        let scratch = ScratchFolder::make(parent.path(), bytes_max, Charges::default()).unwrap();
        (parent, scratch)
    }

    #[test]
    fn a_folder_of_any_depth_is_measured_and_removed() {
        let (parent, mut scratch) = folder(1000);
        let mut here = openat(&scratch.dir, c".", OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&here, c"d", Mode::RWXU).unwrap();
            here = openat(&here, c"d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        scratch.measure().unwrap();
        assert_eq!(scratch.entries, 3000);
        drop(scratch);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn bytes_are_counted_once_for_all_names_and_as_long_as_a_deleted_file_is_open() {
        let (_parent, mut scratch) = folder(1000);
        let file = Arc::new(File::create(scratch.path.join("a")).unwrap());
        scratch.opened(&file);
        (&*file).write_all(&[0; 400]).unwrap();
        std::fs::hard_link(scratch.path.join("a"), scratch.path.join("b")).unwrap();
        scratch.measure().unwrap();
        assert_eq!((scratch.bytes, scratch.entries), (400, 2));
        std::fs::remove_file(scratch.path.join("a")).unwrap();
        std::fs::remove_file(scratch.path.join("b")).unwrap();
        scratch.measure().unwrap();
        assert_eq!((scratch.bytes, scratch.entries), (400, 0));
        drop(file);
        scratch.measure().unwrap();
        assert_eq!(scratch.bytes, 0);
    }

    #[test]
    fn what_was_removed_makes_room_again_and_what_is_there_does_not() {
        let (_parent, mut scratch) = folder(1000);
        scratch.grow(1000, 1).unwrap();
        // Nothing is there, whatever was written before.
        scratch.grow(900, 1).unwrap();
        let file = File::create(scratch.path.join("a")).unwrap();
        file.set_len(900).unwrap();
        assert!(scratch.extend(&file, Some(950), 51).is_err());
        assert!(scratch.extend(&file, Some(950), 50).is_ok());
        assert!(scratch.extend(&file, Some(u64::MAX), 50).is_ok(), "the system refuses it");
    }
}
