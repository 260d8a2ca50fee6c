//! What the translator leaves alone, and how long queries live.

use crate::lab::*;
use crate::raw::{echo, tcp_raw, udp_raw};
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::Link;
use std::net::Ipv4Addr;

/// The last octets of the one frame that left.
fn tail(lab: &mut Lab, link: Link, frame: Vec<u8>, len: usize) -> Vec<u8> {
    lab.pass(0, link, frame);
    let left = &lab.sent[0].frame;
    left[left.len() - len..].to_vec()
}

#[test]
fn addresses_and_ports_in_payload_are_left_alone() {
    let mut lab = Lab::new(1);
    let ftp: &[u8] = b"PORT 10,0,0,4,19,136\r\n";
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 21, SYN, 8, 0));
    let sent = tcp_raw((A, 5000), (REMOTE, 21), ACK, ftp).frame(A, SHARD);
    assert_eq!(tail(&mut lab, INSIDE, sent, ftp.len()), ftp, "R8: no gateway for FTP");
    let sip: &[u8] = b"INVITE sip:bob@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.4:5060\r\n\r\n";
    let sent = udp_raw((A, 5060), (REMOTE, 5060), sip).frame(A, SHARD);
    assert_eq!(tail(&mut lab, INSIDE, sent, sip.len()), sip, "R8: none for SIP");
}

fn echo_id(lab: &mut Lab, from: Ipv4Addr, id: u16) -> u16 {
    lab.pass(0, INSIDE, echo(from, REMOTE, 8, id, b"data").frame(from, SHARD)).src_port
}

#[test]
fn queries_of_two_hosts_with_one_identifier_are_told_apart_and_live_for_a_minute() {
    let mut lab = Lab::new(1);
    let (of_a, of_b) = (echo_id(&mut lab, A, 77), echo_id(&mut lab, B, 77));
    assert_ne!(of_a, of_b, "RFC 5508 REQ-1");
    lab.run(60_000);
    for (host, id) in [(A, of_a), (B, of_b)] {
        let back = lab.pass(0, OUTSIDE, pong(PUBLIC, id));
        assert_eq!((back.dst, back.dst_port), (host, 77), "RFC 5508 REQ-2: at least 60 s");
    }
    assert_eq!(lab.frame(0, OUTSIDE, pong(PUBLIC, of_a ^ 1)), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn a_datagram_mapping_lives_for_two_minutes_in_both_profiles() {
    for profile in [qnat_engine::snapshot::Profile::Azure, qnat_engine::snapshot::Profile::Rfc] {
        let mut lab = Lab::new(1);
        lab.load(11, |s| s.backends.values_mut().for_each(|backend| backend.profile = profile));
        let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4000)).src_port;
        lab.run(121_000);
        let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 4000, PUBLIC, port));
        assert_eq!((back.dst, back.dst_port), (A, 5000), "{profile:?}");
    }
}
