//! Hot path. Neighbour cache: which MAC address an on-link IPv4 address has, and when to ask for it (RFC 826,
//! RFC 1122 2.3.2.1). Sends nothing itself: `lookup` and `poll_refresh` tell what to ask, `learn` takes the answers. Bounded:
//! it never allocates after `new`. Called by the pipeline, one cache per worker.

use std::net::Ipv4Addr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::ids::{Mac, Side};
use crate::wire::ethernet::is_group;

/// Pause between two questions for an address that has not answered.
pub const ASK_INTERVAL_NS: u64 = 200_000_000;
/// Questions before an address counts as unreachable.
pub const ASKS_MAX: u8 = 5;
/// How long it then counts as such.
pub const UNREACHABLE_NS: u64 = 3_000_000_000;
/// How long an answer is trusted without asking again.
pub const FRESH_NS: u64 = 60_000_000_000;
/// How long after that it is still used while asking.
pub const STALE_NS: u64 = 60_000_000_000;
/// Pause between two questions about a stale entry that is in use.
pub const REFRESH_INTERVAL_NS: u64 = 1_000_000_000;
/// Stale entries that wait to be asked about at once; more are put off to their next use.
const REFRESHES_MAX: usize = 64;

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Send there.
    Known(Mac),
    /// Send an ARP request now, and keep the packet.
    Ask,
    /// A request is on its way; keep the packet.
    Wait,
    /// Nobody answers; drop the packet.
    Unreachable,
}

/// A stale entry in use: ask again, by unicast to the MAC that is still believed (RFC 1122 2.3.2.1 (2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// On which network.
    pub side: Side,
    /// Which address.
    pub ip: Ipv4Addr,
    /// Where it was last seen.
    pub mac: Mac,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Asked `asks` times, last at `asked_ns`, without an answer.
    Asking { asks: u8, asked_ns: u64 },
    /// Answered at `learned_ns`; asked again at `refreshed_ns`, if that is later.
    Known { mac: Mac, learned_ns: u64, refreshed_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: (Side, Ipv4Addr),
    state: State,
    /// Looked up or learned since the hand passed: spared once by eviction.
    used: Used,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    No,
    Yes,
}

/// Neighbours of both sides. When it is full the oldest entry that was not used lately gives way.
#[derive(Debug)]
pub struct NeighbourCache {
    /// Slot of each address.
    index: HashMap<(Side, Ipv4Addr), usize, FixedState>,
    /// The entries; slots are reused, never freed.
    entries: Vec<Entry>,
    cap: usize,
    /// Next slot that eviction looks at.
    hand: usize,
    refreshes: Vec<Refresh>,
}

impl NeighbourCache {
    /// A cache of at most `cap` entries; `seed` keys the hashing.
    ///
    /// # Panics
    /// If `cap` is 0.
    #[must_use]
    pub fn new(cap: usize, seed: u64) -> Self {
        assert!(cap > 0, "a neighbour cache holds at least one entry");
        Self {
            // Twice the room: a table at most half full is rehashed in place, so removals never make it allocate.
            index: HashMap::with_capacity_and_hasher(2 * (cap + 1), FixedState::with_seed(seed)),
            entries: Vec::with_capacity(cap),
            cap,
            hand: 0,
            refreshes: Vec::with_capacity(REFRESHES_MAX),
        }
    }

    /// Number of entries, answered or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known or asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `ip` is at `mac`. Addresses that name no single host are ignored: 0.0.0.0 (a probe), loopback, multicast,
    /// broadcast, group and all-zero MACs. Whether the sender may be believed is the caller's decision.
    pub fn learn(&mut self, now_ns: u64, side: Side, ip: Ipv4Addr, mac: Mac) {
        if matches!(ip.octets()[0], 0 | 127 | 224..) || is_group(mac) || mac == Mac::default() {
            return;
        }
        let state = State::Known { mac, learned_ns: now_ns, refreshed_ns: now_ns };
        match self.index.get(&(side, ip)) {
            Some(&slot) => {
                let entry = &mut self.entries[slot];
                entry.state = state;
                entry.used = Used::Yes;
            }
            None => self.insert((side, ip), state),
        }
    }

