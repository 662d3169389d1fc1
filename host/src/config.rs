//! What is in force, and where each value came from.
//!
//! Four layers, later ones win: defaults, one TOML file, the environment, flags. Every value is kept
//! as the text that was given together with its source, so that `wasmjob config` can show both and an
//! error can say which of them to change. A key nobody knows is an error in every layer: a limit that
//! is silently not in force is worse than a node that does not start.

mod error;
mod file;
mod keys;
mod machine;
mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
pub use keys::is_name as is_node_name;
pub use machine::{data_folder, host_name};
use reader::Reader;
use wasmjob_runtime::{TrustedKeys, grants::Clock};

pub use crate::grants::Offered;

/// Everything that can be configured, checked and typed.
#[derive(Clone)]
pub struct Config {
    /// The data folder: `WASMJOB_DATA`, or a place below the home folder.
    pub data: PathBuf,
    /// Where NATS is and how to get in.
    pub nats: Nats,
    /// This machine as a node.
    pub node: Node,
    /// How queues are worked.
    pub queue: Queue,
    /// What jobs may be granted.
    pub grants: Grants,
    /// Limits as text, by name; the runtime gives them meaning.
    pub limits: Limits,
    /// Where artifacts are kept; none means in NATS.
    pub artifacts: Artifacts,
    /// What is said on stderr.
    pub log: Log,
    /// Who must have signed a component that is run; nobody unless it is set.
    pub trusted_keys: TrustedKeys,
    settings: BTreeMap<String, Setting>,
}

/// Section `nats`.
#[derive(Clone)]
pub struct Nats {
    /// `nats://` or `tls://` addresses, comma separated.
    pub url: Option<String>,
    /// A credentials file: NATS `.creds`, or a bare nkey seed.
    pub creds: Option<PathBuf>,
    /// The certificate authority (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Copies of each stream that is made here, on different servers.
    pub replicas: usize,
    /// How long the server that `up` runs may keep writes to itself before it has them put on its disk.
    pub sync: DiskSync,
}

/// Section `node`.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name of this node, unique among those that share a NATS.
    pub name: String,
    /// Attempts that may run at the same time.
    pub slots: usize,
    /// Memory, in bytes, that may be promised to running attempts together.
    pub memory: u64,
    /// Labels that jobs can require, `KEY=VALUE`.
    pub labels: BTreeMap<String, String>,
    /// Queues this node takes work from.
    pub queues: Vec<WorkedQueue>,
    /// Loopback address of metrics and health.
    pub http: SocketAddr,
    /// How long a draining node waits for its running attempts.
    pub drain: Duration,
    /// Bytes the cache of artifacts may take.
    pub cache: u64,
}

/// When what was written is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskSync {
    /// Before it is acknowledged.
    Always,
    /// After this long at the latest.
    Within(Duration),
}

/// A queue that a node works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkedQueue {
    /// Its name.
    pub name: String,
    /// Attempts that may run at the same time, where that is not `slots` of the node.
    pub slots: Option<usize>,
}

/// Section `queue`.
#[derive(Debug, Clone)]
pub struct Queue {
    /// How long an attempt stays with a node that has stopped renewing it.
    pub lease: Duration,
}

/// Section `grants`: what jobs may be granted at most.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Folders that are offered, by name.
    pub fs: BTreeMap<String, Offered>,
    /// Bytes of scratch for one job.
    pub scratch_bytes_max: u64,
    /// Where jobs may connect to.
    pub net: Vec<String>,
    /// Where jobs may send requests to.
    pub http: Vec<String>,
    /// The finest clock.
    pub clock: Clock,
    /// Prefixes of names of artifacts, and whether they may be set.
    pub artifacts: Vec<(String, bool)>,
    /// Children of one job.
    pub jobs_max: u32,
}

/// Section `limits`: names and values as text.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// What a job gets when it asks for nothing.
    pub default: BTreeMap<String, String>,
    /// What a job may ask for at most.
    pub max: BTreeMap<String, String>,
}

/// Section `artifacts`.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// A folder or an S3 URL.
    pub url: Option<String>,
}

/// Section `log`.
#[derive(Debug, Clone)]
pub struct Log {
    /// Text for people, JSON for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,wasmjob_host=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// One value as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    value: String,
    source: Source,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Env(String),
    /// A command line flag, as typed.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One line of `wasmjob config`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// The key, as in the file: `node.slots`.
    pub key: String,
    /// The value as text; nothing when there is none. Passwords in URLs are left out.
    pub value: Option<String>,
    /// Where it came from, for people.
    pub source: String,
}

/// A value given on the command line.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// The flag as typed, for messages: `--nats`.
    pub flag: &'static str,
    /// The key it sets: `nats.url`.
    pub key: String,
    /// The value as text.
    pub value: String,
}

