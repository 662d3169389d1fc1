//! Tries to take more of a node than it was given. The first argument says how.

#[cfg(target_os = "wasi")]
mod folders;
#[cfg(target_os = "wasi")]
mod host;
#[cfg(target_os = "wasi")]
mod own;
#[cfg(target_os = "wasi")]
mod scratch;

use std::process::ExitCode;

/// Ends when it is stopped, or says what it got through.
type Mode = fn() -> Result<(), String>;

#[cfg(not(target_os = "wasi"))]
const MODES: [(&str, Mode); 0] = [];

#[cfg(target_os = "wasi")]
const MODES: [(&str, Mode); 31] = [
    ("fuel", own::fuel),
    ("memory", own::memory),
    ("stack", own::stack),
    ("output", own::output),
    ("stderr", own::stderr),
    ("sleep", own::sleep),
    ("host-calls", host::calls),
    ("bytes", host::bytes),
    ("poll", host::poll),
    ("handles", host::handles),
    ("timers", host::timers),
    ("call", host::call),
    ("random", host::random),
    ("random-fuel", host::random_fuel),
    ("files", host::files),
    ("listings", host::listings),
    ("scratch-fill", scratch::fill),
    ("scratch-many-files", scratch::many_files),
    ("scratch-folders", scratch::folders),
    ("scratch-links", scratch::links),
    ("scratch-symlinks", scratch::symlinks),
    ("scratch-size", scratch::size),
    ("scratch-hole", scratch::hole),
    ("scratch-unlinked", scratch::unlinked),
    ("scratch-stream", scratch::stream),
    ("scratch-churn", scratch::churn),
    ("scratch-deep", scratch::deep),
    ("escape", folders::escape),
    ("write-ro", folders::write_ro),
    ("special", folders::special),
    ("cross", folders::cross),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let Some((_, mode)) = MODES.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        eprintln!("which mode? {}", names.join(" "));
        return ExitCode::from(2);
    };
    match mode() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}
