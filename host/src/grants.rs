//! What jobs may be granted here: what the operator offers, and how a job's grants become open
//! folders, addresses and secrets.
//!
//! Nothing is offered unless the configuration says so, but what harms nobody: a scratch folder, names
//! of artifacts, children. Under `wasmjob run` the caller is the operator and offers everything.

mod children;
mod folders;
mod names;
mod network;
mod secrets;

use std::{collections::BTreeSet, sync::Arc};

use wasmjob_runtime::{
    Grants,
    grants::{ChildGrant, Children, Clock, NameGrants, Names},
};

pub use children::{ClusterChildren, NoChildren};
pub use folders::{Folders, Offered};
pub use names::{ClusterNames, NoNames};
pub use network::{Allowed, parse_target as target};
pub use secrets::{SECRET_BYTES_MAX, SecretError, Secrets, is_secret_name};

use crate::{
    config::Config,
    wire::{Grant, JobSpec},
};

/// Everything a job can be granted on this machine.
pub struct Offers {
    /// Folders, by name.
    pub folders: Folders,
    /// Bytes of scratch for one job.
    pub scratch_bytes_max: u64,
    /// Where jobs may connect to.
    pub net: Vec<String>,
    /// Where jobs may send requests to.
    pub http: Vec<String>,
    /// The finest clock.
    pub clock: Clock,
    /// Prefixes of names, and whether names below each may be set.
    pub artifacts: Vec<(String, bool)>,
    /// Children of one job.
    pub jobs_max: u32,
    /// Secrets of this machine.
    pub secrets: Secrets,
    /// Whoever asks is the operator: what is named literally is allowed.
    pub caller_is_operator: bool,
}

/// Why a job is not granted what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// More than the operator allows.
    #[error("the grant {grant} is above the {allowed} that is allowed here (setting {key})")]
    Above {
        /// What was asked for.
        grant: String,
        /// The most that is possible.
        allowed: String,
        /// Where the operator says so.
        key: &'static str,
    },
    /// Not offered at all.
    #[error("the grant {grant} is not offered here: {reason}")]
    NotOffered {
        /// What was asked for.
        grant: String,
        /// What is, and where it is said.
        reason: String,
    },
    /// It cannot be had now.
    #[error("the grant {grant} cannot be given: {reason}")]
    Unavailable {
        /// What was asked for.
        grant: String,
        /// What the system says.
        reason: String,
    },
    /// A secret that is not kept here.
    #[error("{0}")]
    Secret(#[from] SecretError),
}

impl GrantError {
    /// Whether another attempt could be granted it.
    pub fn is_transient(&self) -> bool {
        matches!(self, GrantError::Unavailable { .. })
    }
}

/// Who does what only a cluster can do.
pub struct Services {
    /// Names of artifacts.
    pub names: Arc<dyn Names>,
    /// Takes children.
    pub children: Arc<dyn Children>,
}

impl Offers {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        let grants = &config.grants;
        Offers {
            folders: Folders::offered(grants.fs.clone()),
            scratch_bytes_max: grants.scratch_bytes_max,
            net: grants.net.clone(),
            http: grants.http.clone(),
            clock: grants.clock,
            artifacts: grants.artifacts.clone(),
            jobs_max: grants.jobs_max,
            secrets: Secrets::below(&config.data),
            caller_is_operator: false,
        }
    }

    /// The same for `wasmjob run`, whose caller may reach what it names.
    #[must_use]
    pub fn of_operator(config: &Config) -> Self {
        let offers = Offers::of(config);
        Offers {
            folders: offers.folders.and_any_path(),
            scratch_bytes_max: u64::MAX,
            clock: Clock::Real,
            artifacts: vec![(String::new(), true)],
            jobs_max: u32::MAX,
            caller_is_operator: true,
            ..offers
        }
    }

    /// Labels that jobs can require because of what is offered here: `fs=NAME`, `secret=NAME`.
    pub fn labels(&self) -> BTreeSet<String> {
        let folders = self.folders.names().map(|name| format!("fs={name}"));
        folders.chain(self.secrets.names().into_iter().map(|name| format!("secret={name}"))).collect()
    }

    /// Checks what can be checked anywhere: amounts, not what only one machine has.
    /// Errors: `Above`, `NotOffered`.
    pub fn check(&self, spec: &JobSpec) -> Result<(), GrantError> {
        spec.grants.iter().try_for_each(|grant| self.check_one(grant))
    }

    fn check_one(&self, grant: &Grant) -> Result<(), GrantError> {
        let above = |allowed: String, key| Err(GrantError::Above { grant: grant.to_string(), allowed, key });
        match grant {
            Grant::Scratch(bytes) if *bytes > self.scratch_bytes_max => {
                above(crate::units::Size(self.scratch_bytes_max).to_string(), "grants.scratch")
            }
            Grant::Jobs(jobs) if *jobs > self.jobs_max => above(self.jobs_max.to_string(), "grants.jobs"),
            Grant::Clock(Clock::Real) if self.clock == Clock::Coarse => above("coarse".into(), "grants.clock"),
            Grant::Artifacts { prefix, write } => {
                let covered = |(offered, writable): &(String, bool)| {
                    prefix.starts_with(offered.as_str()) && (*writable || !write)
                };
                if self.artifacts.iter().any(covered) {
                    return Ok(());
                }
                let offered = self.artifacts.iter().map(|(prefix, write)| mode(prefix, *write));
                let reason = format!("grants.artifacts has {}", listed(offered));
                Err(GrantError::NotOffered { grant: grant.to_string(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Turns what a job asks for into what its attempt gets: opens folders, resolves names, reads
    /// secrets.
    pub async fn resolve(&self, spec: &JobSpec, services: Services) -> Result<Grants, GrantError> {
        self.check(spec)?;
        let mut grants = Grants { secrets: self.secrets.read(&spec.secrets)?, ..Grants::default() };
        let mut prefixes = Vec::new();
        for grant in &spec.grants {
            match grant {
                Grant::Fs { host, guest, write } => {
                    let folder = self.folders.open(host, guest, *write);
                    grants.folders.push(folder.map_err(|error| error.about(grant))?);
                }
                Grant::Scratch(bytes) => grants.scratch_bytes = Some(*bytes),
                Grant::Net(target) => grants.net.push(self.target(grant, target, &self.net).await?),
                Grant::Http(target) => grants.http.push(self.target(grant, target, &self.http).await?),
                Grant::Clock(clock) => grants.clock = *clock,
                Grant::Random(random) => grants.random = *random,
                Grant::Artifacts { prefix, write } => prefixes.push((prefix.clone(), *write)),
                Grant::Jobs(max) => {
                    grants.children = Some(ChildGrant { max: *max, children: services.children.clone() });
                }
            }
        }
        if !grants.http.is_empty() {
            grants.trust = Some(network::trust().await);
        }
        if !prefixes.is_empty() {
            grants.names = Some(NameGrants { prefixes, names: services.names });
        }
        Ok(grants)
    }

    async fn target(
        &self,
        grant: &Grant,
        target: &str,
        offered: &[String],
    ) -> Result<wasmjob_runtime::grants::Target, GrantError> {
        network::resolve(grant, target, offered, self.caller_is_operator).await
    }
}

fn mode(what: &str, write: bool) -> String {
    format!("`{what}:{}`", if write { "rw" } else { "ro" })
}

/// Names for a message: those there are, or that there are none.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}
