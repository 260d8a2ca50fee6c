//! The shard map: placement, new lives, re-creation, the stop token, and what the leader proposes.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{ControlIndex, Incarnation, NodeId, SHARDS_MAX, ShardId};
use qnat_control::command::{CommandBody, InStep};
use qnat_control::outcome::Yield;
use qnat_control::reconcile::{self, Observed};
use qnat_control::registry::FOUNDER_RAFT_ID;
use qnat_control::shards::{Origin, Shard};
use qnat_control::view;
use support::{Cluster, configure, desired, public, registration};

fn shard(cluster: &Cluster, id: ShardId) -> &Shard {
    &cluster.state.shards()[&id]
}

fn seen(live: &[u32]) -> Observed {
    Observed { now_ms: 10_000, since_ms: 0, live: live.iter().map(|n| NodeId(*n)).collect(), ..Observed::default() }
}

/// As `seen`, with an owner of every shard just now.
fn owned(cluster: &Cluster, live: &[u32]) -> Observed {
    let owner_seen_ms = cluster.state.shards().keys().map(|id| (*id, 10_000)).collect();
    Observed { owner_seen_ms, ..seen(live) }
}

/// Proposes what reconcile says until it says nothing, with leaders that report swaps at once.
fn settle(cluster: &mut Cluster, live: &[u32]) {
    for _ in 0..100 {
        let observed = owned(cluster, live);
        let proposals = reconcile::next(&cluster.state, &observed);
        if proposals.is_empty() {
            return;
        }
        for body in proposals {
            cluster.propose(body);
            report_swaps(cluster);
        }
    }
    panic!("reconcile never rests");
}

fn report_swaps(cluster: &mut Cluster) {
    let shards: Vec<_> = cluster.state.shards().iter().map(|(id, s)| (*id, s.clone())).collect();
    for (id, shard) in shards {
        if !shard.leaving.is_empty() && shard.sealing.is_none() {
            cluster.applied(CommandBody::ReplicaGone { shard: id, epoch: shard.epoch, gone: shard.leaving });
        }
    }
}

fn preferred(cluster: &Cluster) -> BTreeMap<u32, usize> {
    view::nodes(&cluster.state).into_iter().map(|n| (n.node, n.preferred_shards)).collect()
}

fn seal(cluster: &mut Cluster, id: ShardId, life: Incarnation, last: (u64, u64)) {
    let epoch = shard(cluster, id).epoch;
    let body = CommandBody::Sealed { shard: id, epoch, incarnation: life, last_term: last.0, last_index: last.1 };
    cluster.applied(body);
}

fn recreate(cluster: &Cluster, id: ShardId, holder: Incarnation) -> CommandBody {
    CommandBody::Recreate { shard: id, epoch: shard(cluster, id).epoch, holder_if_lost: holder }
}

fn seal_epoch(cluster: &mut Cluster, id: ShardId) {
    let epoch = shard(cluster, id).epoch;
    cluster.applied(CommandBody::SealEpoch { shard: id, epoch });
}

#[test]
fn new_shards_are_spread_and_their_ranks_rotate() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(6, 1));
    assert_eq!(preferred(&cluster), [(1, 2), (2, 2), (3, 2)].into());
    for rank in 0..3 {
        let at_rank: BTreeSet<_> = cluster.state.shards().values().map(|s| s.members[rank]).collect();
        assert_eq!(at_rank.len(), 3, "rank {rank} rotates");
    }
    assert!(cluster.state.shards().values().all(|s| s.epoch == 1 && s.voters.len() == 3));
}

