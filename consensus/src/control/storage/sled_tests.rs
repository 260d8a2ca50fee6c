//! The store on a real file system: reopening, compaction, damage.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};
use tempfile::TempDir;

use super::super::{ClusterId, LogCut, LogPosition, SnapshotWrite, StoredSnapshot, founding};
use super::*;

const CLUSTER: ClusterId = ClusterId([0xa5; 16]);

fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64, len: usize) -> Vec<Entry> {
    range
        .map(|index| {
            let mut e = Entry::default();
            (e.term, e.index) = (term, index);
            e.data = index.to_le_bytes().repeat(len / 8 + 1).into();
            e
        })
        .collect()
}

fn hard(term: u64, commit: u64) -> HardState {
    let mut hard = HardState::default();
    (hard.term, hard.vote, hard.commit) = (term, 1, commit);
    hard
}

/// Opens a store again: sled's threads keep its file for a while after it was dropped.
fn open(dir: &Path) -> Result<SledStore, StoreError> {
    if let Ok(file) = File::open(dir.join("log/db")) {
        file.lock().expect("a lock");
    }
    SledStore::open(dir)
}

fn founded(dir: &Path) -> SledStore {
    let mut store = open(dir).expect("an empty directory");
    store.found(CLUSTER, 1, &[1], &Bytes::from_static(b"genesis")).expect("founded");
    store
}

fn conf() -> ConfState {
    founding(1, &[1]).expect("a configuration")
}

fn append(store: &mut SledStore, entries: &[Entry], hard_state: &HardState, applied: u64) {
    let write = Write { snapshot: None, entries, hard_state, conf_state: &conf(), applied };
    store.write(&write, Durability::Synced).expect("a good disk");
}

fn compact(store: &mut SledStore, index: u64, term: u64, state: Bytes, hard_state: &HardState) {
    let snapshot = StoredSnapshot { index, term, conf_state: conf(), state };
    let snapshot = Some(SnapshotWrite { snapshot, log: LogCut::UpTo { index, term } });
    let write = Write { snapshot, entries: &[], hard_state, conf_state: &conf(), applied: index };
    store.write(&write, Durability::Synced).expect("a good disk");
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let dir = dir();
    let mut store = founded(dir.path());
    append(&mut store, &entries(2..=700, 1, 100), &hard(1, 600), 500);
    append(&mut store, &entries(650..=660, 2, 50_000), &hard(2, 640), 640);
    let buffered = Write { snapshot: None, entries: &[], hard_state: &hard(2, 660), conf_state: &conf(), applied: 655 };
    store.write(&buffered, Durability::Buffered).expect("a good disk");
    drop(store);
    let mut store = open(dir.path()).expect("unlocked");
    assert_eq!(store.identity(), Some(Identity { cluster: CLUSTER, raft_id: 1 }));
    let recovered = store.recover().expect("intact");
    let mut expected = entries(2..=649, 1, 100);
    expected.extend(entries(650..=660, 2, 50_000));
    assert_eq!(recovered.entries, expected);
    assert_eq!((recovered.hard_state, recovered.applied), (hard(2, 660), 655));
    assert_eq!(recovered.snapshot.expect("genesis").state, Bytes::from_static(b"genesis"));
}

#[test]
fn compaction_replaces_the_log_and_large_rows_leave_no_side_files() {
    let dir = dir();
    let mut store = founded(dir.path());
    let mut last = 1;
    for round in 1..=4_u64 {
        append(&mut store, &entries(last + 1..=last + 20, round, 300_000), &hard(round, last + 20), last);
        last += 20;
        let state = Bytes::from(vec![u8::try_from(round).expect("small"); 3_000_000]);
        compact(&mut store, last, round, state.clone(), &hard(round, last));
        let blobs = fs::read_dir(dir.path().join("log/blobs")).expect("sled's directory").count();
        assert_eq!(blobs, 0, "sled never syncs these");
    }
    drop(store);
    let mut store = open(dir.path()).expect("unlocked");
    let recovered = store.recover().expect("intact");
    let snapshot = recovered.snapshot.clone().expect("a snapshot");
    assert_eq!((snapshot.index, snapshot.state.len(), snapshot.state[0]), (81, 3_000_000, 4));
    assert!(recovered.entries.is_empty());
    assert_eq!(store.db.iter().count(), 1 + 3_000_000_usize.div_ceil(16 << 10), "compacted rows are gone");
}

