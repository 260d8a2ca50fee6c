//! Recovery from every way in which a write can end, against a plain model of what was acknowledged.

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{ConfState, Entry, HardState};

use super::super::{ClusterId, LogCut, SnapshotWrite, StoredSnapshot};
use super::*;

const CLUSTER: ClusterId = ClusterId([1; 16]);

fn entry(term: u64, index: u64, len: usize) -> Entry {
    let mut e = Entry::default();
    (e.term, e.index) = (term, index);
    e.data = vec![u8::try_from(index % 251).expect("below 251"); len].into();
    e
}

fn conf() -> ConfState {
    let mut conf = ConfState::default();
    conf.voters = vec![1, 2, 3];
    conf
}

fn hard(term: u64, vote: u64, commit: u64) -> HardState {
    let mut hard = HardState::default();
    (hard.term, hard.vote, hard.commit) = (term, vote, commit);
    hard
}

fn founded() -> MemoryStore {
    let mut store = MemoryStore::new();
    store.found(CLUSTER, 1, &[1, 2, 3], &Bytes::from_static(b"genesis")).expect("an empty disk");
    store
}

fn append(store: &mut MemoryStore, entries: &[Entry], hard: &HardState, applied: u64) -> Result<(), StoreError> {
    let write = Write { snapshot: None, entries, hard_state: hard, conf_state: &conf(), applied };
    store.write(&write, Durability::Synced)
}

#[test]
fn a_founded_store_starts_with_the_genesis_snapshot_at_index_1() {
    let recovered = founded().recover().expect("intact");
    let snapshot = recovered.snapshot.clone().expect("a snapshot");
    assert_eq!((snapshot.index, snapshot.term, snapshot.state), (1, 1, Bytes::from_static(b"genesis")));
    assert_eq!((recovered.conf_state.clone(), recovered.applied, recovered.truncated), (conf(), 1, (1, 1)));
    assert_eq!((recovered.hard_state.clone(), recovered.last_index()), (hard(1, 0, 1), 1));
}

#[test]
fn founding_and_joining_happen_once() {
    let mut store = founded();
    assert!(matches!(store.join(CLUSTER, 2), Err(StoreError::AlreadyStamped { .. })));
    assert!(matches!(store.found(CLUSTER, 1, &[1], &Bytes::new()), Err(StoreError::AlreadyStamped { .. })));
    let mut empty = MemoryStore::new();
    assert!(matches!(empty.recover(), Err(StoreError::NotStamped { .. })));
    assert_eq!(empty.found(CLUSTER, 4, &[1, 2, 3], &Bytes::new()), Err(StoreError::Voters));
    assert_eq!(empty.found(CLUSTER, 1, &[1, 1], &Bytes::new()), Err(StoreError::Voters));
    empty.join(CLUSTER, 4).expect("an empty disk");
    assert_eq!(empty.recover(), Ok(Recovered::default()));
}

#[test]
fn after_a_failed_fsync_nothing_is_written_any_more() {
    let mut store = founded();
    store.recover().expect("intact");
    store.inject(Fault::SyncFails);
    assert!(matches!(append(&mut store, &[entry(1, 2, 10)], &hard(1, 0, 1), 1), Err(StoreError::Io { .. })));
    assert_eq!(append(&mut store, &[entry(1, 2, 10)], &hard(1, 0, 1), 1), Err(StoreError::Broken));
    store.power_loss(PowerLoss::default());
    assert_eq!(store.recover().expect("intact").last_index(), 1);
}

#[test]
fn every_flipped_bit_of_every_record_is_found() {
    let mut store = founded();
    store.recover().expect("intact");
    append(&mut store, &[entry(1, 2, 10), entry(1, 3, 20_000), entry(2, 4, 0)], &hard(2, 1, 3), 1)
        .expect("a good disk");
    let lengths = store.row_lengths();
    assert_eq!(lengths.len(), 6, "metadata, three entries in four rows, the genesis state");
    for (row, len) in lengths.into_iter().enumerate() {
        let step = if len > 1_000 { 997 } else { 1 };
        for bit in (0..len * 8).step_by(step) {
            let mut damaged = store.clone();
            damaged.flip_bit(row, bit);
            let error = damaged.recover().expect_err("a flipped bit");
            assert!(error.to_string().contains("join again"), "it names the remedy: {error}");
        }
    }
}

#[test]
fn a_missing_record_in_the_middle_is_refused() {
    let mut store = founded();
    store.recover().expect("intact");
    append(&mut store, &[entry(1, 2, 10), entry(1, 3, 40_000), entry(2, 4, 0)], &hard(2, 1, 3), 1)
        .expect("a good disk");
    let keys: Vec<_> = store.durable.keys().cloned().collect();
    for key in keys {
        let mut damaged = store.clone();
        damaged.durable.remove(&key);
        assert!(matches!(damaged.recover(), Err(StoreError::Damaged { .. })), "without {key:02x?}");
        // An intact record in another's place is no better.
        let mut damaged = store.clone();
        let other = damaged.durable.values().next().cloned().expect("rows");
        if damaged.durable.insert(key.clone(), other.clone()) != Some(other) {
            assert!(matches!(damaged.recover(), Err(StoreError::Damaged { .. })), "another in place of {key:02x?}");
        }
    }
}

