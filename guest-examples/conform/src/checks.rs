//! Counts checks and prints those that fail.

use std::{fmt::Debug, io, process::ExitCode};

#[derive(Default)]
pub(crate) struct Checks {
    made: u32,
    failed: u32,
}

impl Checks {
    pub(crate) fn holds(&mut self, what: &str, holds: bool) {
        self.note(what, holds.then_some(()).ok_or_else(|| "it does not".to_owned()));
    }

    #[allow(clippy::needless_pass_by_value, reason = "calls read better")]
    pub(crate) fn equal<T: PartialEq + Debug>(&mut self, what: &str, got: T, expected: T) {
        let note = if got == expected { Ok(()) } else { Err(format!("{got:?} instead of {expected:?}")) };
        self.note(what, note);
    }

    pub(crate) fn is_ok<T>(&mut self, what: &str, done: io::Result<T>) -> Option<T> {
        let note = done.as_ref().map(drop).map_err(ToString::to_string);
        self.note(what, note);
        done.ok()
    }

    /// It fails with one of these numbers of the system.
    #[cfg(target_os = "wasi")]
    pub(crate) fn fails<T>(&mut self, what: &str, done: io::Result<T>, expected: &[i32]) {
        let note = match done {
            Ok(_) => Err("it worked".into()),
            Err(error) if error.raw_os_error().is_some_and(|code| expected.contains(&code)) => Ok(()),
            Err(error) => Err(format!("{error:?} instead of {expected:?}")),
        };
        self.note(what, note);
    }

    pub(crate) fn note(&mut self, what: &str, note: Result<(), String>) {
        self.made += 1;
        if let Err(difference) = note {
            self.failed += 1;
            eprintln!("{what}: {difference}");
        }
    }

    pub(crate) fn end(self) -> ExitCode {
        eprintln!("{} checks, {} failed", self.made, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
