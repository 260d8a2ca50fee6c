//! By which right first packets leave: an own address before a pool, that before a system address (S5); and what flows keep
//! when that changes (D12).

use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::explain::{Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::record::{Proto, Scenario};
use qnat_engine::snapshot::{Draining, Frontend, OnReclaim, Snapshot, Without};
use qnat_engine::status::{FlowState, FlowView};
use std::net::Ipv4Addr;

const OWN: (FrontendId, Ipv4Addr) = (FrontendId(7), Ipv4Addr::new(203, 0, 113, 20));
const SYSTEM: (FrontendId, Ipv4Addr) = (FrontendId(8), Ipv4Addr::new(203, 0, 113, 240));

fn addresses(s: &mut Snapshot) {
    s.put_frontends([OWN, SYSTEM].map(|(id, ip)| (id, Frontend { ip, shard: SHARD })));
}

fn lease(frontend: FrontendId) -> PortBlock {
    PortBlock { frontend, start: 3072, len: 32 }
}

/// A's lease is on a system address.
fn defaulted(s: &mut Snapshot) {
    addresses(s);
    let a = s.backends.get_mut(&BackendId(1)).expect("A");
    (a.ways.granted, a.lease) = (Scenario::Default, vec![lease(SYSTEM.0)]);
}

/// It is on its pool's frontend.
fn pooled(s: &mut Snapshot) {
    addresses(s);
}

/// What it had on an address drains, and waits for its flows.
fn kept(s: &mut Snapshot, block: PortBlock) {
    drains(s, Draining { block, reclaim_index: ControlIndex(12), on_reclaim: OnReclaim::Keep });
}

/// The right of A's live flow from this port.
fn scenario_of(lab: &Lab, port: u16) -> Scenario {
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, None, 100);
    let live = |flow: &&FlowView| flow.inside.endpoint.port == port && flow.state == FlowState::Live;
    flows.iter().find(live).expect("a flow").scenario
}

#[test]
fn an_own_address_is_before_the_lease_and_the_log_says_which_kind_the_lease_was_of() {
    let mut lab = Lab::new(2);
    lab.load(11, defaulted);
    let p = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((p.src, lease(SYSTEM.0).contains(p.src_port)), (SYSTEM.1, true), "S4: a port of the grant");
    assert_eq!(scenario_of(&lab, 5000), Scenario::Default);
    let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, SYSTEM.1, p.src_port));
    assert_eq!((back.dst, back.dst_port), (A, 5000));
    lab.load(12, |s| {
        defaulted(s);
        s.backends.get_mut(&BackendId(1)).expect("A").ways.own = Some(OWN.0);
    });
    let p = lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500));
    assert_eq!((p.src, p.src_port), (OWN.1, 5001), "S5");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src, SYSTEM.1, "D12");
    lab.elect(1);
    lab.run(20);
    assert_eq!(lab.pass(1, INSIDE, udp(A, 5000, REMOTE, 4500)).src, SYSTEM.1, "a successor knows it");
    lab.assert_in_step();
}

#[test]
fn flows_keep_what_they_have_when_their_instance_joins_a_pool_and_when_it_leaves_it() {
    let mut lab = Lab::new(2);
    lab.load(11, defaulted);
    let first = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!(first.src, SYSTEM.1);
    lab.load(12, |s| {
        pooled(s);
        kept(s, lease(SYSTEM.0));
    });
    let again = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((again.src, again.src_port), (SYSTEM.1, first.src_port), "D12");
    let second = lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500));
    assert_eq!((second.src, scenario_of(&lab, 5001)), (PUBLIC, Scenario::Pool), "S5: a new one, at once");
    lab.load(13, |s| {
        defaulted(s);
        for start in [2048, 4096] {
            kept(s, block(start, 32));
        }
    });
    let third = lab.pass(0, INSIDE, udp(A, 5002, REMOTE, 4500));
    assert_eq!((third.src, scenario_of(&lab, 5002)), (SYSTEM.1, Scenario::Default));
    assert_ne!(third.src_port, first.src_port, "S7");
    // Longer than a drain waits, as long as they are in use.
    for _ in 0..3 {
        lab.run(200_000);
        for (port, p) in [(5000, &first), (5001, &second), (5002, &third)] {
            let now = lab.pass(0, INSIDE, udp(A, port, REMOTE, 4500));
            assert_eq!((now.src, now.src_port), (p.src, p.src_port), "D12: {port}");
            let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, p.src, p.src_port));
            assert_eq!((back.dst, back.dst_port), (A, port));
        }
    }
    lab.elect(1);
    lab.run(20);
    let back = lab.pass(1, OUTSIDE, udp_in(REMOTE, 4500, second.src, second.src_port));
    assert_eq!((back.dst, back.dst_port), (A, 5001), "I25");
    lab.run(400_000);
    let p = lab.pass(1, INSIDE, udp(A, 5001, REMOTE, 4500));
    assert_eq!(p.src, SYSTEM.1, "once it was idle it is a new flow, by what its instance has now");
    lab.assert_in_step();
}

#[test]
fn a_flow_that_has_ended_begins_anew_by_the_right_of_today() {
    let mut lab = Lab::new(2);
    lab.load(11, defaulted);
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src, SYSTEM.1);
    lab.run(245_000);
    // Both blocks are its own: what is held is not opened again under the right of before.
    lab.load(12, |s| {
        defaulted(s);
        let a = s.backends.get_mut(&BackendId(1)).expect("A");
        a.ways.granted = Scenario::Pool;
        a.lease = vec![lease(SYSTEM.0), block(2048, 32)];
    });
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!(scenario_of(&lab, 5000), Scenario::Pool);
}

#[test]
fn a_subnet_without_the_default_way_out_has_a_reason_of_its_own_and_live_flows_go_on() {
    let mut lab = Lab::new(1);
    lab.load(11, defaulted);
    let p = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.load(12, |s| {
        defaulted(s);
        let a = s.backends.get_mut(&BackendId(1)).expect("A");
        (a.ways.without, a.lease) = (Without::Barred, vec![]);
        kept(s, lease(SYSTEM.0));
    });
    assert_eq!(lab.out(0, udp(A, 5001, REMOTE, 4500)), Verdict::Drop(DropReason::DefaultOutboundOff), "D11");
    assert_eq!(lab.out(0, udp(NO_LEASE, 5001, REMOTE, 4500)), Verdict::Drop(DropReason::NoOutboundPath));
    let question = Question { vnet: NETWORK, proto: Proto::Udp, source: (A, 5001), destination: (REMOTE, 4500) };
    let told = lab.nodes[0].worker.view().explain(lab.now, &question).expect("a configuration");
    assert_eq!(told.outcome, Outcome::Dropped(DropReason::DefaultOutboundOff));
    let kept = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((kept.src, kept.src_port), (SYSTEM.1, p.src_port), "first packets only");
}
