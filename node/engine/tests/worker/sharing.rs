//! Which flows share a port, by the backend's rule, and what passes inwards.

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::{Filtering, Profile, Sharing};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const OTHER_REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

fn with(lab: &mut Lab, sharing: Sharing, filtering: Filtering) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        for id in [1, 2] {
            let backend = s.backends.get_mut(&BackendId(id)).expect("A and B");
            (backend.sharing, backend.filtering) = (sharing, filtering);
            if sharing == Sharing::Endpoint {
                backend.profile = Profile::Rfc;
            }
        }
    });
}

fn out(lab: &mut Lab, node: usize, port: u16, remote: Ipv4Addr, service: u16) -> u16 {
    lab.pass(node, INSIDE, udp(A, port, remote, service)).src_port
}

#[test]
fn by_address_each_flow_to_one_address_has_its_port_and_other_addresses_share_it() {
    let mut lab = Lab::new(2);
    with(&mut lab, Sharing::Address, Filtering::Tuple);
    let ports: BTreeSet<u16> = (0..10).map(|i| out(&mut lab, 0, 5000, REMOTE, 4500 + i)).collect();
    assert_eq!(ports.len(), 10, "S9: also to distinct remote ports");
    let others: BTreeSet<u16> = (0..10).map(|i| out(&mut lab, 0, 5000, OTHER_REMOTE, 4500 + i)).collect();
    assert_eq!(others, ports, "S9: other addresses share, densely");
    lab.elect(1);
    lab.run(20);
    assert!(!ports.contains(&out(&mut lab, 1, 6000, REMOTE, 80)), "a successor knows what is taken");
}

#[test]
fn by_address_flows_on_their_way_count_and_ports_come_back_after_the_hold() {
    let mut lab = Lab::new(1);
    with(&mut lab, Sharing::Address, Filtering::Tuple);
    lab.hold = Hold::Yes;
    for i in 0..64 {
        assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 4500 + i)), Verdict::Consumed);
    }
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 80)), Verdict::Drop(DropReason::PortsExhausted), "S12");
    lab.sent.clear();
    lab.commit_waiting();
    let ports: BTreeSet<u16> = lab.sent.iter().filter(|s| !s.is_arp()).map(|s| s.packet().src_port).collect();
    assert_eq!(ports.len(), 64);
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 80)), Verdict::Drop(DropReason::PortsExhausted));
    lab.run(250_000);
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 80)), Verdict::Drop(DropReason::PortsExhausted), "I11: held");
    lab.run(70_000);
    out(&mut lab, 0, 5000, REMOTE, 80);
}

#[test]
fn an_inside_endpoint_has_one_port_for_all_remotes_and_has_it_alone() {
    let mut lab = Lab::new(2);
    with(&mut lab, Sharing::Endpoint, Filtering::Tuple);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    lab.out(0, udp(A, 5000, OTHER_REMOTE, 99));
    lab.sent.clear();
    lab.commit_waiting();
    let first: BTreeSet<u16> = lab.sent.iter().filter(|s| !s.is_arp()).map(|s| s.packet().src_port).collect();
    assert_eq!(first.len(), 1, "R3, I2: also while the first is on its way");
    let port = *first.first().expect("one");
    assert_eq!(out(&mut lab, 0, 5000, REMOTE, 7), port);
    assert_ne!(out(&mut lab, 0, 5001, OTHER_REMOTE, 1), port, "no other endpoint, to whatever remote");
    lab.elect(1);
    lab.run(20);
    assert_eq!(out(&mut lab, 1, 5000, Ipv4Addr::new(198, 51, 100, 9), 1), port, "I2 across a takeover");
    let ports: BTreeSet<u16> = (0..62).map(|i| out(&mut lab, 1, 6000 + i, REMOTE, 80)).collect();
    assert_eq!(ports.len(), 62);
    assert_eq!(lab.out(1, udp(A, 7000, REMOTE, 80)), Verdict::Drop(DropReason::PortsExhausted), "S12: 64 endpoints");
    assert_eq!(
        out(&mut lab, 1, 6000, OTHER_REMOTE, 80),
        *ports.iter().find(|p| **p == out(&mut lab, 1, 6000, REMOTE, 80)).expect("its own")
    );
    lab.assert_in_step();
}

#[test]
fn an_endpoints_port_goes_to_another_only_when_its_last_hold_has_ended() {
    let mut lab = Lab::new(1);
    with(&mut lab, Sharing::Endpoint, Filtering::Open);
    let ports: BTreeSet<u16> = (0..64).map(|i| out(&mut lab, 0, 5000 + i, REMOTE, 4500)).collect();
    assert_eq!(ports.len(), 64);
    lab.run(305_000);
    assert_eq!(lab.out(0, udp(A, 7000, OTHER_REMOTE, 1)), Verdict::Drop(DropReason::PortsExhausted), "held");
    let stranger = udp_in(OTHER_REMOTE, 9, PUBLIC, *ports.first().expect("one"));
    assert_eq!(lab.frame(0, OUTSIDE, stranger), Verdict::Drop(DropReason::NoMapping), "a hold lets nobody new in");
    lab.run(125_000);
    assert!(ports.contains(&out(&mut lab, 0, 7000, OTHER_REMOTE, 1)));
}

