//! Between the engine and the device: the last check before the wire, and what it counts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;
use words::Prefix;

use engine::event::GroupEvent;
use engine::snapshot::{
    Backend, Filtering, Frontend, NodeLinks, Outside, Profile, Sharing, Snapshot, Subnet, TcpReset, Ways,
};
use engine::wire::{ArpOp, build_arp};
use words::{BackendId, ControlIndex, FrontendId, Incarnation, LeaseWord, LogIndex, NodeId, PortBlock, Term, VnetId};

use super::*;

const NETWORK: VnetId = VnetId(0);
const INSIDE: Link = Link::Inside(NETWORK);
const SHARD: ShardId = ShardId(1);
const ME: Incarnation = Incarnation(9);
const TERM: Term = Term(1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
const HOST_MAC: Mac = Mac([0x52, 0, 0, 0, 0, 4]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NOW: u64 = 1_000_000_000_000;
const LEASE_NS: u64 = 40_000_000;

/// Lease words that a test sets.
#[derive(Default)]
struct Set(BTreeMap<ShardId, LeaseWord>);

impl LeaseWords for Set {
    fn word(&self, shard: ShardId) -> LeaseWord {
        self.0.get(&shard).copied().unwrap_or_default()
    }
}

fn snapshot() -> Snapshot {
    let frontend = FrontendId(1);
    let mut s = Snapshot {
        control_index: ControlIndex(1),
        me: Some(NodeLinks {
            node: NodeId(1),
            inside: vec![(NETWORK, Mac([2, 1, 0, 0, 0, 1]))],
            outside: Mac([2, 2, 0, 0, 0, 1]),
        }),
        subnets: vec![Subnet {
            vnet: NETWORK,
            prefix: Prefix { network: Ipv4Addr::new(10, 0, 0, 0), len: 24 },
            gateway: GATEWAY,
        }],
        outside: Outside {
            prefix: Prefix { network: Ipv4Addr::new(203, 0, 113, 0), len: 24 },
            next_hop: Some(UPSTREAM),
        },
        ..Snapshot::default()
    };
    s.put_frontends([(frontend, Frontend { ip: PUBLIC, shard: SHARD })]);
    let backend = Backend {
        vnet: NETWORK,
        ip: HOST,
        mac: None,
        home: SHARD,
        lease: vec![PortBlock { frontend, start: 2048, len: 32 }],
        ways: Ways::default(),
        idle_timeout_ms: 240_000,
        tcp_reset_on_idle: TcpReset::Off,
        profile: Profile::Azure,
        sharing: Sharing::Tuple,
        filtering: Filtering::Tuple,
    };
    s.put_backend(BackendId(1), backend);
    s
}

/// An owner with a lease, for which its own log commits at once.
fn owner() -> (Worker, Set) {
    let mut worker = Worker::new(ME, NodeId(1), 7);
    worker.set_networks(&[NETWORK]);
    let mut words = Set::default();
    assert!(worker.load_snapshot(NOW, Arc::new(snapshot())));
    for link in [INSIDE, Link::Outside] {
        worker.set_link(NOW, link, true);
    }
    let opened = GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1), loads: false };
    worker.handle_event(NOW, &words, opened);
    let until = NOW + LEASE_NS;
    let word = LeaseWord { incarnation: ME, term: TERM, lease_until_ns: until, grace_until_ns: until };
    words.0.insert(SHARD, word);
    worker.handle_event(NOW, &words, GroupEvent::Owner { shard: SHARD, term: TERM, node: Some(NodeId(1)) });
    worker.handle_event(NOW, &words, GroupEvent::Leading { shard: SHARD, term: TERM });
    let own = GroupEvent::Committed { shard: SHARD, index: LogIndex(2), term: TERM, entry: bytes::Bytes::new() };
    worker.handle_event(NOW, &words, own);
    worker.handle_timers(NOW, &words);
    (worker, words)
}

