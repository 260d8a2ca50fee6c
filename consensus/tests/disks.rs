//! The control store upon real disks that fail: power cuts, and a disk that is full. Needs root; without it these tests fail,
//! unless `QNAT_WITHOUT_ROOT` leaves them out with a word.

// No dependency: the tests' crate knows nothing of this one.
#[path = "../../tests/src/disk.rs"]
#[expect(unreachable_pub, reason = "public where it is at home")]
mod disk;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use disk::Disk;
use qnat_consensus::control::storage::sled::SledStore;
use qnat_consensus::control::storage::{ClusterId, Durability, Identity, LogStore, Recovered, StoreError, Write};
use raft::eraftpb::{ConfState, Entry, HardState};

const CLUSTER: ClusterId = ClusterId([0xa5; 16]);

/// Whether disks can be made here. They have to be, unless it was said that they need not.
fn may_mount() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id");
    if output.stdout == b"0\n" {
        return true;
    }
    assert!(std::env::var_os("QNAT_WITHOUT_ROOT").is_some(), "needs root, or QNAT_WITHOUT_ROOT=1 to be left out");
    eprintln!("left out: needs root for loop devices");
    false
}

fn store_dir(disk: &Disk) -> PathBuf {
    disk.place().join("control")
}

fn conf() -> ConfState {
    ConfState { voters: vec![1], ..ConfState::default() }
}

fn hard(term: u64, commit: u64) -> HardState {
    let mut hard = HardState::default();
    (hard.term, hard.vote, hard.commit) = (term, 1, commit);
    hard
}

fn entries(range: std::ops::RangeInclusive<u64>, term: u64, octets: usize) -> Vec<Entry> {
    range
        .map(|index| {
            let mut entry = Entry::default();
            (entry.term, entry.index) = (term, index);
            entry.data = vec![u8::try_from(index % 251).expect("small"); octets].into();
            entry
        })
        .collect()
}

fn append(store: &mut SledStore, entries: &[Entry], hard_state: &HardState) -> Result<(), StoreError> {
    let write = Write { snapshot: None, entries, hard_state, conf_state: &conf(), applied: 1 };
    store.write(&write, Durability::Synced)
}

fn founded(dir: &Path) -> SledStore {
    let mut store = SledStore::open(dir).expect("an empty directory");
    store.found(CLUSTER, 1, &[1], &Bytes::from_static(b"genesis")).expect("founded");
    store
}

/// Opens a store again, once the threads of its former self have let go of its file.
fn recovered(dir: &Path) -> Recovered {
    if let Ok(file) = File::open(dir.join("log/db")) {
        file.lock().expect("a lock");
    }
    let mut store = SledStore::open(dir).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(store.identity(), Some(Identity { cluster: CLUSTER, raft_id: 1 }), "the stamp");
    store.recover().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_was_acknowledged_is_on_the_disk_when_the_power_fails() {
    if !may_mount() {
        return;
    }
    let disk = Disk::new();
    let mut store = founded(&store_dir(&disk));
    let after = disk.after_a_power_cut();
    let snapshot = recovered(&store_dir(&after)).snapshot.expect("the founding");
    assert_eq!((snapshot.index, &*snapshot.state), (1, b"genesis".as_slice()));
    let mut expected = Vec::new();
    for round in 0..6 {
        // Small and large ones: what fits into a page, and what makes the file longer.
        let octets = if round % 2 == 0 { 40 } else { 30_000 };
        let news = entries(2 + round * 5..=6 + round * 5, round + 1, octets);
        let voted = hard(round + 1, 1 + round * 5);
        append(&mut store, &news, &voted).expect("a good disk");
        expected.extend(news);
        let after = disk.after_a_power_cut();
        let [here, there] = [&disk, &after].map(|disk| fs::read(store_dir(disk).join("guard")).expect("the guard"));
        assert_eq!(here, there, "round {round}: the guard says what was acknowledged");
        let found = recovered(&store_dir(&after));
        assert_eq!(found.entries, expected, "round {round}");
        assert_eq!(found.hard_state, voted, "round {round}: a vote that was given is kept");
    }
}

#[test]
fn a_joiner_that_was_stamped_is_stamped_when_the_power_fails() {
    if !may_mount() {
        return;
    }
    let disk = Disk::new();
    let mut store = SledStore::open(&store_dir(&disk)).expect("an empty directory");
    store.join(CLUSTER, 1).expect("joined");
    let after = disk.after_a_power_cut();
    assert_eq!(recovered(&store_dir(&after)), Recovered::default());
}

#[test]
fn a_store_whose_disk_was_full_acknowledges_nothing_more_and_keeps_what_it_did() {
    if !may_mount() {
        return;
    }
    let disk = Disk::new();
    let mut store = founded(&store_dir(&disk));
    let kept = entries(2..=20, 1, 500);
    append(&mut store, &kept, &hard(1, 1)).expect("a good disk");
    let ballast = disk.fill();
    let (mut last, mut refused) = (20, None);
    let mut expected = kept;
    while refused.is_none() {
        let news = entries(last + 1..=last + 4, 1, 1_000_000);
        match append(&mut store, &news, &hard(1, 1)) {
            Ok(()) => expected.extend(news),
            Err(error) => refused = Some(error),
        }
        last += 4;
        assert!(last < 200, "a full disk takes no hundreds of megabytes");
    }
    let refused = refused.expect("refused").to_string();
    assert!(refused.contains("control"), "the error names the place: {refused}");
    fs::remove_file(&ballast).expect("removed");
    // There is room again, but this life of the store is over (C4, I24).
    let error = append(&mut store, &entries(last + 1..=last + 1, 1, 8), &hard(1, 1)).expect_err("nothing any more");
    assert_eq!(error, StoreError::Broken);
    drop(store);
    let found = recovered(&store_dir(&disk));
    assert!(found.entries.starts_with(&expected), "{} of {}", found.entries.len(), expected.len());
    assert!(found.entries.len() <= expected.len() + 4, "nothing but what the refused write held");
}