/// One change of a random history.
#[derive(Clone, Debug)]
enum Change {
    /// Append this many entries after dropping this many of the uncommitted tail.
    Append { dropped: u64, added: u64, len: usize },
    /// Commit and apply as far as this share of the log, in percent.
    Apply { percent: u64 },
    /// Compact at the applied index.
    Compact { keep: u64 },
    /// A peer's snapshot beyond the log.
    Install { ahead: u64, len: usize },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0_u64..4, 1_u64..6, prop_oneof![Just(5_usize), Just(33_000)]).prop_map(|(dropped, added, len)| Change::Append { dropped, added, len }),
        1 => (200_u64..300).prop_map(|added| Change::Append { dropped: 1, added, len: 3 }),
        3 => (0_u64..=100).prop_map(|percent| Change::Apply { percent }),
        2 => (0_u64..5).prop_map(|keep| Change::Compact { keep }),
        1 => (1_u64..5, prop_oneof![Just(5_usize), Just(5_000_000)]).prop_map(|(ahead, len)| Change::Install { ahead, len }),
    ]
}

/// Makes `change` in the model, and returns the write that makes it in a store.
fn perform(model: &mut Recovered, change: &Change) -> (Option<SnapshotWrite>, Vec<Entry>, Durability) {
    match *change {
        Change::Append { dropped, added, len } => {
            let keep_until = model.hard_state.commit.max(model.last_index().saturating_sub(dropped));
            model.entries.retain(|e| e.index <= keep_until);
            model.hard_state.term += 1;
            model.hard_state.vote = model.hard_state.term % 3 + 1;
            let term = model.hard_state.term;
            let entries: Vec<_> = (1..=added).map(|n| entry(term, keep_until + n, len)).collect();
            model.entries.extend(entries.clone());
            (None, entries, Durability::Synced)
        }
        Change::Apply { percent } => {
            let room = model.last_index() - model.applied;
            model.applied += room * percent / 100;
            model.hard_state.commit = model.applied.max(model.hard_state.commit);
            (None, Vec::new(), Durability::Buffered)
        }
        Change::Compact { keep } => {
            let index = model.applied;
            let term = |at: u64| model.entries.iter().find(|e| e.index == at).map_or(model.truncated.1, |e| e.term);
            let cut = index.saturating_sub(keep).max(model.truncated.0);
            let (term, cut) = (term(index), (cut, term(cut)));
            model.entries.retain(|e| e.index > cut.0);
            model.truncated = cut;
            let state = Bytes::from(index.to_le_bytes().repeat(3_000));
            let snapshot = StoredSnapshot { index, term, conf_state: conf(), state };
            model.snapshot = Some(snapshot.clone());
            (
                Some(SnapshotWrite { snapshot, log: LogCut::UpTo { index: cut.0, term: cut.1 } }),
                Vec::new(),
                Durability::Synced,
            )
        }
        Change::Install { ahead, len } => {
            let index = model.last_index() + ahead;
            let term = model.hard_state.term;
            let snapshot = StoredSnapshot { index, term, conf_state: conf(), state: vec![9; len].into() };
            model.entries.clear();
            (model.truncated, model.applied, model.hard_state.commit) = ((index, term), index, index);
            model.snapshot = Some(snapshot.clone());
            (Some(SnapshotWrite { snapshot, log: LogCut::All }), Vec::new(), Durability::Synced)
        }
    }
}

/// Without what a buffered write may have changed.
fn durable_part(recovered: &Recovered) -> Recovered {
    let mut part = recovered.clone();
    (part.applied, part.hard_state.commit) = (0, 0);
    part
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// I34: whatever is interrupted wherever, recovery gives the state before the last write or after it; an uncommitted
    /// tail that was being replaced may be gone, and nothing else.
    #[test]
    fn an_interrupted_write_happened_or_did_not(
        changes in prop::collection::vec(change(), 1..12),
        stop in 0_usize..12,
        batches in 0_usize..6,
        torn_rows in 0_usize..300,
        power in any::<bool>(),
    ) {
        let mut store = founded();
        let mut model = store.recover().expect("intact");
        let mut before = model.clone();
        for (at, change) in changes.iter().enumerate() {
            before = model.clone();
            let (snapshot, entries, durability) = perform(&mut model, change);
            if at + 1 == changes.len() {
                store.inject(Fault::StopsAfter { steps: stop });
            }
            let hard_state = model.hard_state.clone();
            let write = Write { snapshot, entries: &entries, hard_state: &hard_state, conf_state: &conf(), applied: model.applied };
            let result = store.write(&write, durability);
            prop_assert_eq!(result.is_err(), at + 1 == changes.len());
        }
        if power { store.power_loss(PowerLoss { batches, torn_rows }) } else { store.process_ends() }
        let recovered = store.recover().expect("an interrupted write is no damage");
        let mut shortened = before.clone();
        shortened.entries.truncate(recovered.entries.len());
        let replaced = shortened.entries.len() < before.entries.len();
        prop_assert!(recovered.last_index() >= recovered.hard_state.commit);
        let found = durable_part(&recovered);
        prop_assert!(
            found == durable_part(&model) || found == durable_part(&before)
                || (replaced && found == durable_part(&shortened) && recovered.last_index() >= before.hard_state.commit),
            "neither before nor after"
        );
        // What was cleaned away stays away.
        prop_assert_eq!(store.recover().expect("intact"), recovered);
    }
}
