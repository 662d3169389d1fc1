//! Memory that was freed goes back to the system.
//!
//! The C library keeps what threads have freed for the next time. After a job that made the node hold a
//! lot for a moment, that would stay with the node for ever, and look like a leak.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// From how many bytes on what is allocated has a mapping of its own, which ends as soon as it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 256 << 10;
/// How many heaps the threads share. With the C library's own number, eight for every core, what little
/// each keeps between its pieces adds up: components and outputs come and go on every thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 8;
/// How much of what is free at the end of a heap stays there until it is given back: page faults cost more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 8 << 20;
/// How often it is given back.
const EVERY: Duration = Duration::from_secs(10);

/// Gives memory back now and then, on a thread of its own because that takes milliseconds, until what this
/// returns is dropped.
pub fn keep_small() -> Sender<()> {
    let (keep, kept) = channel();
    let work = move || {
        while kept.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            give_back();
        }
    };
    // Without the thread the node only takes more memory than it needs.
    drop(thread::Builder::new().name("memory".into()).spawn(work));
    keep
}

/// Sets how much the C library's allocator keeps. To be called before there is a second thread: a thread stays
/// with the heap that it was given.
///
/// The C library raises the border of what is large to the largest piece that was ever freed, up to 32 MiB.
/// Components then lie in the heaps between small things that stay, and the heaps never shrink.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn start_small() {
    // SAFETY: these only set numbers of the allocator's, under its own locks.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn give_back() {
    // SAFETY: it changes nothing but the allocator's own state, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other systems' allocators have no such settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn start_small() {}

/// Other systems' allocators do that by themselves, or cannot be asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn map_what_is_large() {}
