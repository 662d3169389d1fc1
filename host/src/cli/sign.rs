//! `wasmjob sign`: says who stands behind a component.

use std::{
    fs::Permissions,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use wasmjob_runtime::{Blob, Digest, limits::COMPONENT_BYTES_MAX};

use super::{CliError, Exit, Global, common::read_component, key, render};
use crate::config::Config;

/// Arguments of `sign`.
#[derive(Args)]
#[command(after_help = "\
The signature is in the file, so the signed file has a digest of its own, which is printed.
Example: wasmjob sign job.wasm && wasmjob submit --wait job.signed.wasm")]
pub(crate) struct SignArgs {
    /// The component or module, a file
    component: PathBuf,
    /// File with the private key [default: keys/signing.key in the data folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where to write the signed component [default: NAME.signed.wasm beside it]
    #[arg(long, short, alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Signs the component and prints the digest of the signed one.
pub(crate) fn sign(global: &Global, args: SignArgs) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    let bytes = read_component(&args.component)?.to_bytes(COMPONENT_BYTES_MAX).map_err(CliError::platform)?;
    let key = key::read(&args.key.unwrap_or_else(|| key::default_path(&config)))?;
    let signed = wasmjob_runtime::sign(&bytes, &key)
        .map_err(|error| CliError::usage(format!("{} cannot be signed: {error}", args.component.display())))?;
    let is_new = signed.len() > bytes.len();
    let path = match args.output {
        Some(path) => path,
        None if is_new => beside(&args.component),
        None => args.component.clone(),
    };
    if is_new || path != args.component {
        write(&path, &signed)?;
    }
    let said = if is_new { "signed by" } else { "is signed already by" };
    render::talk(format!("{} {said} {}", path.display(), key.public()));
    let digest = Digest::of(&signed);
    match global.json {
        true => render::json(&serde_json::json!({
            "digest": digest, "size": signed.len(), "file": path, "key": key.public(), "signed": is_new,
        }))?,
        false => render::line(&digest.to_string())?,
    }
    Ok(Exit::Done)
}

/// `NAME.signed.wasm` in the same folder.
fn beside(component: &Path) -> PathBuf {
    let name = component.file_name().unwrap_or_default().to_string_lossy();
    component.with_file_name(format!("{}.signed.wasm", name.strip_suffix(".wasm").unwrap_or(&name)))
}

/// A file is complete or not there: it is written beside its place and moved. As readable as any file
/// that this user makes.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let cannot = |error: std::io::Error| CliError::platform(format!("{} cannot be written: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut staged =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder).map_err(cannot)?;
    staged.write_all(bytes).map_err(cannot)?;
    staged.persist(path).map_err(|error| cannot(error.error))?;
    Ok(())
}

/// Refuses a component that nodes with this configuration would refuse. They check themselves: this is
/// to tell its author early.
pub(crate) fn check(config: &Config, component: &Blob) -> Result<(), CliError> {
    if config.trusted_keys.is_empty() {
        return Ok(());
    }
    let bytes = component.to_bytes(COMPONENT_BYTES_MAX).map_err(CliError::platform)?;
    config.trusted_keys.check(component.digest(), &bytes).map_err(|untrusted| {
        CliError::usage(untrusted)
            .hint(format!("`trusted_keys` is set here ({}); `wasmjob config` shows it", config.source("trusted_keys")))
    })
}
