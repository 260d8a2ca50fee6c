//! IPv4 networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Serialize, Serializer};

/// An IPv4 network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Prefix {
    /// Network address; a configuration's has no host bits (`control::validate` refuses them).
    pub network: Ipv4Addr,
    /// Length, 0..=32.
    pub len: u8,
}

impl Prefix {
    /// No network at all but for one address that nobody has.
    pub const NOWHERE: Self = Self { network: Ipv4Addr::UNSPECIFIED, len: 32 };

    /// The network mask; lengths above 32 count as 32.
    #[inline]
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0)
    }

    /// Whether the address lies in this network.
    #[inline]
    #[must_use]
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        ip.to_bits() & self.mask() == self.network.to_bits() & self.mask()
    }

    /// Whether the two networks share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The last address of the network.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !self.mask())
    }

    /// Whether the address is the first or the last one of a network that has more than two: no host has it (RFC 3021).
    #[inline]
    #[must_use]
    pub fn is_broadcast(self, ip: Ipv4Addr) -> bool {
        let hosts = !self.mask();
        self.len < 31 && self.contains(ip) && [0, hosts].contains(&(ip.to_bits() & hosts))
    }

    /// The same network with its host bits cleared.
    #[must_use]
    pub fn normal(self) -> Self {
        Self { network: Ipv4Addr::from_bits(self.network.to_bits() & self.mask()), len: self.len }
    }
}

/// What is no IPv4 network in text, which is an address, a slash and a length of at most 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an IPv4 network like 10.0.0.0/16")]
pub struct NoPrefix;

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let (network, len) = text.split_once('/').ok_or(NoPrefix)?;
        let network = network.parse().map_err(|_| NoPrefix)?;
        let digits = len.len() <= 2 && len.bytes().all(|b| b.is_ascii_digit());
        let len = len.parse().ok().filter(|len| digits && *len <= 32).ok_or(NoPrefix)?;
        Ok(Self { network, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn prefix_arithmetic_holds_at_its_ends() {
        let (all, one) = (prefix("0.0.0.0/0"), prefix("10.0.0.1/32"));
        assert!(all.contains(Ipv4Addr::BROADCAST));
        assert_eq!(all.broadcast(), Ipv4Addr::BROADCAST);
        assert!(one.contains(Ipv4Addr::new(10, 0, 0, 1)) && !one.contains(Ipv4Addr::new(10, 0, 0, 2)));
        assert!(all.overlaps(one) && one.overlaps(all));
        assert_eq!(Prefix { len: 255, ..one }.mask(), u32::MAX);
        assert_eq!(prefix("10.0.3.7/24").normal(), prefix("10.0.3.0/24"));
    }

    #[test]
    fn first_and_last_address_of_more_than_two_are_nobodys() {
        let net = prefix("10.0.3.0/24");
        let ip = |last| Ipv4Addr::new(10, 0, 3, last);
        assert!(net.is_broadcast(ip(0)) && net.is_broadcast(ip(255)));
        assert!(!net.is_broadcast(ip(1)) && !net.is_broadcast(Ipv4Addr::new(10, 0, 2, 255)));
        assert!(prefix("10.0.3.0/30").is_broadcast(ip(3)));
        for pair in ["10.0.3.0/31", "10.0.3.0/32"] {
            assert!(!prefix(pair).is_broadcast(ip(0)) && !prefix(pair).is_broadcast(ip(1)), "{pair}");
        }
    }

    #[test]
    fn text_that_is_no_network_is_refused() {
        assert_eq!(prefix("10.0.0.0/8").to_string(), "10.0.0.0/8");
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0/8 ",
            "::/0",
            "10.0.0.0/008",
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(NoPrefix), "{text:?}");
        }
    }
}
