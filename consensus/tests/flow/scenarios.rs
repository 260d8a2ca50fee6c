//! Each procedure by itself: fail-over, swap, stop, re-creation, reload, barrier.

use qnat_consensus::event::{FlowInput, Origin, Sealing};
use qnat_consensus::flow::Role;
use rand::Rng;
use words::{Epoch, Incarnation, ShardId};

use crate::cluster::{Cluster, MS};

const G: ShardId = ShardId(0);

fn settled(seed: u64, nodes: u32, groups: u16, replicas: u32) -> Cluster {
    let mut cluster = Cluster::new(seed, nodes, groups, replicas);
    assert!(cluster.run_until(2_000 * MS, Cluster::all_redundant), "founding, seed {seed}");
    cluster
}

fn incarnation(cluster: &Cluster, id: u32) -> Incarnation {
    cluster.nodes[id as usize].incarnation
}

#[test]
fn the_first_successor_takes_over_within_62_ms() {
    let mut gaps = Vec::new();
    for seed in 0..60 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.step_ns = MS / 10;
        cluster.weather.delay_ns = (50_000, 150_000);
        cluster.load = 0.1;
        assert_eq!(cluster.leader(G), Some(0), "rank 0 is elected first, seed {seed}");
        let more = cluster.rng.random_range(0..400) * (MS / 10);
        cluster.run(300 * MS + more);
        let term = cluster.status(0, G).expect("led").term;
        let killed = cluster.now;
        cluster.crash(0);
        cluster.run(150 * MS);
        let (_, _, next, by) = *cluster.judge.leadings.iter().find(|l| l.2 > term).expect("a successor");
        assert_eq!(by, incarnation(&cluster, 1), "the first successor wins, seed {seed}");
        gaps.push((cluster.judge.commits_at[&(G, next)] - killed) / (MS / 10));
    }
    gaps.sort_unstable();
    eprintln!("fail-over in 0.1 ms: least {}, p50 {}, max {}", gaps[0], gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    assert!(gaps[gaps.len() - 1] <= 620, "{gaps:?}");
    assert!(gaps[0] >= 400, "a lease must have ended: {gaps:?}");
}

#[test]
fn a_healthy_cluster_holds_one_election_and_an_unbroken_lease() {
    let mut cluster = settled(3, 3, 1, 3);
    cluster.run(200 * MS);
    let elections = cluster.judge.leadings.len();
    for _ in 0..10_000 {
        cluster.step();
        let (_, lease, grace) = cluster.judge.words[&(G, 0)];
        assert!(lease > cluster.now, "the lease never lapses");
        assert_eq!(grace, lease + cluster.timing.orphan_grace_ns);
    }
    assert_eq!(cluster.judge.leadings.len(), elections);
}

#[test]
fn members_that_all_stood_still_together_hold_no_election() {
    for seed in 0..40 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.run(300 * MS);
        let elections = cluster.judge.leadings.len();
        for _ in 0..20 {
            // A machine whose processors were taken away: what was on its way arrives afterwards.
            cluster.now += cluster.rng.random_range(20..400) * MS;
            cluster.run(100 * MS);
        }
        assert_eq!(cluster.judge.leadings.len(), elections, "seed {seed}");
    }
}

#[test]
fn a_restarted_node_comes_back_as_a_new_incarnation() {
    for seed in 0..20 {
        let mut cluster = settled(seed, 3, 2, 3);
        cluster.run(300 * MS);
        for id in [0, 2, 1] {
            cluster.crash(id);
            cluster.run(200 * MS);
            cluster.restart(id);
            assert!(cluster.run_until(3_000 * MS, Cluster::all_redundant), "seed {seed}");
        }
        assert!(cluster.judge.loads >= 6, "each comes in by transfer");
        cluster.assert_tables_agree();
        cluster.assert_nothing_lost();
    }
}

#[test]
fn the_preferred_owner_gets_its_group_back() {
    let mut cluster = settled(5, 3, 1, 3);
    cluster.crash(0);
    cluster.run(200 * MS);
    cluster.restart(0);
    assert!(cluster.run_until(6_000 * MS, |c| c.leader(G) == Some(0)), "it leads again");
    let elections = cluster.judge.leadings.len();
    cluster.run(5_000 * MS);
    assert_eq!(cluster.judge.leadings.len(), elections, "and keeps it");
}

