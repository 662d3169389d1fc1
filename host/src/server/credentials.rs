//! The seeds of this machine's own users: the operator and its nodes.
//! An invited node's seed is in its invitation and nowhere here.

use std::fs;
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::users::User;
use super::{DataFolder, ServerError};
use crate::connect::Secret;

/// The folder `credentials/`.
#[derive(Debug)]
pub(super) struct Credentials {
    folder: PathBuf,
}

/// Both halves of a user's key.
#[derive(Debug)]
pub(super) struct OwnUser {
    pub seed: Secret,
    pub user: User,
}

impl Credentials {
    pub fn new(folder: &DataFolder) -> Self {
        Credentials { folder: folder.path().join("credentials") }
    }

    pub fn operator(&self) -> Result<OwnUser, ServerError> {
        read(&self.operator_path())
    }

    pub fn node(&self, name: &str) -> Result<OwnUser, ServerError> {
        read(&self.node_path(name))
    }

    pub fn ensure_operator(&self) -> Result<User, ServerError> {
        self.ensure(&self.operator_path())
    }

    pub fn ensure_node(&self, name: &str) -> Result<User, ServerError> {
        self.ensure(&self.node_path(name))
    }

    fn ensure(&self, path: &Path) -> Result<User, ServerError> {
        if path.exists() {
            return Ok(read(path)?.user);
        }
        super::folder::make_private(&self.folder)?;
        let new = generate()?;
        crate::private::write(path, &format!("{}\n", new.seed.reveal())).map_err(ServerError::files("write", path))?;
        Ok(new.user)
    }

    fn operator_path(&self) -> PathBuf {
        self.folder.join("operator.nk")
    }

    fn node_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("node-{name}.nk"))
    }
}

/// A new key.
pub(super) fn generate() -> Result<OwnUser, ServerError> {
    let pair = KeyPair::new_user();
    let seed = pair.seed().map_err(|error| ServerError::Make { what: "a key", reason: error.to_string() })?;
    Ok(OwnUser { seed: Secret::new(seed), user: User { public: pair.public_key() } })
}

fn read(path: &Path) -> Result<OwnUser, ServerError> {
    let text = fs::read_to_string(path).map_err(ServerError::files("read", path))?;
    let pair = KeyPair::from_seed(text.trim())
        .map_err(|error| ServerError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
    Ok(OwnUser { seed: Secret::new(text.trim()), user: User { public: pair.public_key() } })
}