#[test]
fn a_directory_in_use_is_refused_by_the_file_that_is_locked() {
    let dir = dir();
    drop(founded(dir.path()));
    for name in ["lock", "log/db"] {
        let held = File::open(dir.path().join(name)).expect("a file");
        held.lock().expect("given back after the store was dropped");
        let refused = SledStore::open(dir.path()).expect_err("two users of one directory");
        let StoreError::Locked { place } = refused else { panic!("{refused}") };
        assert!(place.ends_with(name), "{place}");
    }
}

#[test]
fn a_directory_has_one_user_one_owner_and_a_stamp() {
    let dir = dir();
    let mut store = open(dir.path()).expect("an empty directory");
    assert!(matches!(store.recover(), Err(StoreError::NotStamped { .. })));
    assert!(matches!(SledStore::open(dir.path()), Err(StoreError::Locked { .. })));
    store.join(CLUSTER, 9).expect("an empty directory");
    assert!(matches!(store.found(CLUSTER, 1, &[1], &Bytes::new()), Err(StoreError::AlreadyStamped { .. })));
    assert_eq!(store.recover(), Ok(Recovered::default()));
    drop(store);
    let text = fs::read_to_string(dir.path().join("cluster-id")).expect("a stamp");
    assert_eq!(text, format!("qnat control store 1\ncluster {}\nraft-id 9\n", "a5".repeat(16)));
    fs::write(dir.path().join("cluster-id"), text.replace("raft-id 9", "raft-id 8")).expect("writable");
    let error = open(dir.path()).expect("it opens").recover().expect_err("another's log");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    fs::write(dir.path().join("cluster-id"), "nonsense").expect("writable");
    let error = open(dir.path()).expect_err("a damaged stamp").to_string();
    assert!(error.contains("cluster-id") && error.contains("join again"), "{error}");
}

#[test]
fn a_founding_that_was_interrupted_before_the_stamp_starts_over() {
    let dir = dir();
    drop(founded(dir.path()));
    fs::remove_file(dir.path().join("cluster-id")).expect("the stamp");
    let mut store = open(dir.path()).expect("it opens");
    assert!(matches!(store.recover(), Err(StoreError::NotStamped { .. })));
    store.join(CLUSTER, 5).expect("nothing counts without a stamp");
    assert_eq!(store.recover(), Ok(Recovered::default()));
}