#[test]
fn what_passes_inwards_is_what_the_filter_says_and_opens_nothing() {
    let address = [Some(true), Some(true), None];
    for (filtering, passes) in [
        (Filtering::Tuple, [Some(true), None, None]),
        (Filtering::Address, address),
        (Filtering::Open, [Some(true); 3]),
    ] {
        let mut lab = Lab::new(1);
        with(&mut lab, Sharing::Endpoint, filtering);
        let port = out(&mut lab, 0, 5000, REMOTE, 4500);
        let entries = lab.log.len();
        for (from, passes) in [(REMOTE, 4500), (REMOTE, 99), (OTHER_REMOTE, 4500)].into_iter().zip(passes) {
            let frame = udp_in(from.0, from.1, PUBLIC, port);
            if passes.is_some() {
                let p = lab.pass(0, OUTSIDE, frame);
                assert_eq!((p.src, p.src_port, p.dst, p.dst_port), (from.0, from.1, A, 5000), "{filtering:?}");
            } else {
                assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(DropReason::NoMapping), "{filtering:?}");
            }
        }
        assert_eq!(lab.log.len(), entries, "I19: inbound traffic creates no state");
        assert_eq!(out(&mut lab, 0, 5000, OTHER_REMOTE, 4500), port, "the answer opens it");
        let elsewhere = udp_in(REMOTE, 4500, PUBLIC, if port == 2048 { 2049 } else { 2048 });
        assert_eq!(lab.frame(0, OUTSIDE, elsewhere), Verdict::Drop(DropReason::NoMapping), "ports without endpoint");
        lab.run(298_000);
        lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port));
        lab.run(5_000);
        assert_eq!(lab.status(0).live, 0, "R5: and keeps none alive");
    }
}

#[test]
fn a_backend_complains_about_what_its_filter_let_in() {
    for (filtering, passes) in [(Filtering::Address, false), (Filtering::Open, true)] {
        let mut lab = Lab::new(1);
        with(&mut lab, Sharing::Endpoint, filtering);
        let port = out(&mut lab, 0, 5000, REMOTE, 4500);
        // From a stranger, for whom there is no mapping.
        let quote = |to| udp_raw((OTHER_REMOTE, 9), to, b"unwanted").bytes();
        let sent = icmp_raw(A, OTHER_REMOTE, [3, 3], [0; 4], &quote((A, 5000))).frame(A, SHARD);
        lab.sent.clear();
        let verdict = lab.frame(0, INSIDE, sent);
        lab.sent.retain(|sent| !sent.is_arp());
        if passes {
            let wanted = icmp_raw(PUBLIC, OTHER_REMOTE, [3, 3], [0; 4], &quote((PUBLIC, port)));
            assert_eq!(lab.sent.len(), 1, "{verdict:?}");
            assert_eq!(lab.sent[0].frame[L3..], Raw { ttl: 63, ..wanted }.bytes());
        } else {
            assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping), "{filtering:?}");
        }
        assert_eq!(lab.status(0).live, 1, "R9: an error opens nothing");
    }
}

#[test]
fn an_inbound_connection_opens_with_its_answer() {
    let mut lab = Lab::new(1);
    with(&mut lab, Sharing::Endpoint, Filtering::Open);
    assert_eq!(
        lab.out(0, tcp(A, 9, OTHER_REMOTE, 7, SYN | ACK, 1, 501)),
        Verdict::Drop(DropReason::NotFirstPacket),
        "nobody asked"
    );
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(OTHER_REMOTE, 7, PUBLIC, port, SYN, 500, 0));
    assert_eq!(lab.status(0).live, 1);
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 9, OTHER_REMOTE, 7, SYN | ACK, 1, 501)).src_port, port);
    lab.pass(0, OUTSIDE, tcp(OTHER_REMOTE, 7, PUBLIC, port, ACK, 501, 2));
    assert_eq!(lab.status(0).live, 2);
}

#[test]
fn a_changed_rule_holds_for_the_flows_that_are_there() {
    let mut lab = Lab::new(1);
    let port = out(&mut lab, 0, 5000, REMOTE, 4500);
    assert_eq!(out(&mut lab, 0, 5001, OTHER_REMOTE, 4500), port);
    with(&mut lab, Sharing::Endpoint, Filtering::Open);
    lab.run(100);
    let ports = [out(&mut lab, 0, 5000, REMOTE, 9), out(&mut lab, 0, 5001, REMOTE, 9)];
    assert_ne!(ports[0], ports[1], "one of the two keeps the port");
    assert_eq!([out(&mut lab, 0, 5000, REMOTE, 4500), out(&mut lab, 0, 5001, OTHER_REMOTE, 4500)], [port; 2]);
    with(&mut lab, Sharing::Tuple, Filtering::Tuple);
    lab.run(100);
    let stranger = udp_in(OTHER_REMOTE, 9, PUBLIC, ports[0]);
    assert_eq!(lab.frame(0, OUTSIDE, stranger), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(
        out(&mut lab, 0, 6000, Ipv4Addr::new(198, 51, 100, 9), 1),
        out(&mut lab, 0, 6001, Ipv4Addr::new(198, 51, 100, 9), 2)
    );
}
