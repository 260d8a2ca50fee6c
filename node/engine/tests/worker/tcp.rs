//! Connections: their phases and timers by profile, resets that are believed and resets that are sent.

use crate::lab::*;
use qnat_engine::event::{DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;
use qnat_engine::record::HoldClass;
use qnat_engine::snapshot::{Draining, OnReclaim, Profile, TcpReset};
use qnat_engine::status::FlowState;
use qnat_engine::wire::{IpPacket, TcpFlags};

fn state(lab: &Lab) -> Vec<FlowState> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000).into_iter().map(|f| f.state).collect()
}

/// A connection of A's port 9 to `REMOTE`; returns the public port. A's next octet is 101, the remote's 501.
fn handshake(lab: &mut Lab) -> u16 {
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 101, 501));
    port
}

fn with(lab: &mut Lab, profile: Profile, minutes: u32, reset: TcpReset) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        let a = s.backends.get_mut(&BackendId(1)).expect("A");
        (a.profile, a.idle_timeout_ms, a.tcp_reset_on_idle) = (profile, minutes * 60_000, reset);
    });
}

/// The flow lives on after `alive_ms` and is held two and a half seconds later.
fn ends_after(lab: &mut Lab, alive_ms: u64, class: HoldClass) {
    lab.run(alive_ms - 100);
    assert_eq!(state(lab), [FlowState::Live], "not before {alive_ms} ms");
    lab.run(2_500);
    assert_eq!(state(lab), [FlowState::Held(class)], "after {alive_ms} ms");
}

#[test]
fn each_phase_of_a_connection_has_the_timer_of_its_profile() {
    for (profile, half_open_s, established_s, closing_s, reset_s) in
        [(Profile::Azure, 240, 600, 600, 16), (Profile::Rfc, 240, 7_440, 240, 240)]
    {
        let mut lab = Lab::new(1);
        lab.lease(0, 100_000 * SEC);
        with(&mut lab, profile, 10, TcpReset::Off);
        lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0));
        ends_after(&mut lab, half_open_s * 1_000, HoldClass::IdleStream);

        lab.run(70_000);
        handshake(&mut lab);
        ends_after(&mut lab, established_s * 1_000, HoldClass::IdleStream);

        lab.run(70_000);
        handshake(&mut lab);
        lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, FIN | ACK, 101, 501));
        ends_after(&mut lab, closing_s * 1_000, HoldClass::IdleStream);

        lab.run(70_000);
        let port = handshake(&mut lab);
        lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 501, 0));
        ends_after(&mut lab, reset_s * 1_000, HoldClass::Rst);
    }
}

#[test]
fn datagrams_and_queries_have_the_timers_of_their_profile() {
    let profiles =
        [(Profile::Azure, 600, 600, HoldClass::IdleDatagram), (Profile::Rfc, 300, 60, HoldClass::IdleDatagramRfc)];
    for (profile, udp_s, icmp_s, class) in profiles {
        let mut lab = Lab::new(1);
        with(&mut lab, profile, 10, TcpReset::Off);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
        ends_after(&mut lab, udp_s * 1_000, class);
        lab.run(125_000);
        lab.pass(0, INSIDE, ping(A, REMOTE, 7));
        ends_after(&mut lab, icmp_s * 1_000, HoldClass::IdleDatagram);
    }
}

#[test]
fn an_idle_datagram_flow_is_held_for_as_long_as_its_profile_says() {
    for (profile, idle_s, hold_s) in [(Profile::Azure, 240, 65), (Profile::Rfc, 300, 120)] {
        let mut lab = Lab::new(2);
        with(&mut lab, profile, 4, TcpReset::Off);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
        let begun = lab.now;
        while lab.status(0).held == 0 {
            lab.run(100);
        }
        assert!(lab.now - begun >= idle_s * SEC);
        let closed = lab.now;
        lab.run((hold_s - 1) * 1_000);
        assert_eq!((lab.status(0).held, lab.status(1).held), (1, 1), "D6: held at +{} s", hold_s - 1);
        lab.run(3_000);
        assert_eq!((lab.status(0).held, lab.status(1).held), (0, 0), "free at +{} s", (lab.now - closed) / SEC);
        lab.assert_in_step();
    }
}

#[test]
fn a_well_known_query_ends_soon_after_its_answer() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.run(30_000);
    assert_eq!(state(&lab), [FlowState::Live], "without an answer it has its whole time");
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    lab.run(5_000);
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    ends_after(&mut lab, 5_000, HoldClass::Service);

    lab.run(20_000);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    lab.run(8_000);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.run(30_000);
    assert_eq!(state(&lab), [FlowState::Live], "asked again, it waits again");
    let other = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, other));
    lab.run(30_000);
    assert_eq!(state(&lab).len(), 2, "other services have their whole time");
}