/// A frame that the worker has answered and handed out: it counts as sent.
fn handed_out() -> (Worker, Set, Vec<Authority>, u64) {
    let (mut worker, words) = owner();
    let mut buffer = Vec::new();
    while worker.poll_frame(NOW, &words, &mut buffer).is_some() {}
    let mut question = [0; 60];
    build_arp(&mut question, ArpOp::Request, HOST_MAC, Mac::BROADCAST, HOST_MAC, HOST, Mac::default(), GATEWAY);
    worker.handle_frame(NOW, &words, INSIDE, &FrameMeta::default(), &mut question);
    let (link, _, authority) = worker.poll_frame(NOW, &words, &mut buffer).expect("an answer");
    assert_eq!((link, authority), (INSIDE, Authority::Lease { shard: SHARD, term: TERM }));
    let mut authorities = Vec::new();
    let tag = tag(&mut authorities, authority);
    let transmitted = worker.counters().transmitted;
    assert!(transmitted > 0 && worker.counters().is_balanced());
    (worker, words, authorities, tag)
}

#[test]
fn what_the_last_check_stops_is_counted_and_does_not_leave() {
    let (mut worker, words, authorities, tag) = handed_out();
    let sent = worker.counters().transmitted;
    assert!(may_leave(&mut worker, &words, NOW + LEASE_NS - 1, &authorities, tag), "within the lease");
    assert_eq!((worker.counters().transmitted, worker.counters().dropped(DropReason::LeaseLapsed)), (sent, 0));
    // The thread stood still between the translation and the wire (L4).
    assert!(!may_leave(&mut worker, &words, NOW + LEASE_NS, &authorities, tag), "the lease is over");
    assert_eq!((worker.counters().transmitted, worker.counters().dropped(DropReason::LeaseLapsed)), (sent - 1, 1));
    assert!(worker.counters().is_balanced(), "I51: {:?}", worker.counters());
}

#[test]
fn a_frame_of_another_term_or_of_nobody_does_not_leave() {
    let (mut worker, mut words, authorities, tag) = handed_out();
    assert!(!may_leave(&mut worker, &words, NOW, &authorities, tag + 1), "a tag that nobody gave");
    words.0.get_mut(&SHARD).expect("set").term = Term(2);
    let counted = worker.counters().dropped(DropReason::LeaseLapsed);
    assert!(!may_leave(&mut worker, &words, NOW, &authorities, tag), "translated in an earlier term");
    assert_eq!(worker.counters().dropped(DropReason::LeaseLapsed), counted + 1);
}

#[test]
fn what_the_device_refuses_is_counted() {
    let (mut worker, ..) = handed_out();
    let sent = worker.counters().transmitted;
    note_refused(&mut worker, true);
    assert_eq!((worker.counters().transmitted, worker.counters().dropped(DropReason::TransmitFailed)), (sent, 0));
    note_refused(&mut worker, false);
    assert_eq!((worker.counters().transmitted, worker.counters().dropped(DropReason::TransmitFailed)), (sent - 1, 1));
    assert!(worker.counters().is_balanced(), "I51: {:?}", worker.counters());
}

/// Packets wait for it. The bound is of a build without optimisation.
#[test]
fn the_largest_configuration_is_loaded_in_a_moment() {
    const BACKENDS: u32 = 32_768;
    let (mut worker, _) = owner();
    let backend = snapshot().backends[&BackendId(1)].clone();
    let version = |index: u64| {
        let mut version = Snapshot { control_index: ControlIndex(index), ..snapshot() };
        for n in 2..=BACKENDS {
            let [a, b, c, d] = n.to_be_bytes();
            let ip = Ipv4Addr::from(u32::from(HOST) + n);
            version.put_backend(BackendId(n), Backend { ip, mac: Some(Mac([0x52, 0, a, b, c, d])), ..backend.clone() });
        }
        Arc::new(version)
    };
    let versions: Vec<_> = (10..15).map(version).collect();
    let mut took: Vec<Duration> = Vec::new();
    for version in &versions {
        let begun = Instant::now();
        assert!(worker.load_snapshot(NOW, Arc::clone(version)));
        took.push(begun.elapsed());
    }
    // A machine that stands still makes single ones long.
    let fastest = took.iter().min().expect("some");
    assert!(*fastest < Duration::from_millis(1), "{took:?}");
}

#[test]
fn an_entry_that_waits_for_the_lease_does_not_keep_a_worker_from_sleeping() {
    assert_eq!(waits_for_time(None, NOW), None);
    assert_eq!(waits_for_time(Some(NOW + 1), NOW), Some(NOW + 1), "for others to join it");
    assert_eq!(waits_for_time(Some(NOW), NOW), None, "it was due when it was asked for");
}
