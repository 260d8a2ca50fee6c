//! Which port a new mapping may have, naively: by looking at every mapping there is (S7-S10, S12, R1, R3).

use std::collections::BTreeSet;

use engine::snapshot::Sharing;

use crate::flow::Flow;
use crate::sent::Packet;
use crate::world::{BACKENDS, World, lease_of};

/// Ports that each backend has ever shown.
pub type Shown = [BTreeSet<u16>; BACKENDS.len()];

/// Whether `flow` keeps its port from a new mapping of the packet's endpoint.
fn stands_in_the_way(flow: &Flow, p: &Packet, sharing: Sharing) -> bool {
    let same_address = flow.proto == p.proto && flow.remote.0 == p.remote;
    match sharing {
        Sharing::Tuple => flow.is_of(p),
        Sharing::Address => same_address,
        Sharing::Endpoint => flow.proto == p.proto && (flow.inside != (p.backend, p.near) || flow.is_of(p)),
    }
}

fn is_own(flow: &Flow, p: &Packet) -> bool {
    (flow.proto, flow.inside) == (p.proto, (p.backend, p.near))
}

/// The ports that a new mapping for this packet may have: those that it surely may, and all.
#[must_use]
pub fn choice(world: &World, flows: &[Flow], now_ns: u64, p: &Packet) -> (Vec<u16>, Vec<u16>) {
    let sharing = world.rules[p.backend].sharing;
    let taken = |port: u16, surely: bool| {
        let mut there = flows.iter().filter(|flow| flow.port == port && (!surely || flow.is_kept(now_ns)));
        there.any(|flow| stands_in_the_way(flow, p, sharing))
    };
    let mut free: Vec<u16> = lease_of(p.backend).filter(|port| !taken(*port, false)).collect();
    let mut all: Vec<u16> = lease_of(p.backend).filter(|port| !taken(*port, true)).collect();
    if sharing == Sharing::Endpoint {
        // R3: the port that the endpoint has, while it has one.
        let own = |surely: bool| flows.iter().find(|f| is_own(f, p) && (!surely || f.is_kept(now_ns)));
        if let Some(own) = own(true) {
            all.retain(|port| *port == own.port);
            free.retain(|port| *port == own.port);
        } else if own(false).is_some() {
            free.clear();
        }
    }
    (free, all)
}

/// Judges the port that a new mapping got, and forgets whatever must be gone for it.
///
/// # Errors
/// Why it should not have got it.
pub fn judge(
    (world, shown): (&World, &mut Shown),
    flows: &mut Vec<Flow>,
    now_ns: u64,
    p: &Packet,
    port: u16,
) -> Result<(), String> {
    let sharing = world.rules[p.backend].sharing;
    let (free, all) = choice(world, flows, now_ns, p);
    if !all.contains(&port) {
        let holders: Vec<&Flow> = flows.iter().filter(|flow| flow.port == port).collect();
        return Err(format!("port {port} instead of one of {all:?}; it belongs to {holders:?}"));
    }
    // S10, D9: in one order, the first that is free. What was never shown comes behind all that was.
    let shown = &mut shown[p.backend];
    if shown.insert(port)
        && let Some(before) = free.iter().find(|free| **free != port && shown.contains(free))
    {
        return Err(format!("port {port} is taken into use, although {before} was and is free"));
    }
    let own_elsewhere = |flow: &Flow| sharing == Sharing::Endpoint && is_own(flow, p) && flow.port != port;
    flows.retain(|flow| !own_elsewhere(flow) && (flow.port != port || !stands_in_the_way(flow, p, sharing)));
    Ok(())
}
