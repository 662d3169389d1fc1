//! What the fuzzers start from and what they once found, without a fuzzer.

#![allow(clippy::print_stderr)] // Which seed it is that fails.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
// The fuzzers use the rest; lengths there are those of a few groups.
#[allow(dead_code, clippy::cast_possible_truncation)]
mod fuzz;

#[test]
fn every_seed_and_every_past_finding_passes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let folders: Vec<_> = fs::read_dir(&seeds).unwrap().map(|folder| folder.unwrap().file_name()).collect();
    for (name, run) in fuzz::TARGETS {
        let mut files: Vec<_> = fs::read_dir(seeds.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            eprintln!("{}", file.display());
            run(&fs::read(file).unwrap());
        }
    }
    let known = |folder: &std::ffi::OsStr| fuzz::TARGETS.iter().any(|(name, _)| *name == folder);
    assert!(folders.iter().all(|folder| known(folder)), "seeds of no fuzzer: {folders:?}");
}

#[test]
fn every_function_a_job_can_import_takes_plain_arguments() {
    for (name, program) in fuzz::host_calls::seeds() {
        eprintln!("{name}");
        fuzz::host_calls::run(&program);
    }
}

#[test]
fn every_kind_of_component_is_admitted_or_refused_with_a_reason() {
    for (text, component) in fuzz::admission::seeds() {
        eprintln!("{text}");
        fuzz::admission::run(&component);
    }
}
