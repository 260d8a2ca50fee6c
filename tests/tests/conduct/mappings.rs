//! Mappings and filters: who is seen where, and who gets through.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use qnat_reference::packet::{ICMP, TCP, UDP, addresses, tcp, udp};
use qnat_tests::lab::rows;

use crate::Second;
use crate::bed::{Bed, OTHER, SERVER, View, echo};

const SYN: u8 = 0x02;

/// Runs of the check that needs a flow of its own each time.
static RUNS: AtomicU16 = AtomicU16::new(0);

/// R6, I20, I10: a mapping lets in its own remote and nobody else, and stays what it is.
pub(crate) fn only_the_remote_of_a_mapping_gets_in(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (21_000, 7_001));
    Box::new(move |bed| {
        let from = |address, port| bed.answer(address, &bed.b1, UDP, &udp(port, public, b"answer"));
        for (address, port) in [(SERVER, 7_002), (OTHER, 7_001)] {
            bed.inet.send(&from(address, port)).expect("sending");
        }
        bed.nothing(&bed.b1.end, "an answer of somebody else", |p| p.is_udp(|ports| ports.1 == 21_000));
        let seen = bed.back(&bed.b1, &from(SERVER, 7_001));
        assert_eq!(View(&seen).ports(), (7_001, 21_000));
        assert_eq!(bed.open(&bed.b1, SERVER, (21_000, 7_001)), public);
    })
}

/// R15: two hosts ask with one identifier, and each gets its own answer.
pub(crate) fn answers_to_pings_find_the_host_that_asked(bed: &Bed<'_>) -> Second {
    let ask = |backend| View(&bed.out(backend, &backend.packet(SERVER, ICMP, &echo(8, 7, 21)))).ports().0;
    let (first, second) = (ask(&bed.b1), ask(&bed.b2));
    Box::new(move |bed| {
        for (backend, identifier) in [(&bed.b2, second), (&bed.b1, first)] {
            let seen = bed.back(backend, &bed.answer(SERVER, backend, ICMP, &echo(0, identifier, 21)));
            assert_eq!(View(&seen).ports().0, 7, "the identifier that it asked with");
        }
        bed.inet.send(&bed.answer(OTHER, &bed.b1, ICMP, &echo(0, first, 22))).expect("sending");
        bed.nothing(&bed.b1.end, "an answer of somebody who was not asked", |p| p.kind() == Some((0, 0)));
    })
}

/// S7, S8, S10, S12, D9, R19: flows to one remote have a port each, all of the backend's lease; flows to distinct remotes share one.
pub(crate) fn flows_share_ports_but_not_public_tuples(bed: &Bed<'_>) -> Second {
    let one_remote = (0..40).map(|n| bed.open(&bed.b1, SERVER, (22_000 + n, 7_010))).collect::<Vec<u16>>();
    let ports: BTreeSet<u16> = one_remote.iter().copied().collect();
    assert_eq!(ports.len(), one_remote.len(), "a public tuple is there twice: {one_remote:?}");
    let lease = bed.lab.ports_of("b1")["lease"].clone();
    let leased = |port: u16| {
        rows(&lease).any(|r| r["first"].as_u64() <= Some(port.into()) && Some(port.into()) <= r["last"].as_u64())
    };
    assert!(ports.iter().all(|port| leased(*port)), "{ports:?} are not all in {lease}");
    let is_in_order = one_remote.is_sorted() || one_remote.iter().rev().is_sorted();
    assert!(!is_in_order, "R19: in the order in which they were opened: {one_remote:?}");
    let many_remotes: BTreeSet<u16> = (0..40).map(|n| bed.open(&bed.b1, SERVER, (22_100 + n, 7_020 + n))).collect();
    assert_eq!(many_remotes.len(), 1, "{many_remotes:?}");
    Box::new(move |bed| {
        for (port, public) in (22_000..).zip(one_remote) {
            assert_eq!(bed.open(&bed.b1, SERVER, (port, 7_010)), public, "of inside port {port}");
        }
        for n in 0..40 {
            assert!(many_remotes.contains(&bed.open(&bed.b1, SERVER, (22_100 + n, 7_020 + n))));
        }
    })
}

