//! Why there is no connection, and what to try.

use std::path::PathBuf;

use super::SERVER_VERSION_MIN;

/// Why NATS could not be reached or used. URLs are shown without passwords.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing says where NATS is.
    #[error("no NATS is configured and none runs from {}", data.display())]
    Nowhere {
        /// The data folder that was looked into.
        data: PathBuf,
    },
    /// Nothing listens at the address.
    #[error("no NATS at {url}: the connection was refused")]
    Refused {
        /// The address.
        url: String,
    },
    /// Nothing answered in time.
    #[error("no answer from NATS at {url}")]
    TimedOut {
        /// The address.
        url: String,
    },
    /// The host name means nothing here.
    #[error("cannot find the host of {url}: {reason}")]
    Name {
        /// The address.
        url: String,
        /// What the resolver says.
        reason: String,
    },
    /// The address is not one.
    #[error("`{url}` is not a NATS address: {reason}")]
    Url {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server proved to be someone else, or offers no TLS.
    #[error("no trusted connection to NATS at {url}: {reason}")]
    Tls {
        /// The address.
        url: String,
        /// What failed.
        reason: String,
    },
    /// The server knows no such user.
    #[error("NATS at {url} refused the credentials")]
    Credentials {
        /// The address.
        url: String,
    },
    /// A server without things the queue needs.
    #[error("NATS at {url} is nats-server {version}, too old")]
    TooOld {
        /// The address.
        url: String,
        /// Its version.
        version: String,
    },
    /// A server that stores nothing.
    #[error("NATS at {url} has JetStream switched off")]
    NoJetStream {
        /// The address.
        url: String,
    },
    /// A file with an address or credentials in it is unusable.
    #[error("cannot use {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else on the wire.
    #[error("cannot connect to NATS at {url}: {reason}")]
    Io {
        /// The address.
        url: String,
        /// What failed.
        reason: String,
    },
}

impl ConnectError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        let (major, minor, patch) = SERVER_VERSION_MIN;
        let hint = match self {
            Self::Nowhere { .. } => "start one with `wasmjob up`, or name one with --nats URL",
            Self::Refused { .. } => "start one with `wasmjob up`, or check the address and port",
            Self::TimedOut { .. } | Self::Io { .. } => {
                "check the address, the port and any firewall between"
            }
            Self::Name { .. } => "check the spelling of the host",
            Self::Url { .. } => "write it as nats://HOST:4222 or tls://HOST:4222",
            Self::Tls { .. } => {
                "use the file made by `wasmjob nodes invite`, or set nats.ca to the server's CA"
            }
            Self::Credentials { .. } => {
                "give the right file with --creds, or a fresh invitation with --join"
            }
            Self::TooOld { .. } => {
                return format!("run nats-server {major}.{minor}.{patch} or newer");
            }
            Self::NoJetStream { .. } => {
                "start that nats-server with -js, or with a jetstream block"
            }
            Self::File { .. } => "give a file made by `wasmjob nodes invite` or a NATS .creds file",
        };
        hint.to_owned()
    }
}
