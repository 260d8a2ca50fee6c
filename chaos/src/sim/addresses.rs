//! Where members are, on the peers' network and on the data networks.

use std::net::{Ipv4Addr, SocketAddr};

use engine::ids::{Mac, NodeId};

/// The cards of a member, inside and outside.
pub(super) fn macs(id: NodeId) -> (Mac, Mac) {
    let n = u8::try_from(id.0).expect("few nodes");
    (Mac([2, 9, 0, 0, 1, n]), Mac([2, 9, 0, 0, 2, n]))
}

pub(super) fn address(id: NodeId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 18, 0, u8::try_from(id.0).expect("few nodes")), 7800))
}
