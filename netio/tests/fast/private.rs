//! What instances say to each other: nothing but a hop changes, and both are asked for their cards and their revisions.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use qnat_netio::boottime::now_ns;
use qnat_netio::fast::{FastEntry, FastFates, FastProto, FastSide};
use qnat_netio::port::Interface;
use words::FrameMeta;
use words::time::MS;

use crate::path::{Ends, Path};
use crate::{BACKEND, BACKEND_MAC, INSIDE, OUTSIDE, REMOTE, SHARD, VMAC, edit, entry, held, require_root, tcp, udp};

const OTHER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 1, 0, 9), 80);
const OTHER_MAC: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 9];
const NEXT: Interface = Interface::inside(1);

/// All that passes between two instances of one network.
fn pair() -> FastEntry {
    let side = |mac| FastSide { interface: INSIDE, mac, mtu: 1400 };
    FastEntry {
        far_place: Some(78),
        proto: None,
        inside: (BACKEND.0, 0),
        public: (BACKEND.0, 0),
        remote: (OTHER.0, 0),
        backend: side(BACKEND_MAC),
        hop: side(OTHER_MAC),
        ..entry(FastProto::Udp)
    }
}

fn begin(ends: &mut Ends, entry: &FastEntry) {
    ends.parts.words.set(SHARD, held(now_ns() + 60_000 * MS, now_ns() + 90_000 * MS));
    ends.parts.tables[1].install(0, entry).expect("installed");
}

fn echo(src: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, kind: u8) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(src, VMAC).ipv4(from.octets(), to.octets(), 64).icmpv4_echo_request(7, 1);
    let mut frame = Vec::new();
    step.write(&mut frame, b"ping").expect("fits");
    frame[34] = kind;
    frame
}

/// It arrives as it was sent, but for the cards and a hop.
fn passes(ends: &mut Ends, what: &str, (from, to): (Interface, Interface), frame: &[u8], mac: [u8; 6]) {
    let (arrived, counted) = ends.pass_by(from, FrameMeta::default(), frame);
    assert_eq!(counted, FastFates { sent: 1, ..FastFates::default() }, "{what}");
    let (by, arrived) = arrived.unwrap_or_else(|| panic!("{what}: it was sent, and did not arrive"));
    let expected = edit(frame, |f| {
        f[..6].copy_from_slice(&mac);
        f[6..12].copy_from_slice(&VMAC);
        f[22] -= 1;
    });
    assert_eq!((by, arrived), (to, expected), "{what}");
}

#[test]
fn between_two_instances_that_nobody_judges_all_that_is_plain_passes_as_it_is() {
    require_root!();
    Path::new().run(|ends, own| {
        let to = |frame: &[u8]| edit(frame, |f| f[20] = 0);
        begin(ends, &pair());
        let (out, back) = (udp(BACKEND_MAC, BACKEND, OTHER, b"question"), udp(OTHER_MAC, OTHER, BACKEND, b"answer"));
        let within = (INSIDE, INSIDE);
        passes(ends, "out", within, &out, OTHER_MAC);
        passes(ends, "back", within, &back, BACKEND_MAC);
        passes(ends, "any port", within, &udp(BACKEND_MAC, (BACKEND.0, 1), (OTHER.0, 2), b"x"), OTHER_MAC);
        passes(ends, "it may be cut: nothing of it changes", within, &to(&out), OTHER_MAC);
        passes(ends, "a segment", within, &tcp(OTHER_MAC, OTHER, BACKEND, (1, 2), b"abc"), BACKEND_MAC);
        let ping = |kind| echo(BACKEND_MAC, BACKEND.0, OTHER.0, kind);
        passes(ends, "a ping", within, &ping(8), OTHER_MAC);
        passes(ends, "an answer to one", within, &echo(OTHER_MAC, OTHER.0, BACKEND.0, 0), BACKEND_MAC);
        let seen = ends.parts.tables[1].seen(0);
        assert_eq!((seen.out.packets, seen.incoming.packets), (4, 3));

        let odd = |ends: &mut Ends, what: &str, frame: &[u8]| ends.misses(what, INSIDE, frame, |f| &mut f.odd);
        odd(ends, "an error", &ping(3));
        odd(ends, "a question that is none", &edit(&ping(8), |f| f[35] = 1));
        odd(ends, "a SYN", &edit(&tcp(BACKEND_MAC, BACKEND, OTHER, (1, 0), b""), |f| f[47] = 2));
        odd(ends, "a fragment", &edit(&out, |f| f[20] = 0x20));
        odd(ends, "another protocol", &edit(&out, |f| f[23] = 47));
        odd(ends, "its last hop", &edit(&out, |f| f[22] = 1));
        let unknown =
            |ends: &mut Ends, what: &str, from, frame: &[u8]| ends.misses(what, from, frame, |f| &mut f.unknown);
        unknown(ends, "a third", INSIDE, &udp(BACKEND_MAC, BACKEND, (Ipv4Addr::new(10, 1, 0, 8), 80), b"x"));
        unknown(ends, "a remote", INSIDE, &udp(BACKEND_MAC, BACKEND, REMOTE, b"x"));
        unknown(ends, "from outside", OUTSIDE, &back);
        unknown(ends, "from another network", NEXT, &back);
        let stranger =
            |ends: &mut Ends, what: &str, frame: &[u8]| ends.misses(what, INSIDE, frame, |f| &mut f.stranger);
        stranger(ends, "another's card", &edit(&out, |f| f[11] += 1));
        stranger(ends, "another's card, back", &edit(&back, |f| f[11] += 1));
        stranger(ends, "each other's", &edit(&back, |f| f[6..12].copy_from_slice(&BACKEND_MAC)));
        stranger(ends, "our own", &edit(&back, |f| f[6..12].copy_from_slice(&own[1])));
        stranger(ends, "another shard's vMAC", &edit(&out, |f| f[5] += 1));
        ends.misses("too long", INSIDE, &udp(OTHER_MAC, OTHER, BACKEND, &[7; 1373]), |f| &mut f.long);
        for place in [77, 78] {
            ends.parts.tables[1].raise(place, 6);
            for frame in [&out, &back] {
                ends.misses("what concerns either", INSIDE, frame, |f| &mut f.revised);
            }
            ends.parts.tables[1].raise(place, 5);
        }
        passes(ends, "as old as the decision", within, &out, OTHER_MAC);
    });
}

