//! Members come, go and return: joining, removal by incarnation, drains (N1, N2, N4, N5).

mod support;

use engine::ids::{Incarnation, NodeId, ShardId};
use qnat_control::command::CommandBody;
use qnat_control::concern::{Severity, Subject, What};
use qnat_control::limits::NODES_MAX;
use qnat_control::outcome::Yield;
use qnat_control::reconcile::{self, Observed};
use qnat_control::registry::{Joiner, Registration, Standing};
use qnat_control::resource::{Desired, Outside};
use qnat_control::view;
use support::{Cluster, desired, joiner, joining, registration};
use words::{INSIDE_MAX, InsideInterface};

fn observed(cluster: &Cluster, live: &[u32]) -> Observed {
    let owned = cluster.state.shards().keys().map(|id| (*id, 10_000));
    let live = live.iter().map(|n| NodeId(*n)).collect();
    Observed { now_ms: 10_000, owner_seen_ms: owned.collect(), live, ..Observed::default() }
}

/// Runs the reconciler once, and answers for the groups that every change was made.
fn reconcile_once(cluster: &mut Cluster, live: &[u32]) -> Vec<CommandBody> {
    let proposals = reconcile::next(&cluster.state, &observed(cluster, live));
    for body in proposals.clone() {
        cluster.propose(body);
    }
    let shards: Vec<_> = cluster.state.shards().iter().map(|(id, s)| (*id, s.clone())).collect();
    for (shard, entry) in shards {
        if !entry.leaving.is_empty() {
            cluster.applied(CommandBody::ReplicaGone { shard, epoch: entry.epoch, gone: entry.leaving });
            let voters = entry.members.clone();
            cluster.applied(CommandBody::VotersApplied { shard, epoch: entry.epoch, voters });
        }
    }
    proposals
}

fn settle(cluster: &mut Cluster, live: &[u32]) {
    for _ in 0..100 {
        if reconcile_once(cluster, live).is_empty() {
            return;
        }
    }
    panic!("reconcile never rests");
}

fn report_voters(cluster: &mut Cluster) {
    let voters = cluster.state.control_voters();
    cluster.applied(CommandBody::ControlConfApplied { voters });
}

fn drain(cluster: &Cluster, node: u32) -> CommandBody {
    CommandBody::DrainNode { node: NodeId(node), incarnation: cluster.newest(node) }
}

fn replicas_on(cluster: &Cluster, node: u32) -> usize {
    let holds = |id: &ShardId| {
        let members = &cluster.state.shards()[id].members;
        members.iter().any(|life| cluster.state.registry().node_of(*life) == Some(NodeId(node)))
    };
    cluster.state.shards().keys().filter(|id| holds(id)).count()
}

#[test]
fn a_removal_that_comes_late_spares_the_incarnation_that_came_since() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(4, 1));
    let removal = cluster.removal(2);
    cluster.applied(removal.clone());
    assert!(cluster.refused(removal.clone()).contains("removed already"));
    cluster.applied(joining(2, 8));
    assert!(cluster.refused(removal.clone()).contains("now, not"), "it has joined, and will register");
    let back = cluster.start(2);
    let why = cluster.refused(removal);
    assert!(why.contains(&format!("node 2 is incarnation {back} now")), "{why}");
    assert!(!cluster.state.registry().gone(back), "a living incarnation was declared gone");
}

#[test]
fn a_node_that_never_registered_is_removed_by_the_index_of_its_joining() {
    let mut cluster = Cluster::running(3);
    let Yield::RaftId(joined) = cluster.applied(joining(4, 1)) else { panic!("a raft id") };
    assert!(cluster.state.control_voters().contains(&joined));
    assert_eq!(view::nodes(&cluster.state)[3].named, joined);
    let other = CommandBody::RemoveNode { node: NodeId(4), incarnation: Incarnation(0) };
    assert!(cluster.refused(other).contains("now, not 0"));
    cluster.applied(cluster.removal(4));
    assert!(!cluster.state.control_voters().contains(&joined));
    assert!(cluster.refused(joining(4, 1)).contains("removed after it asked"), "the attempt that was removed");
    cluster.applied(joining(4, 2));
}

