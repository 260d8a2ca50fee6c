//! How many flows a change ends: what is foretold is what happens, whoever has to do it.

use std::collections::BTreeSet;

use crate::groups::{OTHER, leaving, of_a, to};
use crate::lab::*;
use qnat_engine::cuts::{Cut, Which, flow_of, keeps_right};
use qnat_engine::ids::{BackendId, ControlIndex};
use qnat_engine::nsg::Access;
use qnat_engine::snapshot::Snapshot;

/// A's flows to two remotes, and B's.
fn with_flows() -> Lab {
    let mut lab = Lab::new(2);
    lab.load(11, |s| of_a(s, leaving(&[])));
    for port in 5000..5024 {
        lab.pass(0, INSIDE, udp(A, port, if port % 4 == 0 { REMOTE } else { OTHER }, 53));
        lab.pass(0, INSIDE, udp(B, port, REMOTE, 53));
    }
    lab
}

fn denied(s: &mut Snapshot) {
    of_a(s, leaving(&[to(Access::Deny, REMOTE)]));
}

/// How many of the flows of A will go, by a listing in steps of `slots`.
fn foretold(lab: &Lab, slots: u32, limit: usize) -> u64 {
    let mut after = snapshot(12, 1, 2);
    denied(&mut after);
    let (of_a, mut from, mut count) = (BTreeSet::from([BackendId(1)]), Some(0), 0);
    while let Some(at) = from {
        let mut found = Vec::new();
        from = lab.nodes[0].worker.view().list_of(lab.now, (SHARD, &of_a, Which::Live), at, (slots, limit), &mut found);
        assert!(found.len() <= limit && found.iter().all(|view| view.backend == BackendId(1)));
        count += found.iter().filter(|view| !keeps_right(&after, view.backend, &flow_of(view), view.scenario)).count();
    }
    u64::try_from(count).expect("few")
}

fn cut(lab: &Lab, node: usize, since: u64) -> Option<Cut> {
    lab.nodes[node].worker.view().cut(SHARD, ControlIndex(since))
}

#[test]
fn the_flows_that_a_change_is_foretold_to_end_are_those_that_end() {
    let mut lab = with_flows();
    assert_eq!([foretold(&lab, u32::MAX, usize::MAX), foretold(&lab, 7, 3)], [6, 6], "in steps of any length");
    assert_eq!(cut(&lab, 0, 11), Some(Cut { flows: 0, over: true }));
    (0..2).for_each(|node| lab.load_on(node, 12, denied));
    assert_eq!(cut(&lab, 0, 12), Some(Cut { flows: 0, over: false }), "nothing is judged yet");
    lab.run(50);
    assert_eq!(cut(&lab, 0, 12), Some(Cut { flows: 6, over: true }));
    assert_eq!(cut(&lab, 0, 13), Some(Cut { flows: 0, over: false }), "of a change that is not loaded");
    assert_eq!((cut(&lab, 1, 12), lab.status(1).cut), (None, 6), "a replica counts, its owner tells");
    // A backend that goes takes its flows along.
    lab.load(14, |s| {
        denied(s);
        s.backends.remove(&BackendId(2));
    });
    lab.run(50);
    assert_eq!((cut(&lab, 0, 14), cut(&lab, 0, 12)), (at(24), at(30)));
}

fn at(flows: u64) -> Option<Cut> {
    Some(Cut { flows, over: true })
}

#[test]
fn what_an_owner_ended_before_it_died_is_told_by_its_successor() {
    let mut lab = with_flows();
    lab.load(12, denied);
    lab.run(50);
    lab.cut_off_leader(1);
    lab.run(50);
    assert_eq!(cut(&lab, 1, 12), at(6));
}

#[test]
fn an_end_that_the_log_does_not_have_yet_is_not_counted_and_waited_for() {
    let mut lab = with_flows();
    lab.hold = Hold::Yes;
    (0..2).for_each(|node| lab.load_on(node, 12, denied));
    lab.run(50);
    assert_eq!(cut(&lab, 0, 12), Some(Cut { flows: 0, over: false }));
    lab.commit_waiting();
    lab.run(50);
    assert_eq!(cut(&lab, 0, 12), at(6));
}
