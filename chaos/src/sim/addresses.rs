//! Where members are, on the peers' network and on the data networks.

use std::net::{Ipv4Addr, SocketAddr};

use engine::ids::{Link, Mac, NodeId, VnetId};

/// The virtual networks: their names, and the ids that the control state gives them in the order of these. Both have the
/// same subnet (D14).
pub(super) const NETWORKS: [(&str, VnetId); 2] = [("v", VnetId(1)), ("w", VnetId(2))];
/// All links of a member.
pub(super) const LINKS: [Link; 3] = [Link::Inside(NETWORKS[0].1), Link::Inside(NETWORKS[1].1), Link::Outside];

/// What stands for a network where a host is outside.
const OUTSIDE: VnetId = VnetId(255);

/// Where a backend is. Backends of different networks have the same addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Host {
    pub(super) network: VnetId,
    pub(super) ip: Ipv4Addr,
}

impl Host {
    /// A host outside.
    pub(super) const fn outside(ip: Ipv4Addr) -> Self {
        Self { network: OUTSIDE, ip }
    }

    /// The host inside that has this card.
    pub(super) fn of(card: Mac) -> Self {
        let Mac([_, network, a, b, c, d]) = card;
        Self { network: VnetId(network.into()), ip: Ipv4Addr::new(a, b, c, d) }
    }

    pub(super) fn is_outside(self) -> bool {
        self.network == OUTSIDE
    }

    pub(super) const fn link(self) -> Link {
        Link::Inside(self.network)
    }

    /// Its card.
    pub(super) fn mac(self) -> Mac {
        let [a, b, c, d] = self.ip.octets();
        Mac([2, self.network.0.to_le_bytes()[0], a, b, c, d])
    }
}

/// The card of a member on a link.
pub(super) fn mac_on(link: Link, id: NodeId) -> Mac {
    let n = u8::try_from(id.0).expect("few nodes");
    let card = match link {
        Link::Outside => 2,
        Link::Inside(network) if network == NETWORKS[0].1 => 1,
        Link::Inside(_) => 3,
    };
    Mac([2, 9, 0, 0, card, n])
}

pub(super) fn address(id: NodeId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 18, 0, u8::try_from(id.0).expect("few nodes")), 7800))
}
