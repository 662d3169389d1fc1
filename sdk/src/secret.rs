//! Values that the operator keeps.

use std::io;

use crate::host;

/// The value of a secret that the job names (`--secret NAME`). Do not log it.
///
/// Away from a node it is the environment variable `WASMJOB_SECRET_<NAME>`.
/// Errors: permission denied, if the job does not name it.
pub fn secret(name: &str) -> io::Result<Vec<u8>> {
    host::secret(name)
}
