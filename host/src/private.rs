//! Files and folders that only this user can read.

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

/// The mode bits that let others in.
const OTHERS: u32 = 0o077;

/// Makes `path` and what is missing above it.
/// Errors: also if it was there before and is a link, another user's, or open to others.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    check(path).map_err(|why| io::Error::new(ErrorKind::PermissionDenied, why))
}

/// Whoever else could write there could give us code to run, or files that are not ours.
fn check(path: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    let (mode, own) = (found.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if !found.is_dir() {
        return Err("it is no folder but a link to one: remove the link or name the folder itself".into());
    }
    if found.uid() != own {
        return Err(format!("it belongs to user {}, not to {own}: `chown` it or choose another", found.uid()));
    }
    if mode & OTHERS != 0 {
        return Err(format!("others can get at it (mode {mode:04o}): `chmod 700` it or choose another"));
    }
    Ok(())
}

/// Writes a file: to a new one beside it, which then takes its name, so that a reader and a full
/// disk never leave half of it.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    write_bytes(path, text.as_bytes())
}

/// The same for bytes.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // `tempfile` makes its files 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_is_not_ours_alone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("link"));
        folder(&own).unwrap();
        folder(&own).unwrap();
        symlink(&own, &link).unwrap();
        assert!(folder(&link).unwrap_err().to_string().contains("a link"));
        mode(&own, 0o750);
        assert!(folder(&own).unwrap_err().to_string().contains("mode 0750"));
        mode(&own, 0o700);
        folder(&own).unwrap();
    }
}
