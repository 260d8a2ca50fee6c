//! The fast path in the kernel, judged by what arrives at the other end of the wire and by what it says it did.

mod far_end;
#[path = "../net/mod.rs"]
mod net;
mod path;
mod private;

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use path::{Ends, Path};
use qnat_netio::boottime::now_ns;
use qnat_netio::fast::{FAST_PLACES, FastEntry, FastFates, FastProto, FastSide};
use qnat_netio::hooks::By;
use qnat_netio::port::Interface;
use words::time::MS;
use words::{ChecksumState, FrameMeta, Gso, Incarnation, LeaseWord, ShardId, Term};

const SHARD: ShardId = ShardId(0x0103);
const VMAC: [u8; 6] = [0x02, 0x51, 0x4e, 0x00, 0x01, 0x03];
const BACKEND_MAC: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 7];
const HOP_MAC: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 8];
const BACKEND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 1, 0, 4), 4444);
const PUBLIC: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 5), 1024);
const REMOTE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 53);
const INSIDE: Interface = Interface::inside(0);
const OUTSIDE: Interface = Interface::OUTSIDE;
const WORKERS: u16 = 2;
const FLOWS: u32 = 4;

fn held(lease_until_ns: u64, grace_until_ns: u64) -> LeaseWord {
    LeaseWord { incarnation: Incarnation(9), term: Term(1 << 32 | 7), lease_until_ns, grace_until_ns }
}

fn entry(proto: FastProto) -> FastEntry {
    FastEntry {
        shard: SHARD,
        incarnation: Incarnation(9),
        term: Term(1 << 32 | 7),
        made: 5,
        place: 77,
        far_place: None,
        proto: Some(proto),
        inside: BACKEND,
        public: PUBLIC,
        remote: REMOTE,
        backend: FastSide { interface: INSIDE, mac: BACKEND_MAC, mtu: 1500 },
        hop: FastSide { interface: OUTSIDE, mac: HOP_MAC, mtu: 1400 },
        tcp: [(1000, 2000), (2000, 1000)],
    }
}

fn udp(src: [u8; 6], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(src, VMAC).ipv4(from.0.octets(), to.0.octets(), 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    step.write(&mut frame, payload).expect("fits");
    // May not be cut: its identification needs no care.
    edit(&frame, |f| f[20] = 0x40)
}

fn tcp(src: [u8; 6], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), (seq, ack): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(src, VMAC)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, seq, 500)
        .ack(ack);
    let mut frame = Vec::new();
    step.write(&mut frame, payload).expect("fits");
    edit(&frame, |f| f[20] = 0x40)
}

/// The frame with something changed, and the header's checksum as it should be then.
fn edit(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
    frame[24..26].copy_from_slice(&(!folded).to_be_bytes());
    frame
}

/// Holds a frame that arrived against what should have been made of the one that was sent, checksums included.
fn assert_translated(arrived: &[u8], macs: ([u8; 6], [u8; 6]), from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) {
    assert_eq!((&arrived[..6], &arrived[6..12]), (&macs.0[..], &macs.1[..]), "addresses of Ethernet");
    let packet = SlicedPacket::from_ethernet(arrived).expect("a frame");
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("IPv4") };
    let header = ip.header().to_header();
    assert_eq!((Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination)), (from.0, to.0));
    assert_eq!(header.time_to_live, 63);
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!((udp.source_port(), udp.destination_port()), (from.1, to.1));
            let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("short");
            assert!(udp.checksum() == 0 || udp.checksum() == sum, "checksum");
        }
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!((tcp.source_port(), tcp.destination_port()), (from.1, to.1));
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).expect("short"));
        }
        other => panic!("{other:?}"),
    }
}

/// Leased and installed as the first record of the second worker.
fn begin(ends: &mut Ends, proto: FastProto) {
    ends.parts.words.set(SHARD, held(now_ns() + 60_000 * MS, now_ns() + 90_000 * MS));
    ends.parts.tables[1].install(0, &entry(proto)).expect("installed");
}

