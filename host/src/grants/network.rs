//! Where jobs may connect to: grants `net=HOST:PORT` and `http=HOST[:PORT]`, and what the operator allows
//! in the settings `grants.net` and `grants.http`.
//!
//! A name is resolved once, when an attempt begins. Whatever it stands for, an address that is not on the
//! public internet is left out unless the operator names that host or that address: otherwise anybody who
//! owns a name could make a node talk to its neighbours.

use std::{fmt, net::IpAddr, time::Duration};

use tokio::{net::lookup_host, sync::OnceCell, task::spawn_blocking, time::timeout};
use wasmjob_runtime::grants::{Target, Trust};

use super::GrantError;
use crate::wire::Grant;

mod ranges;

use ranges::{Range, special_range};

/// How long a name may take to resolve.
const RESOLVE_WAIT: Duration = Duration::from_secs(10);
/// Addresses of one name that are kept.
const ADDRESSES_MAX: usize = 16;
/// Bytes of a name in the domain name system.
const NAME_BYTES_MAX: usize = 253;
/// Bytes between two dots of a name.
const LABEL_BYTES_MAX: usize = 63;

/// Checks `HOST:PORT`, or `HOST[:PORT]` where no port is needed, and gives it in its one spelling.
/// Errors: what is wanted instead.
pub fn parse_target(text: &str, needs_port: bool) -> Result<String, String> {
    let wanted = Wanted::parse(text)?;
    match (needs_port, wanted.port) {
        (true, None) => Err("a port is wanted: HOST:PORT, or [ADDRESS]:PORT for IPv6".into()),
        _ => Ok(wanted.to_string()),
    }
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    host: Host,
    /// `None`: 80 and 443.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None => None,
            Some("*") => return Err("a job names one port; `*` is for what an operator allows".into()),
            Some(port) => Some(parse_port(port)?),
        };
        if host.contains('*') {
            return Err("a job names one host; `*` is for what an operator allows".into());
        }
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(parse_name(host)?),
        };
        Ok(Wanted { host, port })
    }

    /// The ports it is about.
    fn ports(&self) -> &[u16] {
        match &self.port {
            Some(port) => std::slice::from_ref(port),
            None => &[80, 443],
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The host without brackets, and the port if there is one.
fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if text.contains("://") {
        return Err("a host is wanted and no URL: HOST:PORT".into());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the `[` of an IPv6 address has no `]`")?;
        if !host.contains(':') {
            return Err("only IPv6 addresses are written in brackets".into());
        }
        return match rest {
            "" => Ok((host, None)),
            rest => Ok((host, Some(rest.strip_prefix(':').ok_or("`:PORT` is wanted after the `]`")?))),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, port)) if port.contains(':') => Err("an IPv6 address is written in brackets: [ADDRESS]:PORT".into()),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| format!("`{text}` is no port: a number from 1 to 65535 is wanted"))
}

/// A name of letters, digits and hyphens, in lower case and without a dot at its end.
fn parse_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return Err("a host is wanted".into());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a name has at most {NAME_BYTES_MAX} bytes"));
    }
    let is_label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inside && (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if !name.split('.').all(is_label) {
        return Err("a host is a name of letters, digits, hyphens and dots, an IPv4 address, or an IPv6 address in \
                    brackets; names in other scripts are written in their xn-- form"
            .into());
    }
    // Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
        return Err("an IPv4 address has four decimal numbers".into());
    }
    Ok(name)
}

/// One entry of what an operator allows: `HOST`, `HOST:PORT`, `HOST:*`, `*.DOMAIN:PORT`, `*:PORT`, `*`,
/// an address, or a range of addresses such as `10.0.0.0/8:5432` or `[fd00::/8]:5432`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    hosts: Hosts,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Any,
    Name(String),
    /// What names below it end with, its dot included.
    Below(String),
    Range(Range),
}

impl Allowed {
    /// Reads an entry.
    /// Errors: what is wanted instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None | Some("*") => None,
            Some(port) => Some(parse_port(port)?),
        };
        let hosts = if host == "*" {
            Hosts::Any
        } else if let Some(domain) = host.strip_prefix("*.") {
            Hosts::Below(format!(".{}", parse_name(domain)?))
        } else if host.contains('/') {
            Hosts::Range(host.parse()?)
        } else if let Ok(address) = host.parse::<IpAddr>() {
            Hosts::Range(Range::only(address.to_canonical()))
        } else {
            Hosts::Name(parse_name(host)?)
        };
        Ok(Allowed { hosts, port })
    }

    /// Reads what an operator wrote.
    /// Errors: what is wanted instead, with the entry.
    fn parse_all(entries: &[String]) -> Result<Vec<Self>, String> {
        entries.iter().map(|entry| Allowed::parse(entry).map_err(|why| format!("`{entry}`: {why}"))).collect()
    }

    /// Exactly what somebody asks for who may have it.
    fn literally(wanted: &Wanted) -> Self {
        let hosts = match &wanted.host {
            Host::Name(name) => Hosts::Name(name.clone()),
            Host::Address(address) => Hosts::Range(Range::only(*address)),
        };
        Allowed { hosts, port: wanted.port }
    }

    fn has_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    fn has_host(&self, host: &Host) -> bool {
        match (&self.hosts, host) {
            (Hosts::Name(own), Host::Name(name)) => own == name,
            (Hosts::Below(domain), Host::Name(name)) => name.ends_with(domain),
            (Hosts::Any, Host::Name(_)) => true,
            (Hosts::Any, Host::Address(address)) => special_range(*address).is_none(),
            (Hosts::Range(range), Host::Address(address)) => range.contains(*address),
            _ => false,
        }
    }

    /// Whether an address that is not public is allowed by this for a host that is.
    fn has_special(&self, host: &Host, address: IpAddr) -> bool {
        match &self.hosts {
            Hosts::Name(own) => matches!(host, Host::Name(name) if own == name),
            Hosts::Range(range) => range.contains(address),
            Hosts::Any | Hosts::Below(_) => false,
        }
    }
}