#[test]
fn shards_declared_before_all_nodes_are_there_extend_to_them() {
    let mut cluster = Cluster::founded(3);
    cluster.configure(&desired(3, 1));
    assert!(cluster.state.shards().values().all(|s| s.origin == Origin::Unplaced));
    cluster.start(1);
    settle(&mut cluster, &[1]);
    let founded = |s: &Shard| matches!(&s.origin, Origin::Founded { voters } if voters.len() == 1);
    assert!(cluster.state.shards().values().all(founded));
    cluster.start(2);
    settle(&mut cluster, &[1, 2]);
    assert!(cluster.state.shards().values().all(|s| s.members.len() == 2));
    cluster.start(3);
    settle(&mut cluster, &[1, 2, 3]);
    assert!(cluster.state.shards().values().all(|s| s.members.len() == 3 && founded(s)));
    assert_eq!(preferred(&cluster), [(1, 1), (2, 1), (3, 1)].into());
}

#[test]
fn a_fourth_node_takes_its_share_and_then_nothing_moves() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(8, 1));
    let body = support::joining(4, 1);
    assert!(matches!(cluster.applied(body), Yield::RaftId(_)));
    cluster.start(4);
    settle(&mut cluster, &[1, 2, 3, 4]);
    assert_eq!(preferred(&cluster), [(1, 2), (2, 2), (3, 2), (4, 2)].into());
    assert!(cluster.state.shards().values().all(|s| s.members.len() == 3));
}

#[test]
fn nothing_is_proposed_while_all_is_well_or_a_silent_node_has_not_returned() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(2, 4));
    settle(&mut cluster, &[1, 2, 3]);
    assert_eq!(reconcile::next(&cluster.state, &owned(&cluster, &[1, 2, 3])), []);
    assert_eq!(reconcile::next(&cluster.state, &owned(&cluster, &[1, 2])), []);
    assert_eq!(reconcile::next(&cluster.state, &seen(&[1])), [], "no owner, but nobody is known to be gone");
}

#[test]
fn a_new_life_takes_the_rank_of_the_old_one_until_the_swap_is_reported() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let before = shard(&cluster, id).members.clone();
    let new = cluster.start(2);
    let rank =
        before.iter().position(|life| cluster.state.registry().node_of(*life) == Some(NodeId(2))).expect("member");
    assert_eq!(shard(&cluster, id).members[rank], new);
    assert_eq!(shard(&cluster, id).leaving, [before[rank]]);
    assert!(cluster.refused_stop(1).contains("not fully redundant"));
    cluster.applied(CommandBody::ReplicaGone { shard: id, epoch: 1, gone: vec![before[rank]] });
    assert!(shard(&cluster, id).leaving.is_empty());
    assert!(cluster.state.registry().node_of(before[rank]).is_none_or(|_| cluster.state.registry().gone(before[rank])));
    let late = CommandBody::ReplicaGone { shard: id, epoch: 1, gone: vec![before[rank]] };
    assert!(cluster.refused(late).contains("leaving"));
}

#[test]
fn the_same_start_registers_once_and_an_older_one_never_again() {
    let mut cluster = Cluster::running(3);
    let body = |nonce| CommandBody::RegisterIncarnation(registration(1, 0, nonce));
    let first = cluster.applied(body(100));
    assert_eq!(cluster.applied(body(100)), first, "a retry under another key");
    let second = cluster.applied(body(200));
    assert_ne!(first, second);
    assert!(cluster.refused(body(100)).contains("replaced by a newer one"));
    let CommandBody::RegisterIncarnation(mut other_disk) = body(300) else { unreachable!("made above") };
    other_disk.control_raft_id = 99;
    assert!(cluster.refused(CommandBody::RegisterIncarnation(other_disk)).contains("has joined again"));
}

#[test]
fn a_node_that_lost_its_disk_gets_a_new_raft_id() {
    let mut cluster = Cluster::running(3);
    let join = |nonce| support::joining(2, nonce);
    let Yield::RaftId(id) = cluster.applied(join(5)) else { panic!("a raft id") };
    assert_eq!(id, cluster.index);
    assert_eq!(cluster.applied(join(5)), Yield::RaftId(id));
    let voters = cluster.state.control_voters();
    assert_eq!(voters, [id, FOUNDER_RAFT_ID | 1, FOUNDER_RAFT_ID | 3]);
    cluster.start(2);
}