#[test]
fn a_leader_without_links_or_without_service_hands_over_and_the_group_rests() {
    let mut cluster = settled(6, 3, 1, 3);
    cluster.run(1_000 * MS);
    cluster.nodes[0].report.links_up = false;
    cluster.publish();
    assert!(cluster.run_until(500 * MS, |c| c.leader(G) == Some(1)), "links lost");
    let mut cluster = settled(7, 3, 1, 3);
    cluster.nodes.iter_mut().for_each(|n| n.serves = false);
    cluster.crash(0);
    cluster.run(20_000 * MS);
    let moves = cluster.judge.leadings.len();
    assert!(moves <= 6, "two that cannot serve do not pass the group to and fro: {moves}");
}

#[test]
fn a_hung_worker_loses_its_lease_within_v_and_its_group_to_a_peer() {
    for seed in 0..20 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.run(300 * MS);
        let (hung, v) = (cluster.now, cluster.timing.vote_ns());
        cluster.nodes[0].worker_hangs_until = hung + 20_000 * MS;
        while cluster.leader(G) != Some(1) {
            cluster.step();
            let (_, lease, _) = cluster.judge.words[&(G, 0)];
            assert!(lease <= hung + v, "seed {seed}: the lease is not extended beyond the last turn + V");
            assert!(cluster.now < hung + 3 * v + 30 * MS, "seed {seed}: it hands over");
        }
        let elections = cluster.judge.leadings.len();
        cluster.run(10_000 * MS);
        assert_eq!(cluster.judge.leadings.len(), elections, "seed {seed}: a hung member gets nothing back");
        assert!(
            cluster.run_until(60_000 * MS, |c| c.leader(G) == Some(0)),
            "seed {seed}: it does once its worker turns"
        );
        cluster.assert_tables_agree();
        cluster.assert_nothing_lost();
    }
}

/// What the kernel's guard judges a frame by is the word, whatever the term that the frame was judged in (L5): so the word
/// itself must never let a frame of a former term leave. A thread that hangs between its check and its send does so within
/// one turn, and until the next turn no word of any term reaches beyond V after this one.
#[test]
fn a_frame_that_a_hung_worker_still_has_finds_no_word_of_a_later_term_that_lets_it_leave() {
    for seed in 0..10 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.run(300 * MS);
        let (judged, v) = (cluster.now, cluster.timing.vote_ns());
        let term = cluster.status(0, G).expect("led").term;
        cluster.nodes[0].worker_hangs_until = u64::MAX;
        let dead = |cluster: &mut Cluster, ns| {
            for _ in 0..ns / cluster.step_ns {
                cluster.step();
                let (_, lease, grace) = cluster.judge.words[&(G, 0)];
                assert!(lease <= judged + v, "seed {seed}: a frame of term {term} could leave {lease}");
                assert!(grace <= judged + v + cluster.timing.orphan_grace_ns, "seed {seed}");
            }
        };
        dead(&mut cluster, 400 * MS);
        assert_eq!(cluster.leader(G), Some(1), "seed {seed}");
        // Of two that hang, whose third is dead, one leads all the same: this one, sooner or later.
        cluster.nodes[2].worker_hangs_until = u64::MAX;
        let mut again = false;
        for round in 0..20 {
            let other = cluster.leader(G).unwrap_or(1 + round % 2);
            if other == 0 {
                again = true;
                break;
            }
            cluster.crash(other);
            dead(&mut cluster, 600 * MS);
            again = cluster.leader(G) == Some(0);
            if again {
                break;
            }
            cluster.restart(other);
            cluster.nodes[other as usize].worker_hangs_until = u64::MAX;
            dead(&mut cluster, 3_000 * MS);
        }
        assert!(again && cluster.status(0, G).expect("led").term > term, "seed {seed}: it leads in a later term");
        dead(&mut cluster, 2_000 * MS);
        // Its next turn begins with what it had left of the one before.
        cluster.nodes[0].worker_hangs_until = 0;
        let serves = |c: &Cluster| c.judge.words[&(G, 0)].1 > c.now;
        assert!(cluster.run_until(10_000 * MS, serves), "seed {seed}: with turns there are leases");
    }
}

