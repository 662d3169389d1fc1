//! `wasmjob key`: key pairs for signing components.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use wasmjob_runtime::PrivateKey;

use super::{CliError, Exit, Global, render};
use crate::{config::Config, private};

/// Subcommands of `key`.
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key pair: the private key goes to a file, the public one is printed
    #[command(after_help = "\
The public key belongs into the configuration of nodes: trusted_keys = [\"ed25519:...\"]
Example: wasmjob key new && wasmjob sign job.wasm")]
    New {
        /// File for the private key [default: keys/signing.key in the data folder]
        #[arg(long, short, alias = "out", value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a key that is there; what it signed stays signed by it
        #[arg(long)]
        force: bool,
    },
    /// Print the public key of a private one
    Show {
        /// File with the private key [default: keys/signing.key in the data folder]
        file: Option<PathBuf>,
    },
}

/// Does what the subcommand says.
pub(crate) fn key(global: &Global, command: KeyCommand) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    let (key, path) = match command {
        KeyCommand::New { output, force } => make(&config, output, force)?,
        KeyCommand::Show { file } => {
            let path = file.unwrap_or_else(|| default_path(&config));
            (read(&path)?, path)
        }
    };
    match global.json {
        true => render::json(&serde_json::json!({ "public_key": key.public(), "file": path }))?,
        false => render::line(&key.public().to_string())?,
    }
    Ok(Exit::Done)
}

/// Where a private key is when nobody says where.
pub(crate) fn default_path(config: &Config) -> PathBuf {
    config.data.join("keys").join("signing.key")
}

fn make(config: &Config, output: Option<PathBuf>, force: bool) -> Result<(PrivateKey, PathBuf), CliError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| CliError::platform(format!("the system gives no random bytes: {error}")))?;
    let key = PrivateKey::from_seed(&seed);
    let path = match output {
        Some(path) => path,
        None => {
            let path = default_path(config);
            let folder = path.parent().unwrap_or(&config.data);
            private::folder(&config.data)
                .and_then(|()| private::folder(folder))
                .map_err(|e| cannot_write(&path, &e))?;
            path
        }
    };
    write(&path, &key, force)?;
    render::talk(format!("the private key is in {}: keep it, and keep it to yourself", path.display()));
    Ok((key, path))
}

/// Writes a private key: whole or not at all, for this user only, over nothing unless told to.
fn write(path: &Path, key: &PrivateKey, force: bool) -> Result<(), CliError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staged = || {
        // `tempfile` makes its files 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(format!("{}\n", key.to_secret_text()).as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    let staged = staged().map_err(|error| cannot_write(path, &error))?;
    let kept = if force { staged.persist(path) } else { staged.persist_noclobber(path) };
    kept.map(drop).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => CliError::usage(format!("{} exists and is not overwritten", path.display()))
            .hint("`wasmjob key show` prints its public key; --output FILE names another file, --force replaces it"),
        _ => cannot_write(path, &error.error),
    })
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::platform(format!("{} cannot be written: {error}", path.display()))
}

/// Reads a private key from a file that nobody else can read.
pub(crate) fn read(path: &Path) -> Result<PrivateKey, CliError> {
    let wrong = |why: String| CliError::usage(format!("the key {}: {why}", path.display()));
    let found = fs::metadata(path).map_err(|error| {
        wrong(format!("cannot be read: {error}")).hint("make one with `wasmjob key new`, or name one with --key FILE")
    })?;
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(wrong(format!("others can get at it (mode {mode:04o})"))
            .hint("`chmod 600` it; if others may have read it, make a new one and trust that instead"));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    text.trim().parse().map_err(|error: wasmjob_runtime::KeyError| wrong(error.to_string()))
}
