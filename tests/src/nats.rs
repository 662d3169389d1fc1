//! A nats-server of one's own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;

/// Starts the server and kills it when standard input ends, which is when the test is over, in
/// whatever way: `kill -9` included. The shell lets go of standard error, so that reading it ends
/// when the server does.
const KEEPER: &str = r#""$@" </dev/null & server=$!; exec 2>/dev/null; read -r _; kill -KILL "$server"; wait"#;

/// A nats-server with JetStream on a free port and a store of its own. Dropping it kills it.
pub struct NatsServer {
    keeper: Child,
    url: String,
    dir: TempDir,
}

impl NatsServer {
    /// Starts a server that lets everybody in. Panics, with what the server said, if it does not
    /// come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// Starts a server with more lines in the `jetstream` block of its configuration, and more
    /// lines after it.
    #[must_use]
    pub fn start_with(jetstream: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("tests need a temporary folder");
        let store = dir.path().display();
        let config =
            format!("listen: \"127.0.0.1:-1\"\njetstream {{\n  store_dir: \"{store}\"\n{jetstream}\n}}\n{more}\n");
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, config).expect("a new temporary folder can be written");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program())
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let stderr = keeper.stderr.take().expect("standard error is piped");
        let url = wait_until_ready(stderr);
        Self { keeper, url, dir }
    }

    /// Where clients connect: `nats://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder with the server's store and configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection to it.
    pub async fn connect(&self) -> async_nats::Client {
        async_nats::connect(&self.url).await.expect("a server that said it is ready takes connections")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The server on the PATH, or else the one in the project's tool folder.
fn program() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([tools])
        .map(|dir| dir.join("nats-server"))
        .find(|program| program.is_file())
        .expect("nats-server is neither on the PATH nor in .tools/bin: tests/run puts it there")
}

/// Reads what the server says until it is ready, and lets it go on talking after that.
fn wait_until_ready(stderr: ChildStderr) -> String {
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let mut said = Vec::new();
    let mut url = None;
    for line in lines.by_ref() {
        if let Some((_, address)) = line.split_once("Listening for client connections on ") {
            url = Some(format!("nats://{address}"));
        }
        if line.contains("Server is ready") {
            break;
        }
        said.push(line);
    }
    std::thread::spawn(move || lines.for_each(drop));
    url.unwrap_or_else(|| panic!("nats-server did not start:\n{}", said.join("\n")))
}
