//! Opening a path below a folder: never anything outside it, and nothing but files and folders.

use std::{fs::File, io};

use wasmtime_wasi::{
    filesystem::{self, Descriptor, Dir, FsPerms, OpenMode},
    p2::{
        FsResult,
        bindings::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
    },
};

/// How a guest wants to open something.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) path: PathFlags,
    pub(super) open: OpenFlags,
    pub(super) flags: DescriptorFlags,
}

impl Wanted {
    /// To read what is there.
    pub(super) fn reading(path: PathFlags) -> Self {
        Wanted { path, open: OpenFlags::empty(), flags: DescriptorFlags::READ }
    }

    pub(super) fn creates(&self) -> bool {
        self.open.contains(OpenFlags::CREATE)
    }

    fn writes(&self) -> bool {
        self.creates() || self.open.contains(OpenFlags::TRUNCATE) || self.flags.contains(DescriptorFlags::WRITE)
    }

    /// Who does not ask to write may read: the system opens nothing for neither.
    fn reads(&self) -> bool {
        self.flags.contains(DescriptorFlags::READ) || !self.flags.contains(DescriptorFlags::WRITE)
    }

    fn mode(&self) -> OpenMode {
        let mut mode = OpenMode::empty();
        mode.set(OpenMode::READ, self.reads());
        mode.set(OpenMode::WRITE, self.writes());
        mode
    }

    /// Whether it can be had of a folder with these permissions at all.
    pub(super) fn check(&self, perms: FsPerms) -> FsResult<()> {
        let makes = OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE;
        if self.open.contains(OpenFlags::DIRECTORY) && self.open.intersects(makes) {
            return Err(ErrorCode::Invalid.into());
        }
        // Each write would wait for the disk: `sync` does as well, and costs what that is worth.
        let waits = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        if self.flags.intersects(waits) {
            return Err(ErrorCode::Unsupported.into());
        }
        if perms.write_not_permitted() && self.writes() {
            return Err(ErrorCode::ReadOnly.into());
        }
        Ok(())
    }

    /// What was opened, if it is something that guests may have.
    pub(super) fn descriptor(&self, file: File, perms: FsPerms) -> FsResult<Descriptor> {
        let kind = file.metadata()?.file_type();
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => Ok(Descriptor::Dir(Dir::new(file, perms, self.mode(), true))),
            (_, true) if self.open.contains(OpenFlags::DIRECTORY) => Err(ErrorCode::NotDirectory.into()),
            (_, true) => Ok(Descriptor::File(filesystem::File::new(file, perms, self.mode(), true))),
            _ => Err(ErrorCode::NotPermitted.into()),
        }
    }
}

/// Opens `path` below `dir`; `None` where the system has no call for that.
///
/// The kernel resolves the path and refuses whatever leaves the folder. `NONBLOCK` matters for
/// what is neither a file nor a folder: opening a pipe that nobody writes to would last for ever.
#[cfg(target_os = "linux")]
pub(super) fn beneath(dir: &File, path: &str, wanted: Wanted) -> Option<io::Result<File>> {
    use rustix::{
        fs::{Mode, ResolveFlags, openat2},
        io::Errno,
    };
    /// `openat2` gives up when something is renamed anywhere meanwhile.
    const TRIES: u32 = 8;

    let mode = if wanted.creates() { Mode::from_bits_truncate(0o666) } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        opened = openat2(dir, path, system_flags(wanted), mode, resolve);
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
    }
    match opened {
        Ok(file) => Some(Ok(file.into())),
        // Some containers answer `PERM` to calls they do not know.
        Err(Errno::NOSYS | Errno::PERM) => None,
        // A way out of the folder; something that is neither a file nor a folder.
        Err(Errno::XDEV | Errno::NXIO) => Some(Err(Errno::PERM.into())),
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(target_os = "linux")]
fn system_flags(wanted: Wanted) -> rustix::fs::OFlags {
    use rustix::fs::OFlags;
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    flags |= match (wanted.reads(), wanted.writes()) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    flags.set(OFlags::CREATE, wanted.creates());
    flags.set(OFlags::EXCL, wanted.creates() && wanted.open.contains(OpenFlags::EXCLUSIVE));
    flags.set(OFlags::TRUNC, wanted.open.contains(OpenFlags::TRUNCATE));
    flags.set(OFlags::NOFOLLOW, !wanted.path.contains(PathFlags::SYMLINK_FOLLOW));
    flags
}

#[cfg(not(target_os = "linux"))]
pub(super) fn beneath(_: &File, _: &str, _: Wanted) -> Option<io::Result<File>> {
    None
}
