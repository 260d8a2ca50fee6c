//! The table against a map, and what of it no map has.

use super::*;
use crate::ids::VnetId;
use crate::record::{Endpoint, InsideKey, Proto, Scenario};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

fn public(port: u16, remote: u16) -> PublicKey {
    let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 1)), port: remote };
    PublicKey { proto: Proto::Udp, frontend: FrontendId(1), port, remote }
}

fn inside(port: u16) -> InsideKey {
    InsideKey { vnet: VnetId(0), endpoint: Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, 1)), port } }
}

fn open(public: PublicKey, inside: InsideKey) -> Open {
    Open { public, inside, backend: BackendId(1), scenario: Scenario::Pool }
}

#[test]
fn a_held_record_does_not_take_the_inside_key_from_a_newer_mapping() {
    let mut t = Table::new(1);
    let old = t.insert(open(public(2000, 53), inside(9)), LogIndex(1), 0);
    t.close(old, HoldClass::IdleStream, LogIndex(2), 0);
    let new = t.insert(open(public(2001, 53), inside(9)), LogIndex(3), 0);
    let flow = t.record(new).flow();
    assert_eq!(t.find_inside(&flow), Some(new));
    t.release(old);
    assert_eq!(t.find_inside(&flow), Some(new), "freeing the old one keeps the newer key");
    t.drop_inside();
    assert_eq!(t.find_inside(&flow), None);
    t.build_inside();
    assert_eq!(t.find_inside(&flow), Some(new));
}

#[test]
fn a_mapping_that_comes_back_alone_does_not_empty_its_block() {
    let mut t = Table::new(1);
    let block = PortBlock { frontend: FrontendId(1), start: 2048, len: 16 };
    t.watch(std::iter::once(block));
    t.take_emptied();
    let only = t.insert(open(public(2050, 53), inside(9)), LogIndex(1), 0);
    t.close(only, HoldClass::Fin, LogIndex(2), 0);
    t.reopen(only, LogIndex(3), 0);
    assert!(!t.usage.emptied(&block), "a mapping is there");
    t.release(only);
    assert!(t.usage.emptied(&block));
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_map(ops in proptest::collection::vec((0u8..4, 0u16..40, 0u16..3), 0..400)) {
        let mut t = Table::new(7);
        let mut model: BTreeMap<PublicKey, bool> = BTreeMap::new();
        let watched = [(2048, 16), (2080, 8)].map(|(start, len)| PortBlock { frontend: FrontendId(1), start, len });
        t.watch(watched.into_iter());
        prop_assert_eq!(t.take_emptied().len(), watched.len(), "they are empty now");
        let mut used = [0; 2];
        for (i, (op, port, remote)) in ops.into_iter().enumerate() {
            let at = LogIndex(u64::try_from(i).unwrap());
            let key = public(2048 + port, 53 + remote);
            let found = t.find_public(&key);
            prop_assert_eq!(found.is_some(), model.contains_key(&key));
            match (op, found, model.get(&key).copied()) {
                (0, None, _) => { t.insert(open(key, inside(port * 3 + remote)), at, 0); model.insert(key, true); }
                (1, Some(s), Some(true)) => { t.close(s, HoldClass::Fin, at, 0); model.insert(key, false); }
                (2, Some(s), Some(false)) => { t.reopen(s, at, 0); model.insert(key, true); }
                (3, Some(s), _) => { t.release(s); model.remove(&key); }
                _ => {}
            }
            for (block, used) in watched.iter().zip(&mut used) {
                let now = model.keys().filter(|key| block.contains(key.port)).count();
                prop_assert_eq!(t.usage().flows(block), u64::try_from(now).unwrap(), "counted as they came");
                let emptied = std::mem::replace(used, now) > 0 && now == 0;
                prop_assert_eq!(t.usage.emptied(block), emptied);
            }
            t.take_emptied();
        }
        let live = u32::try_from(model.values().filter(|l| **l).count()).unwrap();
        let held = u32::try_from(model.len()).unwrap() - live;
        prop_assert_eq!((t.live(), t.held()), (live, held));
        prop_assert_eq!(t.slots(), live + held + t.free_slots(), "I47");
        let keys: Vec<PublicKey> = t.sorted().into_iter().map(|s| t.record(s).public()).collect();
        prop_assert_eq!(keys, model.keys().copied().collect::<Vec<_>>());
        let block = PortBlock { frontend: FrontendId(1), start: 2048, len: 64 };
        prop_assert_eq!(t.usage().flows(&block), u64::from(live + held));
        for s in t.sorted() {
            prop_assert_eq!(t.find_inside(&t.record(s).flow()), Some(s));
        }
    }
}
