//! Which address and port the server listens on, and under which one others reach it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

/// The port NATS clients expect, taken for `--listen` when it is free.
const NATS_PORT: u16 = 4222;

/// `--listen ADDR`: an address of this machine, with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address; 0.0.0.0 or :: for all of them.
    pub ip: IpAddr,
    /// The port, if it matters.
    pub port: Option<u16>,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error("`{text}` is not an address to listen on")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// The system refuses it.
    #[error("cannot listen on {address}: {source}")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Listening on all addresses, of which none can be told to others.
    #[error("this machine has no address that others could use")]
    NoAddress,
}

impl ListenError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed { .. } => {
                "write it as 192.168.1.5, 192.168.1.5:4222 or 0.0.0.0".to_owned()
            }
            Self::Taken { .. } => "choose another port, or an address of this machine".to_owned(),
            Self::NoAddress => "name one with --address".to_owned(),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = Some(address.port()).filter(|port| *port != 0);
            return Ok(Listen {
                ip: address.ip(),
                port,
            });
        }
        let ip = text.trim_matches(['[', ']']).parse();
        ip.map(|ip| Listen { ip, port: None })
            .map_err(|_| ListenError::Malformed {
                text: text.to_owned(),
            })
    }
}

/// A port to listen on: the one asked for, else the one of the last time, else the usual one when
/// others are to connect, else any. Clients keep their address over a restart that way.
pub(super) fn choose_port(
    ip: IpAddr,
    asked: Option<u16>,
    before: Option<u16>,
    for_others: bool,
) -> Result<u16, ListenError> {
    if let Some(port) = asked {
        return free_port(ip, port);
    }
    let usual = for_others.then_some(NATS_PORT);
    let liked = before
        .into_iter()
        .chain(usual)
        .find_map(|port| free_port(ip, port).ok());
    liked.map_or_else(|| free_port(ip, 0), Ok)
}

/// Tries a port by binding it for a moment; nats-server binds it again right after.
fn free_port(ip: IpAddr, port: u16) -> Result<u16, ListenError> {
    let address = SocketAddr::new(ip, port);
    let bound = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|source| ListenError::Taken { address, source })
}

/// The address under which clients on this machine reach a listening one.
pub(super) fn local_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The addresses under which other machines reach a listening one, the likeliest first.
pub(super) fn reachable_at(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    let mut all: Vec<IpAddr> = towards_the_world().into_iter().collect();
    all.extend(
        of_interfaces()
            .into_iter()
            .filter(|ip| Some(ip) != all.first())
            .collect::<Vec<_>>(),
    );
    all
}

/// The address the routing table would choose; connecting a datagram socket sends nothing.
fn towards_the_world() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address reserved for documentation: any route that leads outside will do.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// Addresses of interfaces, for machines without a way outside.
fn of_interfaces() -> Vec<IpAddr> {
    // Linux's only plain-text list of them; elsewhere there is none and `--address` helps.
    fs::read_to_string("/proc/net/fib_trie")
        .map(|text| local_in(&text))
        .unwrap_or_default()
}

fn local_in(fib_trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = leaf.filter(|ip| !ip.is_loopback()).map(IpAddr::V4)
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read() {
        let read = |text: &str| {
            text.parse::<Listen>()
                .map(|listen| (listen.ip.to_string(), listen.port))
        };
        assert_eq!(read("10.0.0.1").unwrap(), ("10.0.0.1".into(), None));
        assert_eq!(
            read("10.0.0.1:4333").unwrap(),
            ("10.0.0.1".into(), Some(4333))
        );
        assert_eq!(read("0.0.0.0:0").unwrap(), ("0.0.0.0".into(), None));
        assert_eq!(read("[::1]:4222").unwrap(), ("::1".into(), Some(4222)));
        assert_eq!(read("[::1]").unwrap(), ("::1".into(), None));
        assert!(read("myhost").unwrap_err().to_string().contains("myhost"));
    }

    #[test]
    fn a_port_stays_when_it_is_free() {
        let ip = Ipv4Addr::LOCALHOST.into();
        let port = choose_port(ip, None, None, false).unwrap();
        assert_eq!(choose_port(ip, None, Some(port), false).unwrap(), port);
        let taken = TcpListener::bind((ip, port)).unwrap();
        assert_ne!(choose_port(ip, None, Some(port), false).unwrap(), port);
        assert!(matches!(
            choose_port(ip, Some(port), None, false),
            Err(ListenError::Taken { .. })
        ));
        drop(taken);
    }

    #[test]
    fn interface_addresses_are_found() {
        let text = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.3\n        /32 host LOCAL\n     \
                    |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_in(text), ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    }
}
