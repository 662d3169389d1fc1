//! Ranges of addresses, and those that are not on the public internet.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    first: IpAddr,
    /// How many bits are the same.
    bits: u32,
}

impl Range {
    /// One address.
    pub(super) fn only(address: IpAddr) -> Self {
        Range { first: address, bits: width(address) }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let same_kind = self.first.is_ipv4() == address.is_ipv4();
        same_kind && prefix(self.first, self.bits) == prefix(address, self.bits)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is no range of addresses: 10.0.0.0/8 or [fd00::/8] is one");
        let (first, bits) = text.split_once('/').ok_or_else(wanted)?;
        let first: IpAddr = first.parse().map_err(|_| wanted())?;
        let digits = bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse().ok().filter(|bits| digits && *bits <= width(first)).ok_or_else(wanted)?;
        let range = Range { first, bits };
        match prefix(first, bits) == number(first) {
            true => Ok(range),
            false => Err(format!("`{text}` is no range of addresses: there are bits after the first {bits}")),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number, in the upper bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn prefix(address: IpAddr, bits: u32) -> u128 {
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    number(address) & mask
}

/// The range that `address` is in and what is there, unless it is an address of the public internet. An
/// IPv6 address that stands for an IPv4 one is where that one is.
pub(super) fn special_range(address: IpAddr) -> Option<String> {
    let found = SPECIAL.iter().find(|(first, bits, _)| {
        let range = Range { first: *first, bits: *bits };
        range.contains(address)
    });
    if let Some((first, bits, what)) = found {
        return Some(format!("{first}/{bits} ({what})"));
    }
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => match embedded(address) {
            Some(address) => special_range(IpAddr::V4(address)),
            None => (!PUBLIC_V6.contains(IpAddr::V6(address))).then(|| format!("none that is public ({PUBLIC_V6})")),
        },
    }
}

/// Where all public IPv6 addresses are that stand for themselves.
const PUBLIC_V6: Range = Range { first: v6(0x2000, 0, 0), bits: 3 };

/// The IPv4 address to which what is sent to this one goes in the end.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // Mapped; and compatible, which nobody should use any more.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => join(high, low),
        // NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => join(high, low),
        // 6to4.
        [0x2002, high, low, ..] => join(high, low),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, c: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
}

/// The registries of special-purpose addresses, and multicast.
const SPECIAL: [(IpAddr, u32, &str); 25] = [
    (v4(0, 0, 0, 0), 8, "this network"),
    (v4(10, 0, 0, 0), 8, "private"),
    (v4(100, 64, 0, 0), 10, "shared by a provider's customers"),
    (v4(127, 0, 0, 0), 8, "this machine"),
    (v4(169, 254, 0, 0), 16, "link-local, where clouds keep credentials"),
    (v4(172, 16, 0, 0), 12, "private"),
    (v4(192, 0, 0, 0), 24, "protocols"),
    (v4(192, 0, 2, 0), 24, "documentation"),
    (v4(192, 88, 99, 0), 24, "6to4 relays"),
    (v4(192, 168, 0, 0), 16, "private"),
    (v4(198, 18, 0, 0), 15, "benchmarks"),
    (v4(198, 51, 100, 0), 24, "documentation"),
    (v4(203, 0, 113, 0), 24, "documentation"),
    (v4(224, 0, 0, 0), 4, "multicast"),
    (v4(240, 0, 0, 0), 4, "reserved"),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128, "unspecified"),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128, "this machine"),
    (v6(0x64, 0xff9b, 1), 48, "translation inside a network"),
    (v6(0x2001, 0, 0), 23, "protocols"),
    (v6(0x2001, 0xdb8, 0), 32, "documentation"),
    (v6(0x3fff, 0, 0), 20, "documentation"),
    (v6(0xfc00, 0, 0), 7, "private"),
    (v6(0xfe80, 0, 0), 10, "link-local"),
    (v6(0xfec0, 0, 0), 10, "private"),
    (v6(0xff00, 0, 0), 8, "multicast"),
];
