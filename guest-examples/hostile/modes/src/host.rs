//! What makes the host work or hold something.

use std::{fs::File, hint::black_box, mem};

use wasip2::{
    cli::{stderr::get_stderr, stdout::get_stdout},
    clocks::monotonic_clock::{now, subscribe_duration},
    filesystem::preopens::get_directories,
    io::poll::{Pollable, poll as poll_all},
    random::random::get_random_bytes,
};

const CALL_BYTES: usize = 17 * 1024 * 1024;
/// Each is a handle for as long as the call lasts.
const POLLED: usize = 3_000;

/// Costs the guest nearly nothing.
pub(crate) fn calls() -> Result<(), String> {
    loop {
        black_box(now());
    }
}

/// Few calls, with as much in each as one can carry.
pub(crate) fn bytes() -> Result<(), String> {
    let bytes = vec![b'x'; 64 * 1024];
    let err = get_stderr();
    loop {
        err.check_write().and_then(|_| err.write(&bytes)).map_err(|error| error.to_string())?;
    }
}

/// The same timer many times in one call.
pub(crate) fn poll() -> Result<(), String> {
    let timer = subscribe_duration(0);
    let all = vec![&timer; POLLED];
    loop {
        black_box(poll_all(&all));
    }
}

pub(crate) fn handles() -> Result<(), String> {
    loop {
        mem::forget(get_stdout());
    }
}

pub(crate) fn timers() -> Result<(), String> {
    let mut timers: Vec<Pollable> = Vec::new();
    loop {
        timers.push(subscribe_duration(u64::MAX));
    }
}

pub(crate) fn call() -> Result<(), String> {
    let _ = get_stdout().write(&vec![b'x'; CALL_BYTES]);
    Err("the host took it".into())
}

pub(crate) fn random() -> Result<(), String> {
    Err(format!("the host gave {} bytes", get_random_bytes(CALL_BYTES as u64).len()))
}

pub(crate) fn random_fuel() -> Result<(), String> {
    loop {
        black_box(get_random_bytes(64 * 1024));
    }
}

pub(crate) fn files() -> Result<(), String> {
    let mut files = Vec::new();
    loop {
        files.push(File::create("/scratch/file").map_err(|error| error.to_string())?);
    }
}

pub(crate) fn listings() -> Result<(), String> {
    let folders = get_directories();
    let (folder, _) = folders.first().ok_or("it has no folder")?;
    loop {
        mem::forget(folder.read_directory().map_err(|error| error.to_string())?);
    }
}
