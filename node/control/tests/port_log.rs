//! The record of ports: after every entry it says of each port what the state says.

mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::PortBlock;
use proptest::prelude::*;
use qnat_control::port_log::{PortBatch, PortFate, PortLog, PortScope, PortUse};
use qnat_control::state::State;
use support::{Cluster, desired, public};

/// Whose each port is, and whether it drains.
type Book = BTreeMap<(Ipv4Addr, u16), (String, Ipv4Addr, PortFate)>;

/// Writes a batch down; what it says must be news.
fn note(book: &mut Book, batch: &PortBatch) {
    if batch.scope == PortScope::All {
        book.clear();
    }
    for (fate, PortUse { public, first, last, backend, inside, network }) in &batch.changes {
        assert_eq!(network, "vnet1");
        for port in *first..=*last {
            let before = book.remove(&(*public, port));
            let same = before.as_ref().is_none_or(|(name, ip, _)| (name, ip) == (backend, inside));
            assert!(same, "{public}:{port} goes from {before:?} to {backend} without a release");
            if *fate == PortFate::Released {
                assert!(before.is_some(), "{public}:{port} was nobody's");
            } else {
                assert_ne!(before.map(|b| b.2), Some(*fate), "{public}:{port}: no news");
                book.insert((*public, port), (backend.clone(), *inside, *fate));
            }
        }
    }
}

fn book_of(state: &State) -> Book {
    let allocation = state.allocation();
    let leased = allocation.backends.iter().flat_map(|(id, b)| b.lease.iter().map(|l| (*l, *id, PortFate::Granted)));
    let draining = allocation.drains.iter().map(|(block, d)| (*block, d.backend, PortFate::Draining));
    let mut book = Book::new();
    for (block, id, fate) in leased.chain(draining) {
        let backend = &allocation.backends[&id];
        for offset in 0..block.len {
            let name = format!("{}/{}", backend.instance, backend.ip_configuration);
            let key = (allocation.frontends[&block.frontend].ip, block.start + offset);
            assert!(book.insert(key, (name, backend.ip, fate)).is_none());
        }
    }
    book
}

fn range(used: &PortUse) -> (Ipv4Addr, u16, u16) {
    (used.public, used.first, used.last)
}

#[test]
fn a_grant_a_drain_and_a_release_are_told_once_each_with_their_entry_and_time() {
    let mut cluster = Cluster::running(3);
    let mut log = PortLog::default();
    assert_eq!(log.restart(&cluster.state).changes, []);
    cluster.unix_ms = 5_000;
    cluster.configure(&desired(1, 50));
    let granted = log.follow(&cluster.state).expect("news");
    assert_eq!((granted.index.0, granted.unix_ms, granted.scope), (cluster.index, 5_000, PortScope::Changes));
    assert_eq!(granted.changes.len(), 50);
    let lease = cluster.lease_of("b7")[0];
    let (fate, b7) = granted.changes.iter().find(|(_, used)| used.backend == "b7/ipconfig1").expect("b7 has ports");
    assert_eq!((*fate, range(b7)), (PortFate::Granted, (public(1), lease.start, lease.start + 1023)));
    assert_eq!(b7.inside, Ipv4Addr::new(10, 0, 1, 7));
    assert_eq!(log.follow(&cluster.state), None, "nothing is new");

    cluster.unix_ms = 6_000;
    cluster.configure(&desired(1, 51));
    let grown = log.follow(&cluster.state).expect("news");
    let of_b7: Vec<_> = grown.changes.iter().filter(|(_, used)| used.backend == "b7/ipconfig1").collect();
    assert_eq!(of_b7.len(), 1, "what it keeps is no news");
    assert_eq!(
        (of_b7[0].0, range(&of_b7[0].1)),
        (PortFate::Draining, (public(1), lease.start + 512, lease.start + 1023))
    );
    cluster.drain_all();
    let released = log.follow(&cluster.state).expect("news");
    assert_eq!(released.changes.len(), 50);
    assert!(released.changes.iter().all(|(fate, _)| *fate == PortFate::Released));
}

#[test]
fn a_backend_that_is_gone_is_named_when_its_ports_are_released() {
    let mut cluster = Cluster::running(3);
    let mut log = PortLog::default();
    cluster.configure(&desired(1, 2));
    log.restart(&cluster.state);
    cluster.configure(&desired(1, 1));
    assert_eq!(log.follow(&cluster.state).map(|b| b.changes[0].0), Some(PortFate::Draining));
    let (block, drain) = cluster.state.allocation().drains.iter().map(|(b, d)| (*b, *d)).next().expect("drains");
    let PortBlock { start, len, .. } = block;
    assert!(drain.reclaim_index.0 > 0);
    cluster.drain_all();
    let released = log.follow(&cluster.state).expect("news").changes;
    let (fate, used) = &released[0];
    assert_eq!(
        (*fate, used.backend.as_str(), range(used)),
        (PortFate::Released, "b2/ipconfig1", (public(1), start, start + (len - 1)))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_record_says_of_every_port_what_the_state_says(
        steps in proptest::collection::vec((1u32..3, 0u32..110, any::<bool>(), any::<bool>()), 1..8)
    ) {
        let mut cluster = Cluster::running(3);
        let mut log = PortLog::default();
        let mut book = Book::new();
        note(&mut book, &log.restart(&cluster.state));
        for (frontends, backends, drain, restart) in steps {
            cluster.unix_ms += 1_000;
            cluster.configure(&desired(frontends, backends));
            if let Some(batch) = log.follow(&cluster.state) {
                note(&mut book, &batch);
            }
            prop_assert_eq!(&book, &book_of(&cluster.state));
            if drain {
                cluster.drain_all();
                if let Some(batch) = log.follow(&cluster.state) {
                    prop_assert!(!batch.changes.is_empty());
                    note(&mut book, &batch);
                }
            }
            if restart {
                log = PortLog::default();
                note(&mut book, &log.restart(&cluster.state));
            }
            prop_assert_eq!(&book, &book_of(&cluster.state));
        }
    }
}
