//! What an attempt may reach besides its input: nothing, unless it was granted.
//!
//! The host turns the grants of a job, and what the operator offers, into these values: folders are
//! open, names are resolved, secrets are read. The sandbox hands out exactly what is here.

use std::{collections::BTreeMap, fmt, fs::File, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::CertificateDer};

use crate::{artifacts::AccessError, blob::Digest};

/// Everything one attempt was granted.
#[derive(Default, Clone)]
pub struct Grants {
    /// `fs`: folders of the host.
    pub folders: Vec<Folder>,
    /// `scratch`: bytes of a folder of its own, at [`SCRATCH_PATH`], gone afterwards.
    pub scratch_bytes: Option<u64>,
    /// `net`: where it may open TCP connections.
    pub net: Vec<Target>,
    /// `http`: hosts it may send requests to.
    pub http: Vec<Target>,
    /// Whom `http` believes who a host is; without it there are no requests over TLS.
    pub trust: Option<Trust>,
    /// `clock`: how fine its clocks are.
    pub clock: Clock,
    /// `random`: where its random numbers come from.
    pub random: Random,
    /// `artifacts`: names it may read or set.
    pub names: Option<NameGrants>,
    /// `jobs`: children it may submit.
    pub children: Option<ChildGrant>,
    /// Secrets, by name.
    pub secrets: BTreeMap<String, Secret>,
}

/// Where the guest finds its scratch folder.
pub const SCRATCH_PATH: &str = "/scratch";

/// A folder of the host, open: nothing that happens to its path later matters.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder itself.
    pub dir: Arc<File>,
    /// Where the guest finds it.
    pub guest: String,
    /// Whether the guest may change what is in it.
    pub write: bool,
}

/// A host that may be connected to, with the addresses it had when the attempt began: a name that
/// is resolved again could point elsewhere by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name, lower case, or an address as text.
    pub host: String,
    /// The port; `None` is any (`http` without a port: 80 and 443).
    pub port: Option<u16>,
    /// What the name stands for.
    pub addresses: Vec<IpAddr>,
}

/// Certificate authorities.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts these authorities, each a certificate in DER; what is none is left out.
    pub fn new(authorities: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.into_iter().map(CertificateDer::from));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what the versions that are on by default need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that is taken up again would tell a server that two attempts ran on one node.
        config.resumption = Resumption::disabled();
        Trust(Arc::new(config))
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// How fine a guest's clocks are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// To the millisecond: too coarse to see what other guests do to the caches.
    #[default]
    Coarse,
    /// As fine as the machine's.
    Real,
}

/// Where a guest's random numbers come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Random {
    /// The operating system.
    #[default]
    Real,
    /// This seed: the same numbers in every attempt.
    Seed(u64),
}

/// Which names may be used, and who knows them.
#[derive(Clone)]
pub struct NameGrants {
    /// Prefixes, and whether names below each may be set.
    pub prefixes: Vec<(String, bool)>,
    /// Who knows the names.
    pub names: Arc<dyn Names>,
}

/// Names of artifacts, with history.
#[async_trait]
pub trait Names: Send + Sync {
    /// The artifact that has this name now.
    async fn get(&self, name: &str) -> Result<Digest, AccessError>;

    /// Gives the name to this artifact.
    async fn set(&self, name: &str, digest: Digest) -> Result<(), AccessError>;
}

/// How many children may be submitted, and how.
#[derive(Clone)]
pub struct ChildGrant {
    /// Children of one job, all attempts together: an attempt that is made again submits the same.
    pub max: u32,
    /// Who takes them.
    pub children: Arc<dyn Children>,
}

/// Takes jobs that a job submits.
#[async_trait]
pub trait Children: Send + Sync {
    /// Submits the child with this number, counted from 0 in every attempt: the same number is the
    /// same job. `spec` is a job spec without `v`, `id` and `parent`; the answer is the child's id.
    async fn submit(&self, number: u32, spec: &str) -> Result<String, AccessError>;
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Keeps `bytes` out of every log and message.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Secret(bytes.into())
    }

    pub(crate) fn reveal(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
