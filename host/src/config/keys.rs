//! The keys there are, their defaults, and how environment variables name them.

use std::collections::BTreeMap;

use super::{Setting, Source, WorkedQueue, machine};
use crate::wire::is_queue_name;

/// One key of the configuration.
pub(super) struct Key {
    pub name: &'static str,
    default: Default,
}

/// What holds when nobody says anything.
enum Default {
    /// Nothing: the feature is off or found another way.
    Unset,
    Text(&'static str),
    /// Depends on the machine.
    Machine(fn() -> String),
}

/// Prefix of the keys that are free: any name of a limit may follow.
pub(super) const LIMITS_DEFAULT: &str = "limits.default.";
/// Folders that are offered: any name may follow.
pub(super) const GRANTS_FS: &str = "grants.fs.";
/// Like [`LIMITS_DEFAULT`], for what a job may ask for at most.
pub(super) const LIMITS_MAX: &str = "limits.max.";

pub(super) const KEYS: &[Key] = &[
    Key { name: "artifacts.url", default: Default::Unset },
    // Names are what others submit jobs under: setting them is not for every job.
    Key { name: "grants.artifacts", default: Default::Text(":ro") },
    Key { name: "grants.clock", default: Default::Text("coarse") },
    Key { name: "grants.http", default: Default::Unset },
    Key { name: "grants.jobs", default: Default::Text("1000") },
    Key { name: "grants.net", default: Default::Unset },
    Key { name: "grants.scratch", default: Default::Text("1GiB") },
    Key { name: "log.format", default: Default::Text("text") },
    Key { name: "log.level", default: Default::Text("info") },
    Key { name: "nats.ca", default: Default::Unset },
    Key { name: "nats.creds", default: Default::Unset },
    Key { name: "nats.replicas", default: Default::Text("1") },
    Key { name: "nats.sync", default: Default::Text("2m") },
    Key { name: "nats.url", default: Default::Unset },
    Key { name: "node.cache", default: Default::Text("10GiB") },
    Key { name: "node.drain", default: Default::Text("30s") },
    Key { name: "node.http", default: Default::Text("127.0.0.1:7717") },
    Key { name: "node.labels", default: Default::Unset },
    Key { name: "node.memory", default: Default::Machine(machine::memory) },
    Key { name: "node.name", default: Default::Machine(machine::host_name) },
    Key { name: "node.queues", default: Default::Text("default") },
    Key { name: "node.slots", default: Default::Machine(machine::slots) },
    // Long enough for a node that pauses, short enough that its jobs are elsewhere within a minute.
    Key { name: "queue.lease", default: Default::Text("30s") },
    Key { name: TRUSTED_KEYS, default: Default::Unset },
];

/// The one key that is in no section.
pub(super) const TRUSTED_KEYS: &str = "trusted_keys";

/// Short names of environment variables, for the values people set most.
const SHORT: &[(&str, &str)] =
    &[("WASMJOB_ARTIFACTS", "artifacts.url"), ("WASMJOB_LOG", "log.level"), ("WASMJOB_NATS", "nats.url")];

/// Variables that begin like a section and are not keys.
const OTHER_VARIABLES: &[&str] = &["WASMJOB_NATS_SERVER"];

pub(super) const NAME_RULE: &str = "1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit";
pub(super) const QUEUES_RULE: &str = "names of 1 to 32 of a-z, 0-9 and -, with a number of slots if it is another than node.slots, such as \
     [\"default\", \"gpu:1\"]";

pub(super) fn defaults() -> BTreeMap<String, Setting> {
    let value = |key: &Key| match key.default {
        Default::Unset => None,
        Default::Text(text) => Some(text.to_owned()),
        Default::Machine(ask) => Some(ask()),
    };
    let set = KEYS.iter().filter_map(|key| {
        let setting = Setting { value: value(key)?, source: Source::Default };
        Some((key.name.to_owned(), setting))
    });
    set.collect()
}

pub(super) fn is_known(key: &str) -> bool {
    KEYS.iter().any(|known| known.name == key) || is_free(key)
}

/// Whether keys may stand below this name.
pub(super) fn is_section(name: &str) -> bool {
    let below = format!("{name}.");
    let mut all = KEYS.iter().map(|key| key.name).chain([LIMITS_DEFAULT, LIMITS_MAX, GRANTS_FS]);
    all.any(|key| key.starts_with(&below))
}

fn is_free(key: &str) -> bool {
    let name = [LIMITS_DEFAULT, LIMITS_MAX, GRANTS_FS].into_iter().find_map(|prefix| key.strip_prefix(prefix));
    name.is_some_and(|name| !name.is_empty() && !name.contains('.'))
}

/// The keys of the same section, or all of them.
pub(super) fn near(key: &str) -> Vec<&'static str> {
    let all = || KEYS.iter().map(|key| key.name).chain(["limits.default.NAME", "limits.max.NAME", "grants.fs.NAME"]);
    let section = key.split('.').next().unwrap_or_default();
    let same: Vec<_> = all().filter(|name| name.split('.').next() == Some(section)).collect();
    if same.is_empty() { all().collect() } else { same }
}

