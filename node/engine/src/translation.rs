//! Decides what is done to the packets of a mapping, both ways, and does it. The decision stands beside the record, by slot.
//!
//! Made by the worker when a packet of a committed mapping was judged at length, used until a revision changes (K2). Never
//! an authority: that, and whether the mapping lives, is looked at for each packet.

use std::net::Ipv4Addr;

use crate::addresses::{check_destination, next_hop, own_address};
use crate::flow::{Answers, Record, Translation};
use crate::ids::Link;
use crate::judge::clamp;
use crate::nat::identification::Identifications;
use crate::nat::timeouts::is_short;
use crate::neigh::NeighbourCache;
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, IpPacket, decrement_ttl, may_fragment, rewrite_source, set_identification};

/// What the snapshot says about a live mapping; `None` if its packets have to be judged one by one: the backend is gone or
/// moved, or the remote is an address of ours.
pub(crate) fn translation_of(
    made: u64,
    record: &Record,
    s: &Snapshot,
    neighbours: &NeighbourCache,
) -> Option<Translation> {
    let (inside, remote) = (record.inside.addr.ipv4()?, record.remote.addr.ipv4()?);
    let id = s.backend_by_ip.get(&(record.vnet, inside)).filter(|id| **id == record.backend)?;
    s.backends.get(id).filter(|backend| backend.ip == inside)?;
    if own_address(s, remote).is_some() || check_destination(s, record.vnet, remote).is_err() {
        return None;
    }
    let hop = next_hop(s, remote).ok()?;
    Some(Translation {
        made,
        public: s.frontends.get(&record.frontend)?.ip,
        hop,
        inside: neighbours.place(Link::Inside(record.vnet), inside),
        outside: neighbours.place(Link::Outside, hop),
        answers: if is_short(record, &s.params) { Answers::Shorten } else { Answers::Nothing },
    })
}

/// Puts the public end on a packet that goes out. Returns its new identification, if it needs one (R20).
pub(crate) fn put_source(
    identifications: &mut Identifications,
    (frame, meta): (&mut [u8], &FrameMeta),
    p: &IpPacket,
    (ip, port): (Ipv4Addr, u16),
) -> Option<u16> {
    rewrite_source(frame, meta, p, ip, port);
    if p.fragment.is_none() && !may_fragment(frame, p.l3) {
        return None;
    }
    let id = identifications.next(ip, meta, p);
    set_identification(frame, p.l3, id);
    Some(id)
}

/// What every translated packet undergoes besides: its segment size is bounded (R26), a hop is taken off.
pub(crate) fn finish(s: &Snapshot, (frame, meta): (&mut [u8], &FrameMeta), p: &IpPacket) {
    clamp(s, frame, meta, p);
    decrement_ttl(frame, p.l3);
}
