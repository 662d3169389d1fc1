//! Tells the crate which exact wasmtime it is built with.
//!
//! wasmtime itself only compares major versions when it loads compiled code, so code that a faulty
//! patch release produced would outlive the release that fixes it.

use std::{env, fs, path::Path};

fn main() {
    let lock = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../Cargo.lock");
    println!("cargo:rerun-if-changed={}", lock.display());
    let version = fs::read_to_string(&lock).ok().and_then(|text| locked_version(&text));
    println!("cargo:rustc-env=WASMTIME_VERSION={}", version.expect("Cargo.lock names a wasmtime"));
}

fn locked_version(lock: &str) -> Option<String> {
    let (_, after) = lock.split_once("name = \"wasmtime\"\nversion = \"")?;
    Some(after.split_once('"')?.0.to_owned())
}