    /// What to do with a packet for `ip`. Counts an `Ask` as asked, so the caller must send it.
    pub fn lookup(&mut self, now_ns: u64, side: Side, ip: Ipv4Addr) -> Lookup {
        let first = State::Asking { asks: 1, asked_ns: now_ns };
        let Some(&slot) = self.index.get(&(side, ip)) else {
            self.insert((side, ip), first);
            return Lookup::Ask;
        };
        let entry = &mut self.entries[slot];
        entry.used = Used::Yes;
        match entry.state {
            State::Known { mac, learned_ns, refreshed_ns } => {
                let age_ns = now_ns.saturating_sub(learned_ns);
                if age_ns >= FRESH_NS + STALE_NS {
                    entry.state = first;
                    return Lookup::Ask;
                }
                let waited_ns = now_ns.saturating_sub(refreshed_ns);
                if age_ns >= FRESH_NS && waited_ns >= REFRESH_INTERVAL_NS && self.refreshes.len() < REFRESHES_MAX {
                    entry.state = State::Known { mac, learned_ns, refreshed_ns: now_ns };
                    self.refreshes.push(Refresh { side, ip, mac });
                }
                Lookup::Known(mac)
            }
            State::Asking { asks, asked_ns } => {
                let waited_ns = now_ns.saturating_sub(asked_ns);
                if waited_ns < ASK_INTERVAL_NS {
                    Lookup::Wait
                } else if asks < ASKS_MAX {
                    entry.state = State::Asking { asks: asks + 1, asked_ns: now_ns };
                    Lookup::Ask
                } else if waited_ns < ASK_INTERVAL_NS + UNREACHABLE_NS {
                    Lookup::Unreachable
                } else {
                    entry.state = first;
                    Lookup::Ask
                }
            }
        }
    }

    /// The next question about an entry that `lookup` answered from although it is stale. To be called after each batch
    /// until it yields `None`; without that such an entry is asked for only when it has run out.
    pub fn poll_refresh(&mut self) -> Option<Refresh> {
        self.refreshes.pop()
    }

    fn insert(&mut self, key: (Side, Ipv4Addr), state: State) {
        let entry = Entry { key, state, used: Used::No };
        let slot = if self.entries.len() < self.cap {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let slot = self.evict();
            self.entries[slot] = entry;
            slot
        };
        self.index.insert(key, slot);
    }

