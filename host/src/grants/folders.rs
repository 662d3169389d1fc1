//! Folders of this machine that jobs can be granted.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf, sync::Arc};

use cap_std::{ambient_authority, fs::Dir};
use wasmjob_runtime::grants::Folder;

use super::{GrantError, listed};
use crate::wire::Grant;

/// A folder that the operator offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Where it is.
    pub path: PathBuf,
    /// Whether jobs may change what is in it.
    pub write: bool,
}

/// The folders that are offered, by name.
pub struct Folders {
    offered: BTreeMap<String, Offered>,
    any_path: bool,
}

/// Why a folder is not given.
pub(super) enum FolderError {
    NotOffered(String),
    Cannot(String),
}

impl FolderError {
    pub(super) fn about(self, grant: &Grant) -> GrantError {
        let grant = grant.to_string();
        match self {
            FolderError::NotOffered(reason) => GrantError::NotOffered { grant, reason },
            FolderError::Cannot(reason) => GrantError::Unavailable { grant, reason },
        }
    }
}

impl Folders {
    /// These and no others.
    pub fn offered(offered: BTreeMap<String, Offered>) -> Self {
        Folders { offered, any_path: false }
    }

    /// And whatever the caller, who is the operator, names by its path.
    #[must_use]
    pub(super) fn and_any_path(self) -> Self {
        Folders { any_path: true, ..self }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.offered.keys()
    }

    /// The offered folder that `path` is in, as `NAME` or `NAME/REST`.
    pub fn by_name(offered: &BTreeMap<String, PathBuf>, path: &Path) -> Option<String> {
        let below = offered.iter().filter_map(|(name, folder)| Some((name, path.strip_prefix(folder).ok()?)));
        // The innermost, if one is in another.
        let (name, rest) = below.min_by_key(|(_, rest)| rest.components().count())?;
        Some(if rest.as_os_str().is_empty() { name.clone() } else { format!("{name}/{}", rest.to_str()?) })
    }

    /// Opens `host`: `NAME[/PATH]`, or a path where those are allowed.
    pub(super) fn open(&self, host: &str, guest: &str, write: bool) -> Result<Folder, FolderError> {
        let (name, rest) = host.split_once('/').unwrap_or((host, ""));
        let opened = match self.offered.get(name) {
            Some(offered) if write && !offered.write => {
                return Err(FolderError::NotOffered(format!("`{name}` is offered to read only (grants.fs.{name})")));
            }
            Some(offered) => below(offered, rest),
            None if self.any_path => Dir::open_ambient_dir(host, ambient_authority()),
            None => {
                let offered = listed(self.names().map(|name| format!("`{name}`")));
                return Err(FolderError::NotOffered(format!("grants.fs has {offered}")));
            }
        };
        let dir = opened.map_err(|error| FolderError::Cannot(why(&error, host)))?;
        Ok(Folder { dir: Arc::new(dir.into_std_file()), guest: guest.to_owned(), write })
    }
}

/// A folder below one that is offered: no `..`, no link leads out of it.
fn below(offered: &Offered, rest: &str) -> io::Result<Dir> {
    let folder = Dir::open_ambient_dir(&offered.path, ambient_authority())?;
    let rest = rest.trim_matches('/');
    if rest.is_empty() { Ok(folder) } else { folder.open_dir(rest) }
}

fn why(error: &io::Error, host: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no folder `{host}`"),
        io::ErrorKind::NotADirectory => format!("`{host}` is no folder"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_an_offered_folder_is_opened() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for dir in ["offered/in", "secret"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        std::os::unix::fs::symlink(at("secret"), at("offered/out")).unwrap();
        std::os::unix::fs::symlink("in", at("offered/inside")).unwrap();
        std::fs::write(at("offered/file"), "").unwrap();
        let offered = Offered { path: at("offered"), write: false };
        let folders = Folders::offered([("data".to_owned(), offered)].into());
        for good in ["data", "data/", "data/in", "data/inside", "data/in/../in"] {
            assert!(folders.open(good, "/d", false).is_ok(), "{good}");
        }
        let secret = at("secret");
        for bad in
            ["data/..", "data/../secret", "data/out", "data/file", "data/none", "other", secret.to_str().unwrap()]
        {
            assert!(folders.open(bad, "/d", false).is_err(), "{bad}");
        }
        assert!(matches!(folders.open("data", "/d", true), Err(FolderError::NotOffered(_))));
        let any = folders.and_any_path();
        assert!(any.open(secret.to_str().unwrap(), "/d", true).is_ok());
        assert!(any.open("data/out", "/d", false).is_err());
    }

    #[test]
    fn a_path_is_named_after_the_innermost_folder_it_is_in() {
        let offered = [("a".to_owned(), PathBuf::from("/srv")), ("b".to_owned(), PathBuf::from("/srv/x"))].into();
        let name = |path: &str| Folders::by_name(&offered, Path::new(path));
        assert_eq!(name("/srv/x/y").as_deref(), Some("b/y"));
        assert_eq!(name("/srv").as_deref(), Some("a"));
        assert_eq!(name("/srvx"), None);
    }
}
