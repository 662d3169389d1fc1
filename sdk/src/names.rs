//! Artifacts by name: what `wasmjob push --name` gives, each with its history.
//!
//! A job needs the grant `artifacts=PREFIX:ro` to read names that begin with PREFIX, `:rw` to set them
//! as well. Away from a node names live in memory until the process ends.

use std::io;
use std::sync::Arc;

use crate::{Artifact, host};

/// Opens the artifact that has this name now. Errors: not found; permission denied; timed out.
///
/// ```
/// let model = wasmjob::artifacts::put("weights")?;
/// wasmjob::names::set("models.latest", &model)?;
/// assert_eq!(wasmjob::names::get("models.latest")?.size(), 7);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn get(name: &str) -> io::Result<Artifact> {
    host::named(name).map(|blob| Artifact::new(Arc::new(blob)))
}

/// Gives the name to an artifact; the one that had it stays in the name's history.
/// Errors: permission denied; invalid input if it can be no name; timed out.
pub fn set(name: &str, artifact: &Artifact) -> io::Result<()> {
    host::set_name(name, artifact.blob())
}