#[test]
fn one_dead_and_one_restarted_replica_are_recreated_from_the_survivor() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let survivor = cluster.newest(1);
    // Node 3 is dead for good but has not come back: never gone by silence. Node 2 restarts.
    let returned = cluster.start(2);
    let mut observed = seen(&[1, 2]);
    assert_eq!(reconcile::next(&cluster.state, &observed), [CommandBody::SealEpoch { shard: id, epoch: 1 }]);
    observed.owner_seen_ms.insert(id, 9_500);
    assert_eq!(reconcile::next(&cluster.state, &observed), [], "an owner was seen half a second ago");
    observed.owner_seen_ms.clear();
    seal_epoch(&mut cluster, id);
    assert_eq!(reconcile::next(&cluster.state, &observed), [], "survivors have not sealed");
    assert!(cluster.refused(recreate(&cluster, id, survivor)).contains("a quorum of the old epoch may still be alive"));
    seal(&mut cluster, id, returned, (0, 0));
    assert_eq!(reconcile::next(&cluster.state, &observed), [], "node 1 lives and has not sealed");
    seal(&mut cluster, id, survivor, (1 << 32 | 3, 77));
    let proposals = reconcile::next(&cluster.state, &observed);
    assert_eq!(proposals.len(), 1);
    cluster.applied(proposals[0].clone());
    let new = shard(&cluster, id);
    assert_eq!(new.epoch, 2);
    let origin = Origin::Recreated { base: survivor, last_term: 1 << 32 | 3, last_index: 77, wait_ms: 3_040 };
    assert_eq!(new.origin, origin, "node 3 has not sealed, so its lease and grace are waited for");
    assert_eq!(new.voters, [survivor]);
    assert_eq!((new.members.len(), new.leaving.len(), new.epoch_since), (3, 0, ControlIndex(cluster.index)));
    assert!(view::shards(&cluster.state)[0].why.contains("only node 1 holds its flows"));
    assert!(cluster.refused(CommandBody::SealEpoch { shard: id, epoch: 1 }).contains("epoch 2"));
}

#[test]
fn when_all_others_have_sealed_nobody_waits() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let (two, three) = (cluster.start(2), cluster.start(3));
    seal_epoch(&mut cluster, id);
    let survivor = cluster.newest(1);
    for (life, last) in [(two, (0, 0)), (three, (0, 0)), (survivor, (5, 6))] {
        seal(&mut cluster, id, life, last);
    }
    cluster.applied(recreate(&cluster, id, two));
    let origin = Origin::Recreated { base: survivor, last_term: 5, last_index: 6, wait_ms: 0 };
    assert_eq!(shard(&cluster, id).origin, origin);
}