#[test]
fn a_lost_log_is_not_taken_for_a_new_one() {
    let dir = dir();
    drop(founded(dir.path()));
    fs::remove_dir_all(dir.path().join("log")).expect("sled's files");
    assert!(matches!(open(dir.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_record_damaged_inside_the_database_is_refused_by_name() {
    let dir = dir();
    let mut store = founded(dir.path());
    append(&mut store, &entries(2..=40, 1, 100), &hard(1, 30), 30);
    let (key, value) = store.db.iter().nth(20).expect("rows").expect("readable");
    let mut flipped = value.to_vec();
    flipped[60] ^= 4;
    store.db.insert(&key, flipped).expect("writable");
    let error = store.recover().expect_err("a flipped bit").to_string();
    assert!(error.contains("entry 22") && error.contains("log") && error.contains("join again"), "{error}");
    store.db.remove(&key).expect("writable");
    let error = store.recover().expect_err("a hole").to_string();
    assert!(error.contains("entry 23 follows entry 21"), "{error}");
}

/// A file that takes what is written and cannot be synced.
fn unsyncable() -> File {
    File::options().read(true).write(true).open("/dev/null").expect("/dev/null")
}

/// Writes once more, after something was put out of order.
fn try_append(store: &mut SledStore, index: u64) -> Result<(), StoreError> {
    let (conf_state, hard_state) = (conf(), hard(1, 1));
    let entries = entries(index..=index, 1, 8);
    let write =
        Write { snapshot: None, entries: &entries, hard_state: &hard_state, conf_state: &conf_state, applied: 1 };
    store.write(&write, Durability::Synced)
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let dir = dir();
    let mut store = founded(dir.path());
    append(&mut store, &entries(2..=3, 1, 100), &hard(1, 3), 1);
    let sound = std::mem::replace(&mut store.log_file, unsyncable());
    let error = try_append(&mut store, 4).expect_err("the sync fails");
    assert!(matches!(&error, StoreError::Io { place, .. } if place.ends_with("log/db")), "{error}");
    // The disk recovers; what a failed sync lost, nobody knows.
    store.log_file = sound;
    for _ in 0..2 {
        assert_eq!(try_append(&mut store, 4), Err(StoreError::Broken));
    }
    drop(store);
    let recovered = open(dir.path()).expect("unlocked").recover().expect("intact");
    assert!(recovered.entries.starts_with(&entries(2..=3, 1, 100)), "what was acknowledged is kept");
}

#[test]
fn after_a_failed_sync_of_the_guard_nothing_is_acknowledged_any_more() {
    let dir = dir();
    let mut store = founded(dir.path());
    let guard = store.guard.as_mut().expect("opened with the records");
    let sound = guard.replace_file(unsyncable());
    let error = try_append(&mut store, 2).expect_err("the sync fails");
    assert!(matches!(&error, StoreError::Io { place, .. } if place.ends_with("guard")), "{error}");
    store.guard.as_mut().expect("opened with the records").replace_file(sound);
    assert_eq!(try_append(&mut store, 2), Err(StoreError::Broken));
}

#[test]
fn a_founding_whose_sync_fails_leaves_no_stamp() {
    let dir = dir();
    let mut store = open(dir.path()).expect("an empty directory");
    store.log_file = unsyncable();
    let error = store.found(CLUSTER, 1, &[1], &Bytes::from_static(b"genesis")).expect_err("the sync fails");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!((store.identity(), dir.path().join("cluster-id").exists()), (None, false));
    drop(store);
    drop(founded(dir.path()));
}

/// sled cuts its log at a record that it cannot read. That must not pass for an older, intact log.
#[test]
fn a_log_that_lost_acknowledged_writes_is_refused() {
    let dir = dir();
    let mut store = founded(dir.path());
    append(&mut store, &entries(2..=10, 1, 100), &hard(1, 10), 10);
    drop(store);
    let old = dir.path().join("old");
    copy(&dir.path().join("log"), &old);
    let mut store = open(dir.path()).expect("unlocked");
    store.recover().expect("intact");
    append(&mut store, &[], &hard(2, 10), 10);
    drop(store);
    fs::remove_dir_all(dir.path().join("log")).expect("sled's files");
    fs::rename(&old, dir.path().join("log")).expect("renamed");
    let error = open(dir.path()).expect("it opens").recover().expect_err("a vote was forgotten").to_string();
    assert!(error.contains("was acknowledged"), "{error}");
}

/// Flips bytes all over sled's file. sled may refuse, panic or cut; what comes back must be all that was acknowledged.
#[test]
fn flipped_bytes_in_the_log_file_never_invent_or_lose_state() {
    let origin = dir();
    let mut store = founded(origin.path());
    for n in 0..20 {
        append(&mut store, &entries(2 + n * 5..=6 + n * 5, n + 1, 700), &hard(n + 1, 2 + n * 5), 2 + n * 5);
    }
    drop(store);
    let truth = open(origin.path()).expect("unlocked").recover().expect("intact");
    let bytes = fs::read(origin.path().join("log/db")).expect("sled's file");
    let used = bytes.iter().rposition(|b| *b != 0).expect("not empty") + 1;
    let (mut refused, mut intact) = (0, 0);
    for n in 0..40 {
        let copied = dir();
        copy(origin.path(), copied.path());
        let mut damaged = bytes.clone();
        damaged[n * used / 40] ^= 0x10;
        fs::write(copied.path().join("log/db"), damaged).expect("writable");
        let path = copied.path().to_owned();
        match catch_unwind(AssertUnwindSafe(|| open(&path).and_then(|mut s| s.recover()))) {
            Ok(Ok(recovered)) => {
                assert_eq!(recovered, truth, "flip {n}");
                intact += 1;
            }
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "{intact} flips hit nothing that is read");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for file in fs::read_dir(from).expect("readable") {
        let file = file.expect("readable");
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_store_founded_behind_a_lost_log_begins_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path()).expect("an empty directory");
    let at = LogPosition { term: 7, index: 1_000 };
    store.found_at(CLUSTER, 1, &[1], at, &Bytes::from_static(b"what was left")).expect("founded");
    drop(store);
    let mut store = open(dir.path()).expect("founded");
    let recovered = store.recover().expect("intact");
    assert_eq!((recovered.end(), recovered.hard_state.commit, recovered.applied), (at, 1_000, 1_000));
    assert_eq!(recovered.snapshot.as_ref().map(|s| &s.state[..]), Some(&b"what was left"[..]));
    assert_eq!(recovered.commands().count(), 0);
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (8, 1_001);
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (1_001, 8, Bytes::from_static(b"next"));
    append(&mut store, &[entry], &hard_state, 1_001);
    drop(store);
    let recovered = open(dir.path()).expect("founded").recover().expect("intact");
    assert_eq!(recovered.end(), LogPosition { term: 8, index: 1_001 });
    assert_eq!(recovered.commands().map(|(index, _)| index).collect::<Vec<_>>(), [1_001]);
}
