//! IPv4 networks, and the choice of one that is free.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Size of a cloud's network: 1,024 addresses.
const PREFIX: u8 = 22;
/// Addresses at the start that EC2 keeps for itself in every subnet: network, router, DNS, future use.
const RESERVED: u32 = 4;

/// An IPv4 network; its host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cidr {
    network: u32,
    prefix: u8,
}

/// The text is not an IPv4 network.
#[derive(Debug, thiserror::Error)]
#[error("not an IPv4 network: {0}")]
pub(crate) struct NotCidr(String);

impl Cidr {
    /// The network of that address; a prefix beyond 32 counts as 32.
    pub(crate) fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: u32::from(address) & mask(prefix), prefix }
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address: this machine's own.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// The two networks that it consists of.
    pub(crate) fn halves(self) -> [Self; 2] {
        let prefix = (self.prefix + 1).min(32);
        let upper = self.network | (mask(prefix) & !mask(self.prefix));
        [Self { network: self.network, prefix }, Self { network: upper, prefix }]
    }

    /// What machines may have, in order.
    pub(crate) fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let last = self.network | !mask(self.prefix);
        (self.network + RESERVED..last).map(Ipv4Addr::from)
    }

    /// The address's place in the network.
    pub(crate) fn host_part(self, address: Ipv4Addr) -> u32 {
        u32::from(address) & !mask(self.prefix)
    }

    fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.network & shorter == other.network & shorter
    }
}

/// A network that overlaps none of `taken`: the preferred one, else one from 10.64.0.0 to 10.255.252.0, the search
/// beginning at a place that follows from `seed`.
pub(crate) fn choose(preferred: Option<Cidr>, seed: u32, taken: &[Cidr]) -> Option<Cidr> {
    const CANDIDATES: u32 = 192 * 64;
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0));
    let numbered = |n: u32| Cidr { network: first + (n % CANDIDATES) * 1024, prefix: PREFIX };
    let is_free = |cidr: &Cidr| !taken.iter().any(|other| cidr.overlaps(*other));
    preferred.into_iter().chain((0..CANDIDATES).map(|n| numbered(seed.wrapping_add(n)))).find(is_free)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NotCidr;

    /// A bare address is a network of one.
    fn from_str(text: &str) -> Result<Self, NotCidr> {
        let wrong = || NotCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let address = address.parse().map_err(|_| wrong())?;
        if prefix > 32 { Err(wrong()) } else { Ok(Self::of(address, prefix)) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = NotCidr;

    fn try_from(text: String) -> Result<Self, NotCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_writes() {
        assert_eq!(cidr("10.1.2.3/22").to_string(), "10.1.0.0/22");
        assert_eq!(cidr("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
        for wrong in ["", "10.1.2.3/33", "10.1.2/8", "default", "::1/128"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hands_out_every_address_but_the_reserved_ones() {
        let hosts: Vec<_> = cidr("10.70.4.0/22").hosts().collect();
        assert_eq!(hosts.len(), 1019);
        assert_eq!((hosts[0], hosts[1018]), (Ipv4Addr::new(10, 70, 4, 4), Ipv4Addr::new(10, 70, 7, 254)));
        assert_eq!(cidr("10.70.4.0/22").host_part(hosts[1018]), 1022);
    }

    #[test]
    fn chooses_what_is_free() {
        let preferred = cidr("10.99.8.0/22");
        assert_eq!(choose(Some(preferred), 1, &[]), Some(preferred));
        let next = choose(Some(preferred), 1, &[cidr("10.99.0.0/16")]).unwrap();
        assert_eq!(next, cidr("10.64.4.0/22"));
        assert_eq!(choose(None, 1, &[cidr("10.64.5.9")]), Some(cidr("10.64.8.0/22")));
        assert_eq!(choose(None, u32::MAX, &[cidr("192.168.0.0/16")]).map(Cidr::prefix), Some(22));
        assert_eq!(choose(None, 1, &[cidr("10.0.0.0/8")]), None);
    }
}
