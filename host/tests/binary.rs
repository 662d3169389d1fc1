//! The command itself. That this test needs the binary is also what makes cargo build it for all the
//! other tests, with the same features and thus only once.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_binary_says_its_name_and_version() {
    let said = Command::new(env!("CARGO_BIN_EXE_wasmjob")).arg("--version").output().unwrap();
    assert!(said.status.success());
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), format!("wasmjob {}", env!("CARGO_PKG_VERSION")));
}