/// What an environment variable is to us.
pub(super) enum EnvName {
    Key(String),
    /// It begins like one of ours and is none: most likely misspelt.
    Unknown(String),
    NotOurs,
}

pub(super) fn of_env(name: &str) -> EnvName {
    if let Some((_, key)) = SHORT.iter().find(|(short, _)| *short == name) {
        return EnvName::Key((*key).to_owned());
    }
    let Some(rest) = name.strip_prefix("WASMJOB_") else {
        return EnvName::NotOurs;
    };
    let exact = KEYS.iter().find(|key| key.name.replace('.', "_").to_ascii_uppercase() == rest);
    if let Some(key) = exact {
        return EnvName::Key(key.name.to_owned());
    }
    for (prefix, section) in
        [("LIMITS_DEFAULT_", LIMITS_DEFAULT), ("LIMITS_MAX_", LIMITS_MAX), ("GRANTS_FS_", GRANTS_FS)]
    {
        if let Some(limit) = rest.strip_prefix(prefix) {
            return EnvName::Key(format!("{section}{}", limit.to_ascii_lowercase()));
        }
    }
    if OTHER_VARIABLES.contains(&name) || !begins_like_a_section(rest) {
        return EnvName::NotOurs;
    }
    let key = rest.to_ascii_lowercase();
    EnvName::Unknown(if key.starts_with("trusted") { key } else { key.replacen('_', ".", 1) })
}

fn begins_like_a_section(rest: &str) -> bool {
    let section = rest.split('_').next().unwrap_or_default().to_ascii_lowercase();
    section == "limits"
        || section.starts_with("trusted")
        || KEYS.iter().any(|key| key.name.split(['.', '_']).next() == Some(section.as_str()))
}

/// Whether a text can name a node: it becomes part of subjects, keys and file names.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    first && text.len() <= 63 && text.bytes().all(rest)
}

pub(super) fn queues(text: &str) -> Result<Vec<WorkedQueue>, String> {
    let mut queues: Vec<WorkedQueue> = Vec::new();
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let (name, slots) = match text.split_once(':') {
            Some((name, slots)) => (name, Some(slots)),
            None => (text, None),
        };
        if !is_queue_name(name) {
            return Err(format!("`{name}` is not a queue name"));
        }
        if queues.iter().any(|queue| queue.name == name) {
            return Err(format!("`{name}` is there twice"));
        }
        let slots = slots.map(|slots| self::slots(slots).map_err(|error| format!("`{slots}`: {error}"))).transpose()?;
        queues.push(WorkedQueue { name: name.to_owned(), slots });
    }
    if queues.is_empty() { Err("no queue named".to_owned()) } else { Ok(queues) }
}

pub(super) fn slots(text: &str) -> Result<usize, &'static str> {
    let slots = text.parse::<usize>().map_err(|_| "not a whole number")?;
    (1..=4096).contains(&slots).then_some(slots).ok_or("out of range: 1 to 4096")
}
