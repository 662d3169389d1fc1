//! The nats-server that `wasmjob up` runs as its child.
//!
//! ```text
//! <data>/                 0700, one `up` at a time (up.lock)
//!   endpoint.json         how commands on this machine get in, while `up` runs
//!   credentials/          nkey seeds: operator.nk, node-<name>.nk
//!   server/               nats.conf, users.json, nats-server.pid, tls/
//!   jetstream/            everything JetStream stores
//!   logs/                 nats-server.log, bounded
//! ```
//!
//! There is no anonymous mode: every user has an nkey, and a node's user may only do what a node does
//! (see [`permissions`]). On loopback the connection is plain; `--listen` puts TLS under everything,
//! this machine's own commands included.

mod address;
mod binary;
mod child_log;
mod conf;
mod credentials;
mod error;
mod exec_child;
mod folder;
mod invite;
mod leftover;
pub mod permissions;
mod supervise;
mod tls;
mod users;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

pub use address::{Listen, ListenError};
pub use binary::{Binary, find_binary};
pub use error::ServerError;
pub use exec_child::{ExecChildError, exec_child};
pub(crate) use exec_child::{launched, own_launcher};
pub use folder::DataFolder;
pub use invite::{invite, revoke};
pub use supervise::{ChildState, Output, Plan, SuperviseError, Supervised};

use crate::config::DiskSync;
use crate::connect::{self, ConnectError, Endpoint, EndpointFile};
use conf::Conf;
use credentials::Credentials;
use users::Users;

/// How often a server that is starting is asked whether it is there.
const READY_POLL: Duration = Duration::from_millis(25);

/// A server that keeps dying is reported after this many starts instead of at the deadline.
const READY_STARTS_MAX: u32 = 3;

/// How nats-server, like every Go program, is told how many threads run it. Who sets it is obeyed.
const SERVER_THREADS: &str = "GOMAXPROCS";

/// SIGTERM, and after this long SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What `up` was asked for.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The data folder; made when it is not there.
    pub data: PathBuf,
    /// `--listen`: the address others reach; none is loopback without TLS.
    pub listen: Option<Listen>,
    /// `--address`: what invitations name instead of the address that was guessed.
    pub address: Option<String>,
    /// Nodes that run on this machine and need a user of their own.
    pub nodes: Vec<String>,
    /// When what was written is on the disk.
    pub sync: DiskSync,
    /// The command that becomes a child bound to our life, usually our own binary and `exec-child`;
    /// empty starts the child directly, and then it survives when we are killed.
    pub launcher: Vec<std::ffi::OsString>,
}

impl ServerOptions {
    /// Loopback, nothing special, children bound to our life through our own binary.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        ServerOptions {
            data,
            listen: None,
            address: None,
            nodes: Vec::new(),
            sync: DiskSync::Within(Duration::from_secs(120)),
            launcher: own_launcher(),
        }
    }
}

/// A running nats-server, restarted when it dies and ended with [`Server::stop`].
/// Holds the lock on the data folder for as long as it lives.
#[derive(Debug)]
pub struct Server {
    folder: DataFolder,
    child: Supervised,
    operator: EndpointFile,
    credentials: Credentials,
}

impl Server {
    /// Prepares the data folder and starts the server; [`Server::ready`] waits until it answers.
    /// Errors: the folder is in use or too open, no nats-server, the address is taken.
    pub fn start(options: &ServerOptions) -> Result<Server, ServerError> {
        let binary = find_binary()?;
        let folder = DataFolder::open(&options.data)?.lock()?;
        leftover::end(&folder)?;
        let credentials = Credentials::new(&folder);
        let conf = prepare(options, &folder, &credentials)?;
        let operator = EndpointFile {
            v: EndpointFile::VERSION,
            url: conf.local_url(),
            ca: conf.ca_pem(&folder)?,
            nkey: credentials.operator()?.seed,
            name: None,
            inbox_prefix: None,
        };
        let child = Supervised::start(plan(&binary, &folder, options))?;
        Ok(Server { folder, child, operator, credentials })
    }

