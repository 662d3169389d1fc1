//! The `wasmjob` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    wasmjob_host::cli::main().into()
}
