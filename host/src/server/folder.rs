//! The data folder: private, and one `up` at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ServerError;
use crate::private;

/// Bits that would let somebody else in.
const OTHERS: u32 = 0o077;

/// An `up` that is just ending gets this long to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_millis(300);

/// A data folder that was checked to be ours alone.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Held by `up` for as long as it runs; the system lets go of it even if we are killed.
    lock: Option<File>,
}

impl DataFolder {
    /// Opens the folder, making it (0700) when it is not there.
    /// Errors: it is open to others, or another user's.
    pub fn open(path: &Path) -> Result<Self, ServerError> {
        make_private(path)?;
        let found = fs::metadata(path).map_err(ServerError::files("read", path))?;
        let own = rustix::process::getuid().as_raw();
        if found.uid() != own {
            return Err(ServerError::FolderForeign { path: path.to_owned(), owner: found.uid(), own });
        }
        let mode = found.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(ServerError::FolderOpen { path: path.to_owned(), mode });
        }
        // The server and its children get absolute paths, whatever their current folder is.
        let path = path.canonicalize().map_err(ServerError::files("read", path))?;
        Ok(DataFolder { path, lock: None })
    }

    /// Takes the folder for one `up`.
    /// Errors: `Locked` with the other's process id.
    pub fn lock(mut self) -> Result<Self, ServerError> {
        let path = self.path.join("up.lock");
        let mut file = open_private(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        let asked = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if asked.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(ServerError::Locked { path: self.path, pid: pid_in(&mut file) });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(ServerError::Files { action: "lock", path, source });
                }
            }
        }
        let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        written.map_err(ServerError::files("write", path))?;
        self.lock = Some(file);
        Ok(self)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A private folder below, made when it is not there.
    pub fn below(&self, name: &str) -> Result<PathBuf, ServerError> {
        let path = self.path.join(name);
        make_private(&path)?;
        Ok(path)
    }

    /// Writes a file only we can read, whole or not at all.
    pub fn write_private(&self, path: &Path, text: &str) -> Result<(), ServerError> {
        private::write(path, text).map_err(ServerError::files("write", path))
    }

    /// The log of a child.
    #[must_use]
    pub fn log_path(&self, child: &str) -> PathBuf {
        self.path.join("logs").join(format!("{child}.log"))
    }

    pub(super) fn conf_path(&self) -> PathBuf {
        self.path.join("server/nats.conf")
    }

    pub(super) fn pid_path(&self) -> PathBuf {
        self.path.join("server/nats-server.pid")
    }

    /// Waits for the right to change users and configuration: `up` and `nodes invite` both do.
    pub(super) fn lock_users(&self) -> Result<File, ServerError> {
        let path = self.below("server")?.join("users.lock");
        let file = open_private(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
        file.lock().map_err(ServerError::files("lock", path))?;
        Ok(file)
    }
}

pub(super) fn make_private(path: &Path) -> Result<(), ServerError> {
    if path.is_dir() {
        return Ok(());
    }
    private::folder(path).map_err(ServerError::files("make", path))
}

fn open_private(path: &Path, how: &mut OpenOptions) -> Result<File, ServerError> {
    how.mode(0o600).open(path).map_err(ServerError::files("open", path))
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_folder_is_private_and_an_open_one_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let folder = DataFolder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = folder.path().join("x");
        folder.write_private(&file, "secret").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = DataFolder::open(&path).unwrap_err();
        assert!(matches!(error, ServerError::FolderOpen { mode: 0o750, .. }), "{error}");
        assert!(error.hint().contains("chmod 700"));
    }

    #[test]
    fn one_up_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let first = DataFolder::open(&path).unwrap().lock().unwrap();
        let error = DataFolder::open(&path).unwrap().lock().unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, ServerError::Locked { pid: Some(pid), .. } if pid == own), "{error}");
        drop(first);
        DataFolder::open(&path).unwrap().lock().unwrap();
    }
}