#[test]
fn a_worker_that_stands_still_for_a_moment_keeps_its_groups() {
    for seed in 0..20 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.run(300 * MS);
        let elections = cluster.judge.leadings.len();
        for pause in [60, 100, 140] {
            cluster.nodes[0].worker_hangs_until = cluster.now + pause * MS;
            cluster.run(1_000 * MS);
        }
        assert_eq!((cluster.judge.leadings.len(), cluster.leader(G)), (elections, Some(0)), "seed {seed}");
    }
}

#[test]
fn a_hung_member_is_elected_last() {
    for seed in 0..20 {
        let mut cluster = settled(seed, 3, 1, 3);
        cluster.run(300 * MS);
        cluster.nodes[1].worker_hangs_until = u64::MAX;
        cluster.run(200 * MS);
        cluster.crash(0);
        assert!(cluster.run_until(300 * MS, |c| c.leader(G).is_some_and(|id| id != 0)), "seed {seed}");
        assert_eq!(cluster.leader(G), Some(2), "seed {seed}: the first successor cannot serve");
    }
}

#[test]
fn if_every_worker_hangs_nobody_moves_and_nobody_owns() {
    let mut cluster = settled(4, 3, 1, 3);
    cluster.run(300 * MS);
    let until = cluster.now + 3_000 * MS;
    cluster.nodes.iter_mut().for_each(|node| node.worker_hangs_until = until);
    let elections = cluster.judge.leadings.len();
    cluster.run(2_900 * MS);
    assert_eq!(cluster.judge.leadings.len(), elections);
    assert!(cluster.judge.words[&(G, 0)].1 < cluster.now, "no lease without a worker");
    cluster.run(200 * MS);
    assert!(cluster.judge.words[&(G, 0)].1 > cluster.now, "and it comes back by itself");
}

#[test]
fn a_graceful_stop_hands_everything_over() {
    let mut cluster = settled(8, 3, 3, 3);
    cluster.run(500 * MS);
    let now = cluster.now;
    cluster.nodes[1].groups.handle(now, FlowInput::Stop);
    assert!(cluster.run_until(1_000 * MS, |c| c.nodes[1].stopped == Some(0)), "nobody is left behind");
    for group in 0..3 {
        assert_ne!(cluster.leader(ShardId(group)), Some(1));
    }
    cluster.assert_nothing_lost();
}

#[test]
fn everybody_learns_who_owns_a_group() {
    let mut cluster = settled(9, 5, 1, 3);
    cluster.run(300 * MS);
    let owner = incarnation(&cluster, 0);
    assert!(cluster.nodes.iter().all(|n| n.owners[&G] == Some(owner)));
    cluster.crash(0);
    cluster.run(800 * MS);
    let owner = incarnation(&cluster, 1);
    assert!(cluster.nodes[1..].iter().all(|n| n.owners[&G] == Some(owner)));
}

#[test]
fn an_isolated_owner_keeps_its_grace_and_loses_it_when_it_learns_its_successor() {
    let mut cluster = settled(10, 3, 1, 3);
    cluster.run(300 * MS);
    cluster.cuts.extend([(0, 1), (0, 2), (1, 0), (2, 0)]);
    cluster.run(300 * MS);
    assert_eq!(cluster.leader(G), Some(1));
    let (_, lease, grace) = cluster.judge.words[&(G, 0)];
    assert_eq!(lease, 0, "the lease ended");
    assert!(grace > cluster.now + 2_000 * MS, "the grace runs");
    assert_eq!(cluster.nodes[0].owners[&G], None);
    cluster.cuts.clear();
    cluster.run(300 * MS);
    let (_, lease, grace) = cluster.judge.words[&(G, 0)];
    assert_eq!((lease, grace), (0, 0));
    assert_eq!(cluster.nodes[0].owners[&G], Some(incarnation(&cluster, 1)));
}

#[test]
fn a_follower_far_behind_the_log_reloads_and_keeps_its_vote() {
    let mut cluster = settled(11, 3, 1, 3);
    cluster.load = 1.0;
    cluster.cuts.extend([(0, 2), (2, 0), (1, 2), (2, 1)]);
    cluster.run(6_000 * MS);
    let stale = cluster.nodes[2].workers[&G].applied;
    cluster.cuts.clear();
    assert!(cluster.run_until(5_000 * MS, |c| c.is_redundant(G) && c.judge.loads > 0), "it loads");
    assert!(cluster.run_until(1_000 * MS, |c| c.nodes[2].workers[&G].applied > stale + 4_096));
    assert_eq!(cluster.nodes[2].incarnation, Incarnation(3), "without a new incarnation");
    cluster.assert_tables_agree();
    cluster.assert_nothing_lost();
}

