//! Decides what is done to the packets of a mapping, both ways, and does it. The decision stands beside the record, by slot.
//!
//! Made by the worker when a packet of a committed mapping was judged at length, used until a revision changes (K2). Never
//! an authority: that, and whether the mapping lives, is looked at for each packet.

use std::net::Ipv4Addr;

use crate::addresses::{check_destination, next_hop, own_address};
use crate::context::Frame;
use crate::flow::{Answers, Record, Translation};
use crate::ids::Link;
use crate::nat::identification::Identifications;
use crate::nat::timeouts::is_short;
use crate::neigh::NeighbourCache;
use crate::snapshot::Snapshot;
use crate::wire::{IpPacket, TcpFlags, clamp_mss, decrement_ttl, may_fragment, rewrite_source, set_identification};

/// What the snapshot says about a live mapping; `None` if its packets have to be judged one by one: the backend is gone or
/// moved, a rule floats to it (D17), or the remote is an address of ours.
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
        answers: answers_of(record, s),
        passed: [0; 2],
        fast: 0,
    })
}

/// What answers of a mapping's remote, or of the other instance, do.
pub(crate) fn answers_of(record: &Record, s: &Snapshot) -> Answers {
    if is_short(record, &s.params) { Answers::Shorten } else { Answers::Nothing }
}

/// Puts the public end on a packet that goes out. Returns its new identification, if it needs one (R20).
pub(crate) fn put_source(
    identifications: &mut Identifications,
    frame: &mut Frame<'_>,
    p: &IpPacket,
    (ip, port): (Ipv4Addr, u16),
) -> Option<u16> {
    rewrite_source(frame.bytes, frame.meta, p, ip, port);
    if p.fragment.is_none() && !may_fragment(frame.bytes, p.l3) {
        return None;
    }
    let id = identifications.next(ip, frame.meta, p);
    set_identification(frame.bytes, p.l3, id);
    Some(id)
}

/// What every translated packet undergoes besides: its segment size is bounded (R26), a hop is taken off.
pub(crate) fn finish(s: &Snapshot, frame: &mut Frame<'_>, p: &IpPacket) {
    clamp(s, frame, p);
    decrement_ttl(frame.bytes, p.l3);
}

/// Lowers the segment size that a SYN offers, if the configuration says so (R26).
fn clamp(s: &Snapshot, frame: &mut Frame<'_>, p: &IpPacket) {
    if s.params.mss_max > 0 && p.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN)) {
        clamp_mss(frame.bytes, frame.meta, p, s.params.mss_max);
    }
}
