//! The nats-server that works in a data folder, told from any other process by its command line.
//!
//! Usually it dies with its `up`. Where the system cannot promise that (macOS), one may be left, and
//! two servers on one store would destroy it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{DataFolder, ServerError};

/// SIGTERM, and after this long SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// After SIGKILL only a process stuck in the kernel is still there.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// The server that runs with this folder's configuration.
pub(super) fn running(folder: &DataFolder) -> Option<Pid> {
    let text = fs::read_to_string(folder.pid_path()).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    // The number may have passed to another process since.
    let conf = folder.conf_path();
    let ours = conf.as_os_str().as_bytes();
    command_line(pid)?.windows(ours.len()).any(|part| part == ours).then_some(pid)
}

/// Ends the server of an earlier `up`. To be called with the lock on the folder held.
pub(super) fn end(folder: &DataFolder) -> Result<(), ServerError> {
    let Some(pid) = running(folder) else { return Ok(()) };
    tracing::warn!(pid = pid.as_raw_nonzero().get(), "ending the nats-server of an earlier `wasmjob up`");
    for (signal, wait) in [(Signal::TERM, GRACE), (Signal::KILL, KILL_WAIT)] {
        // It may be gone already, which is what was wanted.
        let _ = kill_process(pid, signal);
        if gone_within(folder, pid, wait) {
            return Ok(());
        }
    }
    Err(ServerError::Leftover { pid: pid.as_raw_nonzero().get() })
}

fn gone_within(folder: &DataFolder, pid: Pid, wait: Duration) -> bool {
    let asked = Instant::now();
    // Not our child, so it cannot be waited for; and one that nobody waits for keeps its number, so the
    // number alone does not tell.
    while running(folder).is_some() || holds_its_port(pid) {
        if asked.elapsed() >= wait {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Whether a process that ends is not through with it: its command line goes first, its sockets last.
fn holds_its_port(pid: Pid) -> bool {
    let ends = command_line(pid).is_some_and(|line| line.is_empty());
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero().get()));
    let state = stat.ok().and_then(|stat| stat.rsplit(')').next()?.trim_start().chars().next());
    ends && state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn command_line(pid: Pid) -> Option<Vec<u8>> {
    let number = pid.as_raw_nonzero().get().to_string();
    if cfg!(target_os = "linux") {
        return fs::read(format!("/proc/{number}/cmdline")).ok();
    }
    let asked = Command::new("ps").args(["-ww", "-o", "args=", "-p", &number]).output().ok()?;
    Some(asked.stdout)
}
