//! Goes through everything below a folder, however deep.
//!
//! A guest can nest folders as deep as it may have any, and the standard library goes down one call
//! and one open file for each level. Here neither the stack nor the number of open files grows.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};

/// Calls `visit` for everything below `root` with the folder it is in, its name and what it is:
/// a folder comes after all that is in it.
///
/// Nothing may move folders meanwhile: the way back up is `..`.
pub(super) fn walk(root: impl AsFd, mut visit: impl FnMut(&OwnedFd, &CStr, &Stat) -> io::Result<()>) -> io::Result<()> {
    let mut here = open(root, c".")?;
    let mut way: Vec<(CString, Stat)> = Vec::new();
    let mut pending = vec![folders_in(&here, &mut visit)?];
    while let Some(folders) = pending.last_mut() {
        if let Some((name, stat)) = folders.pop() {
            here = open(&here, &name)?;
            pending.push(folders_in(&here, &mut visit)?);
            way.push((name, stat));
            continue;
        }
        pending.pop();
        if let Some((name, stat)) = way.pop() {
            here = open(&here, c"..")?;
            visit(&here, &name, &stat)?;
        }
    }
    Ok(())
}

fn open(folder: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

/// The folders in `folder`; all else in it is visited.
fn folders_in(
    folder: &OwnedFd,
    visit: &mut impl FnMut(&OwnedFd, &CStr, &Stat) -> io::Result<()>,
) -> io::Result<Vec<(CString, Stat)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            let stat = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            found.push((name, stat));
        }
    }
    let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let (folders, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, stat)| is_folder(stat));
    for (name, stat) in &others {
        visit(folder, name, stat)?;
    }
    Ok(folders)
}
