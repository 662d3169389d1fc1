//! A machine of one's own, as far as `wasmjob` can see: a data folder, an environment, commands.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::process::until;

/// A data folder and a folder for files. What other tests or the person at the machine have set up
/// is out of sight.
pub struct Machine {
    dir: PathBuf,
    files: AtomicUsize,
    /// Whether the folder is ours to remove.
    own: bool,
}

impl Machine {
    /// A machine on which `wasmjob` was never run. Its folder goes with it.
    #[must_use]
    pub fn new() -> Self {
        Self::make(true)
    }

    /// The same, with a folder that somebody else removes.
    pub(crate) fn in_kept_folder() -> Self {
        Self::make(false)
    }

    fn make(own: bool) -> Self {
        let dir = tempfile::tempdir().expect("tests need a temporary folder").keep();
        let machine = Self { dir, files: AtomicUsize::new(0), own };
        std::fs::create_dir(machine.path("tmp")).expect("a new folder can be written");
        machine
    }

    /// The folder that holds everything of this machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in its folder; `data` is the data folder, `tmp` the one for temporary files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("the folder is ours");
        path.display().to_string()
    }

    /// Writes a component given in the text format and gives its path.
    pub fn guest(&self, wat: &str) -> String {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        self.file(&format!("guest-{number}.wasm"), wat::parse_str(wat).expect("the guest is valid"))
    }

    /// `wasmjob` on this machine, with nothing of ours in its environment.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WASMJOB_") && name != "WASMJOB_NATS_SERVER" {
                command.env_remove(name);
            }
        }
        command.args(args).env("WASMJOB_DATA", self.path("data")).env("TMPDIR", self.path("tmp"));
        // A node that is gone is missed soon.
        command.env("WASMJOB_QUEUE_LEASE", "2s");
        command
    }

    /// Runs `wasmjob` to its end.
    #[track_caller]
    pub fn wasmjob(&self, args: &[&str]) -> Said {
        self.start(args).finish()
    }

    /// Runs `wasmjob` to its end with `input` on its standard input.
    #[track_caller]
    pub fn wasmjob_reading(&self, input: &[u8], args: &[&str]) -> Said {
        Started::new(self.command(args), input.to_vec()).finish()
    }

    /// Runs `wasmjob --json` to its end, which has to be a good one, and reads what it prints.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.wasmjob(&[args, &["--json"]].concat()).succeeded().json()
    }

    /// Starts `wasmjob` and lets it run.
    pub fn start(&self, args: &[&str]) -> Started {
        Started::new(self.command(args), Vec::new())
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.own {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The binary that was built together with the tests.
/// Panics, with what to do, if it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let built = own.ancestors().nth(2).expect("cargo puts tests into target/release/deps").join("wasmjob");
    assert!(
        built.is_file(),
        "{} is missing: run the tests of the whole workspace (`cargo test --release --workspace`), which builds it",
        built.display()
    );
    built
}

/// A command that runs. Dropping it kills it.
pub struct Started {
    command: String,
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

impl Started {
    fn new(mut command: Command, input: Vec<u8>) -> Self {
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let shown = format!("wasmjob {}", args.join(" "));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary can be run");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        // A command that ends without reading its input is what some tests are about.
        thread::spawn(move || stdin.write_all(&input));
        let out = child.stdout.take().map(reader);
        let err = child.stderr.take().map(reader);
        Self { command: shown, child, out, err }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Said {
        let status = until(&self.command, || self.child.try_wait().expect("it is our child"));
        let all =
            |thread: Option<JoinHandle<Vec<u8>>>| thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
        Said {
            command: std::mem::take(&mut self.command),
            code: status.code(),
            out: all(self.out.take()),
            err: String::from_utf8_lossy(&all(self.err.take())).into_owned(),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Said {
    command: String,
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Checks that it ended with 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended(0)
    }

    /// Checks its exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        let out = String::from_utf8_lossy(&self.out);
        assert_eq!(self.code, Some(code), "{}\nstdout: {out}\nstderr: {}", self.command, self.err);
        self
    }

    /// Checks that standard error has all of these in it.
    #[track_caller]
    pub fn saying(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err.contains(text), "{} does not say `{text}`:\n{}", self.command, self.err);
        }
        self
    }

    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("the output is text")
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| {
            panic!("{} prints no JSON: {error}\nstdout: {}\nstderr: {}", self.command, self.text(), self.err)
        })
    }
}
