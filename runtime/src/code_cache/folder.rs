//! Compiled code on disk.
//!
//! Loading compiled code runs whatever it contains, so it is only ever loaded from a private folder
//! this node wrote itself, under a name made of everything the code depends on, and with a checksum
//! of that name and the code, against disks and against files that were renamed.

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use wasmtime::{Engine, component::Component};

use crate::{blob::Digest, compiler::Code, component, engine::WASMTIME_VERSION};

/// Bytes of compiled code on disk. Strangers can bring any number of components; what is removed is
/// only compiled again.
const DISK_BYTES_MAX: u64 = 4 << 30;

/// The folder, as one engine sees it: code for others is there under names it does not look for.
pub(crate) struct CodeFolder {
    dir: PathBuf,
    environment: blake3::Hash,
}

impl CodeFolder {
    /// Makes the folder, unless it is there and nobody else can get at it. `context` is what compiled
    /// code depends on besides the engine.
    pub(crate) fn open(dir: &Path, engine: &Engine, context: &[u8]) -> io::Result<Self> {
        create_private_dir(dir)?;
        check_private_dir(dir)?;
        Ok(CodeFolder { dir: dir.to_owned(), environment: environment(engine, context) })
    }

    /// What the compiled form of `digest` depends on, and the file that is named after it.
    fn file(&self, digest: Digest) -> (blake3::Hash, PathBuf) {
        let mut key = blake3::Hasher::new();
        let key = key.update(digest.as_bytes()).update(self.environment.as_bytes()).finalize();
        (key, self.dir.join(format!("{}.cwasm", key.to_hex())))
    }

    /// The compiled form of `digest`. A file that is not what was written is removed.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let (key, path) = self.file(digest);
        let bytes = read(&path).ok()?;
        let loaded = checked(key, bytes).and_then(|code| component::load(engine, &code).ok());
        if loaded.is_none() {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            let _ = fs::remove_file(&path);
        }
        loaded
    }

    /// Keeps the compiled form of `digest`. Without room for it, it is compiled again next time.
    pub(crate) fn save(&self, digest: Digest, code: &Code) {
        let (key, path) = self.file(digest);
        let saved = stage(key, &path, code.as_bytes()).and_then(|()| shrink(&self.dir, DISK_BYTES_MAX));
        if let Err(error) = saved {
            tracing::warn!(path = %path.display(), %error, "compiled code was not kept");
        }
    }
}

/// Everything compiled code depends on besides the component: wasmtime's exact version, its
/// settings, the target and the processor's features, and what the host adds.
fn environment(engine: &Engine, context: &[u8]) -> blake3::Hash {
    let mut settings = Settings(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    settings.0.update(&(WASMTIME_VERSION.len() as u64).to_le_bytes());
    settings.0.update(WASMTIME_VERSION.as_bytes());
    settings.0.update(context);
    settings.0.finalize()
}

struct Settings(blake3::Hasher);

impl Hasher for Settings {
    fn finish(&self) -> u64 {
        u64::from_le_bytes(self.0.finalize().as_bytes()[..8].try_into().unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// Checksum of `code` under the name made of `key`: a good file of another component has another.
fn checksum(key: blake3::Hash, code: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key.as_bytes(), code)
}

/// The code after its checksum, if the checksum is right.
fn checked(key: blake3::Hash, bytes: Vec<u8>) -> Option<Code> {
    let (sum, code) = bytes.split_at_checked(blake3::OUT_LEN)?;
    let right = checksum(key, code).as_bytes() == sum;
    // What only this user can write and has the right checksum is what `stage` wrote.
    right.then(|| Code::trusted(bytes::Bytes::from(bytes).slice(blake3::OUT_LEN..)))
}

/// Reads a file, which makes it the one that was used last.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // On a disk that takes no times it goes earlier than it should.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = futimens(&file, &Timestamps { last_access: now, last_modification: now });
    Ok(bytes)
}

fn stage(key: blake3::Hash, path: &Path, code: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(checksum(key, code).as_bytes())?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    builder.mode(0o700);
    builder.create(dir)
}

/// Errors: someone else could have put code into `dir`, or still can.
fn check_private_dir(dir: &Path) -> io::Result<()> {
    let refused = |why: String| {
        let message = format!("{why}; compiled code is run as it is found there, so only its user may reach it");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    };
    let (found, own) = (fs::symlink_metadata(dir)?, rustix::process::geteuid().as_raw());
    let mode = found.mode() & 0o7777;
    if !found.is_dir() {
        return refused("it is no folder but a link to one: remove the link".into());
    }
    if found.uid() != own {
        return refused(format!("it belongs to user {}, not to {own}: `chown` or remove it", found.uid()));
    }
    if mode & 0o077 != 0 {
        return refused(format!("others can get at it (mode {mode:04o}): remove what is in it, then `chmod 700` it"));
    }
    Ok(())
}

/// Removes the files that were not used for longest until the rest has at most `bytes_max`; also what
/// writes that were cut short left behind.
fn shrink(dir: &Path, bytes_max: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        // One that is gone by now was removed by another write.
        let entry = entry?;
        let Ok(found) = entry.metadata() else { continue };
        files.push((found.modified()?, found.len(), entry.path()));
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if total <= bytes_max {
            break;
        }
        let _ = fs::remove_file(path);
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::engine::{self, Variant};

    #[test]
    fn the_files_that_were_not_used_for_longest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("newest", 1), ("oldest", 3), ("older", 2)] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let left = |bytes_max| {
            shrink(dir.path(), bytes_max).unwrap();
            let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(300), ["newest", "older", "oldest"]);
        assert_eq!(left(299), ["newest", "older"]);
        read(&dir.path().join("older")).unwrap();
        assert_eq!(left(100), ["older"]);
    }

    #[test]
    fn the_key_depends_on_the_engine_and_on_what_the_host_adds() {
        let [fast, deterministic] =
            [Variant::Fast, Variant::Deterministic].map(|variant| engine::compiling(variant).unwrap());
        let keys = [environment(&fast, b""), environment(&fast, b"x"), environment(&deterministic, b"")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        assert_eq!(keys[0], environment(&engine::compiling(Variant::Fast).unwrap(), b""));
    }
}
