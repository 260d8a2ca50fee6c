//! The book of probes, without a network.

use std::net::Ipv4Addr;

use engine::ids::VnetId;
use engine::probes::{Failing, Probes};
use engine::snapshot::{Backend, Filtering, Profile, Sharing, TcpReset, Ways};
use words::time::MS;

use super::*;

const TERM: Term = Term(7);
const LEASE: Lease = Lease { shard: ShardId(1), term: TERM };

/// A probe of 5 s that asks so many backends; what is committed of all of them.
fn snapshot(backends: u32, committed: Option<Health>) -> Snapshot {
    let mut s = Snapshot::default();
    for id in 1..=backends {
        let backend = Backend {
            vnet: VnetId(1),
            ip: Ipv4Addr::from_bits(0x0a00_0000 + id),
            mac: None,
            home: ShardId(1),
            lease: Vec::new(),
            ways: Ways::default(),
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
            profile: Profile::default(),
            sharing: Sharing::default(),
            filtering: Filtering::default(),
        };
        s.put_backend(BackendId(id), backend);
    }
    let probe = Probe {
        name: "lb1/alive".into(),
        ask: Ask::Tcp,
        port: 80,
        interval_ms: 5_000,
        threshold: 2,
        members: (1..=backends).map(|id| (BackendId(id), committed)).collect(),
    };
    s.probes = Probes { all: vec![Arc::new(probe)], ..Probes::default() }.into();
    s
}

fn book(now: u64, backends: u32, committed: Option<Health>) -> Book {
    let mut book = Book::default();
    book.configure(now, &snapshot(backends, committed), |_| Some(TERM));
    book
}

fn key(id: u32) -> Key {
    ("lb1/alive".into(), BackendId(id))
}

/// What goes to the log within a second from `now`.
fn changes(book: &mut Book, now: u64) -> Vec<(u32, Health)> {
    let all = (0..10).flat_map(|step| book.take_changes(now + step * 100 * MS)).collect::<Vec<_>>();
    all.into_iter().map(|change| (change.backend.0, change.health)).collect()
}

#[test]
fn a_backend_is_down_after_as_many_failures_in_a_row_and_up_after_one_success() {
    let mut book = book(0, 1, Some(Health::Up));
    let (fail, down) = (Err(Failing::Refused), Health::Down(Failing::Refused));
    book.ended(&key(1), LEASE, fail);
    assert_eq!(changes(&mut book, 0), [], "one is none");
    book.ended(&key(1), LEASE, Ok(()));
    book.ended(&key(1), LEASE, fail);
    assert_eq!(changes(&mut book, SECOND_NS), [], "not in a row");
    book.ended(&key(1), LEASE, fail);
    assert_eq!(changes(&mut book, 2 * SECOND_NS), [(1, down)], "and once");
    assert_eq!(changes(&mut book, 4 * SECOND_NS), [(1, down)], "again, since it was not committed");
    book.configure(5 * SECOND_NS, &snapshot(1, Some(down)), |_| Some(TERM));
    book.ended(&key(1), LEASE, Err(Failing::Silent));
    assert_eq!(changes(&mut book, 9 * SECOND_NS), [], "it is known");
    book.ended(&key(1), LEASE, Ok(()));
    assert_eq!(changes(&mut book, 10 * SECOND_NS), [(1, Health::Up)]);
    let mut new = self::book(0, 1, None);
    new.ended(&key(1), LEASE, Ok(()));
    assert_eq!(changes(&mut new, 0), [(1, Health::Up)], "one that nothing was known of");
}

#[test]
fn what_is_found_is_reported_under_the_name_of_its_probe_a_machines_own_too() {
    for name in ["lb1/alive", "instance b1"] {
        let mut snapshot = snapshot(1, None);
        let probe = Probe { name: name.into(), ..Probe::clone(&snapshot.probes.all[0]) };
        snapshot.probes = Probes { all: vec![Arc::new(probe)], ..Probes::default() }.into();
        let mut book = Book::default();
        book.configure(0, &snapshot, |_| Some(TERM));
        book.ended(&(name.into(), BackendId(1)), LEASE, Ok(()));
        let changes = book.take_changes(SECOND_NS);
        assert_eq!(changes.iter().map(|change| change.probe.to_string()).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn what_was_asked_under_another_lease_counts_for_nothing() {
    let mut book = book(0, 1, Some(Health::Up));
    let other = Lease { term: Term(6), ..LEASE };
    (0..5).for_each(|_| book.ended(&key(1), other, Err(Failing::Silent)));
    assert_eq!(changes(&mut book, 0), []);
    book.ended(&key(1), LEASE, Err(Failing::Silent));
    // A new term of the same owner counts anew, from what is committed.
    book.configure(0, &snapshot(1, Some(Health::Up)), |_| Some(Term(8)));
    book.ended(&key(1), Lease { term: Term(8), ..LEASE }, Err(Failing::Silent));
    assert_eq!(changes(&mut book, SECOND_NS), []);
    book.configure(0, &snapshot(1, Some(Health::Up)), |_| None);
    assert!(book.is_empty() && book.take_due(60 * SECOND_NS).is_none(), "another member asks");
}

#[test]
fn whatever_happens_at_once_becomes_few_entries() {
    let mut book = book(0, 1_000, Some(Health::Up));
    let (mut entries, mut told) = (Vec::new(), BTreeSet::new());
    for id in 1..=1_000 {
        (0..2).for_each(|_| book.ended(&key(id), LEASE, Err(Failing::Silent)));
    }
    for ms in (0..1_800).step_by(10) {
        let changes = book.take_changes(ms * MS);
        if !changes.is_empty() {
            assert!(changes.len() <= CHANGES_MAX);
            entries.push(ms);
            told.extend(changes.iter().map(|change| change.backend.0));
        }
    }
    assert_eq!(told.len(), 1_000);
    assert_eq!(entries, [0, 200, 400, 600], "256 in each");
}

#[test]
fn a_thousand_backends_are_asked_evenly_and_each_once_in_its_interval() {
    let mut book = book(0, 1_000, Some(Health::Up));
    let (mut asked, mut most) = (BTreeMap::<u32, Vec<u64>>::new(), 0);
    // Who is due within a millisecond is asked at its end.
    for ms in 1..=20_000 {
        let mut at_once = 0;
        while let Some(due) = book.take_due(ms * MS) {
            assert_eq!((due.timeout_ns, due.lease), (5 * SECOND_NS, LEASE));
            asked.entry(due.key.1.0).or_default().push(ms);
            at_once += 1;
        }
        most = most.max(at_once);
    }
    assert!(most <= 6, "{most} in one millisecond");
    assert_eq!(asked.len(), 1_000);
    for times in asked.values() {
        assert!(times.len() == 4 && times.windows(2).all(|pair| pair[1] - pair[0] == 5_000), "{times:?}");
    }
    let mut new = self::book(0, 1_000, None);
    let soon = std::iter::from_fn(|| new.take_due(FIRST_WITHIN_NS)).count();
    assert_eq!(soon, 1_000, "nobody waits an interval for its first flow");
}

#[test]
fn who_is_asked_late_is_not_asked_twice_for_it() {
    let mut book = book(0, 1, Some(Health::Up));
    assert!(book.take_due(60 * SECOND_NS).is_some());
    assert!(book.take_due(60 * SECOND_NS).is_none());
    assert!(book.take_due(63 * SECOND_NS).is_some());
}