/// S11, S12, R22, D8: a backend has the ports of its tier towards each remote and no more; what it has goes on without them.
pub(crate) fn a_backend_out_of_ports_keeps_its_flows_and_reaches_other_remotes(bed: &Bed<'_>) -> Second {
    const GRANTED: u16 = 1_024;
    let public: Vec<u16> = (0..GRANTED).map(|n| bed.open(&bed.b3, SERVER, (40_000 + n, 7_401))).collect();
    assert_eq!(public.iter().collect::<BTreeSet<_>>().len(), usize::from(GRANTED));
    assert!(public.iter().all(|port| *port >= 1_024), "D8: one of those that are reserved");
    Box::new(move |bed| {
        bed.b3.end.send(&bed.b3.datagram(SERVER, (40_000 + GRANTED, 7_401), b"one too many")).expect("sending");
        bed.nothing(&bed.inet, "a flow beyond the grant", |p| p.is_udp(|ports| ports.1 == 7_401));
        for n in [0, GRANTED / 2, GRANTED - 1] {
            assert_eq!(bed.open(&bed.b3, SERVER, (40_000 + n, 7_401)), public[usize::from(n)]);
        }
        assert!(public.contains(&bed.open(&bed.b3, OTHER, (40_000 + GRANTED, 7_401))), "another remote");
        let _passes = bed.open(&bed.b2, SERVER, (40_000 + GRANTED, 7_401));
    })
}

/// S9: under the rules of 2017 flows to one address have a port each, also to several of its ports.
pub(crate) fn by_address_a_remote_address_sees_each_port_once(bed: &Bed<'_>) -> Second {
    let here = bed.open(&bed.b2, SERVER, (23_000, 7_101));
    let also_here = bed.open(&bed.b2, SERVER, (23_001, 7_102));
    let there = bed.open(&bed.b2, OTHER, (23_002, 7_101));
    assert_ne!(here, also_here);
    let ports_here = move |bed: &Bed<'_>| bed.lab.udp_ports("10.0.1.2", &SERVER.to_string());
    assert!(ports_here(bed).contains(&there), "another address shares them: {there}, {:?}", ports_here(bed));
    Box::new(move |bed| {
        let before = ports_here(bed);
        // This check runs twice on one lab: a flow that no earlier run left behind.
        let third = bed.open(&bed.b2, SERVER, (23_003 + RUNS.fetch_add(1, Ordering::Relaxed), 7_103));
        assert!(!before.contains(&third), "{third} is in {before:?}");
        assert_eq!(bed.open(&bed.b2, SERVER, (23_000, 7_101)), here);
    })
}

/// R3, I2: one inside end is one public end, for all remotes.
pub(crate) fn an_inside_end_is_one_public_end_for_all_remotes(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (24_000, 7_201));
    assert_eq!(bed.open(&bed.b1, SERVER, (24_000, 7_202)), public);
    assert_ne!(bed.open(&bed.b1, SERVER, (24_001, 7_201)), public, "another end has another");
    Box::new(move |bed| {
        assert_eq!(bed.open(&bed.b1, OTHER, (24_000, 7_203)), public);
        assert_eq!(bed.open(&bed.b1, SERVER, (24_000, 7_201)), public);
    })
}

/// R6: who may answer an inside end depends on the address alone.
pub(crate) fn any_port_of_a_known_address_gets_in_and_no_other_address(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (24_100, 7_211));
    Box::new(move |bed| {
        let from = |address, port| bed.answer(address, &bed.b1, UDP, &udp(port, public, b"hello"));
        bed.inet.send(&from(OTHER, 7_211)).expect("sending");
        bed.nothing(&bed.b1.end, "a stranger's datagram", |p| p.is_udp(|ports| ports.1 == 24_100));
        assert_eq!(View(&bed.back(&bed.b1, &from(SERVER, 7_219))).ports(), (7_219, 24_100));
    })
}

