//! Who may connect: public keys only, as `server/users.json`.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::{DataFolder, ServerError};

/// The operator and the nodes by name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Users {
    pub operator: User,
    pub nodes: BTreeMap<String, User>,
}

/// One user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    /// Public half of the nkey.
    pub public: String,
}

impl Users {
    pub fn load(folder: &DataFolder) -> Result<Users, ServerError> {
        let path = folder.below("server")?.join("users.json");
        if !path.exists() {
            return Ok(Users::default());
        }
        let text = fs::read_to_string(&path).map_err(ServerError::files("read", &path))?;
        serde_json::from_str(&text).map_err(|error| ServerError::Damaged {
            path,
            reason: error.to_string(),
        })
    }

    pub fn save(&self, folder: &DataFolder) -> Result<(), ServerError> {
        let text = serde_json::to_string_pretty(self).map_err(ServerError::encode)?;
        folder.write_private(&folder.below("server")?.join("users.json"), &text)
    }

    pub fn put(&mut self, name: &str, user: User) {
        self.nodes.insert(name.to_owned(), user);
    }
}
