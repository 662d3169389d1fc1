//! Finding the endpoint, and the one file format it travels in.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ConnectError;
use crate::config::{Config, Source, redact_url};

/// Name of the file by which a running `up` is found, in its data folder.
pub const ENDPOINT_FILE: &str = "endpoint.json";

/// Everything needed to connect. Its `Debug` shows no secret.
#[derive(Clone)]
pub struct Endpoint {
    /// One address, or several separated by commas.
    pub url: String,
    /// How to prove who we are.
    pub auth: Auth,
    /// The only authority to trust; none means the system's, for `tls://` addresses.
    pub ca_pem: Option<String>,
    /// Who we are, shown in the server's lists; for an invited node also its node name.
    pub name: Option<String>,
    /// The only prefix this user may listen on for replies; none means `_INBOX`.
    pub inbox_prefix: Option<String>,
}

/// How to prove who we are.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Not at all.
    None,
    /// A `.creds` file, or one with a bare nkey seed.
    Creds(PathBuf),
    /// An nkey, by its seed.
    NkeySeed(Secret),
    /// From the URL.
    UserPassword {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Secret(secret.into())
    }

    /// The secret itself, for the place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.shown_url())
            .field("auth", &self.auth)
            .field("ca", &self.ca_pem.is_some())
            .field("name", &self.name)
            .field("inbox_prefix", &self.inbox_prefix)
            .finish()
    }
}

impl Endpoint {
    /// An address without any credentials.
    #[must_use]
    pub fn plain(url: &str) -> Self {
        Endpoint { url: url.to_owned(), auth: Auth::None, ca_pem: None, name: None, inbox_prefix: None }
    }

    /// The address without passwords.
    #[must_use]
    pub fn shown_url(&self) -> String {
        redact_url(&self.url)
    }
}

/// An endpoint as a file: what `nodes invite` writes, `--join` reads, and a running `up` leaves for
/// the commands on its machine. It opens the door, so it is private to its owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointFile {
    /// Version of the format.
    pub v: u32,
    /// Address.
    pub url: String,
    /// Certificate authority, PEM; none without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Seed of the user's nkey.
    pub nkey: Secret,
    /// The node's name; none for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The only prefix the user may listen on for replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox_prefix: Option<String>,
}

impl EndpointFile {
    /// The version written here.
    pub const VERSION: u32 = 1;

    /// Reads one. Errors: `File`, saying whether it is missing, no JSON, or from another version.
    pub fn read(path: &Path) -> Result<Self, ConnectError> {
        let wrong = |reason: String| ConnectError::File { path: path.to_owned(), reason };
        let text = read_file(path)?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("not an invitation (no JSON): {error}")))?;
        // The version decides what the rest may be, so it is looked at first.
        match value.get("v").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(Self::VERSION) => {}
            Some(v) => {
                return Err(wrong(format!("version {v} of the format is not known here")));
            }
            None => return Err(wrong("not an invitation: it has no version `v`".to_owned())),
        }
        let file: EndpointFile = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        nkeys::KeyPair::from_seed(file.nkey.reveal())
            .map_err(|error| wrong(format!("`nkey` is not a seed: {error}")))?;
        Ok(file)
    }

    /// Writes it so that only its owner can read it. An existing file is replaced.
    pub fn write(&self, path: &Path) -> Result<(), ConnectError> {
        let failed = |reason: String| ConnectError::File { path: path.to_owned(), reason };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.to_string()))?;
        crate::private::write(path, &text).map_err(|error| failed(error.to_string()))
    }

    /// The endpoint it describes.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            auth: Auth::NkeySeed(self.nkey.clone()),
            ca_pem: self.ca.clone(),
            name: self.name.clone(),
            inbox_prefix: self.inbox_prefix.clone(),
        }
    }
}

/// Where a running `up` leaves its endpoint.
#[must_use]
pub fn endpoint_path(data: &Path) -> PathBuf {
    data.join(ENDPOINT_FILE)
}

/// Finds the endpoint to use, in the order described in the module.
/// Errors: `Nowhere` when nothing names one; `File` when what names one cannot be used.
pub fn find(config: &Config, join: Option<&Path>) -> Result<Endpoint, ConnectError> {
    let said_now = matches!(config.source("nats.url"), Source::Flag(_) | Source::Env(_));
    if said_now && let Some(url) = &config.nats.url {
        return from_url(config, url);
    }
    if let Some(path) = join {
        return Ok(EndpointFile::read(path)?.endpoint());
    }
    if let Some(url) = &config.nats.url {
        return from_url(config, url);
    }
    let local = endpoint_path(&config.data);
    match local.exists() {
        true => Ok(EndpointFile::read(&local)?.endpoint()),
        false => Err(ConnectError::Nowhere { data: config.data.clone() }),
    }
}

