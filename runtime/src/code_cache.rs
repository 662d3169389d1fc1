//! Compiled components: in memory by bytes, on disk across restarts.
//!
//! Loading compiled code runs whatever it contains, so it is only ever loaded from a private folder
//! this node wrote itself, under a name made of everything the code depends on, and with a checksum
//! of that name and the code, against disks and against files that were renamed.

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Write},
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;
use tokio::sync::OnceCell;
use wasmtime::{Engine, component::Component};

use crate::{blob::Digest, component::Prepared, engine::WASMTIME_VERSION};

/// Components that are remembered; jobs can name any number that nobody has.
const COMPONENTS_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("it is not zero");

/// Bytes of compiled code on disk. Strangers can bring any number of components; what is removed is
/// only compiled again.
const DISK_BYTES_MAX: u64 = 4 << 30;

/// A component that is prepared at most once, however many ask for it at the same time.
type Cell = Arc<OnceCell<Arc<Prepared>>>;

/// What the cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Found in memory.
    pub hits: u64,
    /// Loaded from disk.
    pub disk_hits: u64,
    /// Compiled.
    pub compiled: u64,
    /// Bytes in memory now.
    pub bytes: usize,
}

pub(crate) struct CodeCache {
    cells: Mutex<LruCache<Digest, Cell>>,
    bytes_max: usize,
    dir: Option<PathBuf>,
    environment: blake3::Hash,
    pub(crate) hits: AtomicU64,
    pub(crate) disk_hits: AtomicU64,
    pub(crate) compiled: AtomicU64,
}

impl CodeCache {
    /// `extra` is what else decides whether code may be used that is on disk already.
    pub(crate) fn new(engine: &Engine, dir: Option<PathBuf>, bytes_max: usize, extra: &[u8]) -> io::Result<Self> {
        if let Some(dir) = &dir {
            create_private_dir(dir)?;
            check_private_dir(dir)?;
        }
        Ok(CodeCache {
            cells: Mutex::new(LruCache::new(COMPONENTS_MAX)),
            bytes_max,
            dir,
            environment: environment(engine, extra),
            hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
        })
    }

    pub(crate) fn cell(&self, digest: Digest) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.get_or_insert(digest, Cell::default).clone()
    }

    /// Forgets the components that were not used for longest until the rest fits.
    pub(crate) fn shrink(&self) {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total: usize = cells.iter().map(|(_, cell)| bytes(cell)).sum();
        while total > self.bytes_max && cells.len() > 1 {
            let Some((_, cell)) = cells.pop_lru() else { break };
            total -= bytes(&cell);
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        CacheCounts {
            bytes: cells.iter().map(|(_, cell)| bytes(cell)).sum(),
            hits: self.hits.load(Ordering::Relaxed),
            disk_hits: self.disk_hits.load(Ordering::Relaxed),
            compiled: self.compiled.load(Ordering::Relaxed),
        }
    }

    /// What the compiled form of `digest` depends on, and the file that is named after it.
    fn file(&self, digest: Digest) -> Option<(blake3::Hash, PathBuf)> {
        let mut key = blake3::Hasher::new();
        let key = key.update(digest.as_bytes()).update(self.environment.as_bytes()).finalize();
        Some((key, self.dir.as_ref()?.join(format!("{}.cwasm", key.to_hex()))))
    }

    /// The compiled form of `digest` from disk. A file that is not what was written is removed.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let (key, path) = self.file(digest)?;
        let bytes = fs::read(&path).ok()?;
        let loaded = checked(key, &bytes).and_then(|code| deserialize(engine, code));
        if loaded.is_none() {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            let _ = fs::remove_file(&path);
        }
        loaded
    }

    /// Keeps the compiled form on disk. Without room there it is compiled again next time.
    pub(crate) fn save(&self, digest: Digest, component: &Component) {
        let Some((key, path)) = self.file(digest) else { return };
        let saved = component.serialize().map_err(io::Error::other).and_then(|code| stage(key, &path, &code));
        let saved = saved.and_then(|()| self.dir.as_ref().map_or(Ok(()), |dir| shrink_dir(dir, DISK_BYTES_MAX)));
        if let Err(error) = saved {
            tracing::warn!(path = %path.display(), %error, "compiled code was not kept");
        }
    }
}

fn bytes(cell: &Cell) -> usize {
    cell.get().map_or(0, |prepared| prepared.code_bytes())
}

/// Everything compiled code depends on besides the component: wasmtime's exact version, its
/// settings, the target, the processor's features and `extra`.
fn environment(engine: &Engine, extra: &[u8]) -> blake3::Hash {
    let mut settings = Settings(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    settings.0.update(WASMTIME_VERSION.as_bytes());
    settings.0.update(blake3::hash(extra).as_bytes());
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
fn checked(key: blake3::Hash, bytes: &[u8]) -> Option<&[u8]> {
    let (sum, code) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (checksum(key, code).as_bytes() == sum).then_some(code)
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: the bytes are from a file in a folder only we can write, named after this engine's
    // settings, and its checksum is that of what `Component::serialize` returned for this key.
    let component = unsafe { Component::deserialize(engine, code) };
    component.ok()
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

/// Removes the files that were written first until the rest has at most `bytes_max`; also what
/// writes that were cut short left behind.
fn shrink_dir(dir: &Path, bytes_max: u64) -> io::Result<()> {
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

    #[test]
    fn the_files_that_were_written_first_make_room() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("newest", 1), ("oldest", 3), ("older", 2)] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let left = |bytes_max| {
            shrink_dir(dir.path(), bytes_max).unwrap();
            let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(300), ["newest", "older", "oldest"]);
        assert_eq!(left(299), ["newest", "older"]);
        assert_eq!(left(100), ["newest"]);
    }
}
