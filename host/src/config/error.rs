//! What can be wrong with a configuration, and what to do about it.

use std::path::PathBuf;

use super::{Source, keys};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named, or is there, and cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing.
    #[error("{from}: unknown key `{key}`")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// Where it stands.
        from: Source,
        /// The keys of the same section, or all sections.
        known: Vec<&'static str>,
    },
    /// A value of the wrong kind.
    #[error("{from}: `{value}` is wrong for `{key}`: {reason}; valid is {valid}")]
    Value {
        /// The key.
        key: String,
        /// Where the value stands.
        from: Source,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        reason: String,
        /// What would be right.
        valid: &'static str,
    },
    /// There is no home folder to put the data folder in.
    #[error("cannot tell where the data folder is: none of WASMJOB_DATA, XDG_DATA_HOME and HOME is set")]
    NoHome,
}

impl ConfigError {
    pub(super) fn unknown(key: String, from: Source) -> Self {
        let known = keys::near(&key);
        ConfigError::UnknownKey { key, from, known }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            ConfigError::Read { .. } => "give --config a file that exists and is readable".to_owned(),
            ConfigError::Syntax { .. } => "text values need quotes: name = \"value\"".to_owned(),
            ConfigError::UnknownKey { key, .. } if key.ends_with(".trusted_keys") => {
                "`trusted_keys` stands at the top of the file, before the first [section]".to_owned()
            }
            ConfigError::UnknownKey { known, .. } => format!("known here: {}", known.join(", ")),
            ConfigError::Value { from: Source::Default, key, .. } => {
                format!("this machine gives no usable default: set `{key}` in the configuration")
            }
            ConfigError::Value { from, .. } => format!("change it there ({from})"),
            ConfigError::NoHome => "set WASMJOB_DATA to a folder of your own".to_owned(),
        }
    }
}
