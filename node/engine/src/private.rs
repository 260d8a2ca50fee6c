//! Which packets are private traffic (S41), and which shard they belong to (M3): those between two instances of one virtual network,
//! or of two that are connected, as far as hosts do not reach each other without the gateway. Whatever else is sent to private
//! space ends with a reason of its own (S1). By the snapshot alone; pure.

use std::net::Ipv4Addr;

use crate::addresses::{endpoint, subnet_of};
use crate::consent::{groups_admit, groups_permit};
use crate::flow::FlowKey;
use crate::ids::{BackendId, Link, ShardId, VnetId};
use crate::record::{InsideKey, Open, Proto, PublicKey, Scenario, untranslated};
use crate::snapshot::{Backend, Snapshot};

/// Who sends, who receives, and the shard that judges what passes between them, either way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) from: Instance<'a>,
    pub(crate) to: Instance<'a>,
    pub(crate) home: ShardId,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance<'a> {
    pub(crate) id: BackendId,
    pub(crate) backend: &'a Backend,
}

impl Instance<'_> {
    pub(crate) const fn link(&self) -> Link {
        Link::Inside(self.backend.vnet)
    }

    fn key(&self, port: u16) -> InsideKey {
        InsideKey { vnet: self.backend.vnet, endpoint: endpoint(self.backend.ip, port) }
    }
}

/// What passes between two instances, as its sender sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) proto: Proto,
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
}

impl Ends {
    /// As the receiver's answers have it.
    pub(crate) const fn back(self) -> Self {
        Self { proto: self.proto, from_port: self.to_port, to_port: self.from_port }
    }
}

impl Pair<'_> {
    /// The other way round.
    pub(crate) const fn back(&self) -> Self {
        Self { from: self.to, to: self.from, home: self.home }
    }

    /// Whether they are in two networks.
    pub(crate) fn crosses(&self) -> bool {
        self.from.backend.vnet != self.to.backend.vnet
    }

    /// Whether any group judges what passes between them. Where none does nothing is kept of it (W4).
    pub(crate) fn is_judged(&self, s: &Snapshot) -> bool {
        s.security.of(self.from.id).is_some() || s.security.of(self.to.id).is_some()
    }

    /// The flow that its sender begins.
    pub(crate) fn flow(&self, ends: Ends) -> FlowKey {
        FlowKey { proto: ends.proto, inside: self.from.key(ends.from_port), remote: self.to.key(ends.to_port).endpoint }
    }

    /// Whether the groups of both let the sender begin it (S26).
    pub(crate) fn may_begin(&self, s: &Snapshot, ends: Ends) -> bool {
        groups_permit(s, self.from.id, &self.flow(ends)) && groups_admit(s, self.to.id, &self.back().flow(ends.back()))
    }

    /// What the log keeps of it.
    pub(crate) fn open(&self, ends: Ends) -> Open {
        let FlowKey { proto, inside, remote } = self.flow(ends);
        let public = PublicKey { proto, frontend: untranslated(self.from.id), port: ends.from_port, remote };
        Open { public, inside, backend: self.from.id, scenario: Scenario::Private }
    }
}

/// The pair that a packet of an instance's belongs to, if it is private traffic.
pub(crate) fn pair_of(s: &Snapshot, (vnet, src): (VnetId, Ipv4Addr), dst: Ipv4Addr) -> Option<Pair<'_>> {
    if !s.private.routed {
        return None;
    }
    let to = instance(s, vnet, dst).or_else(|| {
        let connected = s.private.connected.get(&vnet)?;
        connected.iter().find_map(|network| instance(s, *network, dst))
    })?;
    let from = instance(s, vnet, src).filter(|from| from.id != to.id)?;
    if to.backend.vnet == vnet && are_neighbours(s, vnet, src, dst) {
        return None;
    }
    let place = |of: &Instance<'_>| (of.backend.vnet, of.backend.ip);
    let lower = if place(&from) < place(&to) { from } else { to };
    Some(Pair { from, to, home: lower.backend.home })
}

/// Whether two addresses of a network are in one subnet, on a link where hosts reach each other.
fn are_neighbours(s: &Snapshot, vnet: VnetId, a: Ipv4Addr, b: Ipv4Addr) -> bool {
    subnet_of(s, vnet, a)
        .is_some_and(|subnet| subnet.prefix.contains(b) && !s.private.isolated.contains(&(vnet, subnet.prefix)))
}

/// Whether the gateway answers in the name of `b` if `a` asks for it: on a link whose hosts are isolated.
pub(crate) fn answered_for(s: &Snapshot, vnet: VnetId, a: Ipv4Addr, b: Ipv4Addr) -> Option<ShardId> {
    let pair = pair_of(s, (vnet, a), b)?;
    let one_subnet = subnet_of(s, vnet, a).is_some_and(|subnet| subnet.prefix.contains(b));
    (!pair.crosses() && one_subnet).then_some(pair.home)
}

fn instance(s: &Snapshot, vnet: VnetId, ip: Ipv4Addr) -> Option<Instance<'_>> {
    let id = *s.backend_by_ip.get(&(vnet, ip))?;
    Some(Instance { id, backend: s.backends.get(&id)? })
}

/// Whether a private mapping may stand: both instances are still there, and connected, and their groups allow what it was
/// opened for.
pub(crate) fn stands(s: &Snapshot, id: BackendId, flow: &FlowKey) -> bool {
    let (Some(src), Some(dst)) = (flow.inside.endpoint.addr.ipv4(), flow.remote.addr.ipv4()) else { return false };
    let ends = Ends { proto: flow.proto, from_port: flow.inside.endpoint.port, to_port: flow.remote.port };
    let pair = pair_of(s, (flow.inside.vnet, src), dst).filter(|pair| pair.from.id == id);
    pair.is_some_and(|pair| pair.may_begin(s, ends))
}
