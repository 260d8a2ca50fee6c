//! What clusters of control groups come to: without faults, with those that a test makes, and with any.

use super::*;
use crate::wire::KIND_CONTROL_MESSAGE;

fn chaos(seed: u64) -> Sim {
    let mut sim = Sim::founded(seed, &[1, 2, 3]);
    sim.run(1_000);
    for _ in 0..150 {
        let pause = sim.rng.random_range(1..200);
        sim.run(pause);
        sim.disturb();
    }
    sim.heal_and_converge();
    sim
}

#[test]
fn three_replicas_elect_one_leader_and_commit() {
    let mut sim = Sim::founded(1, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..50 {
        sim.propose(leader);
    }
    sim.run(300);
    assert_eq!(sim.judge.acknowledged.len(), 50);
    assert_eq!(sim.judge.leaders.len(), 1, "one election while healthy");
    sim.heal_and_converge();
}

#[test]
fn acknowledged_commands_survive_any_faults_of_disk_net_and_power() {
    let mut failures = 0;
    let mut acknowledged = 0;
    for seed in 0..40 {
        let sim = chaos(seed);
        failures += sim.failures;
        acknowledged += sim.judge.acknowledged.len();
    }
    assert!(failures > 40, "the disks did fail: {failures}");
    assert!(acknowledged > 4_000, "and the group worked in between: {acknowledged}");
}

#[test]
fn a_run_is_repeated_exactly_by_its_seed() {
    assert_eq!(chaos(77).trace, chaos(77).trace);
    assert_ne!(chaos(77).trace, chaos(78).trace);
}

#[test]
fn acknowledged_commands_survive_power_loss_of_all() {
    let mut sim = Sim::founded(5, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..20 {
        sim.propose(leader);
        sim.run(30);
    }
    assert_eq!(sim.judge.acknowledged.len(), 20);
    for id in [1, 2, 3] {
        sim.crash(id, Some(PowerLoss::default()));
    }
    sim.heal_and_converge();
    assert_eq!(sim.replicas[&1].state.iter().filter(|(_, _, c)| !c.is_empty()).count(), 21);
}

#[test]
fn a_founder_alone_leads_at_once_and_grows_by_joiners_with_empty_disks() {
    let mut sim = Sim::founded(6, &[1]);
    sim.run(1);
    assert_eq!(sim.leader(), Some(1));
    for _ in 0..30 {
        sim.propose(1);
    }
    sim.run(10);
    sim.compact(1);
    sim.join(2);
    sim.join(3);
    sim.want(&[1, 2, 3]);
    sim.run(2_000);
    assert_eq!(sim.replicas[&2].members, [1, 2, 3]);
    assert_eq!(sim.replicas[&3].members, [1, 2, 3]);
    sim.heal_and_converge();
}

#[test]
fn a_lost_disk_is_swapped_for_a_joiner_by_one_joint_change() {
    let mut sim = Sim::founded(8, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..40 {
        sim.propose(leader);
    }
    sim.run(200);
    let lost = [1, 2, 3].into_iter().find(|id| *id != leader).expect("three of them");
    sim.crash(lost, None);
    sim.replicas.remove(&lost);
    sim.join(4);
    let mut wanted: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != lost).collect();
    wanted.push(4);
    let before = sim.judge.committed.len();
    sim.want(&wanted);
    sim.run(2_000);
    assert_eq!(sim.replicas[&4].members, wanted);
    // Learner, joint change, leave: three entries, no more.
    assert_eq!(sim.judge.committed.len(), before + 3);
    sim.heal_and_converge();
}

#[test]
fn a_leader_that_is_not_wanted_transfers_before_it_is_removed() {
    let mut sim = Sim::founded(9, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.join(4);
    let mut wanted: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    wanted.push(4);
    sim.want(&wanted);
    sim.run(3_000);
    let now = sim.leader().expect("a leader");
    assert_ne!(now, leader);
    assert_eq!(sim.replicas[&now].members, wanted);
    sim.crash(leader, None);
    sim.replicas.remove(&leader);
    sim.heal_and_converge();
}

#[test]
fn swaps_go_on_through_crashes_and_losses() {
    for seed in 100..115 {
        let mut sim = Sim::founded(seed, &[1, 2, 3]);
        sim.run(1_500);
        let mut members = vec![1, 2, 3];
        for new in 4..8 {
            let at = sim.rng.random_range(0..members.len());
            let old = members[at];
            members[at] = new;
            members.sort_unstable();
            sim.join(new);
            sim.loss_percent = 5;
            sim.want(&members);
            for _ in 0..8 {
                let pause = sim.rng.random_range(1..150);
                sim.run(pause);
                if let Some(leader) = sim.leader() {
                    sim.propose(leader);
                }
                let victim = members[sim.rng.random_range(0..members.len())];
                sim.crash(victim, Some(PowerLoss::default()));
                let pause = sim.rng.random_range(1..300);
                sim.run(pause);
                sim.start(victim);
                sim.give(victim, ControlInput::Members { voters: members.clone() });
            }
            sim.heal_and_converge();
            let leader = sim.leader().expect("a leader");
            assert_eq!(sim.replicas[&leader].members, members, "seed {seed}");
            sim.crash(old, None);
            sim.replicas.remove(&old);
        }
    }
}

#[test]
fn a_stopping_leader_hands_over_without_an_election_timeout() {
    let mut sim = Sim::founded(10, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.give(leader, ControlInput::Stop);
    sim.run(50);
    let next = sim.leader().expect("a successor at once");
    assert_ne!(next, leader);
    sim.propose(leader);
    assert!(sim.replicas[&leader].pending.is_empty(), "it takes nothing any more");
}

#[test]
fn late_ticks_are_skipped_and_never_queued() {
    let mut disk = MemoryStore::new();
    disk.found(CLUSTER, 1, &[1, 2], &Bytes::new()).expect("an empty disk");
    let mut group = ControlGroup::open(disk, ControlTiming::default(), 1, 0).expect("a founder");
    let tick = group.timing.tick_ns;
    assert_eq!(group.next_due_ns(), tick);
    group.tick(tick + 5);
    assert_eq!(group.next_due_ns(), 2 * tick, "from the due time, not from now");
    group.tick(1_000 * tick + 5);
    assert_eq!(group.next_due_ns(), 1_001 * tick);
    assert_eq!(group.node.raft.election_elapsed, 2, "998 of them were skipped");
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut sim = Sim::founded(11, &[1]);
    sim.run(1);
    for _ in 0..30 {
        sim.propose(1);
    }
    sim.run(10);
    sim.compact(1);
    sim.join(2);
    sim.snapshots_to_lose = 2;
    sim.want(&[1, 2]);
    sim.run(3_000);
    assert_eq!(sim.replicas[&2].applied, 0, "both were lost, the second one two seconds after the first");
    assert_eq!(sim.snapshots_to_lose, 0);
    sim.run(4_000);
    assert_eq!(sim.replicas[&2].members, [1, 2]);
}

#[test]
fn oversized_and_misplaced_proposals_are_refused() {
    let mut sim = Sim::founded(12, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    let refused = |sim: &mut Sim, id: u64, command: Bytes| {
        let group = sim.replicas.get_mut(&id).and_then(|r| r.group.as_mut()).expect("it runs");
        group.handle(sim.now, ControlInput::Propose { ticket: 1, command });
        match group.poll(sim.now) {
            Some(ControlEffect::Proposed { ticket: 1, result }) => result.expect_err("a refusal"),
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert_eq!(refused(&mut sim, leader, vec![0; MAX_COMMAND_BYTES + 1].into()), leader);
    assert_eq!(refused(&mut sim, leader, Bytes::new()), leader, "empty is raft's own");
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).expect("three of them");
    assert_eq!(refused(&mut sim, follower, Bytes::from_static(b"x")), leader, "the leader's id comes back");
}

#[test]
fn hostile_frames_change_nothing_and_never_panic() {
    let mut sim = Sim::founded(13, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.propose(leader);
    sim.run(100);
    let kinds = [
        MessageType::MsgHeartbeat,
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
    ];
    for round in 0..20_000 {
        let mut m = Message::default();
        m.msg_type = kinds[sim.rng.random_range(0..kinds.len())];
        let to = sim.rng.random_range(1..=3);
        (m.to, m.from) = (to, sim.rng.random_range(1..=5));
        let mut small = || sim.rng.random_range(0..8);
        (m.term, m.index, m.log_term, m.commit) = (small().min(1), small(), small(), small());
        (m.reject, m.reject_hint, m.commit_term, m.request_snapshot) = (small() > 4, small(), small(), small() / 7);
        let (from, mut body) = (m.from, Vec::new());
        wire::encode_message(&m, &mut body);
        if round % 3 == 0 {
            let at = sim.rng.random_range(0..body.len());
            body[at] = sim.rng.random();
        }
        let frame = wire::seal(KIND_CONTROL_MESSAGE, &body).into();
        sim.give(to, ControlInput::Peer { from, frame });
        if round % 100 == 0 {
            sim.run(5);
        }
    }
    sim.heal_and_converge();
}

#[test]
fn a_group_that_continues_a_lost_one_goes_on_behind_it() {
    let mut disk = MemoryStore::new();
    let at = LogPosition { term: 7, index: 1_000 };
    disk.found_at(CLUSTER, 1, &[1], at, &Bytes::from_static(b"what was left")).expect("an empty disk");
    let mut group = ControlGroup::open(disk, ControlTiming::default(), 1, 0).expect("a founder");
    group.handle(0, ControlInput::Propose { ticket: 1, command: Bytes::from_static(b"next") });
    let mut seen = Vec::new();
    while let Some(effect) = group.poll(0) {
        match effect {
            ControlEffect::Restore { index, state } => seen.push((index, state)),
            ControlEffect::Committed { index, command, .. } => seen.push((index, command)),
            ControlEffect::Proposed { .. }
            | ControlEffect::Send { .. }
            | ControlEffect::Role { .. }
            | ControlEffect::Configured { .. }
            | ControlEffect::StoreFailed { .. } => {}
        }
    }
    assert_eq!(seen[0], (1_000, Bytes::from_static(b"what was left")));
    assert!(seen[1..].iter().all(|(index, _)| *index > 1_000) && seen.len() > 1, "{seen:?}");
}
