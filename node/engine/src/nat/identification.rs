//! Hot path. IP identifications of what leaves under a public address (R20): many hosts share it, each with a count of its
//! own, and fragments of two of their datagrams must never be taken for one (RFC 6864 4.3).

use std::hash::BuildHasher;
use std::net::Ipv4Addr;

use foldhash::fast::FixedState;

use crate::wire::{FrameMeta, Gso, IpPacket, Proto};

/// Counters; remotes share them by a keyed hash, so that nobody reads another's traffic off his own (RFC 7739).
const COUNTERS: u64 = 2048;

/// The next identification towards each remote.
#[derive(Debug)]
pub(crate) struct Identifications {
    counters: Box<[u16]>,
    hasher: FixedState,
}

impl Identifications {
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed ^ 0x1d1d);
        let start = |n: u64| u16::try_from(hasher.hash_one(n) >> 48).expect("16 bits remain");
        Self { counters: (0..COUNTERS).map(start).collect(), hasher }
    }

    /// The identification of a datagram; the next ones of a super-packet follow it.
    pub(crate) fn next(&mut self, public: Ipv4Addr, meta: &FrameMeta, p: &IpPacket) -> u16 {
        self.take((public, p.dst), p.proto, segments(meta, p))
    }

    /// The first of `count` identifications of datagrams between two addresses.
    pub(crate) fn take(&mut self, (from, to): (Ipv4Addr, Ipv4Addr), proto: Proto, count: u16) -> u16 {
        let place = self.hasher.hash_one((u32::from(from), u32::from(to), proto as u8)) % COUNTERS;
        let counter = &mut self.counters[usize::try_from(place).expect("below the number of counters")];
        let id = *counter;
        *counter = id.wrapping_add(count);
        id
    }
}

/// Datagrams that a frame will be on the wire.
fn segments(meta: &FrameMeta, p: &IpPacket) -> u16 {
    let payload = p.total_len.saturating_sub(p.l4 - p.l3);
    match (meta.gso, p.proto) {
        (Gso::Tcp4 { size }, _) => {
            let payload = p.tcp.map_or(0, |tcp| tcp.payload_len);
            u16::try_from(payload.div_ceil(u32::from(size.max(1)))).unwrap_or(u16::MAX).max(1)
        }
        (Gso::Udp { size }, Proto::Udp) => payload.saturating_sub(8).div_ceil(size.max(1)).max(1),
        (Gso::Udp { .. } | Gso::None, _) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Parsed, parse};
    use etherparse::PacketBuilder;

    fn packet(payload: &[u8]) -> IpPacket {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 4], [198, 51, 100, 7], 64).udp(1, 2);
        step.write(&mut frame, payload).expect("fits");
        match parse(&frame, &FrameMeta::default()) {
            Ok(Parsed::Ip(p)) => p,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn identifications_towards_a_remote_do_not_repeat_and_a_super_packet_takes_one_per_segment() {
        let (mut ids, public) = (Identifications::new(7), Ipv4Addr::new(203, 0, 113, 10));
        let (plain, gso) = (FrameMeta::default(), FrameMeta { gso: Gso::Udp { size: 100 }, ..FrameMeta::default() });
        let first = ids.next(public, &plain, &packet(b"x"));
        assert_eq!(ids.next(public, &gso, &packet(&[0; 301])), first.wrapping_add(1));
        assert_eq!(ids.next(public, &plain, &packet(b"x")), first.wrapping_add(5), "four segments");
        let mut seen = std::collections::BTreeSet::new();
        assert!((0..65_536).all(|_| seen.insert(ids.next(public, &plain, &packet(b"x")))));
        assert_ne!(Identifications::new(8).next(public, &plain, &packet(b"x")), first, "no fixed start");
    }
}
