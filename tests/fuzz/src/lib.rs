//! What the fuzzers do with one input, each in a module with a function `run` that panics on a finding.
//!
//! Also part of the test suite, which replays the seeds without any fuzzer: so this knows nothing of
//! libFuzzer.

pub mod admission;
pub mod artifacts;
pub mod guest;
pub mod host_calls;
pub mod input;
pub mod wire;

/// A fuzzer: its name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("admission", admission::run),
    ("artifacts", artifacts::run),
    ("host_calls", host_calls::run),
    ("wire", wire::run),
];

/// Writes seeds that are made anew each time where the fuzzer looks for inputs: into the first folder of
/// its command line.
pub fn write_seeds(seeds: fn() -> Vec<(String, Vec<u8>)>) {
    let folder = std::env::args_os().skip(1).map(std::path::PathBuf::from).find(|argument| argument.is_dir());
    let Some(folder) = folder else { return };
    for (number, (_, seed)) in seeds().into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the fuzzer writes there too");
    }
}
