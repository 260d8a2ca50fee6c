//! Where an address is, by the snapshot alone: inside, on the outside network, beyond its next hop, one of ours, or nobody's.
//! Pure; asked by whoever judges or sends. A rule about addresses belongs here.

use std::net::Ipv4Addr;

use crate::event::DropReason;
use crate::ids::{FrontendId, Mac, ShardId, Side};
use crate::record::{Addr, Endpoint};
use crate::snapshot::{NodeLinks, Snapshot};

/// Whether `ip` lies in a subnet of ours.
pub(crate) fn inside_subnet(s: &Snapshot, ip: Ipv4Addr) -> bool {
    s.subnets.iter().any(|n| n.prefix.contains(ip))
}

/// Refuses what no packet of a backend may be sent to: nobody's addresses, and those of inside.
pub(crate) fn check_destination(s: &Snapshot, dst: Ipv4Addr) -> Result<(), DropReason> {
    let martian = matches!(dst.octets()[0], 0 | 127 | 224..)
        || dst.is_link_local()
        || inside_subnet(s, dst)
        || s.outside.prefix.is_broadcast(dst);
    if martian { Err(DropReason::MartianDestination) } else { Ok(()) }
}

/// Whether an address is no broadcast, multicast or reserved one.
pub(crate) fn is_unicast(s: &Snapshot, dst: Ipv4Addr) -> bool {
    let inside = s.subnets.iter().any(|n| n.prefix.is_broadcast(dst));
    dst.octets()[0] < 224 && !inside && !s.outside.prefix.is_broadcast(dst)
}

/// The public address of ours that `dst` is, with its shard.
pub(crate) fn own_address(s: &Snapshot, dst: Ipv4Addr) -> Option<(FrontendId, ShardId)> {
    let id = s.frontend_by_ip.get(&dst)?;
    s.frontends.get(id).map(|frontend| (*id, frontend.shard))
}

/// Whether a packet from outside claims an address that nobody outside has: one of inside's, or a public one of ours unless
/// the frame comes from its owner, or from a member in its grace or that forwards.
pub(crate) fn is_spoofed(s: &Snapshot, src: Ipv4Addr, eth_src: Mac) -> bool {
    if inside_subnet(s, src) {
        return true;
    }
    let Some(frontend) = s.frontend_by_ip.get(&src).and_then(|id| s.frontends.get(id)) else { return false };
    let a_member = s.peers.iter().any(|peer| mac_on(peer, Side::Outside) == eth_src);
    eth_src != Mac::of_shard(frontend.shard) && !a_member
}

/// Who takes a packet for `dst` outside.
pub(crate) fn next_hop(s: &Snapshot, dst: Ipv4Addr) -> Result<Ipv4Addr, DropReason> {
    if s.outside.prefix.contains(dst) {
        return Ok(dst);
    }
    s.outside.next_hop.ok_or(DropReason::NoRoute)
}

/// The same, also for a public address of ours: `address` knows where that is.
pub(crate) fn hop_to(s: &Snapshot, dst: Ipv4Addr) -> Result<Ipv4Addr, DropReason> {
    if s.frontend_by_ip.contains_key(&dst) { Ok(dst) } else { next_hop(s, dst) }
}

/// A member's own MAC on a side.
pub(crate) fn mac_on(links: &NodeLinks, side: Side) -> Mac {
    match side {
        Side::Inside => links.inside,
        Side::Outside => links.outside,
    }
}

/// An address and a port, as keys have them.
pub(crate) fn endpoint(ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { addr: Addr::from(ip), port }
}