/// R6: everybody may answer an inside end that has sent something.
pub(crate) fn everybody_gets_in_to_an_end_that_is_open(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (24_200, 7_221));
    Box::new(move |bed| {
        let frame = bed.answer(OTHER, &bed.b1, UDP, &udp(7_229, public, b"hello"));
        assert_eq!(View(&bed.back(&bed.b1, &frame)).ports(), (7_229, 24_200));
    })
}

/// R7: a packet to a public end of a neighbour arrives from the public end of its sender; so does the answer.
pub(crate) fn a_neighbour_is_reached_by_its_public_end_and_sees_the_senders(bed: &Bed<'_>) -> Second {
    assert_ne!(bed.b1.public, bed.b2.public, "they are of different shards");
    let second = bed.open(&bed.b2, SERVER, (24_300, 7_231));
    let first = bed.open(&bed.b1, SERVER, (24_301, 7_231));
    Box::new(move |bed| {
        let to_neighbour = bed.b1.datagram(bed.b2.public, (24_301, second), b"hairpin");
        let seen = bed.provokes((&bed.b1.end, &bed.b2.end), &to_neighbour, |p| p.is_udp(|ports| ports.1 == 24_300));
        assert_eq!((addresses(&seen).0, View(&seen).ports().0), (bed.b1.public, first));
        let answer = bed.b2.datagram(bed.b1.public, (24_300, first), b"answer");
        let seen = bed.provokes((&bed.b2.end, &bed.b1.end), &answer, |p| p.is_udp(|ports| ports.1 == 24_301));
        assert_eq!((addresses(&seen).0, View(&seen).ports().0), (bed.b2.public, second));
    })
}

/// D26: a flow to a service of one question and one answer ends ten seconds after the answer.
pub(crate) fn a_question_to_a_name_server_is_forgotten_soon_after_its_answer(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (25_100, 53));
    Box::new(move |bed| {
        bed.ends(53, Duration::from_secs(20), |bed| {
            bed.back(&bed.b1, &bed.answer(SERVER, &bed.b1, UDP, &udp(53, public, b"answer")));
            let lives = !bed.lab.live_mappings("10.0.1.1", 53).is_empty();
            assert!(lives, "an answer that comes twice finds its way");
        });
    })
}

/// R28: what has no translation does not leave, from either side.
pub(crate) fn what_cannot_be_translated_goes_nowhere(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        let mut foreign = bed.b1.datagram(SERVER, (25_000, 7_301), b"foreign");
        foreign[26..30].copy_from_slice(&[10, 0, 1, 77]);
        qnat_reference::packet::mend(&mut foreign);
        let segment = tcp((25_000, 7_302), (1, 0), 0x10, &[], b"no connection");
        for frame in [foreign, bed.b1.packet(SERVER, 47, &[0; 16]), bed.b1.packet(SERVER, TCP, &segment)] {
            bed.b1.end.send(&frame).expect("sending");
        }
        bed.nothing(&bed.inet, "something untranslated", |p| {
            p.proto() == 47 || p.is_udp(|ports| ports.1 == 7_301) || p.is_tcp(|ports| ports.1 == 7_302)
        });
        for (proto, payload) in [(UDP, udp(7_303, 1_999, b"?")), (TCP, tcp((7_303, 1_999), (1, 0), SYN, &[], b""))] {
            bed.inet.send(&bed.answer(SERVER, &bed.b1, proto, &payload)).expect("sending");
        }
        bed.nothing(&bed.b1.end, "what nobody asked for", |p| p.ports().0 == 7_303);
        assert!(bed.lab.live_mappings("10.0.1.1", 7_303).is_empty(), "I19: it left no trace");
    })
}