    /// Frees the slot of the oldest entry that was not used since the hand last passed it; amortised constant time.
    fn evict(&mut self) -> usize {
        loop {
            let slot = self.hand;
            self.hand = (slot + 1) % self.cap;
            let entry = &mut self.entries[slot];
            if entry.used == Used::No {
                self.index.remove(&entry.key);
                return slot;
            }
            entry.used = Used::No;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    fn cache() -> NeighbourCache {
        NeighbourCache::new(4, 1)
    }

    fn inside(cache: &mut NeighbourCache, now_ns: u64) -> Lookup {
        cache.lookup(now_ns, Side::Inside, IP)
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
        cache.learn(MS, Side::Inside, IP, MAC);
        assert_eq!(inside(&mut cache, 2 * MS), Lookup::Known(MAC));
        assert_eq!(cache.lookup(2 * MS, Side::Outside, IP), Lookup::Ask);
    }

    #[test]
    fn answer_ends_unreachability() {
        let mut cache = cache();
        for ask in 0..6 {
            inside(&mut cache, ask * 200 * MS);
        }
        cache.learn(2 * S, Side::Inside, IP, MAC);
        assert_eq!(inside(&mut cache, 2 * S), Lookup::Known(MAC));
    }

    #[test]
    fn newer_answer_replaces_the_address() {
        let mut cache = cache();
        cache.learn(0, Side::Inside, IP, MAC);
        cache.learn(1, Side::Inside, IP, Mac([2, 0, 0, 0, 0, 8]));
        assert_eq!(inside(&mut cache, 2), Lookup::Known(Mac([2, 0, 0, 0, 0, 8])));
    }

    #[test]
    fn stale_entry_answers_while_it_is_asked_for_and_then_runs_out() {
        let mut cache = cache();
        cache.learn(0, Side::Inside, IP, MAC);
        assert_eq!(inside(&mut cache, 60 * S - 1), Lookup::Known(MAC));
        assert_eq!(cache.poll_refresh(), None, "fresh");
        let refresh = Some(Refresh { side: Side::Inside, ip: IP, mac: MAC });
        for second in 60..120 {
            assert_eq!(inside(&mut cache, second * S), Lookup::Known(MAC));
            assert_eq!(cache.poll_refresh(), refresh, "once a second");
            assert_eq!(inside(&mut cache, second * S + 999 * MS), Lookup::Known(MAC));
            assert_eq!(cache.poll_refresh(), None, "not more often");
        }
        assert_eq!(inside(&mut cache, 120 * S), Lookup::Ask);
        assert_eq!(inside(&mut cache, 120 * S + 1), Lookup::Wait);
    }

    #[test]
    fn answer_to_a_refresh_makes_the_entry_fresh() {
        let mut cache = cache();
        cache.learn(0, Side::Inside, IP, MAC);
        inside(&mut cache, 61 * S);
        assert!(cache.poll_refresh().is_some());
        cache.learn(62 * S, Side::Inside, IP, MAC);
        assert_eq!(inside(&mut cache, 120 * S), Lookup::Known(MAC));
        assert_eq!(cache.poll_refresh(), None);
    }

    #[test]
    fn refreshes_are_bounded_and_put_off_not_lost() {
        let mut cache = NeighbourCache::new(200, 1);
        let ips: Vec<_> = (0..100).map(|n| Ipv4Addr::new(10, 0, 1, n)).collect();
        for ip in &ips {
            cache.learn(0, Side::Inside, *ip, MAC);
        }
        let mut asked = std::collections::BTreeSet::new();
        for _ in 0..2 {
            for ip in &ips {
                assert_eq!(cache.lookup(61 * S, Side::Inside, *ip), Lookup::Known(MAC));
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
            cache.learn(0, Side::Inside, Ipv4Addr::from(octets), MAC);
        }
        for mac in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 5]), Mac::default()] {
            cache.learn(0, Side::Inside, IP, mac);
        }
        assert!(cache.is_empty());
    }

    #[test]
    fn oldest_unused_entry_gives_way() {
        let mut cache = cache();
        let ip = |n| Ipv4Addr::new(10, 0, 0, n);
        for n in 1..=4 {
            cache.learn(u64::from(n), Side::Inside, ip(n), MAC);
        }
        // The oldest is in use, so the next one goes.
        assert_eq!(cache.lookup(5, Side::Inside, ip(1)), Lookup::Known(MAC));
        cache.learn(6, Side::Inside, ip(5), MAC);
        assert_eq!(cache.len(), 4);
        for n in [1, 3, 4, 5] {
            assert_eq!(cache.lookup(7, Side::Inside, ip(n)), Lookup::Known(MAC), "{n}");
        }
        assert_eq!(cache.lookup(7, Side::Inside, ip(2)), Lookup::Ask);
    }

    /// As full as its table lets it be, so that the marks that removals leave would make a tighter table grow.
    #[test]
    fn endless_scan_never_makes_a_full_cache_allocate() {
        let mut cache = NeighbourCache::new(448, 3);
        let room = cache.index.allocation_size();
        for n in 0..100_000_u32 {
            assert_eq!(cache.lookup(0, Side::Inside, Ipv4Addr::from(0x0a00_0000 + n)), Lookup::Ask);
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
                    cache.learn(now_ns, Side::Outside, ip, mac);
                    last.insert(ip, (mac, now_ns));
                } else if let Lookup::Known(mac) = cache.lookup(now_ns, Side::Outside, ip) {
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
}
