//! Packets of mappings that exist cost no allocation, in either direction.

use std::net::Ipv4Addr;

#[path = "worker/lab.rs"]
#[expect(dead_code, reason = "this test needs a part of the worker tests' cluster")]
mod lab;

use lab::*;
use qnat_engine::event::Verdict;
use qnat_engine::wire::FrameMeta;

#[test]
fn a_packet_that_hits_the_table_allocates_nothing() {
    let mut lab = Lab::new(1);
    let remote = Ipv4Addr::new(198, 51, 100, 7);
    let port = lab.pass(0, INSIDE, udp(A, 5000, remote, 4500)).src_port;
    let public = lab.pass(0, INSIDE, tcp(A, 9, remote, 80, SYN, 100, 0)).src_port;
    let ping_id = lab.pass(0, INSIDE, ping(A, remote, 77)).src_port;
    let frames = [
        (INSIDE, udp(A, 5000, remote, 4500)),
        (OUTSIDE, udp_in(remote, 4500, PUBLIC, port)),
        (OUTSIDE, tcp(remote, 80, PUBLIC, public, SYN | ACK, 500, 101)),
        (INSIDE, tcp(A, 9, remote, 80, ACK, 101, 501)),
        (OUTSIDE, tcp(remote, 80, PUBLIC, public, ACK, 501, 101)),
        (INSIDE, ping(A, remote, 77)),
        (OUTSIDE, pong(PUBLIC, ping_id)),
        (OUTSIDE, udp_in(remote, 4501, PUBLIC, port)),
    ];
    for (number, (link, frame)) in frames.into_iter().enumerate() {
        let mut frame = frame;
        let node = &mut lab.nodes[0];
        let mut verdict = Verdict::Consumed;
        let counted = allocation_counter::measure(|| {
            verdict = node.worker.handle_frame(lab.now, &node.words, link, &FrameMeta::default(), &mut frame);
        });
        assert_eq!(counted.count_total, 0, "frame {number}, {verdict:?}");
        let drops = number == 7;
        assert_eq!(matches!(verdict, Verdict::Transmit { .. }), !drops, "frame {number}, {verdict:?}");
    }
    let opens = allocation_counter::measure(|| {
        lab.out(0, udp(A, 6000, remote, 4500));
    });
    assert!(opens.count_total > 0, "the counter counts");
}
