//! Who may do what with a frame: by the lease, the grace and the owner that is known, and by what the frame claims to be.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{Authority, DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;
use words::Prefix;

#[test]
fn the_grace_of_the_last_committed_header_counts_not_that_of_the_lease_word() {
    let mut lab = Lab::new(2);
    let lease_end = lab.nodes[0].words.0[&SHARD].lease_until_ns;
    lab.now = lease_end - SEC;
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.load(11, |s| s.params.orphan_grace_ms = 1_000);
    lab.run(500);
    lab.now = lease_end;
    lab.cut_off_leader(1);
    let packet = || udp(A, 5000, REMOTE, 4500);
    lab.now += 900 * MS;
    let verdict = lab.out(0, packet());
    let grace = Verdict::Transmit { link: OUTSIDE, authority: Authority::Grace { shard: SHARD } };
    assert_eq!(verdict, grace);
    lab.now += 200 * MS;
    assert_eq!(lab.out(0, packet()), Verdict::Drop(DropReason::NotOwner), "F6: the word says three seconds");
}

#[test]
fn a_frame_from_the_own_card_is_no_traffic() {
    let mut lab = Lab::new(1);
    let mut frame = udp(A, 5000, REMOTE, 53);
    frame[6..12].copy_from_slice(&links(0).mac_on(INSIDE).expect("it has one").0);
    assert_eq!(lab.out(0, frame), Verdict::Drop(DropReason::NotForUs));
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    let mut frame = udp_in(REMOTE, 53, PUBLIC, port);
    frame[6..12].copy_from_slice(&links(0).outside.0);
    assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(DropReason::NotForUs));
}

#[test]
fn nobody_passes_a_frame_on_to_an_owner_that_he_has_followed() {
    let mut lab = Lab::new(2);
    lab.elect(1);
    let packet = || udp(A, 5000, REMOTE, 53);
    assert_eq!(lab.pass(0, INSIDE, packet()).eth_dst, links(1).mac_on(INSIDE).expect("it has one"));
    // It leads a later term, though without a lease yet: the owner that it knows is its predecessor.
    lab.event(0, GroupEvent::Leading { shard: SHARD, term: Term(lab.term + 1) });
    lab.sent.clear();
    assert_eq!(lab.out(0, packet()), Verdict::Consumed, "it may have a lease soon");
    lab.run(110);
    assert!(lab.sent.iter().all(Sent::is_arp), "M1: it would come back");
    assert_eq!(lab.dropped(0, DropReason::NotOwner), 1);
}

#[test]
fn a_flow_of_an_address_that_went_to_another_backend_is_not_the_new_one_s() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 1, 0));
    lab.load_on(0, 11, |s| {
        let heir = s.backends.remove(&BackendId(1)).expect("A");
        s.backends.insert(BackendId(9), heir);
        Arc::make_mut(&mut s.backend_by_ip).insert((VnetId(0), A), BackendId(9));
    });
    // Before the timers have closed it.
    let n = &mut lab.nodes[0];
    let mut frame = tcp(A, 9, REMOTE, 80, ACK, 2, 1);
    let verdict = n.worker.handle_frame(lab.now, &n.words, INSIDE, &Default::default(), &mut frame);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotFirstPacket));
}

#[test]
fn link_local_addresses_are_no_way_out() {
    let mut lab = Lab::new(1);
    let verdict = lab.out(0, udp(A, 1, Ipv4Addr::new(169, 254, 169, 254), 80));
    assert_eq!(verdict, Verdict::Drop(DropReason::MartianDestination));
}

/// S1. Whoever declares a private network as the outside one reaches what is in it, and no other.
#[test]
fn private_space_that_nothing_routes_is_never_translated() {
    let mut lab = Lab::new(1);
    let to = |lab: &mut Lab, ip: [u8; 4]| lab.out(0, udp(A, 5000, Ipv4Addr::from(ip), 53));
    for ip in
        [[10, 99, 0, 1], [172, 16, 0, 1], [172, 31, 255, 254], [192, 168, 7, 9], [100, 64, 0, 1], [100, 127, 9, 9]]
    {
        assert_eq!(to(&mut lab, ip), Verdict::Drop(DropReason::PrivateDestination), "{ip:?}");
    }
    for ip in [[172, 15, 0, 1], [172, 32, 0, 1], [100, 63, 0, 1], [100, 128, 0, 1], [11, 0, 0, 1]] {
        assert_eq!(to(&mut lab, ip), Verdict::Consumed, "{ip:?} is public");
    }
    lab.load(11, |s| s.outside.prefix = Prefix { network: Ipv4Addr::new(192, 168, 7, 0), len: 24 });
    assert_eq!(to(&mut lab, [192, 168, 7, 9]), Verdict::Consumed);
    assert_eq!(to(&mut lab, [192, 168, 8, 9]), Verdict::Drop(DropReason::PrivateDestination));
}

#[test]
fn what_another_member_passes_on_from_a_public_address_is_not_spoofed() {
    let mut lab = Lab::new(2);
    let port = lab.pass(0, INSIDE, udp(A, 5000, PUBLIC_2, 2050)).src_port;
    let back = udp_raw((PUBLIC_2, 2050), (PUBLIC, port), b"back").bytes();
    let passed_on = ethernet(links(1).outside, links(0).outside, &back);
    assert_eq!(lab.pass(0, OUTSIDE, passed_on).dst, A, "R7: its owner repeats it in its grace, or forwards it");
}

#[test]
fn after_a_takeover_idle_flows_close_one_after_the_other() {
    let mut lab = Lab::new(2);
    for remote in 0..1000_u16 {
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 10_000 + remote));
    }
    lab.run(1_000);
    lab.elect(1);
    lab.run(239_000);
    assert_eq!(lab.status(1).live, 1000);
    lab.run(13_000);
    let half = lab.status(1).live;
    assert!((200..800).contains(&half), "I48: {half} of 1000 after half of a tenth");
    lab.run(15_000);
    assert_eq!(lab.status(1).live, 0);
}