#[test]
fn what_belongs_to_an_entry_is_translated_both_ways_and_counted() {
    require_root!();
    for by in [By::Tcx, By::Clsact] {
        Path::by(by).run(|ends, _| {
            let out = udp(BACKEND_MAC, BACKEND, REMOTE, b"question");
            let answer = udp(HOP_MAC, REMOTE, PUBLIC, b"an answer");
            ends.misses("nobody has decided", INSIDE, &out, |f| &mut f.unknown);
            begin(ends, FastProto::Udp);
            assert_translated(&ends.hits("out", INSIDE, &out), (HOP_MAC, VMAC), PUBLIC, REMOTE);
            assert_translated(&ends.hits("in", OUTSIDE, &answer), (BACKEND_MAC, VMAC), REMOTE, BACKEND);
            let unsummed = edit(&out, |f| f[40..42].fill(0));
            let arrived = ends.hits("without a checksum", INSIDE, &unsummed);
            assert_eq!(arrived[40..42], [0, 0], "it has none afterwards");
            let may_be_cut = edit(&answer, |f| f[20] = 0);
            assert_translated(
                &ends.hits("a remote's identification", OUTSIDE, &may_be_cut),
                (BACKEND_MAC, VMAC),
                REMOTE,
                BACKEND,
            );
            let seen = ends.parts.tables[1].seen(0);
            assert_eq!((seen.out.packets, seen.out.octets), (2, 72));
            assert_eq!((seen.incoming.packets, seen.incoming.octets), (2, 74));
            assert!(now_ns() - seen.out.last_ns < 5_000 * MS && seen.incoming.last_ns >= seen.out.last_ns);
        });
    }
}

#[test]
fn what_is_odd_goes_to_the_worker() {
    require_root!();
    Path::new().run(|ends, own| {
        begin(ends, FastProto::Udp);
        let out = udp(BACKEND_MAC, BACKEND, REMOTE, b"question");
        let answer = udp(HOP_MAC, REMOTE, PUBLIC, b"an answer");
        let odd = |ends: &mut Ends, what: &str, from, frame: &[u8]| ends.misses(what, from, frame, |f| &mut f.odd);
        odd(ends, "its last hop", INSIDE, &edit(&out, |f| f[22] = 1));
        odd(ends, "a first fragment", INSIDE, &edit(&out, |f| f[20] = 0x20));
        odd(ends, "a later one", OUTSIDE, &edit(&answer, |f| f[21] = 1));
        odd(ends, "it may be cut", INSIDE, &edit(&out, |f| f[20] = 0));
        odd(ends, "options", OUTSIDE, &edit(&answer, |f| f[14] = 0x46));
        odd(ends, "longer than it came", INSIDE, &edit(&out, |f| f[17] = 200));
        odd(ends, "a datagram longer than its packet", INSIDE, &edit(&out, |f| f[39] = 20));
        odd(ends, "another protocol", INSIDE, &edit(&out, |f| f[23] = 1));
        ends.misses("another remote", INSIDE, &udp(BACKEND_MAC, BACKEND, (REMOTE.0, 54), b"x"), |f| &mut f.unknown);
        ends.misses("by the wrong interface", OUTSIDE, &out, |f| &mut f.unknown);
        let stranger = |ends: &mut Ends, what, from, frame: &[u8]| ends.misses(what, from, frame, |f| &mut f.stranger);
        stranger(ends, "another's MAC", INSIDE, &edit(&out, |f| f[11] += 1));
        stranger(ends, "our own MAC", OUTSIDE, &edit(&answer, |f| f[6..12].copy_from_slice(&own[0])));
        stranger(ends, "another shard's vMAC", OUTSIDE, &edit(&answer, |f| f[5] += 1));
        ends.misses("too long outside", INSIDE, &udp(BACKEND_MAC, BACKEND, REMOTE, &[7; 1373]), |f| &mut f.long);
        assert_translated(
            &ends.hits("just not", INSIDE, &udp(BACKEND_MAC, BACKEND, REMOTE, &[7; 1372])),
            (HOP_MAC, VMAC),
            PUBLIC,
            REMOTE,
        );
        assert_eq!(ends.parts.tables[1].seen(0).out.packets, 1, "nothing else was counted as passed");
    });
}

