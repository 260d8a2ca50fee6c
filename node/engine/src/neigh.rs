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