/// What to read, given as values so that tests need no process-wide state.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// `--config`: must exist. Without it `<data>/config.toml` is read if it is there.
    pub file: Option<PathBuf>,
    /// The environment, usually `std::env::vars()`.
    pub env: Vec<(String, String)>,
    /// Values of flags.
    pub flags: Vec<FlagValue>,
}

impl Layers {
    /// The process's own environment, a file and flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<FlagValue>) -> Self {
        // Variables that are not text cannot be ours: every name and value of ours is ASCII or a path.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Layers { file, env, flags }
    }
}

impl Config {
    /// Reads all layers and checks every value.
    /// Errors: an unknown key, a value that is wrong, a file that cannot be read; each names its source.
    pub fn load(layers: &Layers) -> Result<Config, ConfigError> {
        let data = data_folder(&layers.env).ok_or(ConfigError::NoHome)?;
        let mut settings = keys::defaults();
        let in_data = data.join("config.toml");
        match &layers.file {
            Some(path) => settings.extend(file::read(path)?),
            None if in_data.is_file() => settings.extend(file::read(&in_data)?),
            None => {}
        }
        settings.extend(from_env(&layers.env)?);
        settings.extend(from_flags(&layers.flags)?);
        Config::check(&data, settings)
    }

    fn check(data: &Path, settings: BTreeMap<String, Setting>) -> Result<Config, ConfigError> {
        let read = Reader { settings: &settings, data };
        Ok(Config {
            nats: read.nats()?,
            node: read.node()?,
            queue: Queue { lease: read.lease()? },
            grants: read.grants()?,
            limits: read.limits(),
            artifacts: Artifacts { url: read.text("artifacts.url") },
            log: Log { format: read.log_format()?, level: read.required("log.level").to_owned() },
            trusted_keys: read.trusted_keys()?,
            data: data.to_owned(),
            settings,
        })
    }

    /// Where the value of a key came from; `Default` for a key that was never set.
    #[must_use]
    pub fn source(&self, key: &str) -> Source {
        self.settings.get(key).map_or(Source::Default, |setting| setting.source.clone())
    }

    /// Every key with its value and source, in the order of the names.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.settings.iter().map(row).collect();
        let unset = keys::KEYS.iter().filter(|key| !self.settings.contains_key(key.name));
        rows.extend(unset.map(|key| Row {
            key: key.name.to_owned(),
            value: None,
            source: Source::Default.to_string(),
        }));
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows
    }

    /// The same as one JSON object: the data folder and the rows by key.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let values: serde_json::Map<String, serde_json::Value> = self
            .rows()
            .into_iter()
            .map(|row| (row.key, serde_json::json!({"value": row.value, "source": row.source})))
            .collect();
        serde_json::json!({"data": self.data, "values": values})
    }
}

impl fmt::Debug for Config {
    /// The rows, because the values themselves may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("data", &self.data).field("rows", &self.rows()).finish()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(redact_url);
        let Nats { url: _, creds, ca, replicas, sync } = self;
        f.debug_struct("Nats")
            .field("url", &url)
            .field("creds", creds)
            .field("ca", ca)
            .field("replicas", replicas)
            .field("sync", sync)
            .finish()
    }
}

fn row((key, setting): (&String, &Setting)) -> Row {
    let shown = match key.as_str() {
        "nats.url" | "artifacts.url" => redact_url(&setting.value),
        _ => setting.value.clone(),
    };
    Row { key: key.clone(), value: Some(shown), source: setting.source.to_string() }
}

/// A URL list without its passwords and tokens.
#[must_use]
pub fn redact_url(urls: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://***@{}", &url[..scheme], &url[at + 1..])
        }
        (None, Some(at)) => format!("***@{}", &url[at + 1..]),
        _ => url.to_owned(),
    };
    urls.split(',').map(one).collect::<Vec<_>>().join(",")
}

fn from_env(env: &[(String, String)]) -> Result<Vec<(String, Setting)>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in env.iter().filter(|(_, value)| !value.is_empty()) {
        let source = Source::Env(name.clone());
        match keys::of_env(name) {
            keys::EnvName::Key(key) => {
                found.push((key, Setting { value: value.clone(), source }));
            }
            keys::EnvName::Unknown(key) => return Err(ConfigError::unknown(key, source)),
            keys::EnvName::NotOurs => {}
        }
    }
    // The short names (`WASMJOB_NATS`) give way to the exact ones when both are set.
    found.sort_by_key(|(_, setting)| match &setting.source {
        Source::Env(name) => name.len(),
        _ => 0,
    });
    Ok(found)
}

fn from_flags(flags: &[FlagValue]) -> Result<Vec<(String, Setting)>, ConfigError> {
    flags
        .iter()
        .map(|given| {
            let source = Source::Flag(given.flag);
            match keys::is_known(&given.key) {
                true => Ok((given.key.clone(), Setting { value: given.value.clone(), source })),
                false => Err(ConfigError::unknown(given.key.clone(), source)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