fn from_url(config: &Config, url: &str) -> Result<Endpoint, ConnectError> {
    let mut endpoint = Endpoint::plain(url);
    endpoint.auth = match &config.nats.creds {
        Some(path) => Auth::Creds(path.clone()),
        None => auth_in(url),
    };
    if let Some(path) = &config.nats.ca {
        endpoint.ca_pem = Some(read_file(path)?);
    }
    Ok(endpoint)
}

/// User and password of the first address that has any.
fn auth_in(urls: &str) -> Auth {
    let parsed = urls.split(',').filter_map(|url| url::Url::parse(url.trim()).ok());
    let named = parsed.into_iter().find(|url| !url.username().is_empty() && url.password().is_some());
    named.map_or(Auth::None, |url| Auth::UserPassword {
        user: percent_decoded(url.username()),
        password: Secret::new(percent_decoded(url.password().unwrap_or_default())),
    })
}

/// `p%40ss` as `p@ss`: in a URL a password can only be written that way.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn read_file(path: &Path) -> Result<String, ConnectError> {
    fs::read_to_string(path).map_err(|error| ConnectError::File { path: path.to_owned(), reason: error.to_string() })
}

/// The seed in a file that holds nothing else, comments aside.
pub(super) fn bare_seed(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = lines.next().filter(|line| line.starts_with("SU"))?;
    lines.next().is_none().then_some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn config(data: &Path, vars: &[(&str, &str)]) -> Config {
        let mut env = vec![("WASMJOB_DATA".to_owned(), data.display().to_string())];
        env.extend(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Config::load(&Layers { env, ..Layers::default() }).unwrap()
    }

    fn invitation(url: &str) -> String {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        serde_json::json!({"v": 1, "url": url, "nkey": seed, "name": "n1", "inbox_prefix": "_INBOX_n1"}).to_string()
    }

    #[test]
    fn the_environment_wins_over_join_over_file_over_up() {
        let data = tempfile::tempdir().unwrap();
        let join = data.path().join("join.json");
        fs::write(&join, invitation("nats://join")).unwrap();
        let found = |vars: &[(&str, &str)], join: Option<&Path>| {
            find(&config(data.path(), vars), join).map(|endpoint| endpoint.url)
        };
        assert!(matches!(found(&[], None), Err(ConnectError::Nowhere { .. })));
        fs::write(endpoint_path(data.path()), invitation("nats://up")).unwrap();
        assert_eq!(found(&[], None).unwrap(), "nats://up");
        fs::write(data.path().join("config.toml"), "[nats]\nurl = \"nats://file\"\n").unwrap();
        assert_eq!(found(&[], None).unwrap(), "nats://file");
        assert_eq!(found(&[], Some(&join)).unwrap(), "nats://join");
        assert_eq!(found(&[("WASMJOB_NATS", "nats://env")], Some(&join)).unwrap(), "nats://env");
    }

    #[test]
    fn a_wrong_invitation_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let cases = [
            ("hello", "no JSON"),
            ("{}", "no version"),
            (r#"{"v":9}"#, "version 9"),
            (r#"{"v":1,"url":"nats://a"}"#, "nkey"),
            (r#"{"v":1,"url":"nats://a","nkey":"SUXX"}"#, "seed"),
            (r#"{"v":1,"url":"nats://a","nkey":"SUXX","extra":1}"#, "extra"),
        ];
        for (text, reason) in cases {
            fs::write(&path, text).unwrap();
            let error = EndpointFile::read(&path).unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert!(!error.to_string().contains("SUXX"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let mut endpoint = Endpoint::plain("nats://me:hunter2@host:1");
        endpoint.auth = auth_in(&endpoint.url);
        assert!(matches!(endpoint.auth, Auth::UserPassword { .. }));
        let shown = format!("{endpoint:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(percent_decoded("p%40ss%"), "p@ss%");
    }

    #[test]
    fn a_bare_seed_is_told_from_a_creds_file() {
        assert_eq!(bare_seed("# mine\nSUABC\n"), Some("SUABC"));
        assert_eq!(bare_seed("-----BEGIN NATS USER JWT-----\nx\n"), None);
    }
}