#[test]
fn only_who_is_out_for_good_is_told_so() {
    let mut cluster = Cluster::running(3);
    let founder = |node| qnat_control::registry::FOUNDER_RAFT_ID | u64::from(node);
    let over =
        |cluster: &Cluster, node, raft_id| cluster.state.registry().over(cluster.state.index(), NodeId(node), raft_id);
    assert_eq!(over(&cluster, 2, founder(2_u32)), None);
    cluster.applied(cluster.removal(2));
    assert!(over(&cluster, 2, founder(2)).expect("it is out").remedy().contains("empty its data directory"));
    let later = cluster.index + 1;
    assert_eq!(over(&cluster, 2, later), None, "an id that this replica has not heard of yet");
    assert_eq!(cluster.applied(joining(2, 1)), Yield::RaftId(later));
    assert_eq!(over(&cluster, 2, later), None);
    assert!(over(&cluster, 2, founder(2)).expect("it is out").why().contains("has joined again"));
    assert!(over(&cluster, 77, 1).expect("forgotten").why().contains("was removed"));
}

#[test]
fn the_number_of_a_member_is_given_to_nobody_with_another_key() {
    let mut cluster = Cluster::running(3);
    let mut other = joiner(2, 5);
    other.key = [9; 32];
    let before = cluster.newest(2);
    let outcome = cluster.propose(CommandBody::JoinControl(other));
    let (why, remedy) = outcome.refusal().map(|refusal| (refusal.why(), refusal.remedy())).expect("taken");
    assert!(why.contains("its key is another one"), "{why}");
    assert!(remedy.contains(&format!("qnat node-remove 2 --incarnation {before}")), "{remedy}");
    cluster.applied(cluster.removal(2));
    cluster.applied(CommandBody::JoinControl(other));
    assert_eq!(cluster.state.registry().nodes()[&NodeId(2)].key, [9; 32]);
    assert!(cluster.refused(joining(2, 6)).contains("its key is another one"), "now the first key is the other one");
}

#[test]
fn removed_nodes_take_no_place_and_are_forgotten_in_time() {
    let mut cluster = Cluster::running(1);
    let most = u32::try_from(NODES_MAX).expect("small");
    for round in 0..3 * most {
        let node = 1000 + round;
        cluster.applied(another(node));
        cluster.applied(cluster.removal(node));
    }
    let nodes = cluster.state.registry().nodes();
    assert_eq!(nodes.len(), NODES_MAX + 1);
    assert!(nodes.contains_key(&NodeId(1000 + 3 * most - 1)), "the newest of the removed is remembered");
    for node in 2..=most {
        cluster.applied(another(node));
    }
    let full = cluster.refused(another(500));
    assert_eq!(full, format!("the cluster has {NODES_MAX} members already"));
}

/// Another machine for each number.
fn another(node: u32) -> CommandBody {
    CommandBody::JoinControl(Joiner { node: NodeId(node), nonce: node.into(), ..joiner(2, 1) })
}

#[test]
fn a_cluster_of_one_has_what_it_can_have_and_grows_by_itself() {
    let mut cluster = Cluster::running(1);
    cluster.configure(&desired(2, 4));
    settle(&mut cluster, &[1]);
    assert_eq!((cluster.state.replicas_wanted(), replicas_on(&cluster, 1)), (1, 2));
    report_voters(&mut cluster);
    let status = view::status(&cluster.state);
    assert!(status.concerns.is_empty(), "a cluster of one is not wrong for ever: {:?}", status.concerns);
    assert_eq!(status.shards_whole, 2);
    for node in [2, 3] {
        cluster.applied(joining(node, node.into()));
        cluster.start(node);
        settle(&mut cluster, &[1, 2, 3]);
    }
    report_voters(&mut cluster);
    assert!(cluster.state.shards().values().all(|shard| shard.members.len() == 3));
    assert_eq!(cluster.state.control_applied().len(), 3);
}

