//! System addresses as they are declared. Plain data.

use std::net::Ipv4Addr;

use bincode::{Decode, Encode};
use serde::Serialize;
use words::Prefix;

/// Most system addresses of a cluster.
pub const SYSTEM_ADDRESSES_MAX: usize = 256;

/// The addresses of those who have no other way out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct DefaultOutbound {
    /// Networks, every address of which is the system's; nobody can choose one. Empty: there is no such way out.
    pub addresses: Vec<Prefix>,
}

impl DefaultOutbound {
    /// All system addresses, as declared; one more than there may be at most.
    pub fn all(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let of = |prefix: &Prefix| prefix.network.to_bits()..=prefix.broadcast().to_bits();
        self.addresses.iter().flat_map(of).map(Ipv4Addr::from_bits).take(SYSTEM_ADDRESSES_MAX + 1)
    }
}
