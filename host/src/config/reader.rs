//! From text to values, with errors that say which value of which source is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use wasmjob_runtime::{PublicKey, TrustedKeys, grants::Clock};

use super::{ConfigError, DiskSync, Grants, Limits, LogFormat, Nats, Node, Offered, Setting, Source, keys};
use crate::grants::Allowed;
use crate::units::{Size, Span, UnitError};
use crate::wire::class;

/// Turns text into values, knowing where the text came from.
pub(super) struct Reader<'a> {
    pub settings: &'a BTreeMap<String, Setting>,
    pub data: &'a Path,
}

impl Reader<'_> {
    pub fn nats(&self) -> Result<Nats, ConfigError> {
        Ok(Nats {
            url: self.text("nats.url"),
            creds: self.path("nats.creds"),
            ca: self.path("nats.ca"),
            replicas: self.checked("nats.replicas", "1, 3 or 5", |text| match text.parse() {
                Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
                _ => Err("no such number of copies"),
            })?,
            sync: self.checked("nats.sync", "always, or a duration from 1s to 1h", |text| {
                if text == "always" {
                    return Ok(DiskSync::Always);
                }
                let Span(within) = text.parse().map_err(|error: UnitError| error.to_string())?;
                let bounds = Duration::from_secs(1)..=Duration::from_secs(3_600);
                if bounds.contains(&within) { Ok(DiskSync::Within(within)) } else { Err("out of bounds".to_owned()) }
            })?,
        })
    }

    pub fn node(&self) -> Result<Node, ConfigError> {
        Ok(Node {
            name: self.checked("node.name", keys::NAME_RULE, |text| {
                keys::is_name(text).then(|| text.to_owned()).ok_or("not a node name")
            })?,
            slots: self.checked("node.slots", "a whole number from 1 to 4096", keys::slots)?,
            memory: self.size("node.memory")?,
            labels: self.labels()?,
            queues: self.checked("node.queues", keys::QUEUES_RULE, keys::queues)?,
            http: self.checked("node.http", "a loopback address such as 127.0.0.1:7717", loopback)?,
            drain: self.span("node.drain")?,
            cache: self.size("node.cache")?,
        })
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(_) = self.settings.get("node.labels") else { return Ok(BTreeMap::new()) };
        self.checked("node.labels", "labels such as [\"gpu=a100\", \"site=home\"]", |text| {
            let pairs = list(text).map(|pair| match pair.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(format!("`{pair}` is not KEY=VALUE")),
            });
            let labels = pairs.collect::<Result<BTreeMap<_, _>, String>>()?;
            class::check_labels(&labels).map(|()| labels)
        })
    }

    pub fn grants(&self) -> Result<Grants, ConfigError> {
        let below = self.settings.keys().filter_map(|key| Some((key, key.strip_prefix(keys::GRANTS_FS)?)));
        let fs = below.map(|(key, name)| Ok((name.to_owned(), self.offered(key, name)?)));
        Ok(Grants {
            fs: fs.collect::<Result<_, ConfigError>>()?,
            scratch_bytes_max: self.size("grants.scratch")?,
            net: self.targets("grants.net")?,
            http: self.targets("grants.http")?,
            clock: self.checked("grants.clock", "coarse or real", |text| match text {
                "coarse" => Ok(Clock::Coarse),
                "real" => Ok(Clock::Real),
                _ => Err("no such clock"),
            })?,
            artifacts: self.checked("grants.artifacts", "prefixes such as [\"models.:rw\", \"data.:ro\"]", |text| {
                list(text).map(with_mode).collect::<Result<Vec<_>, String>>()
            })?,
            jobs_max: self.checked("grants.jobs", "a whole number", |text| {
                text.parse::<u32>().map_err(|error| error.to_string())
            })?,
        })
    }

    /// Where jobs may connect to, checked here so that a mistake is not first seen by a job.
    fn targets(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        if !self.settings.contains_key(key) {
            return Ok(Vec::new());
        }
        let valid = "hosts such as [\"db.internal:5432\", \"*.example.com:443\", \"10.0.0.0/8:5432\"]";
        self.checked(key, valid, |text| {
            let entries: Vec<String> = list(text).map(str::to_owned).collect();
            let wrong = entries.iter().find_map(|entry| Some((entry, Allowed::parse(entry).err()?)));
            wrong.map_or(Ok(entries.clone()), |(entry, why)| Err(format!("`{entry}`: {why}")))
        })
    }

    /// A folder, relative to the file that names it.
    fn offered(&self, key: &str, name: &str) -> Result<Offered, ConfigError> {
        let (path, write) = self.checked(key, "a path with a mode, such as \"/srv/data:ro\"", |text| {
            if !keys::is_name(name) {
                return Err(format!("`{name}` is no name for a folder: {}", keys::NAME_RULE));
            }
            with_mode(text)
        })?;
        Ok(Offered { path: self.base(key).join(path), write })
    }

    pub fn limits(&self) -> Limits {
        let below = |prefix: &str| {
            let named = self
                .settings
                .iter()
                .filter_map(|(key, setting)| Some((key.strip_prefix(prefix)?.to_owned(), setting.value.clone())));
            named.collect()
        };
        Limits { default: below(keys::LIMITS_DEFAULT), max: below(keys::LIMITS_MAX) }
    }

    pub fn log_format(&self) -> Result<LogFormat, ConfigError> {
        self.checked("log.format", "text or json", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("no such format"),
        })
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(|setting| setting.value.clone())
    }

    /// A path; one in the file is relative to that file, any other to the current folder.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.base(key).join(&self.settings.get(key)?.value))
    }

    fn base(&self, key: &str) -> &Path {
        match self.settings.get(key).map(|setting| &setting.source) {
            Some(Source::File { path, .. }) => path.parent().unwrap_or(self.data),
            _ => Path::new(""),
        }
    }

    pub fn required(&self, key: &str) -> &str {
        let setting = self.settings.get(key);
        setting.map(|setting| setting.value.as_str()).expect("keys::defaults sets every required key")
    }

    fn size(&self, key: &str) -> Result<u64, ConfigError> {
        let Size(bytes) = self.parsed(key, "a size such as 64MiB or 1000000")?;
        Ok(bytes)
    }

    pub fn span(&self, key: &str) -> Result<Duration, ConfigError> {
        let Span(span) = self.parsed(key, "a duration such as 250ms, 30s or 2h")?;
        Ok(span)
    }

    /// A lease no longer than what the events of ended jobs outlive, so that a job whose
    /// acknowledgement was lost still finds that it has ended.
    pub fn lease(&self) -> Result<Duration, ConfigError> {
        self.checked("queue.lease", "a duration from 1s to 5m", |text| {
            let Span(lease) = text.parse().map_err(|error: UnitError| error.to_string())?;
            let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
            if bounds.contains(&lease) { Ok(lease) } else { Err("out of bounds".to_owned()) }
        })
    }

    /// The keys in a list. An empty list could mean everybody or nobody, so it is refused.
    pub fn trusted_keys(&self) -> Result<TrustedKeys, ConfigError> {
        let Some(Setting { value, source }) = self.settings.get(keys::TRUSTED_KEYS) else {
            return Ok(TrustedKeys::default());
        };
        let wrong = |value: &str, reason: String| ConfigError::Value {
            key: keys::TRUSTED_KEYS.to_owned(),
            from: source.clone(),
            value: value.to_owned(),
            reason,
            valid: "a list of public keys, as `wasmjob key new` prints them",
        };
        let named: Vec<_> = value.split(',').map(str::trim).filter(|key| !key.is_empty()).collect();
        if named.is_empty() {
            return Err(wrong(value, "it names no key; leave it out to run unsigned components".to_owned()));
        }
        // What is no key is not repeated: it may be a secret that got into the wrong place.
        let parsed = named.iter().enumerate().map(|(place, text)| {
            let shown = format!("entry {} ({} characters)", place + 1, text.chars().count());
            text.parse::<PublicKey>().map_err(|error| wrong(&shown, error.to_string()))
        });
        parsed.collect()
    }

    fn parsed<T>(&self, key: &str, valid: &'static str) -> Result<T, ConfigError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.checked(key, valid, |text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    fn checked<T, E: ToString>(
        &self,
        key: &str,
        valid: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        let text = self.required(key);
        read(text).map_err(|reason| ConfigError::Value {
            key: key.to_owned(),
            from: self.settings.get(key).map_or(Source::Default, |setting| setting.source.clone()),
            value: text.to_owned(),
            reason: reason.to_string(),
            valid,
        })
    }
}

/// The parts of a list, as a file or a variable has it.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// `VALUE:ro` or `VALUE:rw`.
fn with_mode(text: &str) -> Result<(String, bool), String> {
    match text.rsplit_once(':') {
        Some((value, "ro")) => Ok((value.to_owned(), false)),
        Some((value, "rw")) => Ok((value.to_owned(), true)),
        _ => Err(format!("`{text}` does not end with :ro or :rw")),
    }
}

fn loopback(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr = text.parse().map_err(|_| "not IP:PORT")?;
    // Metrics and health have no login, so they are never offered to the network.
    address.ip().is_loopback().then_some(address).ok_or("not a loopback address")
}
