//! Memory that was freed goes back to the system.
//!
//! The C library keeps what threads have freed for the next time. After a job that made the node hold a
//! lot for a moment, that would stay with the node for ever, and look like a leak.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

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

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn give_back() {
    // SAFETY: it changes nothing but the allocator's own state, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other systems' allocators do that by themselves, or cannot be asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