    /// Waits until the server answers, then lets the commands on this machine find it.
    /// Errors: it keeps dying (with the end of its log), or does not answer in time.
    pub async fn ready(&self, deadline: Duration) -> Result<(), ServerError> {
        let endpoint = self.endpoint();
        let answered = tokio::time::timeout(deadline, self.answers(&endpoint)).await;
        answered.unwrap_or_else(|_| {
            Err(ServerError::Silent { seconds: deadline.as_secs(), log: self.child.last_words() })
        })?;
        let text = serde_json::to_string_pretty(&self.operator).map_err(ServerError::encode)?;
        self.folder.write_private(&connect::endpoint_path(self.folder.path()), &text)
    }

    async fn answers(&self, endpoint: &Endpoint) -> Result<(), ServerError> {
        loop {
            let error = match connect::connect(endpoint).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            // Anything else than silence is an answer, and it will be the same the next time.
            if !matches!(error, ConnectError::Refused { .. } | ConnectError::Io { .. } | ConnectError::TimedOut { .. })
            {
                return Err(error.into());
            }
            if let ChildState::Down { starts, reason, .. } = &*self.child.state().borrow()
                && *starts >= READY_STARTS_MAX
            {
                return Err(ServerError::Dies { reason: reason.clone(), log: self.child.last_words() });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// The operator's endpoint: everything is allowed.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.operator.endpoint()
    }

    /// The endpoint of a node named in [`ServerOptions::nodes`], as a file for its process.
    pub fn node_endpoint(&self, name: &str) -> Result<EndpointFile, ServerError> {
        let user = self.credentials.node(name)?;
        Ok(EndpointFile {
            name: Some(name.to_owned()),
            inbox_prefix: Some(permissions::inbox_prefix(name)),
            nkey: user.seed,
            ..self.operator.clone()
        })
    }

    /// The data folder.
    #[must_use]
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// What the process does, to watch.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ChildState> {
        self.child.state()
    }

    /// The server's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// Ends the server, kindly at first, and withdraws the endpoint.
    pub async fn stop(mut self) {
        self.withdraw();
        self.child.stop().await;
    }

    fn withdraw(&self) {
        // Nothing to do about a file that is gone already.
        let _ = std::fs::remove_file(connect::endpoint_path(self.folder.path()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Settles address, certificates and users, and writes the configuration.
fn prepare(options: &ServerOptions, folder: &DataFolder, credentials: &Credentials) -> Result<Conf, ServerError> {
    // Waits for a `nodes invite` that is under way, and keeps the next one waiting.
    let _guard = folder.lock_users()?;
    let before = Conf::load(folder)?;
    let conf = Conf::settle(options, before.as_ref())?;
    if conf.tls {
        tls::ensure(folder, &conf.names())?;
    }
    let mut users = Users::load(folder)?;
    users.operator = credentials.ensure_operator()?;
    for name in &options.nodes {
        users.put(name, credentials.ensure_node(name)?);
    }
    users.save(folder)?;
    conf.save(folder, &users)?;
    Ok(conf)
}

/// Half of the cores are the server's and half the node's. With all of them it wakes threads for what one would
/// have done, and on two cores takes a tenth longer for everything.
fn server_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

fn plan(binary: &Binary, folder: &DataFolder, options: &ServerOptions) -> Plan {
    let program = binary.path.clone();
    let conf = folder.conf_path();
    Plan {
        name: "nats-server".to_owned(),
        command: Box::new(move || {
            let mut command = std::process::Command::new(&program);
            command.arg("-c").arg(&conf);
            if std::env::var_os(SERVER_THREADS).is_none() {
                command.env(SERVER_THREADS, server_threads().to_string());
            }
            command
        }),
        output: Output::File(folder.log_path("nats-server")),
        grace: STOP_GRACE,
        // Its log is a pipe to us, so once we are dead its first word on the way out would kill it anyway.
        // JetStream is made to survive that.
        death_signal: rustix::process::Signal::KILL,
        launcher: options.launcher.clone(),
    }
}
