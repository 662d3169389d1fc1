//! `nats.conf`: what it says, and the few values that must stay the same from one `up` to the next.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::address::{choose_port, local_of, reachable_at};
use super::users::{User, Users};
use super::{DataFolder, ListenError, ServerError, ServerOptions, permissions, tls};
use crate::config::{DiskSync, host_name};

/// What the server is told apart from its users; kept as `server/listen.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conf {
    /// Address the server binds.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Port of the last time on loopback, kept while listening elsewhere.
    loopback_port: Option<u16>,
    /// Whether everything goes through TLS: always when others can connect.
    pub tls: bool,
    /// Host others connect to; none on loopback.
    pub advertise: Option<String>,
    /// When what was written is on the disk, as the server wants to be told.
    #[serde(default = "usual_sync")]
    pub sync: String,
}

fn usual_sync() -> String {
    "120s".into()
}

impl Conf {
    /// What holds for this `up`, given what held before.
    pub fn settle(options: &ServerOptions, before: Option<&Conf>) -> Result<Conf, ServerError> {
        let loopback_port = before.and_then(|conf| conf.loopback_port);
        let sync = match options.sync {
            DiskSync::Always => "always".to_owned(),
            DiskSync::Within(time) => format!("{}s", time.as_secs()),
        };
        let Some(listen) = options.listen else {
            let ip = Ipv4Addr::LOCALHOST.into();
            let port = choose_port(ip, None, loopback_port, false)?;
            return Ok(Conf { ip, port, loopback_port: Some(port), tls: false, advertise: None, sync });
        };
        let before = before.filter(|conf| conf.tls).map(|conf| conf.port);
        let port = choose_port(listen.ip, listen.port, before, true)?;
        let guessed = reachable_at(listen.ip).first().map(ToString::to_string);
        let advertise = options.address.clone().or(guessed).ok_or(ListenError::NoAddress)?;
        Ok(Conf { ip: listen.ip, port, loopback_port, tls: true, advertise: Some(advertise), sync })
    }

    pub fn load(folder: &DataFolder) -> Result<Option<Conf>, ServerError> {
        let path = folder.below("server")?.join("listen.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(ServerError::files("read", &path))?;
        let conf = serde_json::from_str(&text);
        conf.map(Some).map_err(|error| ServerError::Damaged { path, reason: error.to_string() })
    }

    /// Writes `listen.json` and `nats.conf`.
    pub fn save(&self, folder: &DataFolder, users: &Users) -> Result<(), ServerError> {
        let text = serde_json::to_string_pretty(self).map_err(ServerError::encode)?;
        folder.write_private(&folder.below("server")?.join("listen.json"), &text)?;
        // Made here because the server would make it readable for others.
        folder.below("jetstream")?;
        folder.below("logs")?;
        folder.write_private(&folder.conf_path(), &self.render(folder, users))
    }

    /// Where clients on this machine connect.
    pub fn local_url(&self) -> String {
        self.url(&local_of(self.ip).to_string())
    }

    /// Where other machines connect; none on loopback.
    pub fn advertised_url(&self) -> Option<String> {
        self.advertise.as_deref().map(|host| self.url(host))
    }

    /// Every name a client may use, for the certificate.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), host_name()];
        names.push(rustix::system::uname().nodename().to_string_lossy().into_owned());
        names.extend(reachable_at(self.ip).iter().map(ToString::to_string));
        names.extend(self.advertise.clone());
        // A certificate holds ASCII only; a host named otherwise is reached by its address.
        names.retain(|name| !name.is_empty() && name.is_ascii());
        names.sort();
        names.dedup();
        names
    }

    /// The authority clients must trust; none without TLS.
    pub fn ca_pem(&self, folder: &DataFolder) -> Result<Option<String>, ServerError> {
        self.tls.then(|| tls::ca_pem(folder)).transpose()
    }

    fn url(&self, host: &str) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{scheme}://{host}:{}", self.port)
    }

    fn render(&self, folder: &DataFolder, users: &Users) -> String {
        let quoted = |path: std::path::PathBuf| quote(&path.display().to_string());
        let mut text =
            String::from("# Written by `wasmjob up` and `wasmjob nodes invite`; changes made here are lost.\n");
        let listen = quote(&SocketAddr::new(self.ip, self.port).to_string());
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}: {value}");
        };
        line("server_name", "wasmjob");
        line("listen", &listen);
        // The cache of who listens to which subject: nearly every message has a subject of its own, which is seen once.
        line("disable_sublist_cache", "true");
        line("pid_file", &quoted(folder.pid_path()));
        // A power cut may lose what is not synced; a crash of the server or of the node does not.
        let sync = quote(&self.sync);
        // The server puts a folder `jetstream` of its own into this one.
        line("jetstream", &format!("{{ store_dir: {}, sync_interval: {sync} }}", quoted(folder.path().to_owned())));
        if self.tls {
            let (cert, key) = tls::server_paths(folder);
            line("tls", &format!("{{ cert_file: {}, key_file: {}, timeout: 5 }}", quoted(cert), quoted(key)));
        }
        text.push_str(&render_users(users));
        text
    }
}

/// Users by nkey only: no passwords, no default user, so nobody is anonymous.
fn render_users(users: &Users) -> String {
    let mut text = String::from("authorization {\n  timeout: 5\n  users: [\n");
    let _ = writeln!(text, "    # the operator: everything\n    {{ nkey: {} }}", users.operator.public);
    for (name, User { public }) in &users.nodes {
        let permissions = permissions::of_node(name).render();
        let _ = writeln!(text, "    # node {name}\n    {{ nkey: {public}, permissions: {permissions} }}");
    }
    text.push_str("  ]\n}\n");
    text
}

/// A text as the configuration wants it: JSON's rules do.
pub(super) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_key_and_nodes_have_permissions() {
        let mut users = Users::default();
        users.operator.public = "UOP".to_owned();
        users.put("a", User { public: "UA".to_owned() });
        let text = render_users(&users);
        assert!(text.contains("{ nkey: UOP }"), "{text}");
        assert!(text.contains("{ nkey: UA, permissions: {"), "{text}");
        assert!(!text.contains("no_auth_user") && !text.contains("password"));
    }

    #[test]
    fn addresses_are_written_as_clients_expect() {
        let mut conf = Conf {
            ip: "::".parse().unwrap(),
            port: 4222,
            loopback_port: None,
            tls: true,
            advertise: Some("fd00::1".to_owned()),
            sync: usual_sync(),
        };
        assert_eq!(conf.local_url(), "tls://127.0.0.1:4222");
        assert_eq!(conf.advertised_url().unwrap(), "tls://[fd00::1]:4222");
        conf.advertise = None;
        conf.tls = false;
        assert_eq!(conf.local_url(), "nats://127.0.0.1:4222");
        assert_eq!(conf.advertised_url(), None);
    }
}