#[test]
fn a_node_that_gave_a_shard_away_is_named_when_only_another_life_of_it_can_fill_it() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(4, 1));
    settle(&mut cluster, &[1, 2, 3, 4]);
    let gave = cluster.state.shards().values().filter(|s| s.members.contains(&cluster.newest(4))).count();
    assert_ne!(gave, 0);
    cluster.applied(drain(&cluster, 4));
    settle(&mut cluster, &[1, 2, 3, 4]);
    assert_eq!(replicas_on(&cluster, 4), 0);
    cluster.applied(CommandBody::ResumeNode { node: NodeId(4) });
    cluster.applied(cluster.removal(3));
    settle(&mut cluster, &[1, 2, 4]);
    report_voters(&mut cluster);
    let short = |cluster: &Cluster| cluster.state.shards().values().filter(|s| s.members.len() < 3).count();
    assert_eq!(short(&cluster), gave, "the same life may not come back");
    let said = view::status(&cluster.state).concerns;
    let named = said.iter().filter(|c| c.what == What::BelowRedundancy && c.remedy.contains("qnat stop --node 4"));
    assert_eq!(named.count(), gave, "{said:?}");
    // The remedy that it names works: who holds nothing of these shards may stop, whoever does may not.
    assert!(cluster.refused_stop(1).contains("not fully redundant"));
    let stop = cluster.stop(4);
    cluster.applied(stop);
    cluster.start(4);
    settle(&mut cluster, &[1, 2, 4]);
    assert_eq!(short(&cluster), 0, "its next life fills them");
    report_voters(&mut cluster);
    let said = view::status(&cluster.state).concerns;
    assert!(said.iter().all(|c| !c.remedy.contains("qnat stop --node")), "{said:?}");
}

#[test]
fn a_configuration_without_a_way_out_says_so_as_long_as_it_has_backends() {
    let no_path = |cluster: &Cluster| {
        let said = view::status(&cluster.state).concerns;
        said.into_iter().filter(|c| c.what == What::NoPath).map(|c| (c.severity, c.subject)).collect::<Vec<_>>()
    };
    let mut cluster = Cluster::running(1);
    cluster.configure(&desired(1, 2));
    assert_eq!(no_path(&cluster), []);
    cluster.configure(&Desired { outside: Outside::default(), ..desired(1, 2) });
    assert_eq!(no_path(&cluster), [(Severity::Critical, Subject::Cluster)]);
    // Backends in no pool have no rule that lets them out.
    cluster.configure(&desired(0, 1));
    let left: Vec<_> = no_path(&cluster);
    assert!(left.iter().all(|(severity, _)| *severity == Severity::Warning) && !left.is_empty(), "{left:?}");
    cluster.configure(&desired(1, 2));
    assert_eq!(no_path(&cluster), []);
}

#[test]
fn a_drained_node_gives_its_shards_away_before_its_vote_and_only_then_is_done() {
    let mut cluster = Cluster::running(5);
    cluster.configure(&desired(5, 1));
    settle(&mut cluster, &[1, 2, 3, 4, 5]);
    assert_ne!(replicas_on(&cluster, 5), 0);
    let raft_id = cluster.state.registry().nodes()[&NodeId(5)].raft_id;
    cluster.applied(drain(&cluster, 5));
    cluster.applied(drain(&cluster, 5));
    while replicas_on(&cluster, 5) > 0 {
        assert!(cluster.state.control_voters().contains(&raft_id), "it needs to hear what is decided");
        assert!(!cluster.state.is_drained(NodeId(5)));
        assert!(!reconcile_once(&mut cluster, &[1, 2, 3, 4, 5]).is_empty(), "the drain rests");
        assert!(cluster.state.shards().values().all(|shard| shard.members.len() == 3), "redundancy was given up");
    }
    settle(&mut cluster, &[1, 2, 3, 4, 5]);
    assert!(!cluster.state.control_voters().contains(&raft_id));
    assert!(!cluster.state.is_drained(NodeId(5)), "its vote has not ended yet");
    report_voters(&mut cluster);
    assert!(cluster.state.is_drained(NodeId(5)));
    let named = cluster.newest(5);
    let said = view::status(&cluster.state).concerns;
    assert!(
        said.iter().any(|c| c.remedy == format!("stop it, then: qnat node-remove 5 --incarnation {named}")),
        "{said:?}"
    );
    let again = cluster.start(5);
    assert_eq!(cluster.state.registry().nodes()[&NodeId(5)].standing, Standing::Draining, "a restart ends no drain");
    cluster.applied(CommandBody::RemoveNode { node: NodeId(5), incarnation: again });
    settle(&mut cluster, &[1, 2, 3, 4]);
    assert!(cluster.state.shards().values().all(|shard| shard.members.len() == 3));
}

