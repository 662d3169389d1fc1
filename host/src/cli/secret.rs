//! `wasmjob secret`: values that the operator keeps for jobs on this machine.

use std::io::{self, IsTerminal, Read};

use clap::Subcommand;

use super::{CliError, Exit, Global, render};
use crate::grants::{SECRET_BYTES_MAX, SecretError, Secrets};

#[derive(Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a secret: its value is read from standard input, a line end at its end is not part of it
    Set {
        /// Its name: A-Z, a-z, 0-9, - and _
        name: String,
    },
    /// List the names of the secrets that are kept here
    Ls,
    /// Forget a secret
    Rm {
        /// Its name
        name: String,
    },
}

/// Sets, lists or removes secrets of this machine's data folder.
pub(crate) fn secret(global: &Global, command: SecretCommand) -> Result<Exit, CliError> {
    let secrets = Secrets::below(&global.load(Vec::new())?.data);
    match command {
        SecretCommand::Set { name } => secrets.set(&name, &value()?).map_err(|error| explain(&error))?,
        SecretCommand::Rm { name } => secrets.remove(&name).map_err(|error| explain(&error))?,
        SecretCommand::Ls if global.json => render::json(&secrets.names())?,
        SecretCommand::Ls => secrets.names().iter().try_for_each(|name| render::line(name))?,
    }
    Ok(Exit::Done)
}

fn value() -> Result<Vec<u8>, CliError> {
    if io::stdin().is_terminal() {
        render::talk("the secret, then Enter and Ctrl-D (it is shown as you type):");
    }
    let mut value = Vec::new();
    // One byte more than a line end over the maximum says that it is too large.
    let read = io::stdin().lock().take(SECRET_BYTES_MAX + 3).read_to_end(&mut value);
    read.map_err(|error| CliError::platform(format!("the secret cannot be read: {error}")))?;
    for end in [b'\n', b'\r'] {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
    match value.is_empty() {
        true => Err(CliError::usage("the secret is empty").hint("printf %s VALUE | wasmjob secret set NAME")),
        false => Ok(value),
    }
}

fn explain(error: &SecretError) -> CliError {
    match error {
        SecretError::Missing { .. } => CliError::usage(error).hint("`wasmjob secret ls` lists those that are"),
        SecretError::Io { .. } => CliError::platform(error),
        _ => CliError::usage(error),
    }
}
