//! Secrets of this machine: files that only this user can read, one for each, in the data folder.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use wasmjob_runtime::grants::Secret;

use crate::private;

/// Bytes of one secret: keys and certificates fit.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where secrets are. They never leave this module but as [`Secret`], which nothing can print.
#[derive(Debug, Clone)]
pub struct Secrets(PathBuf);

/// Why a secret could not be used. Never with its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nobody has set it here.
    #[error("the secret `{name}` is not kept on this machine")]
    Missing {
        /// Its name.
        name: String,
    },
    /// It is no name for a secret.
    #[error("`{name}` is no name for a secret: 1 to 64 of A-Z, a-z, 0-9, - and _")]
    Name {
        /// As it was given.
        name: String,
    },
    /// Larger than a secret may be.
    #[error("the secret `{name}` has more than {SECRET_BYTES_MAX} bytes")]
    TooLarge {
        /// Its name.
        name: String,
    },
    /// It could not be read or written.
    #[error("the secret `{name}` could not be {what}: {reason}")]
    Io {
        /// Its name.
        name: String,
        /// Read, written or removed.
        what: &'static str,
        /// What the system says.
        reason: String,
    },
}

/// Whether `name` can name a secret; it becomes a file name.
pub fn is_secret_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(valid)
}

impl Secrets {
    /// Those in the data folder `data`.
    pub fn below(data: &Path) -> Self {
        Secrets(data.join("secrets"))
    }

    /// The names there are.
    pub fn names(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(&self.0) else { return Vec::new() };
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_secret_name(name)).collect();
        names.sort();
        names
    }

    /// The values of `names`.
    pub fn read(&self, names: &[String]) -> Result<BTreeMap<String, Secret>, SecretError> {
        names.iter().map(|name| Ok((name.clone(), Secret::new(self.read_one(name)?)))).collect()
    }

    fn read_one(&self, name: &str) -> Result<Vec<u8>, SecretError> {
        let path = self.path(name)?;
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing { name: name.into() },
            _ => SecretError::Io { name: name.into(), what: "read", reason: error.to_string() },
        };
        private::folder(&self.0).map_err(io)?;
        let mut value = Vec::new();
        fs::File::open(path).map_err(io)?.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value).map_err(io)?;
        check_size(name, &value)?;
        Ok(value)
    }

    /// Keeps `value` under `name`, in place of what was there.
    pub fn set(&self, name: &str, value: &[u8]) -> Result<(), SecretError> {
        let path = self.path(name)?;
        check_size(name, value)?;
        let written = private::folder(&self.0).and_then(|()| private::write_bytes(&path, value));
        written.map_err(|error| SecretError::Io { name: name.into(), what: "written", reason: error.to_string() })
    }

    /// Forgets a secret.
    pub fn remove(&self, name: &str) -> Result<(), SecretError> {
        fs::remove_file(self.path(name)?).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing { name: name.into() },
            _ => SecretError::Io { name: name.into(), what: "removed", reason: error.to_string() },
        })
    }

    fn path(&self, name: &str) -> Result<PathBuf, SecretError> {
        match is_secret_name(name) {
            true => Ok(self.0.join(name)),
            false => Err(SecretError::Name { name: name.chars().take(80).collect() }),
        }
    }
}

fn check_size(name: &str, value: &[u8]) -> Result<(), SecretError> {
    let fits = value.len() as u64 <= SECRET_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| SecretError::TooLarge { name: name.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_kept_in_private_files_and_never_shown() {
        let data = tempfile::tempdir().unwrap();
        let secrets = Secrets::below(data.path());
        assert_eq!(secrets.read(&["key".into()]).unwrap_err(), SecretError::Missing { name: "key".into() });
        secrets.set("key", b"hush").unwrap();
        secrets.set("key", b"hush2").unwrap();
        let mode = fs::metadata(data.path().join("secrets/key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = secrets.read(&["key".into()]).unwrap();
        assert!(!format!("{read:?}").contains("hush"));
        assert_eq!(read["key"], Secret::new(*b"hush2"));
        assert_eq!(secrets.names(), ["key"]);
        secrets.remove("key").unwrap();
        assert!(secrets.names().is_empty());
        for bad in ["", "../key", "a/b", "a.b", &"x".repeat(65)] {
            assert!(matches!(secrets.set(bad, b""), Err(SecretError::Name { .. })), "{bad}");
        }
        assert!(matches!(secrets.set("big", &vec![0; 65_537]), Err(SecretError::TooLarge { .. })));
    }
}