/// Whether an operator who allows this allows that a job connects there, whatever its name resolves to.
fn allows(allowed: &[Allowed], wanted: &Wanted) -> bool {
    let on = |port: u16| allowed.iter().any(|entry| entry.has_port(port) && entry.has_host(&wanted.host));
    wanted.ports().iter().all(|port| on(*port))
}

/// Whether an operator who allows this allows this address of a host: every public one, and others
/// that are named.
fn allows_address(allowed: &[Allowed], wanted: &Wanted, address: IpAddr) -> bool {
    let on = |port: u16| allowed.iter().any(|entry| entry.has_port(port) && entry.has_special(&wanted.host, address));
    special_range(address).is_none() || wanted.ports().iter().all(|port| on(*port))
}

/// Turns the target of a grant into addresses, as far as `offered` allows them. A caller who is the
/// operator is allowed what they name.
/// Errors: `NotOffered`, and `Unavailable` if the name does not resolve now.
pub(super) async fn resolve(
    grant: &Grant,
    target: &str,
    offered: &[String],
    caller_is_operator: bool,
) -> Result<Target, GrantError> {
    let setting = format!("grants.{}", grant.name());
    let refused = |reason: String| GrantError::NotOffered { grant: grant.to_string(), reason };
    let unavailable = |reason: String| GrantError::Unavailable { grant: grant.to_string(), reason };
    let wanted = Wanted::parse(target).map_err(refused)?;
    let mut allowed = Allowed::parse_all(offered).map_err(|why| refused(format!("{setting} has {why}")))?;
    if caller_is_operator {
        allowed.push(Allowed::literally(&wanted));
    }
    if !allows(&allowed, &wanted) {
        let has = super::listed(offered.iter().map(|entry| format!("`{entry}`")));
        return Err(refused(format!("{setting} has {has}; an operator adds `{wanted}` there to allow it")));
    }
    let found = match &wanted.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => look_up(name).await.map_err(unavailable)?,
    };
    let addresses = usable(&found, &allowed, &wanted).map_err(|(address, range)| {
        refused(format!(
            "`{wanted}` is {address}, which is in {range}; an operator names the host or the address in {setting} to \
             allow it"
        ))
    })?;
    let host = match wanted.host {
        Host::Name(name) => name,
        Host::Address(address) => address.to_string(),
    };
    Ok(Target { host, port: wanted.port, addresses })
}

/// The addresses that may be connected to.
/// Errors: there are none; the first one that may not be, and the range that it is in.
fn usable(found: &[IpAddr], allowed: &[Allowed], wanted: &Wanted) -> Result<Vec<IpAddr>, (IpAddr, String)> {
    let (mut addresses, mut refused) = (Vec::new(), None);
    for address in found.iter().map(IpAddr::to_canonical) {
        if !allows_address(allowed, wanted, address) {
            refused = refused.or(Some(address));
        } else if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    match (addresses.is_empty(), refused) {
        (true, Some(address)) => Err((address, special_range(address).unwrap_or_default())),
        _ => Ok(addresses),
    }
}

async fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let lookup = timeout(RESOLVE_WAIT, lookup_host((name, 0))).await;
    let found = lookup
        .map_err(|_| format!("`{name}` was not resolved within {} s", RESOLVE_WAIT.as_secs()))?
        .map_err(|error| format!("`{name}` does not resolve: {error}"))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    if addresses.is_empty() { Err(format!("`{name}` has no address")) } else { Ok(addresses) }
}

/// The certificate authorities of this machine, read once.
pub(super) async fn trust() -> Trust {
    static TRUST: OnceCell<Trust> = OnceCell::const_new();
    let load = || async {
        let found = spawn_blocking(rustls_native_certs::load_native_certs).await.unwrap_or_default();
        for error in &found.errors {
            tracing::warn!("certificate authorities of this machine: {error}");
        }
        Trust::new(found.certs.into_iter().map(|certificate| certificate.to_vec()))
    };
    TRUST.get_or_init(load).await.clone()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
