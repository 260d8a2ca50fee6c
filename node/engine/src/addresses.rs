//! Where an address is, by the snapshot alone: inside, on the outside network, beyond its next hop, one of ours, or nobody's.
//! Pure; asked by whoever judges or sends. A rule about addresses belongs here.

use std::net::Ipv4Addr;

use crate::event::DropReason;
use crate::flow::FlowKey;
use crate::ids::{BackendId, FrontendId, Link, Mac, ShardId, VnetId};
use crate::probes::SOURCE;
use crate::record::{Addr, Endpoint, InsideKey, Proto, PublicKey};
use crate::rules::Rule;
use crate::snapshot::{Backend, Snapshot, Subnet};
use crate::wire::IpPacket;

/// The subnet of a virtual network that `ip` lies in.
pub(crate) fn subnet_of(s: &Snapshot, vnet: VnetId, ip: Ipv4Addr) -> Option<&Subnet> {
    s.subnets.iter().find(|n| n.vnet == vnet && n.prefix.contains(ip))
}

/// Refuses what no packet of a backend may be sent to: nobody's addresses, and private ones, which are never translated (S1).
pub(crate) fn check_destination(s: &Snapshot, vnet: VnetId, dst: Ipv4Addr) -> Result<(), DropReason> {
    if matches!(dst.octets()[0], 0 | 127) || dst.is_link_local() || !is_unicast(s, vnet, dst) {
        return Err(DropReason::MartianDestination);
    }
    // Who declares a private network as the outside one means it.
    let private = || s.private.spaces.get(&vnet).is_some_and(|spaces| spaces.iter().any(|space| space.contains(dst)));
    let unrouted = (is_private(dst) || private()) && !s.outside.prefix.contains(dst);
    if unrouted || subnet_of(s, vnet, dst).is_some() { Err(DropReason::PrivateDestination) } else { Ok(()) }
}

/// Space that no network of the internet has: RFC 1918, and RFC 6598 of carriers.
const fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private() || matches!(ip.octets(), [100, 64..=127, ..])
}

/// Whether an address is no broadcast, multicast or reserved one.
pub(crate) fn is_unicast(s: &Snapshot, vnet: VnetId, dst: Ipv4Addr) -> bool {
    let inside = s.subnets.iter().any(|n| n.vnet == vnet && n.prefix.is_broadcast(dst));
    dst.octets()[0] < 224 && !inside && !s.outside.prefix.is_broadcast(dst)
}

/// The public address of ours that `dst` is, with its shard.
pub(crate) fn own_address(s: &Snapshot, dst: Ipv4Addr) -> Option<(FrontendId, ShardId)> {
    let id = s.frontend_by_ip.get(&dst)?;
    s.frontends.get(id).map(|frontend| (*id, frontend.shard))
}

/// Whether a packet from outside claims an address that nobody outside has: the platform's, one of any inside network,
/// or a public one of ours unless
/// the frame comes from its owner, or from a member in its grace or that forwards.
pub(crate) fn is_spoofed(s: &Snapshot, src: Ipv4Addr, eth_src: Mac) -> bool {
    if src == SOURCE || s.subnets.iter().any(|n| n.prefix.contains(src)) {
        return true;
    }
    let Some(frontend) = s.frontend_by_ip.get(&src).and_then(|id| s.frontends.get(id)) else { return false };
    let a_member = s.peers.iter().any(|peer| peer.outside == eth_src);
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

/// The flow that a packet of a backend belongs to.
pub(crate) fn flow_of(vnet: VnetId, p: &IpPacket) -> FlowKey {
    let inside = InsideKey { vnet, endpoint: endpoint(p.src, p.src_port) };
    FlowKey { proto: p.proto, inside, remote: endpoint(p.dst, p.dst_port) }
}

/// The inside end to which a rule leads what comes to a public end: at the backend's own address, or, if the rule floats, at the
/// one that the packet has (D17). Two frontends may float to one port of a backend, and one remote may use both: so the ends differ.
pub(crate) fn led_to(s: &Snapshot, rule: &Rule, key: &PublicKey, backend: &Backend) -> Option<InsideKey> {
    let ip = if rule.floats { s.frontends.get(&key.frontend)?.ip } else { backend.ip };
    Some(InsideKey { vnet: backend.vnet, endpoint: endpoint(ip, rule.inside_port(key.port)) })
}

/// The public end that an inside end is by itself, and its shard: a rule that floats leads to it.
pub(crate) fn floating_end(
    s: &Snapshot,
    proto: Proto,
    inside: Endpoint,
    remote: Endpoint,
) -> Option<(PublicKey, ShardId)> {
    let (frontend, home) = own_address(s, inside.addr.ipv4()?)?;
    let key = PublicKey { proto, frontend, port: inside.port, remote };
    s.rules.of(&key).filter(|rule| rule.floats).map(|_| (key, home))
}

/// An inside end at its backend's own address, whatever address its packets have: as groups judge it and logs show it (S24).
pub(crate) fn own_end(s: &Snapshot, id: BackendId, inside: Endpoint) -> Endpoint {
    let floats = inside.addr.ipv4().is_some_and(|ip| s.frontend_by_ip.contains_key(&ip));
    let backend = s.backends.get(&id).filter(|_| floats);
    backend.map_or(inside, |backend| Endpoint { addr: Addr::from(backend.ip), ..inside })
}

/// Whether an inside end is at its backend's own address.
pub(crate) fn is_at(backend: &Backend, inside: InsideKey) -> bool {
    (backend.vnet, Addr::from(backend.ip)) == (inside.vnet, inside.endpoint.addr)
}

/// An inside end: what packets to a backend are addressed to, and who takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InsideEnd {
    pub(crate) vnet: VnetId,
    pub(crate) ip: Ipv4Addr,
    pub(crate) port: u16,
    /// The backend's own address, by which it is found on its link. Where a rule floats its packets have another one.
    pub(crate) at: Ipv4Addr,
}

impl InsideEnd {
    /// `None`: it is not of IPv4.
    pub(crate) fn of(key: InsideKey, backend: &Backend) -> Option<Self> {
        let Endpoint { addr, port } = key.endpoint;
        Some(Self { vnet: key.vnet, ip: addr.ipv4()?, port, at: backend.ip })
    }

    pub(crate) const fn link(self) -> Link {
        Link::Inside(self.vnet)
    }
}

/// An address and a port, as keys have them.
pub(crate) fn endpoint(ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { addr: Addr::from(ip), port }
}
