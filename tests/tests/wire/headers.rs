//! What becomes of single fields of the headers.

use std::collections::BTreeSet;

use qnat_reference::packet::{ETH, TCP, UDP, tcp, udp};

use crate::Second;
use crate::bed::{Bed, SERVER, View};

/// R25: a UDP checksum of zero says that there is none, on both sides.
pub(crate) fn a_datagram_without_checksum_stays_without(bed: &Bed<'_>) -> Second {
    let without = |mut frame: Vec<u8>| {
        frame[ETH + 26..ETH + 28].fill(0);
        frame
    };
    let public = bed.open(&bed.b1, SERVER, (33_000, 8_701));
    Box::new(move |bed| {
        let seen = bed.out(&bed.b1, &without(bed.b1.datagram(SERVER, (33_000, 8_701), b"no sum")));
        assert_eq!(View(&seen).body()[6..8], [0, 0]);
        let seen = bed.back(&bed.b1, &without(bed.answer(SERVER, &bed.b1, UDP, &udp(8_701, public, b"none"))));
        assert_eq!(View(&seen).body()[6..8], [0, 0]);
    })
}

/// R20: what may be fragmented on its way has an identification that nothing else from this address has, whatever its
/// sender wrote there.
pub(crate) fn datagrams_of_one_address_have_identifications_of_their_own(bed: &Bed<'_>) -> Second {
    let some = |bed: &Bed<'_>| {
        let send = |n: u16| bed.out(&bed.b1, &bed.b1.datagram(SERVER, (33_100 + n % 4, 8_711), b"same id"));
        (0..16).map(|n| View(&send(n)).id()).collect::<Vec<u16>>()
    };
    let before = some(bed);
    Box::new(move |bed| {
        // The successor counts from elsewhere: only its own do not repeat.
        for all in [before, some(bed)] {
            let distinct: BTreeSet<u16> = all.iter().copied().collect();
            assert_eq!(distinct.len(), all.len(), "{all:04x?}");
        }
    })
}

/// R26: the segment size that either end offers is lowered to the configured one.
pub(crate) fn offered_segment_sizes_are_lowered_both_ways(bed: &Bed<'_>) -> Second {
    const OFFER: [u8; 4] = [2, 4, 0x05, 0xb4];
    const LOWERED: [u8; 4] = [2, 4, 0x04, 0xb0];
    let syn = tcp((33_200, 8_721), (100, 0), 0x02, &OFFER, b"");
    let seen = bed.out(&bed.b1, &bed.b1.packet(SERVER, TCP, &syn));
    assert_eq!(View(&seen).body()[20..24], LOWERED);
    let public = View(&seen).ports().0;
    Box::new(move |bed| {
        let answer = tcp((8_721, public), (500, 101), 0x12, &OFFER, b"");
        let seen = bed.back(&bed.b1, &bed.answer(SERVER, &bed.b1, TCP, &answer));
        assert_eq!(View(&seen).body()[20..24], LOWERED);
    })
}