/// Epoch 1 ends while its owner is out of reach and unsealed; epoch 2 ends soon after, with everyone in it sealed or gone.
fn two_epochs_in_a_row(served: bool) -> Origin {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let lives = shard(&cluster, id).members.clone();
    let node_of = |cluster: &Cluster, life| cluster.state.registry().node_of(life).expect("known").0;
    let nodes: Vec<u32> = lives.iter().map(|life| node_of(&cluster, *life)).collect();
    let spare = (1..=4).find(|node| !nodes.contains(node)).expect("four nodes, three members");
    // The owner is moved out and cut off before it hears of it.
    let members = [spare, nodes[1], nodes[2]].map(NodeId).to_vec();
    cluster.applied(CommandBody::SetMembers { shard: id, members, unchanged_since: None });
    let restarted = cluster.start(nodes[1]);
    seal_epoch(&mut cluster, id);
    let second = cluster.newest(spare);
    seal(&mut cluster, id, second, (0, 0));
    seal(&mut cluster, id, restarted, (0, 0));
    seal(&mut cluster, id, lives[2], (5, 9));
    cluster.applied(recreate(&cluster, id, lives[2]));
    assert!(matches!(shard(&cluster, id).origin, Origin::Recreated { wait_ms: 3_040, .. }), "the owner may repeat");
    if served {
        cluster.applied(CommandBody::EpochServed { shard: id, epoch: 2 });
        assert!(cluster.refused(CommandBody::EpochServed { shard: id, epoch: 1 }).contains("epoch 2"));
    }
    // A second voter gets the table, the base's holder dies, and nobody of epoch 2 is left unsealed.
    cluster.applied(CommandBody::VotersApplied { shard: id, epoch: 2, voters: vec![lives[2], second] });
    cluster.start(nodes[2]);
    seal_epoch(&mut cluster, id);
    for life in shard(&cluster, id).possible() {
        seal(&mut cluster, id, life, if life == second { (7, 12) } else { (0, 0) });
    }
    cluster.applied(recreate(&cluster, id, second));
    shard(&cluster, id).origin.clone()
}

#[test]
fn the_wait_for_an_unsealed_owner_is_carried_on_until_an_epoch_has_served() {
    assert!(matches!(two_epochs_in_a_row(false), Origin::Recreated { wait_ms: 3_040, .. }));
    assert!(matches!(two_epochs_in_a_row(true), Origin::Recreated { wait_ms: 0, .. }));
}

#[test]
fn an_owner_that_was_moved_out_is_waited_for_although_the_group_holds_it_no_longer() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let lives = shard(&cluster, id).members.clone();
    let members: Vec<NodeId> = (1..=4).map(NodeId).filter(|n| cluster.newest(n.0) != lives[0]).collect();
    cluster.applied(CommandBody::SetMembers { shard: id, members: members.clone(), unchanged_since: None });
    report_swaps(&mut cluster);
    cluster.applied(CommandBody::VotersApplied { shard: id, epoch: 1, voters: shard(&cluster, id).members.clone() });
    for node in &members[1..] {
        cluster.start(node.0);
    }
    seal_epoch(&mut cluster, id);
    let base = cluster.newest(members[0].0);
    for life in shard(&cluster, id).possible() {
        seal(&mut cluster, id, life, if life == base { (5, 9) } else { (0, 0) });
    }
    cluster.applied(recreate(&cluster, id, base));
    assert!(matches!(shard(&cluster, id).origin, Origin::Recreated { wait_ms: 3_040, .. }));
}

#[test]
fn shard_ids_stay_in_the_tables_that_they_index_however_often_frontends_come_and_go() {
    let mut cluster = Cluster::running(3);
    let mut keys = BTreeSet::new();
    for round in 0..2_000_u32 {
        cluster.applied(configure(&desired(1 + round % 2, 1), Vec::new()));
        for (id, shard) in cluster.state.shards() {
            assert!(id.0 < SHARDS_MAX, "round {round}: {id}");
            assert!(keys.insert((*id, shard.epoch)), "round {round}: shard {id} begins epoch {} again", shard.epoch);
        }
        cluster.applied(configure(&desired(0, 1), Vec::new()));
        cluster.drain_all();
        cluster.retire_all();
    }
    assert_eq!(keys.last().map(|(id, _)| id.0), Some(2), "the lowest free id is taken");
}

#[test]
fn the_base_is_the_greatest_seal_whose_holder_still_lives_that_life() {
    let mut cluster = Cluster::running(5);
    let mut config = desired(1, 1);
    config.settings.replicas = 5;
    cluster.configure(&config);
    let id = cluster.only_shard();
    let (four, five) = (cluster.start(4), cluster.start(5));
    let three = cluster.start(3);
    seal_epoch(&mut cluster, id);
    for life in [three, four, five] {
        seal(&mut cluster, id, life, (0, 0));
    }
    let (one, two) = (cluster.newest(1), cluster.newest(2));
    seal(&mut cluster, id, one, (2, 10));
    seal(&mut cluster, id, two, (2, 11));
    cluster.start(2);
    cluster.applied(recreate(&cluster, id, one));
    assert!(matches!(shard(&cluster, id).origin, Origin::Recreated { base, last_index: 10, .. } if base == one));
}