#[test]
fn the_well_known_services_are_those_that_are_configured() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| s.params.short_idle_ports = [853, 5353, 0, 0, 0, 0, 0, 0]);
    for (remote_port, ends) in [(853, true), (5353, true), (53, false), (123, false)] {
        let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, remote_port)).src_port;
        lab.pass(0, OUTSIDE, udp_in(REMOTE, remote_port, PUBLIC, port));
        let live = lab.status(0).live;
        lab.run(12_500);
        assert_eq!(lab.status(0).live, live - u32::from(ends), "{remote_port}");
    }
}

#[test]
fn a_query_to_a_well_known_service_holds_its_port_no_longer_than_it_must() {
    // The floor of F6: 3 s of grace, V and a second; others keep what is configured.
    const FLOOR_MS: u64 = 3_000 + 50 + 1_000;
    let held = |lab: &Lab| lab.status(0).held;
    let mut lab = Lab::new(2);
    // Of two queries one is never answered; it ends at its whole time and is held no longer.
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 53));
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.run(9_900);
    assert_eq!(held(&lab), 0);
    while held(&lab) == 0 {
        lab.run(10);
    }
    lab.run(FLOOR_MS - 20);
    assert_eq!(held(&lab), 1, "not before the floor");
    lab.run(250);
    assert_eq!((held(&lab), lab.status(0).live), (0, 2), "and a batch later it is free");
    lab.assert_in_step();
    while held(&lab) < 2 {
        lab.run(10);
    }
    lab.run(FLOOR_MS + 1_500);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::IdleDatagram)], "the other service's is held for 65 s");
    lab.assert_in_step();
}

#[test]
fn a_successor_holds_the_ports_of_a_well_known_service_anew() {
    let mut lab = Lab::new(2);
    lab.run(10_000);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    ends_after(&mut lab, 10_000, HoldClass::Service);
    lab.elect(1);
    lab.run(3_500);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::Service)], "an orphan may still repeat it");
    lab.run(1_500);
    assert_eq!(state(&lab), []);
    lab.assert_in_step();
}

#[test]
fn a_lost_final_ack_does_not_keep_a_connection_half_open() {
    let mut lab = Lab::new(1);
    with(&mut lab, Profile::Azure, 10, TcpReset::Off);
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, SYN | ACK, 500, 101));
    ends_after(&mut lab, 600_000, HoldClass::IdleStream);
}

#[test]
fn an_unsolicited_syn_is_unanswered_and_a_simultaneous_open_wins() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 81, SYN, 1, 0)).src_port;
    lab.sent.clear();
    let syn = tcp(REMOTE, 80, PUBLIC, port, SYN, 500, 0);
    assert_eq!(lab.frame(0, OUTSIDE, syn.clone()), Verdict::Drop(DropReason::NoMapping));
    lab.run(10_000);
    assert!(lab.sent.iter().all(Sent::is_arp), "R13: neither a reset nor an error");
    // The same port serves another remote.
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port, port);
    assert_eq!(lab.pass(0, OUTSIDE, syn).dst, A);
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN | ACK, 100, 501));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, ACK, 501, 101));
}

#[test]
fn a_reset_off_the_expected_sequence_does_not_even_refresh() {
    let mut lab = Lab::new(1);
    let port = handshake(&mut lab);
    lab.run(200_000);
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 502, 0));
    ends_after(&mut lab, 40_000, HoldClass::IdleStream);
}

#[test]
fn a_reset_is_taken_back_by_its_senders_traffic() {
    let mut lab = Lab::new(1);
    let port = handshake(&mut lab);
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 501, 0));
    lab.run(10_000);
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, ACK, 501, 101));
    lab.run(200_000);
    assert_eq!(state(&lab), [FlowState::Live]);
}

#[test]
fn after_a_takeover_a_reset_is_not_believed_before_the_numbers_are_learned() {
    let mut lab = Lab::new(2);
    let port = handshake(&mut lab);
    lab.elect(1);
    lab.pass(1, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 501, 0));
    lab.run(60_000);
    assert_eq!(state(&lab), [FlowState::Live], "nobody is cut");
    lab.pass(1, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 101, 501));
    lab.pass(1, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 501, 0));
    ends_after(&mut lab, 16_000, HoldClass::Rst);
    lab.assert_in_step();
}

