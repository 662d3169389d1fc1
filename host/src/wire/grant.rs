//! Grants as a job asks for them: `NAME=VALUE`, the same on the command line and in the spec.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use wasmjob_runtime::grants::{Clock, Random};

use crate::units::Size;

/// One thing a job asks to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grant {
    /// `fs=HOST[::GUEST]:ro|rw`
    Fs {
        /// A folder that a node offers and a path below it, `NAME[/PATH]`; or a path of the host.
        host: String,
        /// Where the guest finds it.
        guest: String,
        /// Whether it may be changed.
        write: bool,
    },
    /// `scratch=BYTES`
    Scratch(u64),
    /// `net=HOST:PORT`, as written.
    Net(String),
    /// `http=HOST[:PORT]`, as written.
    Http(String),
    /// `clock=coarse|real`
    Clock(Clock),
    /// `random=real|seed:N`
    Random(Random),
    /// `artifacts=PREFIX:ro|rw`
    Artifacts {
        /// What the names begin with.
        prefix: String,
        /// Whether they may be set.
        write: bool,
    },
    /// `jobs=N`
    Jobs(u32),
}

/// All forms of a grant, for messages.
pub const FORMS: &str = "fs=HOST[::GUEST]:ro|rw, scratch=BYTES, net=HOST:PORT, http=HOST[:PORT], clock=coarse|real, \
                         random=real|seed:N, artifacts=PREFIX:ro|rw, jobs=N";
/// Grants of one job; each can be an open folder or a name to resolve.
pub const GRANTS_MAX: usize = 64;
/// Bytes of one grant.
const GRANT_BYTES_MAX: usize = 4096;

/// A grant that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the grant `{grant}` cannot be read: {reason}; the grants are {FORMS}")]
pub struct GrantSyntaxError {
    grant: String,
    reason: String,
}

impl Grant {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Grant::Fs { .. } => "fs",
            Grant::Scratch(_) => "scratch",
            Grant::Net(_) => "net",
            Grant::Http(_) => "http",
            Grant::Clock(_) => "clock",
            Grant::Random(_) => "random",
            Grant::Artifacts { .. } => "artifacts",
            Grant::Jobs(_) => "jobs",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.name())?;
        let mode = |write: &bool| if *write { "rw" } else { "ro" };
        match self {
            Grant::Fs { host, guest, write } if host == guest => write!(f, "{host}:{}", mode(write)),
            Grant::Fs { host, guest, write } => write!(f, "{host}::{guest}:{}", mode(write)),
            Grant::Scratch(bytes) => write!(f, "{bytes}"),
            Grant::Net(target) | Grant::Http(target) => f.write_str(target),
            Grant::Clock(Clock::Coarse) => f.write_str("coarse"),
            Grant::Clock(Clock::Real) | Grant::Random(Random::Real) => f.write_str("real"),
            Grant::Random(Random::Seed(seed)) => write!(f, "seed:{seed}"),
            Grant::Artifacts { prefix, write } => write!(f, "{prefix}:{}", mode(write)),
            Grant::Jobs(max) => write!(f, "{max}"),
        }
    }
}

impl FromStr for Grant {
    type Err = GrantSyntaxError;

    fn from_str(text: &str) -> Result<Self, GrantSyntaxError> {
        let wrong = |reason: String| GrantSyntaxError { grant: text.chars().take(200).collect(), reason };
        if text.len() > GRANT_BYTES_MAX {
            return Err(wrong(format!("it has more than {GRANT_BYTES_MAX} bytes")));
        }
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("NAME=VALUE is wanted".into()))?;
        parse(name, value).map_err(wrong)
    }
}

impl TryFrom<String> for Grant {
    type Error = GrantSyntaxError;

    fn try_from(text: String) -> Result<Self, GrantSyntaxError> {
        text.parse()
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> String {
        grant.to_string()
    }
}

fn parse(name: &str, value: &str) -> Result<Grant, String> {
    Ok(match name {
        "fs" => folder(value)?,
        "scratch" => Grant::Scratch(value.parse().map(|Size(bytes)| bytes).map_err(|error| error.to_string())?),
        "net" => Grant::Net(crate::grants::target(value, true)?),
        "http" => Grant::Http(crate::grants::target(value, false)?),
        "clock" => Grant::Clock(match value {
            "coarse" => Clock::Coarse,
            "real" => Clock::Real,
            _ => return Err("a clock is coarse or real".into()),
        }),
        "random" => Grant::Random(random(value)?),
        "artifacts" => {
            let (prefix, write) = with_mode(value)?;
            Grant::Artifacts { prefix: prefix.into(), write }
        }
        "jobs" => Grant::Jobs(value.parse().map_err(|_| "the number of jobs is wanted".to_owned())?),
        _ => return Err(format!("there is no grant `{name}`")),
    })
}

fn random(value: &str) -> Result<Random, String> {
    let wanted = "random numbers are real or seed:N";
    match value.strip_prefix("seed:") {
        None if value == "real" => Ok(Random::Real),
        seed => seed.and_then(|seed| seed.parse().ok()).map(Random::Seed).ok_or_else(|| wanted.into()),
    }
}

/// `VALUE:ro` or `VALUE:rw`.
fn with_mode(value: &str) -> Result<(&str, bool), String> {
    match value.rsplit_once(':') {
        Some((value, "ro")) => Ok((value, false)),
        Some((value, "rw")) => Ok((value, true)),
        _ => Err("it must end with :ro (to read) or :rw (to change as well)".into()),
    }
}

fn folder(value: &str) -> Result<Grant, String> {
    let (paths, write) = with_mode(value)?;
    let (host, guest) = paths.split_once("::").unwrap_or((paths, paths));
    if host.is_empty() || guest.is_empty() {
        return Err("the folder has no name".into());
    }
    if paths.contains('\0') {
        return Err("a path cannot contain a zero byte".into());
    }
    Ok(Grant::Fs { host: host.into(), guest: guest.into(), write })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_written_as_they_were_read() {
        for text in [
            "fs=data:ro",
            "fs=/srv/in::/in:rw",
            "fs=a:b::c:d:rw",
            "scratch=1000",
            "net=example.com:443",
            "http=example.com",
            "http=example.com:8080",
            "clock=real",
            "clock=coarse",
            "random=real",
            "random=seed:7",
            "artifacts=models/:rw",
            "artifacts=:ro",
            "jobs=3",
        ] {
            let grant: Grant = text.parse().unwrap();
            assert_eq!(grant.to_string(), text);
            assert_eq!(serde_json::from_str::<Grant>(&serde_json::to_string(&grant).unwrap()).unwrap(), grant);
        }
        assert_eq!("scratch=1MiB".parse::<Grant>().unwrap(), Grant::Scratch(1 << 20));
    }

    #[test]
    fn what_is_no_grant_is_refused_with_all_that_are() {
        for text in [
            "fs",
            "fs=",
            "fs=/a",
            "fs=/a:rx",
            "fs=::/a:ro",
            "fs=/a:::ro",
            "fs=a\0:ro",
            "scratch=much",
            "net=*:80",
            "http=",
            "clock=fast",
            "random=seed:x",
            "artifacts=x",
            "jobs=-1",
            "disk=1",
            "=",
            "",
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains("scratch=BYTES") && error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