#[test]
fn two_lives_that_may_have_been_promoted_are_not_outvoted_by_assumption() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let one = cluster.newest(1);
    // Both new lives may vote by now, together with node 1: a quorum without node 1 may exist.
    cluster.start(2);
    cluster.start(3);
    seal_epoch(&mut cluster, id);
    seal(&mut cluster, id, one, (9, 9));
    assert!(cluster.refused(recreate(&cluster, id, one)).contains("quorum"));
    assert_eq!(reconcile::next(&cluster.state, &seen(&[1])), [], "not even while they are silent");
    assert!(view::shards(&cluster.state)[0].why.contains("node 2, 3 has neither sealed nor gone"));
    cluster.applied(cluster.removal(3));
    cluster.applied(recreate(&cluster, id, one));
    assert_eq!(shard(&cluster, id).epoch, 2);
}

#[test]
fn without_a_survivor_the_shard_begins_empty_after_quarantine() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let lives: Vec<_> = (1..=3).map(|node| cluster.start(node)).collect();
    seal_epoch(&mut cluster, id);
    for life in &lives[..2] {
        seal(&mut cluster, id, *life, (0, 0));
    }
    assert!(cluster.refused(recreate(&cluster, id, lives[0])).contains("neither sealed nor gone"));
    seal(&mut cluster, id, lives[2], (0, 0));
    let proposals = reconcile::next(&cluster.state, &seen(&[2, 3]));
    assert_eq!(proposals.len(), 1);
    cluster.applied(proposals[0].clone());
    let Origin::Lost { holder, wait_ms } = shard(&cluster, id).origin else { panic!("lost") };
    assert_ne!(holder, lives[0], "the holder is live");
    assert_eq!(wait_ms, 65_000);
}

#[test]
fn a_holder_that_dies_before_a_second_voter_leaves_no_survivor() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let (two, three, one) = (cluster.start(2), cluster.start(3), cluster.newest(1));
    seal_epoch(&mut cluster, id);
    for (life, last) in [(two, (0, 0)), (three, (0, 0)), (one, (5, 6))] {
        seal(&mut cluster, id, life, last);
    }
    cluster.applied(recreate(&cluster, id, one));
    let again = cluster.start(1);
    seal_epoch(&mut cluster, id);
    // Learners hold part of a table at most: they report nothing.
    for life in [two, three, again] {
        seal(&mut cluster, id, life, (0, 0));
    }
    cluster.applied(recreate(&cluster, id, two));
    assert!(matches!(shard(&cluster, id).origin, Origin::Lost { .. }));
    assert_eq!(shard(&cluster, id).epoch, 3);
}

#[test]
fn a_life_that_registers_after_the_seal_needs_no_report() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    cluster.start(1);
    seal_epoch(&mut cluster, id);
    let lives: Vec<_> = (1..=3).map(|node| cluster.start(node)).collect();
    cluster.applied(recreate(&cluster, id, lives[1]));
    assert!(matches!(shard(&cluster, id).origin, Origin::Lost { holder, .. } if holder == lives[1]));
}

#[test]
fn a_healthy_epoch_cannot_be_sealed() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let shard = cluster.only_shard();
    assert!(cluster.refused(CommandBody::SealEpoch { shard, epoch: 1 }).contains("no replica of the epoch is gone"));
}