/// F10: what was committed since the scan's base is kept for the joiner, however long its scan takes.
#[test]
fn a_joiner_finds_the_log_from_its_scans_base_on() {
    let mut cluster = Cluster::new(19, 3, 1, 3);
    cluster.retain(20);
    cluster.weather.delay_ns = (200_000, 200_000);
    (cluster.load, cluster.keys) = (1.0, 8_000);
    assert!(cluster.run_until(2_000 * MS, Cluster::all_redundant));
    cluster.run(4_000 * MS);
    cluster.crash(2);
    cluster.run(100 * MS);
    let loads = cluster.judge.loads;
    let began = cluster.nodes[0].workers[&G].applied;
    cluster.restart(2);
    assert!(cluster.run_until(3_000 * MS, Cluster::all_redundant));
    let behind = cluster.nodes[0].workers[&G].applied - began;
    assert!(behind > 60, "the log grew beyond what it keeps for itself meanwhile: {behind}");
    assert_eq!(cluster.judge.loads, loads + 1, "the first table was of use");
    cluster.assert_tables_agree();
    cluster.assert_nothing_lost();
}

/// N2: a vote is for who has what was committed, not for who only answers.
#[test]
fn a_learner_that_answers_and_lags_behind_gets_no_vote() {
    let mut cluster = settled(22, 3, 1, 3);
    cluster.load = 1.0;
    cluster.crash(2);
    cluster.run(100 * MS);
    cluster.entries_cut.extend([(0, 2), (1, 2)]);
    let loads = cluster.judge.loads;
    cluster.restart(2);
    let joiner = incarnation(&cluster, 2);
    assert!(cluster.run_until(1_000 * MS, |c| c.judge.loads > loads), "it loads its table");
    cluster.run(500 * MS);
    let leader = cluster.leader(G).expect("somebody leads");
    let status = cluster.status(leader, G).expect("a replica");
    assert!(!status.voters.contains(&joiner) && status.outgoing.is_empty(), "{joiner:?} lags behind: {status:?}");
    cluster.entries_cut.clear();
    assert!(cluster.run_until(3_000 * MS, Cluster::all_redundant), "{:?}", cluster.status(leader, G));
    cluster.assert_nothing_lost();
}

/// A connection that flaps amid a scan costs the joiner no more than the round that it takes to say so.
#[test]
fn a_transfer_that_lost_a_chunk_begins_anew_at_once() {
    let mut cluster = settled(20, 3, 1, 3);
    (cluster.load, cluster.keys) = (1.0, 8_000);
    cluster.run(4_000 * MS);
    cluster.load = 0.2;
    cluster.crash(2);
    cluster.run(100 * MS);
    cluster.restart(2);
    let loading = |c: &Cluster| c.nodes[2].workers.get(&G).is_some_and(|w| !w.table.is_empty());
    assert!(cluster.run_until(1_000 * MS, loading), "it loads");
    cluster.run(20 * MS);
    cluster.cuts.insert((0, 2));
    cluster.run(10 * MS);
    cluster.cuts.clear();
    assert!(!cluster.is_redundant(G), "the table was not complete yet");
    assert!(cluster.run_until(900 * MS, Cluster::all_redundant), "a transfer that stands still would wait for 2 s");
    cluster.assert_tables_agree();
}

/// Two of three die for good; the survivor's table is the base of the next epoch.
fn recreate(cluster: &mut Cluster, dead: [u32; 2]) {
    dead.iter().for_each(|id| cluster.crash(*id));
    cluster.run(100 * MS);
    dead.iter().for_each(|id| cluster.restart(*id));
    let groups: Vec<ShardId> = cluster.specs.keys().copied().collect();
    for spec in cluster.specs.values_mut() {
        spec.sealing = Sealing::Yes;
    }
    cluster.publish();
    cluster.run(200 * MS);
    for group in groups {
        let spec = cluster.specs.get_mut(&group).expect("listed");
        // N4 waits for every living member, so one that has no table yet must answer too.
        for member in &spec.members {
            assert!(cluster.judge.sealed.contains_key(&(group, spec.epoch, *member)), "{member:?} did not answer");
        }
        let reports = cluster.judge.sealed.iter().filter(|((g, e, _), _)| *g == group && *e == spec.epoch);
        let best = reports.max_by_key(|(_, end)| **end).map(|((_, _, id), end)| (*id, *end));
        let (base, (last_term, last_index)) = best.expect("the survivor sealed");
        spec.epoch = Epoch(spec.epoch.0 + 1);
        spec.sealing = Sealing::No;
        spec.leaving.clear();
        spec.origin = Origin::Recreated { base, last_term, last_index, wait_ns: 3_040 * MS };
    }
    cluster.publish();
}