#[test]
fn of_a_connection_the_middle_passes_and_moves_its_numbers_as_far_as_it_is_believed() {
    require_root!();
    Path::new().run(|ends, _| {
        begin(ends, FastProto::Tcp);
        let out = |numbers, payload: &[u8]| tcp(BACKEND_MAC, BACKEND, REMOTE, numbers, payload);
        let incoming = |numbers, payload: &[u8]| tcp(HOP_MAC, REMOTE, PUBLIC, numbers, payload);
        assert_translated(&ends.hits("out", INSIDE, &out((1000, 2000), b"abc")), (HOP_MAC, VMAC), PUBLIC, REMOTE);
        assert_translated(
            &ends.hits("in", OUTSIDE, &incoming((9999, 1003), b"spoofed")),
            (BACKEND_MAC, VMAC),
            REMOTE,
            BACKEND,
        );
        let seen = |ends: &Ends| {
            let seen = ends.parts.tables[1].seen(0);
            (seen.out.tcp, seen.incoming.tcp)
        };
        assert_eq!(seen(ends), ((1003, 2000), (2000, 1003)), "out of order, but what it acknowledges was sent");
        ends.hits("in order", OUTSIDE, &incoming((2000, 1004), b"four"));
        assert_eq!(seen(ends), ((1003, 2000), (2004, 1003)), "it acknowledges what was never sent");
        ends.hits("a gap", OUTSIDE, &incoming((2005, 1000), b"four"));
        assert_eq!(seen(ends), ((1003, 2000), (2004, 1003)));
        ends.hits("what it never sent, says the backend", INSIDE, &out((1003, 2050), b""));
        ends.hits("from where the backend is", OUTSIDE, &incoming((2050, 1003), b"four"));
        assert_eq!(seen(ends), ((1003, 2050), (2054, 1003)));
        ends.hits("an old copy", INSIDE, &out((900, 1900), b"abc"));
        ends.hits("an acknowledgment", INSIDE, &out((1003, 2100), b""));
        assert_eq!(ends.parts.tables[1].seen(0).out.tcp, (1003, 2100));
        for (bit, what) in [(1, "FIN"), (2, "SYN"), (4, "RST")] {
            for (from, frame) in [(INSIDE, out((1003, 2100), b"")), (OUTSIDE, incoming((2100, 1003), b""))] {
                ends.misses(what, from, &edit(&frame, |f| f[47] |= bit), |f| &mut f.odd);
            }
        }
        let unacknowledging = edit(&out((1003, 2100), b""), |f| f[47] &= !0x10);
        ends.misses("no ACK", INSIDE, &unacknowledging, |f| &mut f.odd);
        ends.misses("a header beyond its end", INSIDE, &edit(&out((1003, 2100), b""), |f| f[46] = 0xf0), |f| {
            &mut f.odd
        });
        ends.misses("a header too short", INSIDE, &edit(&out((1003, 2100), b""), |f| f[46] = 0x40), |f| &mut f.odd);
        assert_eq!(ends.parts.tables[1].seen(0).out.tcp, (1003, 2100), "nothing of what the worker got");
    });
}

#[test]
fn super_packets_and_partial_checksums_pass_whole() {
    require_root!();
    Path::new().run(|ends, _| {
        begin(ends, FastProto::Tcp);
        let payload = vec![5; 4000];
        let mut frame = tcp(BACKEND_MAC, BACKEND, REMOTE, (1000, 2000), &payload);
        // The folded sum of the pseudo header, not complemented.
        let words = [BACKEND.0.octets(), REMOTE.0.octets()].concat();
        let pseudo: u32 = words.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        let pseudo = pseudo + 6 + 20 + 4000;
        let folded = u16::try_from((pseudo & 0xffff) + (pseudo >> 16)).expect("folded once");
        frame[50..52].copy_from_slice(&folded.to_be_bytes());
        let checksum = ChecksumState::Partial { start: 34, offset: 16 };
        let meta = |size| FrameMeta { checksum, gso: Gso::Tcp4 { size }, header_len: 54, ..FrameMeta::default() };
        // The sockets at the far end see it whole, with its checksum still to be done.
        let (arrived, counted) = ends.pass(INSIDE, meta(1000), &frame);
        assert_eq!(counted, FastFates { sent: 1, ..FastFates::default() });
        let mut arrived = arrived.expect("it arrives");
        assert_eq!(arrived.len(), frame.len(), "whole");
        let translated = [PUBLIC.0.octets(), REMOTE.0.octets()].concat();
        let pseudo: u32 = translated.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        let pseudo = pseudo + 6 + 20 + 4000;
        let expected = u16::try_from((pseudo & 0xffff) + (pseudo >> 16)).expect("folded once");
        assert_eq!(arrived[50..52], expected.to_be_bytes(), "the new pseudo header's");
        let whole = tcp(BACKEND_MAC, PUBLIC, REMOTE, (1000, 2000), &payload);
        arrived[50..52].copy_from_slice(&whole[50..52]);
        assert_translated(&arrived, (HOP_MAC, VMAC), PUBLIC, REMOTE);
        assert_eq!(ends.parts.tables[1].seen(0).out.tcp.0, 5000);
        let (arrived, counted) = ends.pass(INSIDE, meta(1361), &frame);
        assert_eq!(
            (arrived, counted),
            (None, FastFates { long: 1, ..FastFates::default() }),
            "its segments are too long"
        );
    });
}

