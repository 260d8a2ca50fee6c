use proptest::prelude::*;
use words::time::MS;

use super::*;
use crate::ids::VnetId;

const S: u64 = 1_000 * MS;
const INSIDE: Link = Link::Inside(VnetId(1));
const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn cache() -> NeighbourCache {
    NeighbourCache::new(4, 1)
}

const RIVAL: Mac = Mac([2, 0, 0, 0, 0, 8]);

fn learn(cache: &mut NeighbourCache, now_ns: u64, mac: Mac) -> bool {
    cache.learn(now_ns, INSIDE, IP, mac, MayAsk::Yes)
}

fn inside(cache: &mut NeighbourCache, now_ns: u64) -> Lookup {
    cache.lookup(now_ns, INSIDE, IP)
}

#[test]
fn silent_neighbour_is_asked_five_times_then_unreachable_for_three_seconds() {
    let mut cache = cache();
    for ask in 0..5 {
        assert_eq!(inside(&mut cache, ask * 200 * MS), Lookup::Ask, "{ask}");
        assert_eq!(inside(&mut cache, ask * 200 * MS + 199 * MS), Lookup::Wait, "{ask}");
    }
    assert_eq!(inside(&mut cache, S), Lookup::Unreachable);
    assert_eq!(inside(&mut cache, 4 * S - 1), Lookup::Unreachable);
    assert_eq!(inside(&mut cache, 4 * S), Lookup::Ask, "and from the beginning");
    assert_eq!(inside(&mut cache, 4 * S + 200 * MS), Lookup::Ask);
}

#[test]
fn answer_ends_the_asking_on_its_own_side_only() {
    let mut cache = cache();
    assert_eq!(inside(&mut cache, 0), Lookup::Ask);
    learn(&mut cache, MS, MAC);
    assert_eq!(inside(&mut cache, 2 * MS), Lookup::Known(MAC));
    assert_eq!(cache.lookup(2 * MS, Link::Outside, IP), Lookup::Ask);
}

#[test]
fn answer_ends_unreachability() {
    let mut cache = cache();
    for ask in 0..6 {
        inside(&mut cache, ask * 200 * MS);
    }
    learn(&mut cache, 2 * S, MAC);
    assert_eq!(inside(&mut cache, 2 * S), Lookup::Known(MAC));
}

#[test]
fn newer_answer_replaces_the_address_outside() {
    let mut cache = cache();
    cache.learn(0, Link::Outside, IP, MAC, MayAsk::Yes);
    cache.learn(1, Link::Outside, IP, RIVAL, MayAsk::Yes);
    assert_eq!(cache.lookup(2, Link::Outside, IP), Lookup::Known(RIVAL));
}

#[test]
fn an_address_in_use_is_polled_three_times_and_then_asked_for_anew() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    assert_eq!(inside(&mut cache, 30 * S - 1), Lookup::Known(MAC));
    assert_eq!(cache.poll_refresh(), None, "fresh");
    let refresh = Some(Refresh { link: INSIDE, ip: IP, mac: MAC });
    for second in 30..33 {
        assert_eq!(inside(&mut cache, second * S), Lookup::Known(MAC));
        assert_eq!(cache.poll_refresh(), refresh, "once a second");
        assert_eq!(inside(&mut cache, second * S + 999 * MS), Lookup::Known(MAC));
        assert_eq!(cache.poll_refresh(), None, "not more often");
    }
    assert_eq!(inside(&mut cache, 33 * S), Lookup::Ask, "RFC 1122 2.3.2.1: by broadcast");
    assert_eq!(inside(&mut cache, 33 * S + 1), Lookup::Wait);
    assert!(learn(&mut cache, 33 * S + 2, RIVAL), "whoever answers has it now");
    assert_eq!(inside(&mut cache, 33 * S + 3), Lookup::Known(RIVAL));
}

#[test]
fn an_address_that_was_not_in_use_is_asked_for_anew() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    assert_eq!(inside(&mut cache, 90 * S - 1), Lookup::Known(MAC));
    learn(&mut cache, 90 * S, MAC);
    assert_eq!(inside(&mut cache, 180 * S), Lookup::Ask);
    assert_eq!(cache.last_known(INSIDE, IP), Some(MAC));
}

#[test]
fn inside_an_address_moves_only_when_its_owner_is_silent() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    let question = Some(Refresh { link: INSIDE, ip: IP, mac: MAC });
    for poll in 0..3 {
        assert!(!learn(&mut cache, (1 + poll * 200) * MS, RIVAL));
        assert_eq!(cache.poll_refresh(), question, "the known one is asked, {poll}");
        assert!(!learn(&mut cache, (200 + poll * 200) * MS, RIVAL));
        assert_eq!(cache.poll_refresh(), None, "not more often");
        assert_eq!(inside(&mut cache, (200 + poll * 200) * MS), Lookup::Known(MAC));
    }
    assert!(learn(&mut cache, 601 * MS, RIVAL), "three questions without an answer");
    assert_eq!(inside(&mut cache, 602 * MS), Lookup::Known(RIVAL));
}

#[test]
fn an_owner_that_answers_keeps_its_address_and_is_not_asked_more_often_for_it() {
    let mut cache = cache();
    let mut asked = 0;
    learn(&mut cache, 0, MAC);
    for ms in 1..=10_000 {
        let source = cache.source(ms * MS, INSIDE, IP, RIVAL, MayAsk::Yes);
        assert_eq!(source, Source::Rival);
        if cache.poll_refresh().is_some() {
            asked += 1;
            learn(&mut cache, ms * MS, MAC);
        }
    }
    assert_eq!(asked, 50, "five a second, however many frames the rival sends");
}