#[test]
fn a_survivor_alone_carries_the_group_into_the_next_epoch() {
    for seed in 0..10 {
        let mut cluster = settled(seed, 3, 2, 3);
        cluster.run(400 * MS);
        let survivor = (seed % 3) as u32;
        let dead = [(survivor + 1) % 3, (survivor + 2) % 3];
        let before: usize = cluster.nodes[survivor as usize].workers[&G].table.len();
        recreate(&mut cluster, dead);
        let started = cluster.now;
        assert!(
            cluster.run_until(2_000 * MS, Cluster::all_redundant)
                || cluster.run_until(3_000 * MS, Cluster::all_redundant)
        );
        for (_, (_, lease, _)) in cluster.judge.words.iter() {
            assert!(*lease == 0 || cluster.now >= started + 3_000 * MS, "no lease before the wait is over");
        }
        cluster.run(4_000 * MS);
        let owner = cluster.leader(G).expect("led");
        assert!(cluster.judge.words[&(G, owner)].1 > cluster.now, "it serves after the wait");
        assert!(cluster.nodes[owner as usize].workers[&G].table.len() >= before, "the base's table lives on");
        cluster.assert_tables_agree();
    }
}

#[test]
fn a_group_without_survivor_begins_empty_and_waits() {
    let mut cluster = settled(12, 3, 1, 3);
    cluster.run(200 * MS);
    (0..3).for_each(|id| cluster.crash(id));
    cluster.run(50 * MS);
    (0..3).for_each(|id| cluster.restart(id));
    let holder = incarnation(&cluster, 1);
    let spec = cluster.specs.get_mut(&G).expect("listed");
    spec.epoch = Epoch(1);
    spec.leaving.clear();
    spec.origin = Origin::Lost { holder, wait_ns: 1_000 * MS };
    cluster.publish();
    cluster.run(900 * MS);
    assert!(cluster.judge.words.values().all(|(_, lease, _)| *lease == 0), "nobody serves yet");
    assert!(cluster.run_until(3_000 * MS, Cluster::all_redundant));
    cluster.run(1_500 * MS);
    let owner = cluster.leader(G).expect("led");
    assert!(cluster.judge.words[&(G, owner)].1 > cluster.now);
    assert!(cluster.status(owner, G).expect("led").term >= 1 << 32);
    cluster.assert_tables_agree();
    cluster.assert_nothing_lost();
}

#[test]
fn a_sealed_replica_neither_votes_nor_moves() {
    let mut cluster = settled(13, 3, 1, 3);
    cluster.run(300 * MS);
    cluster.specs.get_mut(&G).expect("listed").sealing = Sealing::Yes;
    cluster.publish();
    cluster.run(100 * MS);
    let ends = cluster.judge.sealed.clone();
    assert_eq!(ends.len(), 3);
    let leadings = cluster.judge.leadings.len();
    cluster.run(3_000 * MS);
    assert_eq!(cluster.judge.sealed, ends);
    assert_eq!(cluster.judge.leadings.len(), leadings);
    assert!(cluster.judge.words.values().all(|w| (w.1, w.2) == (0, 0)), "lease and grace are gone");
    assert!((0..3).all(|id| cluster.status(id, G).expect("there").role == Role::Sealed));
}

#[test]
fn a_replica_that_votes_alone_hands_over_to_members_that_it_is_not_one_of() {
    for seed in 0..5 {
        let mut cluster = settled(seed, 4, 1, 1);
        let old = incarnation(&cluster, 0);
        let members = (1..4).map(|id| incarnation(&cluster, id)).collect();
        let spec = cluster.specs.get_mut(&G).expect("listed");
        assert_eq!(std::mem::replace(&mut spec.members, members), [old]);
        spec.leaving = vec![old];
        cluster.publish();
        assert!(cluster.run_until(6_000 * MS, Cluster::all_redundant), "seed {seed}: {:?}", cluster.status(0, G));
        cluster.assert_nothing_lost();
    }
}

