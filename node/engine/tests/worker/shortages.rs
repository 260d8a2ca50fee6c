//! What is told of a backend that has no port free towards a remote (S12, S16).

use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::explain::{Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::record::Proto;
use qnat_engine::shortages::Shortage;

const SERVICE: u16 = 4500;

fn told(lab: &Lab) -> Vec<Shortage> {
    lab.nodes[0].worker.shortages().collect()
}

#[test]
fn a_backend_that_falls_short_is_told_of_with_whom_it_meant_and_when_a_port_comes_back() {
    let mut lab = Lab::new(1);
    for port in 0..64 {
        lab.pass(0, INSIDE, udp(A, 5000 + port, REMOTE, SERVICE));
    }
    assert_eq!(told(&lab), []);
    let more = |lab: &mut Lab| lab.out(0, udp(A, 7000, REMOTE, SERVICE));
    let refused = Verdict::Drop(DropReason::PortsExhausted);
    assert_eq!(more(&mut lab), refused);
    let first = told(&lab)[0];
    assert_eq!((first.backend, first.frontend, first.proto), (BackendId(1), Some(FRONTEND), Proto::Udp));
    assert_eq!((first.remote.port, first.packets, first.at_ns, first.back_ns), (SERVICE, 1, lab.now, None));
    assert_eq!(lab.out(0, udp(A, 7000, REMOTE, SERVICE + 1)), Verdict::Consumed, "others are reached");
    // All of them go idle, and are held.
    lab.run(250_000);
    assert_eq!(more(&mut lab), refused);
    let [Shortage { packets: 2, back_ns: Some(back_ns), .. }] = told(&lab)[..] else { panic!("{:?}", told(&lab)) };
    let question = Question { vnet: NETWORK, proto: Proto::Udp, source: (A, 7000), destination: (REMOTE, SERVICE) };
    let view = |lab: &Lab| lab.nodes[0].worker.view().explain(lab.now, &question).expect("a configuration is loaded");
    let said = view(&lab);
    assert_eq!(said.outcome, Outcome::Dropped(DropReason::PortsExhausted));
    assert_eq!(said.back_in_ns, Some(back_ns - lab.now));
    lab.run((back_ns - lab.now) / 1_000_000 - 100);
    assert_eq!(more(&mut lab), refused, "not before that");
    // The end of a hold waits for an entry to ride on, or a tenth of a second.
    lab.run(400);
    assert!(matches!(view(&lab).outcome, Outcome::Opens(..)), "{:?}", view(&lab));
    assert_eq!(view(&lab).back_in_ns, None);
    lab.pass(0, INSIDE, udp(A, 7000, REMOTE, SERVICE));
}
