//! What is done to the packets of a mapping, both ways: decided once, applied to many. A value beside the record, by slot; not
//! replicated, and lost without harm.
//!
//! Made by the worker when a packet of a committed mapping was judged at length, used until a revision changes (K2). Never
//! an authority: that, and whether the mapping lives, is looked at for each packet.

use std::net::Ipv4Addr;

use crate::addresses::{check_destination, next_hop, own_address};
use crate::flow::Record;
use crate::ids::Side;
use crate::judge::clamp;
use crate::nat::identification::Identifications;
use crate::nat::timeouts::is_short;
use crate::neigh::{NeighbourCache, Place};
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, IpPacket, decrement_ttl, may_fragment, rewrite_source, set_identification};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The revision that it was made at; 0: there is none.
    pub(crate) made: u64,
    /// The address of its public end; the port is the record's.
    pub(crate) public: Ipv4Addr,
    /// Who takes what goes out.
    pub(crate) hop: Ipv4Addr,
    /// Where the backend's neighbour entry stands, and the next hop's.
    pub(crate) inside: Place,
    pub(crate) outside: Place,
    /// What an answer of the remote does to the mapping.
    pub(crate) answers: Answers,
}

const _: () = assert!(size_of::<Translation>() <= 64, "a cache line beside the record");

/// What answers of the remote do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answers {
    /// Nothing.
    Nothing,
    /// The first one shortens the mapping's life (D26).
    Shorten,
}

impl Translation {
    pub(crate) const NONE: Self = Self {
        made: 0,
        public: Ipv4Addr::UNSPECIFIED,
        hop: Ipv4Addr::UNSPECIFIED,
        inside: Place::NOWHERE,
        outside: Place::NOWHERE,
        answers: Answers::Nothing,
    };

    /// What the snapshot says about a live mapping; `None` if its packets have to be judged one by one: the backend is gone or
    /// moved, or the remote is an address of ours.
    pub(crate) fn of(made: u64, record: &Record, s: &Snapshot, neighbours: &NeighbourCache) -> Option<Self> {
        let (inside, remote) = (record.inside.addr.ipv4()?, record.remote.addr.ipv4()?);
        let id = s.backend_by_ip.get(&(record.vnet, inside)).filter(|id| **id == record.backend)?;
        s.backends.get(id).filter(|backend| backend.ip == inside)?;
        if own_address(s, remote).is_some() || check_destination(s, remote).is_err() {
            return None;
        }
        let hop = next_hop(s, remote).ok()?;
        Some(Self {
            made,
            public: s.frontends.get(&record.frontend)?.ip,
            hop,
            inside: neighbours.place(Side::Inside, inside),
            outside: neighbours.place(Side::Outside, hop),
            answers: if is_short(record, &s.params) { Answers::Shorten } else { Answers::Nothing },
        })
    }
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
