//! Jobs that a job starts.

use std::io;

use serde::Serialize;

use crate::host;

/// Submits a job, a child of this one, and returns its id. Needs the grant `jobs=N`.
///
/// `spec` is a job spec, as any client publishes it, without `v`, `id` and `parent`: what it leaves out
/// of component, queue and priority it has from its parent. The n-th child has the same id in
/// every attempt, so an attempt that is made again does not submit its children twice.
///
/// ```no_run
/// let child = wasmjob::submit(serde_json::json!({ "input": { "inline": [1, 2, 3] } }))?;
/// wasmjob::info!("started {child}");
/// # Ok::<(), wasmjob::Error>(())
/// ```
///
/// Errors: permission denied; quota exceeded, if there were too many; invalid input, with what is
/// wrong in the spec; timed out. Away from a node it is unsupported.
pub fn submit(spec: impl Serialize) -> io::Result<String> {
    let spec = serde_json::to_string(&spec).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    host::submit(&spec)
}