#[test]
fn a_group_grows_and_shrinks_with_its_specification() {
    let mut cluster = settled(14, 5, 1, 3);
    let ids: Vec<Incarnation> = (0..5).map(|id| incarnation(&cluster, id)).collect();
    let set = |cluster: &mut Cluster, members: &[usize]| {
        let spec = cluster.specs.get_mut(&G).expect("listed");
        let members: Vec<Incarnation> = members.iter().map(|m| ids[*m]).collect();
        let old = std::mem::replace(&mut spec.members, members);
        spec.leaving = old.into_iter().filter(|m| !spec.members.contains(m)).collect();
        cluster.publish();
    };
    for members in [&[0, 1, 2, 3, 4][..], &[3, 4, 0], &[1, 2, 3], &[1]] {
        set(&mut cluster, members);
        assert!(cluster.run_until(6_000 * MS, Cluster::all_redundant), "{members:?}: {:?}", cluster.specs);
        cluster.run(100 * MS);
    }
    assert_eq!(cluster.leader(G), Some(1));
    assert!(cluster.nodes[2].workers.is_empty(), "who left has no table");
    cluster.assert_nothing_lost();
}

#[test]
fn owners_load_a_snapshot_when_a_majority_has_it() {
    let mut cluster = settled(15, 3, 1, 3);
    cluster.run(1_500 * MS);
    let index = cluster.control_index;
    assert!(cluster.nodes.iter().all(|n| n.may_load == index));
}

#[test]
fn a_leader_that_hands_over_gives_up_its_lease_before_its_successor_can_have_one() {
    let mut cluster = settled(16, 3, 1, 3);
    cluster.run(500 * MS);
    cluster.load = 0.0;
    cluster.run(20 * MS);
    // It hears nobody any more, so only its own word can tell it that it is not the owner.
    cluster.cuts.extend([(1, 0), (2, 0)]);
    let now = cluster.now;
    cluster.nodes[0].groups.handle(now, FlowInput::Stop);
    assert!(cluster.run_until(30 * MS, |c| c.judge.words.get(&(G, 1)).is_some_and(|w| w.1 > c.now)), "taken over");
    assert_eq!(cluster.status(0, G).expect("there").role, Role::Leader, "and the old one does not know it yet");
    cluster.run(200 * MS);
    assert_eq!(cluster.status(0, G).expect("there").role, Role::Follower, "after V it gives up by itself");
}

#[test]
fn a_delayed_timeout_now_finds_no_lease() {
    for delay in [5, 20, 40, 60, 90] {
        let mut cluster = settled(17, 3, 1, 3);
        cluster.run(500 * MS);
        cluster.load = 0.0;
        cluster.run(20 * MS);
        let now = cluster.now;
        cluster.weather.delay_ns = (delay * MS, delay * MS);
        cluster.nodes[0].groups.handle(now, FlowInput::Stop);
        cluster.run(6 * MS);
        cluster.weather.delay_ns = (100_000, MS);
        for _ in 0..45 {
            cluster.step();
            assert_eq!(cluster.judge.words[&(G, 0)].1, 0, "no lease again in that term");
        }
        cluster.run(300 * MS);
        assert!(cluster.judge.leadings.len() >= 2, "somebody leads, delay {delay}");
    }
}

#[test]
fn an_epoch_that_is_sealed_again_before_its_base_hears_of_it_keeps_the_base() {
    let mut cluster = settled(18, 3, 1, 3);
    cluster.run(400 * MS);
    recreate(&mut cluster, [1, 2]);
    let kept = cluster.nodes[0].workers[&G].table.clone();
    cluster.specs.get_mut(&G).expect("listed").sealing = Sealing::Yes;
    cluster.run(200 * MS);
    let base = incarnation(&cluster, 0);
    assert!(cluster.judge.sealed.contains_key(&(G, Epoch(1), base)), "it seals the new epoch");
    assert!(kept.iter().all(|(k, v)| cluster.nodes[0].workers[&G].table[k].1 >= v.1));
}
