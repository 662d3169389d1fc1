//! Compiled components: in memory by bytes, on disk across restarts.
//!
//! Loading compiled code runs whatever it contains, so it is only ever loaded from a private folder
//! this node wrote itself, under a name made of everything the code depends on, and with a checksum
//! against disks.

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Write},
    num::NonZeroUsize,
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
    pub(crate) fn new(engine: &Engine, dir: Option<PathBuf>, bytes_max: usize) -> io::Result<Self> {
        if let Some(dir) = &dir {
            create_private_dir(dir)?;
        }
        Ok(CodeCache {
            cells: Mutex::new(LruCache::new(COMPONENTS_MAX)),
            bytes_max,
            dir,
            environment: environment(engine),
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

    fn path(&self, digest: Digest) -> Option<PathBuf> {
        let mut key = blake3::Hasher::new();
        key.update(digest.as_bytes()).update(self.environment.as_bytes());
        Some(self.dir.as_ref()?.join(format!("{}.cwasm", key.finalize().to_hex())))
    }

    /// The compiled form of `digest` from disk. A file that is not what was written is removed.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(digest)?;
        let bytes = fs::read(&path).ok()?;
        let loaded = checked(&bytes).and_then(|code| deserialize(engine, code));
        if loaded.is_none() {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            let _ = fs::remove_file(&path);
        }
        loaded
    }

    /// Keeps the compiled form on disk. Without room there it is compiled again next time.
    pub(crate) fn save(&self, digest: Digest, component: &Component) {
        let Some(path) = self.path(digest) else { return };
        let saved = component.serialize().map_err(io::Error::other).and_then(|code| stage(&path, &code));
        if let Err(error) = saved {
            tracing::warn!(path = %path.display(), %error, "compiled code was not kept");
        }
    }
}

fn bytes(cell: &Cell) -> usize {
    cell.get().map_or(0, |prepared| prepared.code_bytes())
}

/// Everything compiled code depends on besides the component: wasmtime's exact version, its
/// settings, the target and the processor's features.
fn environment(engine: &Engine) -> blake3::Hash {
    let mut settings = Settings(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    settings.0.update(WASMTIME_VERSION.as_bytes());
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

/// The code after its checksum, if the checksum is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, code) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(code).as_bytes() == sum).then_some(code)
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: the bytes are from a file in a folder only we can write, named after this engine's
    // settings, and its checksum is that of what `Component::serialize` returned.
    let component = unsafe { Component::deserialize(engine, code) };
    component.ok()
}

fn stage(path: &Path, code: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(blake3::hash(code).as_bytes())?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