fn resets(lab: &mut Lab) -> Vec<(Link, IpPacket)> {
    lab.sent.retain(|s| !s.is_arp());
    lab.sent.iter().map(|s| (s.link, s.packet())).collect()
}

#[test]
fn an_idle_connection_is_reset_on_both_sides_when_its_rule_says_so() {
    let mut lab = Lab::new(1);
    with(&mut lab, Profile::Azure, 4, TcpReset::On);
    let port = handshake(&mut lab);
    lab.sent.clear();
    ends_after(&mut lab, 240_000, HoldClass::IdleStream);
    let sent = resets(&mut lab);
    assert_eq!(sent.len(), 2, "one to each link");
    for (link, p) in sent {
        let tcp = p.tcp.expect("a segment");
        assert_eq!(tcp.flags, TcpFlags::RST | TcpFlags::ACK);
        assert_eq!(p.eth_src, Mac::of_shard(SHARD));
        let ends = (p.src, p.src_port, p.dst, p.dst_port, tcp.seq, tcp.ack);
        match link {
            Link::Outside => assert_eq!(ends, (PUBLIC, port, REMOTE, 80, 101, 501), "R27: in the remote's window"),
            Link::Inside(_) => assert_eq!(ends, (REMOTE, 80, A, 9, 501, 101), "R27: in the backend's"),
        }
    }
}

#[test]
fn no_reset_is_sent_without_knowledge_without_the_rule_or_for_a_connection_that_goes_on() {
    let mut lab = Lab::new(2);
    handshake(&mut lab);
    lab.sent.clear();
    lab.run(250_000);
    assert!(resets(&mut lab).is_empty(), "the rule does not say so");

    with(&mut lab, Profile::Azure, 4, TcpReset::On);
    lab.run(70_000);
    handshake(&mut lab);
    lab.elect(1);
    lab.sent.clear();
    lab.run(300_000);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::IdleStream)]);
    assert!(resets(&mut lab).is_empty(), "after a takeover nothing is known");

    lab.elect(0);
    lab.run(70_000);
    handshake(&mut lab);
    lab.hold = Hold::Yes;
    lab.run(250_000);
    assert_eq!(lab.out(0, tcp(A, 9, REMOTE, 80, ACK, 101, 501)), Verdict::Consumed);
    lab.sent.clear();
    lab.commit_waiting();
    assert_eq!(state(&lab), [FlowState::Live], "a packet came while the close was on its way");
    let sent = resets(&mut lab);
    assert_eq!(sent.len(), 1);
    assert!(!sent[0].1.tcp.expect("a segment").flags.contains(TcpFlags::RST));
}

/// The lease of A is taken back but for one block; what becomes of the flows on the rest, `how` says.
fn take_back(lab: &mut Lab, how: OnReclaim, port: u16) {
    let (gone, kept) = if block(2048, 32).contains(port) { (2048, 4096) } else { (4096, 2048) };
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        let draining = Draining { block: block(gone, 32), reclaim_index: ControlIndex(index), on_reclaim: how };
        drains(s, draining);
        s.backends.get_mut(&BackendId(1)).expect("A").lease = vec![block(kept, 32)];
    });
}

#[test]
fn a_connection_on_a_port_that_is_taken_back_is_reset_on_both_sides_when_its_rule_says_so() {
    for (how, wanted) in [(OnReclaim::Expire, 0), (OnReclaim::Reset, 2)] {
        let mut lab = Lab::new(2);
        lab.run(10_000);
        let port = handshake(&mut lab);
        lab.hold = Hold::Yes;
        lab.sent.clear();
        take_back(&mut lab, how, port);
        lab.run(100);
        assert!(resets(&mut lab).is_empty(), "not before the close is committed");
        lab.commit_waiting();
        assert_eq!(state(&lab), [FlowState::Held(HoldClass::IdleStream)]);
        let sent = resets(&mut lab);
        assert_eq!(sent.len(), wanted, "{how:?}");
        for (link, p) in sent {
            let tcp = p.tcp.expect("a segment");
            assert_eq!(tcp.flags, TcpFlags::RST | TcpFlags::ACK);
            let ends = (p.src, p.src_port, p.dst, p.dst_port, tcp.seq, tcp.ack);
            match link {
                Link::Outside => assert_eq!(ends, (PUBLIC, port, REMOTE, 80, 101, 501)),
                Link::Inside(_) => assert_eq!(ends, (REMOTE, 80, A, 9, 501, 101)),
            }
        }
        lab.assert_in_step();
    }
}