#[test]
fn an_entry_stands_by_lease_grace_term_life_and_revisions() {
    require_root!();
    Path::new().run(|ends, own| {
        let out = udp(BACKEND_MAC, BACKEND, REMOTE, b"question");
        let far = now_ns() + 60_000 * MS;
        ends.parts.tables[1].install(0, &entry(FastProto::Udp)).expect("installed");
        let lease = |ends: &mut Ends, what: &str, word| {
            ends.parts.words.set(SHARD, word);
            ends.misses(what, INSIDE, &out, |f| &mut f.lease);
        };
        lease(ends, "never leased", LeaseWord::default());
        lease(ends, "another term's", LeaseWord { term: Term(1 << 32 | 8), ..held(far, far) });
        lease(ends, "another life's", LeaseWord { incarnation: Incarnation(10), ..held(far, far) });
        lease(ends, "both over", held(now_ns(), now_ns()));
        ends.parts.words.set(SHARD, held(far, far));
        ends.hits("leased", INSIDE, &out);
        ends.parts.tables[1].raise(78, 6);
        ends.parts.tables[0].raise(77, 6);
        ends.parts.tables[0].raise_all(6);
        ends.hits("others' revisions", INSIDE, &out);
        ends.parts.tables[1].raise(77, 5);
        ends.parts.tables[1].raise_all(5);
        ends.hits("as old as the decision", INSIDE, &out);
        ends.parts.tables[1].raise(77, 6);
        ends.misses("its backend's", INSIDE, &out, |f| &mut f.revised);
        ends.parts.tables[1].raise(77, 5);
        ends.parts.tables[1].raise_all(6);
        ends.misses("everybody's", INSIDE, &out, |f| &mut f.revised);
        ends.parts.tables[1].raise_all(5);

        // In grace it leaves from the own MAC, and only for addresses that the guard knows as the shard's.
        ends.parts
            .guard
            .set_addresses([(OUTSIDE, PUBLIC.0, SHARD.0), (INSIDE, BACKEND.0, SHARD.0)])
            .expect("addresses");
        ends.parts.words.set(SHARD, held(now_ns(), far));
        let (arrived, counted) = ends.pass(INSIDE, FrameMeta::default(), &out);
        assert_eq!(counted, FastFates { grace: 1, ..FastFates::default() });
        assert_translated(&arrived.expect("it arrives"), (HOP_MAC, own[0]), PUBLIC, REMOTE);
        let (arrived, _) = ends.pass(OUTSIDE, FrameMeta::default(), &udp(HOP_MAC, REMOTE, PUBLIC, b"a"));
        assert_translated(&arrived.expect("it arrives"), (BACKEND_MAC, own[1]), REMOTE, BACKEND);
    });
}

#[test]
fn a_killed_record_carries_nothing_and_its_number_serves_another_flow() {
    require_root!();
    Path::new().run(|ends, _| {
        begin(ends, FastProto::Udp);
        let out = udp(BACKEND_MAC, BACKEND, REMOTE, b"question");
        ends.hits("alive", INSIDE, &out);
        let table = &mut ends.parts.tables[1];
        table.kill(0);
        assert_eq!(table.seen(0).out.packets, 1, "what it saw is still there");
        ends.misses("killed", INSIDE, &out, |f| &mut f.dead);
        ends.parts.tables[1].remove(0);
        ends.misses("removed", INSIDE, &out, |f| &mut f.unknown);
        let other = (Ipv4Addr::new(10, 1, 0, 5), 99);
        ends.parts.tables[1].install(0, &FastEntry { inside: other, ..entry(FastProto::Udp) }).expect("installed");
        assert_eq!(ends.parts.tables[1].seen(0).out.packets, 0, "it begins anew");
        ends.misses("the former flow", INSIDE, &out, |f| &mut f.unknown);
        ends.hits("the new one", INSIDE, &udp(BACKEND_MAC, other, REMOTE, b"question"));
        // The same keys by another record: the older one's removal takes nothing from it.
        ends.parts.tables[1].kill(0);
        ends.parts.tables[1].remove(0);
        ends.parts.tables[1].install(3, &entry(FastProto::Udp)).expect("installed");
        ends.hits("another record", INSIDE, &out);
        assert!(ends.parts.tables.iter().all(|table| table.flows() == FLOWS));
        assert!(FAST_PLACES.is_power_of_two());
    });
}
