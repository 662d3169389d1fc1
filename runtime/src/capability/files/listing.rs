//! The entries of a folder, read as they are asked for: nothing is held of a folder with millions.

use std::{fs::File, sync::Arc};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use wasmtime_wasi::p2::{
    FsResult,
    bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode},
};

use super::{Open, system};

/// A folder that is being read.
pub(super) struct Listing {
    entries: Dir,
    folder: Arc<File>,
    _open: Open,
}

impl Listing {
    pub(super) fn of(folder: &Arc<File>, open: Open) -> FsResult<Self> {
        let entries = Dir::read_from(&**folder).map_err(system)?;
        Ok(Listing { entries, folder: folder.clone(), _open: open })
    }

    pub(super) fn next(&mut self) -> FsResult<Option<DirectoryEntry>> {
        while let Some(entry) = self.entries.read() {
            let entry = entry.map_err(system)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not tell.
                FileType::Unknown => statat(&*self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map(|stat| FileType::from_raw_mode(stat.st_mode))
                    .map_err(system)?,
                kind => kind,
            };
            let name = name.to_str().map_err(|_| ErrorCode::IllegalByteSequence)?.to_owned();
            return Ok(Some(DirectoryEntry { type_: shown(kind), name }));
        }
        Ok(None)
    }
}

fn shown(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