#[test]
fn a_removed_node_is_replaced_and_may_come_back_only_by_joining() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(4, 1));
    let old = cluster.newest(2);
    cluster.applied(cluster.removal(2));
    for shard in cluster.state.shards().values() {
        assert!(!shard.members.contains(&old));
        assert_eq!(shard.members.len(), 3);
    }
    assert!(!cluster.state.control_voters().contains(&(FOUNDER_RAFT_ID | 2)));
    let body = CommandBody::RegisterIncarnation(registration(2, 0, 555));
    assert!(cluster.refused(body).contains("was removed"));
    cluster.applied(support::joining(2, 8));
    cluster.start(2);
    settle(&mut cluster, &[1, 2, 3, 4]);
}

#[test]
fn one_node_at_a_time_holds_the_stop_token() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let stop = cluster.stop(1);
    cluster.applied(stop);
    let stop = cluster.stop(1);
    cluster.applied(stop);
    assert!(cluster.refused_stop(2).contains("node 1 holds the stop token"));
    assert!(cluster.refused(CommandBody::StopTokenReturn { node: NodeId(2) }).contains("node 1"));
    cluster.start(1);
    assert_eq!(view::status(&cluster.state).stop_token.map(|t| (t.holder, t.restarted)), Some((1, true)));
    cluster.applied(CommandBody::StopTokenReturn { node: NodeId(1) });
    report_swaps(&mut cluster);
    assert!(cluster.refused_stop(2).contains("not fully redundant"), "the new life does not vote yet");
    let (id, epoch) = (cluster.only_shard(), 1);
    let voters = shard(&cluster, id).members.clone();
    cluster.applied(CommandBody::VotersApplied { shard: id, epoch, voters });
    let stop = cluster.stop(2);
    cluster.applied(stop);
    cluster.applied(CommandBody::StopTokenRevoke);
    assert_eq!(cluster.state.stop_token(), None);
}

#[test]
fn nobody_may_stop_while_a_group_is_of_one_or_a_replica_does_not_vote_or_was_not_seen_in_step() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let members = shard(&cluster, id).members.clone();
    let take = |epoch, lives: &[Incarnation]| {
        let seen = vec![InStep { shard: id, epoch, lives: lives.to_vec() }];
        CommandBody::StopTokenTake { node: NodeId(1), seen }
    };
    assert!(cluster.refused(take(1, &members[..2])).contains("not fully redundant"), "one is down or behind");
    assert!(cluster.refused(take(2, &members)).contains("not fully redundant"), "seen in another epoch");
    let unseen = CommandBody::StopTokenTake { node: NodeId(1), seen: vec![] };
    assert!(cluster.refused(unseen).contains("not fully redundant"), "nobody has looked");
    cluster.applied(CommandBody::VotersApplied { shard: id, epoch: 1, voters: members[..2].to_vec() });
    assert!(cluster.refused(take(1, &members)).contains("not fully redundant"), "one is a learner");
    // Re-created, the group is of one, and only its holder has the flows.
    let (two, three) = (cluster.start(2), cluster.start(3));
    seal_epoch(&mut cluster, id);
    let holder = cluster.newest(1);
    for (life, last) in [(two, (0, 0)), (three, (0, 0)), (holder, (5, 6))] {
        seal(&mut cluster, id, life, last);
    }
    cluster.applied(recreate(&cluster, id, two));
    assert_eq!(shard(&cluster, id).voters, [holder]);
    let members = shard(&cluster, id).members.clone();
    for lives in [vec![holder], members.clone()] {
        assert!(cluster.refused(take(2, &lives)).contains("not fully redundant"));
    }
    cluster.applied(CommandBody::VotersApplied { shard: id, epoch: 2, voters: members.clone() });
    cluster.applied(take(2, &members));
}

#[test]
fn the_only_node_of_a_cluster_may_stop() {
    let mut cluster = Cluster::running(1);
    cluster.configure(&desired(1, 1));
    let stop = cluster.stop(1);
    cluster.applied(stop);
}

