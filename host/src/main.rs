//! The `wasmjob` command.

use std::process::ExitCode;

/// The C library's keeps what was freed, for each thread, and looks like a leak after a large job; and half of
/// what it does for a job is to look for room.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wasmjob_host::cli::main().into()
}
