//! What fell silent: its port is held for a while, and nobody comes in by it.

use crate::lab::*;
use crate::own::{OWN, with_own};
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::Link;
use qnat_engine::record::HoldClass;
use qnat_engine::status::FlowState;

fn states(lab: &Lab) -> Vec<FlowState> {
    lab.nodes[0].worker.view().dump_flows(lab.now, None, 10).iter().map(|flow| flow.state).collect()
}

const REFUSED: Verdict = Verdict::Drop(DropReason::NoMapping);

#[test]
fn behind_a_shared_address_it_lets_nobody_in_and_its_backend_has_it_again() {
    let mut lab = Lab::new(2);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    let connection = lab.pass(0, INSIDE, tcp(A, 5001, REMOTE, 443, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, connection, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 5001, REMOTE, 443, ACK, 101, 501));
    let segment = || tcp(REMOTE, 443, PUBLIC, connection, ACK, 501, 101);
    lab.run(239_000);
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port));
    lab.run(3_500);
    let held = states(&lab);
    assert!(held.contains(&FlowState::Held(HoldClass::IdleDatagram)), "{held:?}");
    assert!(held.contains(&FlowState::Held(HoldClass::IdleStream)), "{held:?}");
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port)), REFUSED, "S13");
    assert_eq!(lab.frame(0, OUTSIDE, segment()), REFUSED, "S13");
    assert_eq!(states(&lab), held, "and its hold goes on");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port, port, "F3: it is its backend's still");
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port)).dst, A);
    lab.assert_in_step();
}

#[test]
fn a_connection_that_closed_takes_late_packets_of_its_remote_for_as_long_as_it_is_held() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, FIN | ACK, 101, 501));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, FIN | ACK, 501, 102));
    lab.run(40_000);
    assert_eq!(states(&lab), [FlowState::Held(HoldClass::Fin)]);
    let again = tcp(REMOTE, 443, PUBLIC, port, FIN | ACK, 501, 102);
    assert_eq!(lab.pass(0, OUTSIDE, again).dst, A, "D6");
}

#[test]
fn at_an_own_address_remotes_go_on_by_what_is_held() {
    let mut lab = with_own(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.run(242_500);
    assert!(matches!(states(&lab)[..], [FlowState::Held(_)]));
    let p = lab.pass(0, Link::Outside, udp_in(REMOTE, 4500, OWN, 5000));
    assert_eq!((p.dst, p.dst_port), (A, 5000));
}
