//! Who compiles: this program again, by a hidden command.

use std::io;

use wasmjob_runtime::Compiler;

/// The command, `CompileWorker` in `cli`.
const COMMAND: &str = "compile-worker";

/// A process of this program for each component. Errors: it is not known which program this is.
pub(crate) fn of_own() -> io::Result<Compiler> {
    Compiler::this_program([COMMAND])
}