#[test]
fn a_private_flow_passes_by_its_ports_and_nothing_else_of_the_two_does() {
    require_root!();
    Path::new().run(|ends, _| {
        let flow = FastEntry { proto: Some(FastProto::Udp), inside: BACKEND, public: BACKEND, remote: OTHER, ..pair() };
        begin(ends, &flow);
        let within = (INSIDE, INSIDE);
        passes(ends, "out", within, &udp(BACKEND_MAC, BACKEND, OTHER, b"question"), OTHER_MAC);
        passes(ends, "back", within, &udp(OTHER_MAC, OTHER, BACKEND, b"answer"), BACKEND_MAC);
        for (what, frame) in [
            ("another port", udp(BACKEND_MAC, BACKEND, (OTHER.0, 81), b"x")),
            ("another protocol", tcp(BACKEND_MAC, BACKEND, OTHER, (1, 2), b"x")),
            ("a ping", echo(BACKEND_MAC, BACKEND.0, OTHER.0, 8)),
        ] {
            ends.misses(what, INSIDE, &frame, |f| &mut f.unknown);
        }
    });
}

#[test]
fn in_grace_two_of_one_network_go_on_by_the_guard_and_two_of_different_ones_do_not() {
    require_root!();
    Path::new().run(|ends, own| {
        let (out, back) = (udp(BACKEND_MAC, BACKEND, OTHER, b"question"), udp(OTHER_MAC, OTHER, BACKEND, b"answer"));
        begin(ends, &pair());
        // The other one is another shard's: between the two the lower address counts.
        ends.parts
            .guard
            .set_addresses([(INSIDE, BACKEND.0, SHARD.0), (INSIDE, OTHER.0, SHARD.0 + 1)])
            .expect("addresses");
        ends.parts.words.set(SHARD, held(now_ns(), now_ns() + 60_000 * MS));
        for (frame, mac) in [(&out, OTHER_MAC), (&back, BACKEND_MAC)] {
            let (arrived, counted) = ends.pass_by(INSIDE, FrameMeta::default(), frame);
            assert_eq!(counted, FastFates { grace: 1, ..FastFates::default() });
            let (by, arrived) = arrived.expect("it arrives");
            assert_eq!((by, &arrived[..6], &arrived[6..12]), (INSIDE, &mac[..], &own[1][..]));
        }
        let between = FastEntry { hop: FastSide { interface: NEXT, ..pair().hop }, ..pair() };
        ends.parts.tables[1].kill(0);
        ends.parts.tables[1].remove(0);
        ends.parts.tables[1].install(1, &between).expect("installed");
        ends.misses("in grace", INSIDE, &out, |f| &mut f.lease);
        ends.misses("in grace, back", NEXT, &back, |f| &mut f.lease);
        ends.parts.words.set(SHARD, held(now_ns() + 60_000 * MS, now_ns() + 60_000 * MS));
        passes(ends, "leased", (INSIDE, NEXT), &out, OTHER_MAC);
        passes(ends, "leased, back", (NEXT, INSIDE), &back, BACKEND_MAC);
    });
}