#[test]
fn a_move_for_an_older_map_or_of_a_forgetful_replica_is_refused() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let since = shard(&cluster, id).changed;
    let nodes = |list: [u32; 3]| list.into_iter().map(NodeId).collect::<Vec<_>>();
    let body = |members, unchanged_since| CommandBody::SetMembers { shard: id, members, unchanged_since };
    cluster.applied(body(nodes([4, 1, 2]), Some(since)));
    assert!(cluster.refused(body(nodes([1, 2, 3]), Some(since))).contains("has changed"));
    assert!(cluster.refused(body(nodes([1, 2, 3]), None)).contains("another change"));
    report_swaps(&mut cluster);
    assert!(cluster.refused(body(nodes([1, 2, 3]), None)).contains("has forgotten its log"));
    cluster.start(3);
    cluster.applied(body(nodes([1, 2, 3]), None));
    assert!(cluster.refused(body(nodes([1, 1, 2]), None)).contains("distinct"));
    assert!(cluster.refused(body(vec![NodeId(9)], None)).contains("not registered"));
}

#[test]
fn the_level_rises_only_when_everyone_supports_it_and_then_binds_newcomers() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.refused(CommandBody::SetLevel { level: 4 }).contains("supports level 3 only"));
    cluster.applied(CommandBody::SetLevel { level: 3 });
    let mut old = registration(1, 0, 4242);
    old.level = 1;
    assert!(cluster.refused(CommandBody::RegisterIncarnation(old)).contains("supports cluster level 1"));
    assert!(cluster.refused(CommandBody::SetLevel { level: 1 }).contains("at level 3 already"));
}

#[test]
fn timing_is_fixed_once_shards_exist() {
    let mut cluster = Cluster::running(3);
    let mut config = desired(0, 1);
    config.settings.tick_ms = 10;
    cluster.applied(support::configure(&config, vec![]));
    let mut with_shard = desired(1, 1);
    with_shard.settings.tick_ms = 10;
    cluster.applied(support::configure(&with_shard, vec![]));
    let why = cluster.refused(support::configure(&desired(1, 1), vec![]));
    assert!(why.contains("tick_ms"), "{why}");
}

#[test]
fn reported_voters_are_recorded_once() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let old = cluster.newest(3);
    let new = cluster.start(3);
    cluster.applied(CommandBody::ReplicaGone { shard: id, epoch: 1, gone: vec![old] });
    let mut observed = owned(&cluster, &[1, 2, 3]);
    let voters = vec![new, cluster.newest(2), cluster.newest(1)];
    observed.voters.insert(id, (1, voters));
    let proposals = reconcile::next(&cluster.state, &observed);
    assert_eq!(proposals.len(), 1);
    cluster.applied(proposals[0].clone());
    assert_eq!(shard(&cluster, id).voters.len(), 3);
    assert_eq!(reconcile::next(&cluster.state, &observed), []);
    assert_eq!(view::status(&cluster.state).concerns, []);
    let stale = CommandBody::VotersApplied { shard: id, epoch: 1, voters: vec![old, cluster.newest(1)] };
    assert!(cluster.refused(stale).contains("not in the map"));
}

#[test]
fn retiring_waits_for_the_longest_hold() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.frontend_at(public(1)).0;
    cluster.unix_ms = 50_000;
    cluster.configure(&desired(0, 1));
    cluster.drain_all();
    let mut observed = owned(&cluster, &[1, 2, 3]);
    observed.unix_ms = 50_000 + 120_000;
    assert_eq!(reconcile::next(&cluster.state, &observed), []);
    observed.unix_ms += 50 + reconcile::RETIRE_MARGIN_MS + 1;
    assert_eq!(reconcile::next(&cluster.state, &observed), [CommandBody::RetireFrontends { frontends: vec![id] }]);
}

/// Three nodes and one shard; node 3 is silent, node 2 has come back, and the epoch is being sealed.
fn being_sealed() -> (Cluster, ShardId, Incarnation) {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    let returned = cluster.start(2);
    seal_epoch(&mut cluster, id);
    (cluster, id, returned)
}

