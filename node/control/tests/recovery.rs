//! A cluster that continues a lost one (N6), at the level of the control state.

mod support;

use engine::ids::{ControlIndex, NodeId};
use qnat_control::command::CommandBody;
use qnat_control::reconcile::{self, Observed};
use qnat_control::recovery::{Generation, INDEX_GAP};
use qnat_control::registry::{FOUNDER_RAFT_ID, Founder, Standing};
use qnat_control::shards::Origin;
use qnat_control::state::State;
use support::{Cluster, addr, desired, registration};

const NEW: [u8; 16] = [9; 16];

fn founders(nodes: &[u32]) -> Vec<Founder> {
    nodes.iter().map(|n| Founder { node: NodeId(*n), peer_addr: addr(*n), api_addr: addr(*n), key: [1; 32] }).collect()
}

/// A running cluster with grants, and what continues it.
fn lost(nodes: u32) -> State {
    let mut cluster = Cluster::running(nodes);
    cluster.configure(&desired(2, 3));
    let seen = Observed { live: (1..=nodes).map(NodeId).collect(), ..Observed::default() };
    for body in reconcile::next(&cluster.state, &seen) {
        cluster.applied(body);
    }
    let stop = cluster.stop(1);
    cluster.applied(stop);
    assert!(cluster.state.shards().values().all(|shard| shard.origin != Origin::Unplaced));
    cluster.state
}

#[test]
fn configuration_and_grants_go_on_and_no_life_does() {
    let old = lost(3);
    let new = old.clone().recovered(NEW, &founders(&[1, 2, 3]));
    new.check().expect("sound");
    assert_eq!((new.desired(), new.allocation()), (old.desired(), old.allocation()));
    assert_eq!(new.index(), ControlIndex(old.index().0 + INDEX_GAP));
    assert_eq!(new.cluster_id(), NEW);
    assert_eq!(new.stop_token(), None);
    for (id, shard) in new.shards() {
        let lives = shard.possible();
        assert!(!lives.is_empty() && lives.iter().all(|life| new.registry().gone(*life)), "shard {id}");
    }
    assert_eq!(State::decode(&new.encode().expect("fits")), Ok(new));
}

#[test]
fn founders_of_each_recovery_have_raft_ids_that_nobody_had() {
    let old = lost(3);
    let new = old.clone().recovered(NEW, &founders(&[3]));
    let ids = new.control_voters();
    assert_eq!(ids, [Generation::of(NEW).raft_id(3)]);
    assert!(!old.control_voters().contains(&ids[0]));
    assert_eq!(ids[0] & FOUNDER_RAFT_ID, FOUNDER_RAFT_ID, "no log index ever");
    assert_ne!(Generation::of([0; 16]).raft_id(3), FOUNDER_RAFT_ID | 3, "a generation is never that of the founding");
    assert_ne!(Generation::of([8; 16]), Generation::of(NEW));
}

#[test]
fn whoever_is_not_named_is_removed_and_may_join_again() {
    let mut new = lost(3).recovered(NEW, &founders(&[3]));
    let standing = |state: &State, node| state.registry().nodes()[&NodeId(node)].standing;
    assert_eq!([1, 2, 3].map(|n| standing(&new, n)), [Standing::Removed, Standing::Removed, Standing::Member]);
    let body = support::joining(1, 77);
    let command = qnat_control::Command { key: [1; 16], stamped_unix_ms: 0, draw: 0, body };
    let index = new.index().0 + 1;
    new.apply(index, &command);
    assert_eq!(standing(&new, 1), Standing::Member);
    assert_eq!(new.registry().nodes()[&NodeId(1)].raft_id, index);
}

#[test]
fn shards_begin_anew_with_the_quarantine_as_soon_as_a_member_is_there() {
    let mut state = lost(3).recovered(NEW, &founders(&[3]));
    let epochs: Vec<_> = state.shards().values().map(|shard| shard.epoch).collect();
    let seen = |live: &[u32]| Observed {
        now_ms: 10_000,
        live: live.iter().copied().map(NodeId).collect(),
        ..Observed::default()
    };
    assert_eq!(reconcile::next(&state, &seen(&[3])), [], "nobody is registered");
    let mut index = state.index().0;
    let mut apply = |state: &mut State, body| {
        index += 1;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&index.to_le_bytes());
        let outcome = state.apply(index, &qnat_control::Command { key, stamped_unix_ms: 0, draw: 0, body });
        assert!(matches!(outcome, qnat_control::Outcome::Applied { .. }), "{outcome}");
    };
    let raft_id = state.control_voters()[0];
    apply(&mut state, CommandBody::RegisterIncarnation(registration(3, raft_id, 500)));
    let proposals = reconcile::next(&state, &seen(&[3]));
    assert_eq!(proposals.len(), epochs.len());
    for body in proposals {
        apply(&mut state, body);
    }
    let life = state.registry().newest(NodeId(3)).expect("registered");
    let quarantine = u64::from(state.settings().recreate_quarantine_ms);
    for (shard, before) in state.shards().values().zip(epochs) {
        assert_eq!(shard.members, [life]);
        assert!(shard.epoch > before, "an epoch twice");
        assert!(matches!(shard.origin, Origin::Lost { holder, wait_ms } if holder == life && wait_ms >= quarantine));
    }
    state.check().expect("sound");
}

#[test]
fn all_nodes_may_be_new_ones() {
    let new = lost(3).recovered(NEW, &founders(&[4, 5, 6]));
    new.check().expect("sound");
    assert_eq!(new.control_voters(), [4, 5, 6].map(|n| Generation::of(NEW).raft_id(n)));
    assert_eq!(new.registry().members().count(), 3);
}
