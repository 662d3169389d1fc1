//! The step between us and a child that makes the child end when we do, however we end.
//!
//! Linux can send a process a signal when its parent dies, but the process has to ask for it itself,
//! between fork and exec. Doing that from Rust needs `unsafe`, so the child is started as ourselves:
//! `wasmjob exec-child PARENT SIGNAL PROGRAM ARGS...` asks, and then becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid};

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecChildError {
    /// Called by hand.
    #[error("exec-child needs a parent, a signal and a program")]
    Arguments,
    /// The parent died before the child could ask for its signal.
    #[error("the parent process is gone")]
    ParentGone,
    /// The system refused.
    #[error("cannot become {program}: {source}")]
    Exec {
        /// The program.
        program: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Becomes the program named in the arguments (those after `exec-child`); returns only when it cannot.
/// To be called on the main thread before anything else is started.
pub fn exec_child(args: impl IntoIterator<Item = OsString>) -> ExecChildError {
    let mut args = args.into_iter();
    let mut number = || args.next()?.to_str()?.parse::<i32>().ok();
    let (Some(parent), Some(signal)) = (number(), number()) else {
        return ExecChildError::Arguments;
    };
    let (Some(signal), Some(program)) = (Signal::from_named_raw(signal), args.next()) else {
        return ExecChildError::Arguments;
    };
    let failed = |source: std::io::Error| ExecChildError::Exec { program: program.display().to_string(), source };
    if let Err(error) = follow_parent(signal) {
        return failed(error);
    }
    // Asked too late if the parent died meanwhile: then somebody else is our parent now.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return ExecChildError::ParentGone;
    }
    let error = Command::new(&program).args(args).exec();
    failed(error)
}

#[cfg(target_os = "linux")]
fn follow_parent(signal: Signal) -> std::io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
}

#[cfg(not(target_os = "linux"))]
fn follow_parent(_signal: Signal) -> std::io::Result<()> {
    Ok(())
}

/// Our own binary with `exec-child`. Nothing where the system has no such signal.
pub(crate) fn own_launcher() -> Vec<OsString> {
    // The link, and not what it points to: it stays right when the file is replaced while we run.
    if cfg!(target_os = "linux") { vec!["/proc/self/exe".into(), "exec-child".into()] } else { Vec::new() }
}

/// The command that starts `command` through the launcher.
pub(crate) fn launched(launcher: &[OsString], command: &Command, signal: Signal) -> Command {
    let Some((program, args)) = launcher.split_first() else {
        return copied(command, None);
    };
    let mut outer = Command::new(program);
    outer.args(args).arg(std::process::id().to_string()).arg(signal.as_raw().to_string());
    outer.arg(command.get_program());
    copied(command, Some(outer))
}

/// Arguments, environment and folder of a command, on another one or on a new one of the same program.
fn copied(from: &Command, onto: Option<Command>) -> Command {
    let mut onto = onto.unwrap_or_else(|| Command::new(from.get_program()));
    onto.args(from.get_args());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => onto.env(name, value),
            None => onto.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        onto.current_dir(folder);
    }
    onto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_before_anything_happens() {
        let call = |args: &[&str]| exec_child(args.iter().map(OsString::from));
        assert!(matches!(call(&[]), ExecChildError::Arguments));
        assert!(matches!(call(&["x", "15", "true"]), ExecChildError::Arguments));
        assert!(matches!(call(&["1", "15"]), ExecChildError::Arguments));
    }

    #[test]
    fn a_launched_command_keeps_its_arguments_and_environment() {
        let mut command = Command::new("server");
        command.args(["-c", "conf"]).env("A", "1");
        let launched = launched(&["me".into(), "exec-child".into()], &command, Signal::TERM);
        let args: Vec<_> = launched.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(launched.get_program(), "me");
        assert_eq!(args[0], "exec-child");
        assert_eq!(args[2..], ["15", "server", "-c", "conf"]);
        assert_eq!(launched.get_envs().count(), 1);
    }
}