#[test]
fn only_a_replica_of_the_epoch_reports_a_seal_and_its_first_report_stands() {
    let (mut cluster, id, _) = being_sealed();
    let survivor = cluster.newest(1);
    let sealed = |incarnation, last_index| CommandBody::Sealed {
        shard: id,
        epoch: 1,
        incarnation,
        last_term: 1 << 32,
        last_index,
    };
    cluster.applied(support::joining(4, 1));
    let stranger = cluster.start(4);
    assert!(cluster.refused(sealed(stranger, 900)).contains("is no replica of the epoch"));
    assert_eq!(shard(&cluster, id).base(cluster.state.registry()), None, "what it offers is no base");
    cluster.applied(sealed(survivor, 77));
    cluster.applied(sealed(survivor, 12));
    cluster.applied(sealed(survivor, 99));
    assert_eq!(shard(&cluster, id).seals[&survivor], (1 << 32, 77), "a sealed log does not change");
}

#[test]
fn nobody_may_stop_while_a_shard_is_sealed_or_lacks_members() {
    let (mut cluster, id, returned) = being_sealed();
    assert!(shard(&cluster, id).leaving.len() == 1);
    let old = shard(&cluster, id).leaving[0];
    cluster.applied(CommandBody::ReplicaGone { shard: id, epoch: 1, gone: vec![old] });
    assert!(shard(&cluster, id).leaving.is_empty() && shard(&cluster, id).members.contains(&returned));
    assert!(cluster.refused_stop(1).contains("not fully redundant"));
    let mut cluster = Cluster::founded(3);
    cluster.start(1);
    cluster.start(2);
    cluster.configure(&desired(1, 1));
    cluster.start(3);
    assert_eq!(shard(&cluster, cluster.only_shard()).members.len(), 2, "the third has not been added yet");
    assert!(cluster.refused_stop(1).contains("not fully redundant"));
}

/// Its control thread lives and its flow thread hangs: the base that others hold begins, and waits for what it may repeat.
#[test]
fn a_live_member_that_never_seals_is_not_waited_for_without_end() {
    let (mut cluster, id, returned) = being_sealed();
    let third = cluster.newest(3);
    seal(&mut cluster, id, returned, (0, 0));
    seal(&mut cluster, id, third, (1 << 32 | 3, 50));
    let mut observed = seen(&[1, 2, 3]);
    observed.changed_ms.insert(id, observed.now_ms - 1_000);
    assert_eq!(reconcile::next(&cluster.state, &observed), [], "node 1 is given time to seal");
    observed.changed_ms.insert(id, observed.now_ms - reconcile::SEAL_WAIT_MS - 1);
    let proposals = reconcile::next(&cluster.state, &observed);
    assert!(matches!(proposals[..], [CommandBody::Recreate { .. }]), "{proposals:?}");
    cluster.applied(proposals[0].clone());
    let origin = Origin::Recreated { base: third, last_term: 1 << 32 | 3, last_index: 50, wait_ms: 3_040 };
    assert_eq!(shard(&cluster, id).origin, origin, "node 1 may hold lease or grace");
}

/// The leader hears no owner, but a node that has just come may: it is given the time to say so.
#[test]
fn an_epoch_is_not_sealed_as_soon_as_somebody_is_gone() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let id = cluster.only_shard();
    cluster.start(2);
    let mut observed = seen(&[1, 2, 3]);
    observed.changed_ms.insert(id, observed.now_ms - reconcile::OWNERLESS_MS);
    assert_eq!(reconcile::next(&cluster.state, &observed), []);
    observed.changed_ms.insert(id, observed.now_ms - reconcile::OWNERLESS_MS - 1);
    assert_eq!(reconcile::next(&cluster.state, &observed), [CommandBody::SealEpoch { shard: id, epoch: 1 }]);
}
