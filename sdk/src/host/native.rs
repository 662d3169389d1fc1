//! Away from a node: artifacts in memory, the log and progress on standard error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::Level;

/// Gone when the process ends.
static STORE: LazyLock<Mutex<HashMap<String, Arc<[u8]>>>> = LazyLock::new(Mutex::default);

fn store() -> MutexGuard<'static, HashMap<String, Arc<[u8]>>> {
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub enum Blob {
    Memory(Arc<[u8]>),
    /// Standard input where it is a file: however large, only what is read is in memory.
    File {
        file: Mutex<File>,
        size: u64,
    },
}

impl Blob {
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        // A file that cannot be read has no digest to tell; reading it will say why.
        while let Ok(bytes) = self.read(offset, 1 << 20) {
            if bytes.is_empty() {
                break;
            }
            hasher.update(&bytes);
            offset += bytes.len() as u64;
        }
        format!("blake3:{}", hasher.finalize())
    }

    pub fn size(&self) -> u64 {
        match self {
            Blob::Memory(bytes) => bytes.len() as u64,
            Blob::File { size, .. } => *size,
        }
    }

    /// At most `len` bytes, and none only at the end.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Blob::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(len).min(bytes.len());
                Ok(bytes[start..end].to_vec())
            }
            Blob::File { file, .. } => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = Vec::with_capacity(len);
                file.seek(SeekFrom::Start(offset))?;
                io::Read::take(&mut *file, len as u64).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

pub struct Writer(Vec<u8>);

impl Writer {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub fn finish(self) -> io::Result<Blob> {
        let blob = Blob::Memory(self.0.into());
        if let Blob::Memory(bytes) = &blob {
            store().insert(blob.digest(), Arc::clone(bytes));
        }
        Ok(blob)
    }
}

pub fn open(digest: &str) -> io::Result<Blob> {
    let hex = digest.strip_prefix("blake3:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let message = format!("no digest: `{digest}` (expected blake3: and 64 hexadecimal digits)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let found = store().get(digest).cloned();
    found
        .map(Blob::Memory)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no artifact {digest} in this process")))
}

/// Names that were set, and the digests they stand for.
static NAMES: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

pub fn named(name: &str) -> io::Result<Blob> {
    let digest = NAMES.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("nothing has the name `{name}` in this process"));
    open(&digest.ok_or_else(missing)?)
}

pub fn set_name(name: &str, blob: &Blob) -> io::Result<()> {
    if let Blob::Memory(bytes) = blob {
        store().insert(blob.digest(), Arc::clone(bytes));
    }
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), blob.digest());
    Ok(())
}

pub fn submit(_: &str) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "jobs are submitted from a node only"))
}

/// The environment variable `WASMJOB_SECRET_<NAME>`.
pub fn secret(name: &str) -> io::Result<Vec<u8>> {
    let variable = format!("WASMJOB_SECRET_{name}");
    let missing = || io::Error::new(io::ErrorKind::PermissionDenied, format!("{variable} is not set"));
    std::env::var(&variable).map(String::into_bytes).map_err(|_| missing())
}

pub fn create() -> io::Result<Writer> {
    Ok(Writer(Vec::new()))
}

pub fn stdin() -> io::Result<Blob> {
    if let Some(blob) = stdin_file() {
        return Ok(blob);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(Blob::Memory(bytes.into()))
}

#[cfg(unix)]
fn stdin_file() -> Option<Blob> {
    use std::os::fd::AsFd as _;
    let file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(Blob::File { file: Mutex::new(file), size: metadata.len() })
}

#[cfg(not(unix))]
fn stdin_file() -> Option<Blob> {
    None
}

// A job does not end because nobody reads its log: what cannot be written is dropped.
pub fn log(level: Level, message: &str) {
    let _ = writeln!(io::stderr(), "{level:>5} {message}");
}

pub fn progress(done: u64, total: Option<u64>, message: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let total = total.map(|total| format!("/{total}")).unwrap_or_default();
        let _ = writeln!(stderr, "{done}{total} {message}");
    }
}

pub fn job_id() -> String {
    "0".repeat(26)
}

pub fn attempt() -> u32 {
    1
}

pub fn cancelled() -> bool {
    false
}