#[test]
fn a_block_that_is_taken_back_resets_only_what_stood_on_it_and_is_known() {
    let mut lab = Lab::new(2);
    lab.run(10_000);
    let port = handshake(&mut lab);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.elect(1);
    lab.run(5_000);
    lab.sent.clear();
    take_back(&mut lab, OnReclaim::Reset, port);
    lab.run(100);
    assert!(state(&lab).contains(&FlowState::Held(HoldClass::IdleStream)));
    assert!(resets(&mut lab).is_empty(), "a successor knows no numbers, and datagrams have none");
}

#[test]
fn a_drain_waits_for_its_flows_four_minutes_and_no_longer_whoever_owns_them() {
    let mut lab = Lab::new(2);
    with(&mut lab, Profile::Azure, 100, TcpReset::Off);
    lab.run(10_000);
    let port = handshake(&mut lab);
    take_back(&mut lab, OnReclaim::Drain, port);
    let traffic = |lab: &mut Lab, seconds: u64| {
        for _ in 0..seconds / 10 {
            lab.run(10_000);
            let leader = lab.leader;
            lab.pass(leader, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 101, 501));
        }
    };
    traffic(&mut lab, 120);
    lab.elect(1);
    traffic(&mut lab, 110);
    assert_eq!(state(&lab), [FlowState::Live], "in use, on a port of nobody's");
    lab.sent.clear();
    lab.run(11_000);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::IdleStream)], "a successor does not begin to wait anew");
    assert!(resets(&mut lab).is_empty() && lab.fenced().is_empty());
    lab.run(70_000);
    assert_eq!(lab.fenced().len(), 1);
    lab.assert_in_step();
}

#[test]
fn resets_do_not_leave_without_the_lease() {
    let mut lab = Lab::new(1);
    with(&mut lab, Profile::Azure, 4, TcpReset::On);
    handshake(&mut lab);
    lab.hold = Hold::Yes;
    lab.run(250_000);
    assert_eq!(state(&lab), [FlowState::Closing]);
    lab.lapse();
    lab.sent.clear();
    lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    lab.commit_waiting();
    assert!(resets(&mut lab).is_empty());
    assert!(lab.dropped(0, DropReason::LeaseLapsed) > 0);
}

fn offer(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[14 + 20 + 20 + 2], frame[14 + 20 + 20 + 3]])
}

#[test]
fn offered_segment_sizes_are_lowered_both_ways_when_configured() {
    let mut lab = Lab::new(1);
    for (mss_max, offered) in [(0, 1460), (1400, 1400)] {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| s.params.mss_max = mss_max);
        let port = lab.pass(0, INSIDE, tcp_syn(A, 9 + mss_max, REMOTE, 80, SYN, 1460)).src_port;
        assert_eq!(offer(&lab.sent[0].frame), offered);
        lab.pass(0, OUTSIDE, tcp_syn(REMOTE, 80, PUBLIC, port, SYN | ACK, 1460));
        assert_eq!(offer(&lab.sent[0].frame), offered);
    }
}

#[test]
fn datagrams_that_may_be_fragmented_get_identifications_of_the_gateways_own() {
    let mut lab = Lab::new(1);
    let id = |lab: &Lab| u16::from_be_bytes([lab.sent[0].frame[18], lab.sent[0].frame[19]]);
    let mut seen = std::collections::BTreeSet::new();
    for (from, port) in [(A, 1), (A, 2), (B, 1), (B, 2)] {
        let mut frame = udp(from, port, REMOTE, 4500);
        // Both hosts count alike; the checksum follows.
        frame[18..22].copy_from_slice(&[0x12, 0x34, 0, 0]);
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = qnat_engine::wire::checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
        lab.pass(0, INSIDE, frame);
        assert!(seen.insert(id(&lab)), "R20");
    }
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 4500));
    let before = u16::from_be_bytes([udp(A, 1, REMOTE, 4500)[18], udp(A, 1, REMOTE, 4500)[19]]);
    assert_eq!(id(&lab), before, "nobody may fragment it");
}

#[test]
fn late_segments_pass_by_a_held_port_but_not_in_the_16_s_before_others_may_have_it() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, FIN | ACK, 101, 501));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, FIN | ACK, 501, 102));
    lab.run(20);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 1), "closed by both FINs, held for 65 s (D6)");
    let ack = || tcp(A, 5000, REMOTE, 443, ACK, 102, 502);
    lab.run(47_000);
    assert_eq!(lab.pass(0, INSIDE, ack()).src_port, port, "the last ACK, again");
    lab.run(2_000);
    assert_eq!(lab.out(0, ack()), Verdict::Drop(DropReason::NotFirstPacket), "I11");
    // The same flow may begin again whenever it likes.
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 900, 0)).src_port, port);
}