#[test]
fn who_may_not_ask_believes_no_rival() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    for second in 1..200 {
        assert!(!cache.learn(second * S, INSIDE, IP, RIVAL, MayAsk::No));
    }
    assert_eq!((cache.poll_refresh(), cache.last_known(INSIDE, IP)), (None, Some(MAC)));
}

#[test]
fn a_rival_of_an_address_that_nobody_used_waits_for_three_questions_too() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    assert_eq!(inside(&mut cache, 200 * S), Lookup::Ask);
    assert!(!learn(&mut cache, 200 * S, RIVAL));
    assert_eq!(inside(&mut cache, 200 * S + 200 * MS), Lookup::Ask);
    assert!(!learn(&mut cache, 200 * S + 200 * MS, RIVAL));
    assert_eq!(inside(&mut cache, 200 * S + 400 * MS), Lookup::Ask);
    assert!(learn(&mut cache, 200 * S + 400 * MS, RIVAL));
}

#[test]
fn answer_to_a_refresh_makes_the_entry_fresh() {
    let mut cache = cache();
    learn(&mut cache, 0, MAC);
    inside(&mut cache, 31 * S);
    assert!(cache.poll_refresh().is_some());
    learn(&mut cache, 32 * S, MAC);
    assert_eq!(inside(&mut cache, 61 * S), Lookup::Known(MAC));
    assert_eq!(cache.poll_refresh(), None);
}

#[test]
fn refreshes_are_bounded_and_put_off_not_lost() {
    let mut cache = NeighbourCache::new(200, 1);
    let ips: Vec<_> = (0..100).map(|n| Ipv4Addr::new(10, 0, 1, n)).collect();
    for ip in &ips {
        cache.learn(0, INSIDE, *ip, MAC, MayAsk::Yes);
    }
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..2 {
        for ip in &ips {
            assert_eq!(cache.lookup(31 * S, INSIDE, *ip), Lookup::Known(MAC));
        }
        while let Some(refresh) = cache.poll_refresh() {
            assert!(asked.insert(refresh.ip), "asked twice");
        }
    }
    assert_eq!(asked.len(), 100);
}

#[test]
fn addresses_of_no_single_host_are_not_learned() {
    let mut cache = cache();
    for octets in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4]] {
        cache.learn(0, INSIDE, Ipv4Addr::from(octets), MAC, MayAsk::Yes);
    }
    for mac in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 5]), Mac::default()] {
        learn(&mut cache, 0, mac);
    }
    assert!(cache.is_empty());
}

#[test]
fn oldest_unused_entry_gives_way() {
    let mut cache = cache();
    let ip = |n| Ipv4Addr::new(10, 0, 0, n);
    for n in 1..=4 {
        cache.learn(u64::from(n), INSIDE, ip(n), MAC, MayAsk::Yes);
    }
    // The oldest is in use, so the next one goes.
    assert_eq!(cache.lookup(5, INSIDE, ip(1)), Lookup::Known(MAC));
    cache.learn(6, INSIDE, ip(5), MAC, MayAsk::Yes);
    assert_eq!(cache.len(), 4);
    for n in [1, 3, 4, 5] {
        assert_eq!(cache.lookup(7, INSIDE, ip(n)), Lookup::Known(MAC), "{n}");
    }
    assert_eq!(cache.lookup(7, INSIDE, ip(2)), Lookup::Ask);
}

/// As full as its table lets it be, so that the marks that removals leave would make a tighter table grow.
#[test]
fn endless_scan_never_makes_a_full_cache_allocate() {
    let mut cache = NeighbourCache::new(448, 3);
    let room = cache.index.allocation_size();
    for n in 0..100_000_u32 {
        assert_eq!(cache.lookup(0, INSIDE, Ipv4Addr::from(0x0a00_0000 + n)), Lookup::Ask);
        assert_eq!(cache.index.allocation_size(), room, "after {n} addresses");
    }
    assert_eq!((cache.len(), cache.entries.capacity()), (448, 448));
}

proptest! {
    #[test]
    fn cache_stays_within_its_bounds_and_never_invents_an_address(
        cap in 1_usize..6,
        steps in prop::collection::vec((any::<bool>(), 1_u8..12, 0_u8..4, 0_u64..40 * S), 1..300),
    ) {
        let mut cache = NeighbourCache::new(cap, 7);
        let room = (cache.index.allocation_size(), cache.entries.capacity(), cache.refreshes.capacity());
        let mut last = std::collections::BTreeMap::new();
        let mut now_ns = 0;
        for (learn, host, mac, passed_ns) in steps {
            now_ns += passed_ns;
            let ip = Ipv4Addr::new(10, 0, 0, host);
            if learn {
                let mac = Mac([2, 0, 0, 0, 0, mac]);
                cache.learn(now_ns, Link::Outside, ip, mac, MayAsk::Yes);
                last.insert(ip, (mac, now_ns));
            } else if let Lookup::Known(mac) = cache.lookup(now_ns, Link::Outside, ip) {
                let (learned, at_ns) = last[&ip];
                prop_assert_eq!(mac, learned);
                prop_assert!(now_ns - at_ns < FRESH_NS + STALE_NS);
            }
            prop_assert!(cache.len() <= cap);
            prop_assert_eq!(cache.index.len(), cache.len());
            prop_assert_eq!((cache.index.allocation_size(), cache.entries.capacity(), cache.refreshes.capacity()), room);
        }
    }
}