#[test]
fn a_drain_without_a_substitute_gives_up_a_replica_and_the_last_node_cannot_be_drained() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(3, 1));
    settle(&mut cluster, &[1, 2, 3]);
    for (node, left) in [(3, 2), (2, 1)] {
        cluster.applied(drain(&cluster, node));
        settle(&mut cluster, &[1, 2, 3]);
        assert_eq!(replicas_on(&cluster, node), 0);
        assert!(cluster.state.shards().values().all(|shard| shard.members.len() == left));
    }
    let last = CommandBody::DrainNode { node: NodeId(1), incarnation: cluster.newest(1) };
    assert!(cluster.refused(last).contains("no node would be left"));
    // Nodes that were moved out come back into the shards with a new incarnation.
    cluster.applied(CommandBody::ResumeNode { node: NodeId(2) });
    cluster.start(2);
    settle(&mut cluster, &[1, 2, 3]);
    assert!(cluster.state.shards().values().all(|shard| shard.members.len() == 2));
}

#[test]
fn a_drain_waits_for_members_that_are_silent_and_names_its_incarnation() {
    let mut cluster = Cluster::running(4);
    cluster.configure(&desired(1, 1));
    settle(&mut cluster, &[1, 2, 3, 4]);
    let shard = cluster.only_shard();
    let members: Vec<u32> = cluster.state.shards()[&shard]
        .members
        .iter()
        .filter_map(|life| cluster.state.registry().node_of(*life))
        .map(|node| node.0)
        .collect();
    let other = CommandBody::DrainNode { node: NodeId(members[0]), incarnation: Incarnation(1) };
    assert!(cluster.refused(other).contains("now, not 1"));
    cluster.applied(drain(&cluster, members[0]));
    let live: Vec<u32> = (1..=4).filter(|node| *node != members[1]).collect();
    assert!(reconcile_once(&mut cluster, &live).is_empty(), "a swap needs the replica that does not answer");
    settle(&mut cluster, &[1, 2, 3, 4]);
    assert_eq!(replicas_on(&cluster, members[0]), 0);
}

#[test]
fn a_start_with_two_interfaces_to_one_network_is_refused() {
    let mut cluster = Cluster::running(3);
    let to = |networks: &[Option<&str>]| {
        let mac = engine::ids::Mac::default();
        let one = |name: &Option<&str>| InsideInterface { network: name.map(str::to_owned), mac };
        let inside = networks.iter().map(one).collect();
        CommandBody::RegisterIncarnation(Registration { inside, ..registration(2, 0, 77) })
    };
    let many: Vec<String> = (0..=INSIDE_MAX).map(|n| n.to_string()).collect();
    let many: Vec<Option<&str>> = many.iter().map(|name| Some(name.as_str())).collect();
    for networks in [&[Some("a"), Some("a")][..], &[None, Some("a")], &many] {
        assert!(cluster.refused(to(networks)).contains("inside interfaces"), "{networks:?}");
    }
    cluster.applied(to(&many[1..]));
}

#[test]
fn a_member_that_starts_with_other_addresses_is_found_there() {
    let mut cluster = Cluster::running(3);
    let CommandBody::RegisterIncarnation(mut moved) = CommandBody::RegisterIncarnation(registration(2, 0, 77)) else {
        unreachable!("made above")
    };
    moved.peer_addr = support::addr(99);
    let mac = engine::ids::Mac([2, 0, 0, 0, 0, 99]);
    moved.inside[0].mac = mac;
    cluster.applied(CommandBody::RegisterIncarnation(moved));
    let row = view::nodes(&cluster.state).swap_remove(1);
    assert_eq!((row.peer_addr, row.inside[0].mac.as_str()), (support::addr(99), "02:00:00:00:00:63"));
    cluster.configure(&desired(1, 1));
    let snapshot = qnat_control::compile::snapshot(&cluster.state, NodeId(1));
    assert!(snapshot.peers.iter().any(|peer| peer.inside[0].1 == mac), "the guard's peers are the old ones");
}
