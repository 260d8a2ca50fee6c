//! What the flow half adds to the flow groups: who may speak for whom, which snapshot goes to the worker, whose epoch a fence is of.

use std::net::SocketAddr;

use consensus::flow::frame::Frame;
use control::registry::Founder;
use control::state::State;
use engine::event::WorkerOutput;
use words::time::MS;

use super::*;

const ME: Incarnation = Incarnation(11);
const SECOND: Incarnation = Incarnation(12);
const THIRD: Incarnation = Incarnation(13);
const SHARD: ShardId = ShardId(1);

/// A version of the control state: three nodes, each in the life of its number plus ten, and one shard.
fn view(control_index: u64, epoch: u32) -> Arc<View> {
    let addr = SocketAddr::from(([127, 0, 0, 1], 7800));
    let founders: Vec<Founder> =
        (1..=3).map(|n| Founder { node: NodeId(n), peer_addr: addr, api_addr: addr, key: [1; 32] }).collect();
    let state = State::found([1; 16], &founders, [0, 0]);
    let mut view = View::of(&state, Arc::new(control::compile::snapshot(&state, NodeId(1))));
    let mut snapshot = (*view.snapshot).clone();
    snapshot.control_index = ControlIndex(control_index);
    view.snapshot = Arc::new(snapshot);
    view.control_index = ControlIndex(control_index);
    for (node, life) in [(1, ME), (2, SECOND), (3, THIRD)] {
        view.newest.insert(NodeId(node), life);
        view.node_of.insert(life, NodeId(node));
    }
    view.epochs.insert(SHARD, epoch);
    Arc::new(view)
}

/// F5: the shard's table may have begun anew since, from a base that lacks the fence; the report must not pass for one of
/// the new epoch.
#[test]
fn a_fence_is_reported_in_the_epoch_of_the_replica_that_has_it() {
    let mut member = FlowMember::new(ME, view(5, 1), 0, 0);
    member.handle_view(MS, view(6, 2));
    let block = PortBlock { frontend: engine::ids::FrontendId(1), start: 2048, len: 32 };
    let reclaim_index = ControlIndex(4);
    let fenced = WorkerOutput::Fenced { shard: SHARD, epoch: 1, block, reclaim_index };
    let duty = member.handle_worker(MS, fenced);
    assert!(matches!(duty, Some(ControlDuty::Fenced { epoch: 1, .. })), "{duty:?}");
}

/// N1: the transport proves a node; a life is believed only if it is that node's.
#[test]
fn a_node_that_speaks_in_the_name_of_another_ones_life_is_not_heard() {
    let mut member = FlowMember::new(ME, view(5, 1), 0, 0);
    while member.poll(0).is_some() {}
    let ready = Report { control_ready: 9, control_loaded: 9, links_up: true, ..Report::default() };
    let report = |life: Incarnation| flow_frame(life, &Frame::Report { from: life, report: Box::new(ready) }.encode());
    member.handle_peer(0, NodeId(2), &report(THIRD));
    assert_eq!(member.strangers(), 1, "node 2 is not node 3");
    member.handle_peer(0, NodeId(2), &report(Incarnation(99)));
    assert_eq!(member.strangers(), 2, "nobody's life");
    member.handle_peer(0, NodeId(2), &report(SECOND));
    assert_eq!(member.strangers(), 2);
    assert!(member.groups().drops().is_empty(), "{:?}", member.groups().drops());
}

/// The same, with a group of the first two, which found it.
fn led_view(control_index: u64) -> Arc<View> {
    let mut view = (*view(control_index, 1)).clone();
    let members = vec![ME, SECOND];
    let origin = consensus::event::Origin::Founded { voters: members.clone() };
    let sealing = consensus::event::Sealing::No;
    view.specs = vec![consensus::event::GroupSpec {
        group: SHARD,
        epoch: Epoch(1),
        members,
        leaving: Vec::new(),
        origin,
        sealing,
    }];
    Arc::new(view)
}

/// Lets both run until `until_ms`; reports of the second one are lost. Returns what the first one's worker is to load.
fn run(first: &mut FlowMember, second: &mut FlowMember, (from_ms, until_ms): (u64, u64)) -> Vec<u64> {
    let mut loads = Vec::new();
    for now_ns in (from_ms..until_ms).map(|ms| ms * MS) {
        first.tick(now_ns);
        second.tick(now_ns);
        for _ in 0..4 {
            while let Some(out) = first.poll(now_ns) {
                match out {
                    FlowOut::Send { frame, .. } => second.handle_peer(now_ns, NodeId(1), &frame),
                    FlowOut::Worker(WorkerInput::Snapshot(snapshot)) => loads.push(snapshot.control_index.0),
                    FlowOut::Word { .. } | FlowOut::Worker(_) | FlowOut::Control(_) | FlowOut::SendBulk { .. } => {}
                }
            }
            while let Some(out) = second.poll(now_ns) {
                let FlowOut::Send { frame, .. } = out else { continue };
                let inner = split_flow_frame(&frame).and_then(|(_, inner)| Frame::decode(&inner).ok());
                if !matches!(inner, Some(Frame::Report { .. })) {
                    first.handle_peer(now_ns, NodeId(2), &frame);
                }
            }
        }
    }
    loads
}

/// F2: a snapshot that has not passed its barrier stays back, whatever has passed before it.
#[test]
fn only_the_snapshot_that_the_barrier_lets_through_goes_to_the_worker() {
    let mut first = FlowMember::new(ME, led_view(5), 0, 0);
    let mut second = FlowMember::new(SECOND, led_view(5), 0, 0);
    run(&mut first, &mut second, (0, 2_000));
    let leads =
        |member: &FlowMember| member.status(0).iter().any(|status| status.role == consensus::flow::Role::Leader);
    assert!(leads(&first), "{:?}", first.status(0));
    first.handle_view(2_000 * MS, led_view(6));
    assert!(run(&mut first, &mut second, (2_000, 2_500)).is_empty(), "the other one has not said that it has it");
    first.handle_view(2_500 * MS, led_view(7));
    let loads = run(&mut first, &mut second, (2_500, 3_300));
    assert_eq!(loads, [6], "its second is over, but not that of 7");
    assert_eq!(run(&mut first, &mut second, (3_300, 4_000)), [7]);
}
