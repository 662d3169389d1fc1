//! Who compiles: this program again, by a hidden command.

use std::io;

use wasmjob_runtime::{CompileCaps, Compiler, NodeLimits};

/// The command, `CompileWorker` in `cli`.
const COMMAND: &str = "compile-worker";

/// A process of this program for each component, which may take what `limits` say.
/// Errors: it is not known which program this is.
pub(crate) fn of_own(limits: &NodeLimits) -> io::Result<Compiler> {
    Compiler::this_program([COMMAND], CompileCaps::of(limits))
}
