//! Addresses as keys hold them.
//!
//! Their width is one for all mappings, though only IPv4 is translated: what the log says of a flow is the same for either
//! family, and the engine's parser and rewriter are what IPv6 would add. The price is 24 octets of a record's 88, which four
//! octets for each address would make 64, one cache line. Whoever narrows them measures that with `qnat-bench engine`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use bincode::{Decode, Encode};

/// IPv4 or IPv6 address as 16 octets; IPv4 is mapped (`::ffff:a.b.c.d`). Keys are wide enough for both (D14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Addr(pub [u8; 16]);

impl From<Ipv4Addr> for Addr {
    #[inline]
    fn from(ip: Ipv4Addr) -> Self {
        Self(ip.to_ipv6_mapped().octets())
    }
}

impl Addr {
    /// The IPv4 address that this one maps, if it does.
    #[inline]
    #[must_use]
    pub const fn ipv4(self) -> Option<Ipv4Addr> {
        Ipv6Addr::from_octets(self.0).to_ipv4_mapped()
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ipv4() {
            Some(ip) => ip.fmt(f),
            None => Ipv6Addr::from_octets(self.0).fmt(f),
        }
    }
}

/// Address and port (or ICMP identifier).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// Port in host order; for ICMP echo the identifier on the inside and public side, 0 on the remote side.
    pub port: u16,
}
