//! What fills the scratch folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::PathBuf,
};

use wasip2::filesystem::{
    preopens::get_directories,
    types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
};

const FOLDER: &str = "/scratch";
static PIECE: [u8; 64 * 1024] = [1; 64 * 1024];
const MANY: usize = 1_000_000;
/// What the modes that stay within the quota use of it.
const CHURN_BYTES: usize = 512 * 1024;

fn path(name: impl std::fmt::Display) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/{name}"))
}

fn told<T>(done: io::Result<T>) -> Result<T, String> {
    done.map_err(|error| error.to_string())
}

/// The folder itself, without what the standard library makes of paths.
fn root() -> Result<Descriptor, String> {
    let mut found = get_directories().into_iter().filter(|(_, name)| name == FOLDER);
    found.next().map(|(folder, _)| folder).ok_or_else(|| "it has no scratch folder".into())
}

fn code<T>(done: Result<T, ErrorCode>) -> Result<T, String> {
    done.map_err(|error| error.to_string())
}

pub(crate) fn fill() -> Result<(), String> {
    let mut file = told(File::create(path("file")))?;
    loop {
        told(file.write_all(&PIECE))?;
    }
}

pub(crate) fn many_files() -> Result<(), String> {
    (0..MANY).try_for_each(|number| told(File::create(path(number)).map(drop)))
}

/// Each folder in the one before.
pub(crate) fn folders() -> Result<(), String> {
    nest(MANY)
}

/// Within the quota; whoever removes it must not run out of stack.
pub(crate) fn deep() -> Result<(), String> {
    nest(4_000)
}

fn nest(depth: usize) -> Result<(), String> {
    let mut here = root()?;
    for _ in 0..depth {
        code(here.create_directory_at("d"))?;
        here = code(here.open_at(PathFlags::empty(), "d", OpenFlags::DIRECTORY, DescriptorFlags::READ))?;
    }
    Ok(())
}

pub(crate) fn links() -> Result<(), String> {
    told(fs::write(path("file"), b"x"))?;
    (0..MANY).try_for_each(|number| told(fs::hard_link(path("file"), path(number))))
}

pub(crate) fn symlinks() -> Result<(), String> {
    let (root, target) = (root()?, "d/".repeat(2000));
    (0..MANY).try_for_each(|number| code(root.symlink_at(&target, &format!("link-{number}"))))
}

/// A file that is long and has nothing in it.
pub(crate) fn size() -> Result<(), String> {
    told(told(File::create(path("file")))?.set_len(1 << 40))
}

pub(crate) fn hole() -> Result<(), String> {
    let mut file = told(File::create(path("file")))?;
    told(file.seek(SeekFrom::Start(1 << 40)))?;
    told(file.write_all(b"x"))
}

/// Deleted files that are still open take room that no listing shows.
pub(crate) fn unlinked() -> Result<(), String> {
    let mut kept = Vec::new();
    loop {
        let mut file = told(File::create(path("file")))?;
        told(fs::remove_file(path("file")))?;
        told(file.write_all(&PIECE))?;
        kept.push(file);
    }
}

/// A stream of a file that has neither a name nor a descriptor any more.
pub(crate) fn stream() -> Result<(), String> {
    let root = root()?;
    let file = code(root.open_at(PathFlags::empty(), "file", OpenFlags::CREATE, DescriptorFlags::WRITE))?;
    let stream = code(file.write_via_stream(0))?;
    drop(file);
    code(root.unlink_file_at("file"))?;
    loop {
        stream.blocking_write_and_flush(&PIECE[..4096]).map_err(|error| error.to_string())?;
    }
}

/// Uses the same room again and again, in every way that gives it back.
pub(crate) fn churn() -> Result<(), String> {
    let piece = vec![1; CHURN_BYTES];
    for turn in 0..50 {
        told(fs::write(path("a"), &piece))?;
        told(fs::remove_file(path("a")))?;
        told(fs::write(path("b"), &piece[..1000]))?;
        told(fs::write(path("c"), &piece[..1000]))?;
        told(fs::rename(path("b"), path("c")))?;
        let mut file = told(OpenOptions::new().write(true).open(path("c")))?;
        told(file.write_all(&piece[..2000]))?;
        told(file.set_len(0))?;
        for number in 0..100 {
            told(File::create(path(format_args!("{turn}-{number}"))).map(drop))?;
            told(fs::remove_file(path(format_args!("{turn}-{number}"))))?;
        }
    }
    Ok(())
}
