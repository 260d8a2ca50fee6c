//! Hot path. Neighbour cache: which MAC address an on-link IPv4 address has, and when to ask for it (RFC 826,
//! RFC 1122 2.3.2.1). Sends nothing itself: `lookup` and `poll_refresh` tell what to ask, `learn` takes the answers. Bounded:
//! it never allocates after `new`. Called by `egress`, one cache per worker.
//!
//! Inside, an address belongs to the MAC that is known (I43). Another one that claims it, by ARP or by a packet, is a *rival*:
//! the known one is asked by unicast, and only when it has left `POLLS_MAX` questions unanswered does the rival follow it.

use std::net::Ipv4Addr;

use hashbrown::HashMap;

use crate::ids::{ControlIndex, Link, Mac};
use crate::map::Keyed;
use crate::wire::ethernet::is_group;

/// Pause between two questions for an address that has not answered.
pub const ASK_INTERVAL_NS: u64 = 200_000_000;
/// Questions before an address counts as unreachable.
pub const ASKS_MAX: u8 = 5;
/// How long it then counts as such.
pub const UNREACHABLE_NS: u64 = 3_000_000_000;
/// How long an answer is trusted without asking again.
pub const FRESH_NS: u64 = 30_000_000_000;
/// How long after that it is still used without asking anew, if it was not in use meanwhile.
pub const STALE_NS: u64 = 60_000_000_000;
/// Pause between two questions about a stale entry that is in use.
pub const REFRESH_INTERVAL_NS: u64 = 1_000_000_000;
/// Unicast questions without an answer after which an entry is given up (RFC 1122 2.3.2.1 (2)).
pub const POLLS_MAX: u8 = 3;
/// Stale entries that wait to be asked about at once; more are put off to their next use.
const REFRESHES_MAX: usize = 64;
/// How old an answer may get, where no worker sees the packets, before it is asked for again.
const KEPT_NS: u64 = FRESH_NS / 3 * 2;
/// Addresses remembered that have another MAC than before; if more have, all may.
const MOVED_MAX: usize = 16;

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
    /// Inside: what is known is older than the configuration, which may declare another card. Say which and ask again.
    Outdated,
}

/// Who sends in the name of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Who is known to have it.
    Own,
    /// Nobody is known to have it.
    Unknown,
    /// Somebody else, while the known one has not been silent for long enough.
    Rival,
}

/// Whether this node may send questions about an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAsk {
    /// It may not (M1): then nobody's silence counts.
    No,
    /// It may.
    Yes,
}

/// A stale or disputed entry: ask again, by unicast to the MAC that is still believed (RFC 1122 2.3.2.1 (2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// By which link.
    pub link: Link,
    /// Which address.
    pub ip: Ipv4Addr,
    /// Where it was last seen.
    pub mac: Mac,
}

/// Where an entry stood when it was asked for: a hint that spares a search, checked whenever it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// No entry.
    pub const NOWHERE: Self = Self(u32::MAX);
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Asked `asks` times, last at `asked_ns`, without an answer. `was` had it until nobody used it for long.
    Asking { asks: u8, asked_ns: u64, was: Option<Mac> },
    /// Answered.
    Known(Known),
}

#[derive(Clone, Copy, Debug)]
struct Known {
    mac: Mac,
    learned_ns: u64,
    /// Asked by unicast so often since, last at `asked_ns`.
    polls: u8,
    asked_ns: Option<u64>,
    disputed: Disputed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disputed {
    No,
    Yes,
}

impl Known {
    const fn learned(mac: Mac, now_ns: u64) -> Self {
        Self { mac, learned_ns: now_ns, polls: 0, asked_ns: None, disputed: Disputed::No }
    }

    fn asked_before(&self, now_ns: u64, pause_ns: u64) -> bool {
        self.asked_ns.is_none_or(|at| now_ns.saturating_sub(at) >= pause_ns)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: (Link, Ipv4Addr),
    state: State,
    /// Looked up or learned since the hand passed: spared once by eviction.
    used: Used,
    /// The configuration with which it is known to agree.
    version: ControlIndex,
}

impl Entry {
    const fn last_known(&self) -> Option<Mac> {
        match self.state {
            State::Known(known) => Some(known.mac),
            State::Asking { was, .. } => was,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    No,
    Yes,
}

/// Neighbours of all links. When it is full the oldest entry that was not used lately gives way.
#[derive(Debug)]
pub struct NeighbourCache {
    /// Slot of each address.
    index: HashMap<(Link, Ipv4Addr), usize, Keyed>,
    /// The entries; slots are reused, never freed.
    entries: Vec<Entry>,
    cap: usize,
    /// Next slot that eviction looks at.
    hand: usize,
    refreshes: Vec<Refresh>,
    /// Addresses that have another MAC than before.
    moved: Vec<(Link, Ipv4Addr)>,
    version: ControlIndex,
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
            index: HashMap::with_capacity_and_hasher(2 * (cap + 1), Keyed::with_seed(seed)),
            entries: Vec::with_capacity(cap),
            cap,
            hand: 0,
            refreshes: Vec::with_capacity(REFRESHES_MAX),
            moved: Vec::with_capacity(MOVED_MAX),
            version: ControlIndex(0),
        }
    }

    /// Another configuration is in force: what is known of inside addresses is outdated, each until `set` or `confirm`.
    pub const fn set_version(&mut self, version: ControlIndex) {
        self.version = version;
    }

    /// The configuration in force declares no card for this inside address: what is known of it holds.
    pub fn confirm(&mut self, link: Link, ip: Ipv4Addr) {
        if let Some(&slot) = self.index.get(&(link, ip)) {
            self.entries[slot].version = self.version;
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

    /// `mac` says that it has `ip`. Addresses that name no single host are ignored: 0.0.0.0 (a probe), loopback, multicast,
    /// broadcast, group and all-zero MACs. Whether the sender may be believed at all is the caller's decision. Returns
    /// whether the address is there now; not if `mac` is a rival.
    pub fn learn(&mut self, now_ns: u64, link: Link, ip: Ipv4Addr, mac: Mac, may_ask: MayAsk) -> bool {
        if matches!(ip.octets()[0], 0 | 127 | 224..) || is_group(mac) || mac == Mac::default() {
            return false;
        }
        if link.is_inside() && self.source(now_ns, link, ip, mac, may_ask) == Source::Rival {
            return false;
        }
        self.set(now_ns, link, ip, mac);
        true
    }

    /// `ip` is at `mac`, whoever had it before: it was declared so.
    pub fn set(&mut self, now_ns: u64, link: Link, ip: Ipv4Addr, mac: Mac) {
        let mut known = Known::learned(mac, now_ns);
        match self.index.get(&(link, ip)) {
            Some(&slot) => {
                let entry = &mut self.entries[slot];
                if entry.last_known().is_some_and(|before| before != mac) {
                    note_moved(&mut self.moved, entry.key);
                }
                if let State::Known(before) = entry.state {
                    // So that a flood of rivals asks no more often.
                    known.asked_ns = before.asked_ns;
                }
                (entry.state, entry.used, entry.version) = (State::Known(known), Used::Yes, self.version);
            }
            None => self.insert((link, ip), State::Known(known)),
        }
    }

    /// Where `ip` was last known to be, but for what is outdated; asks nobody.
    #[must_use]
    pub fn last_known(&self, link: Link, ip: Ipv4Addr) -> Option<Mac> {
        let entry = &self.entries[*self.index.get(&(link, ip))?];
        if link.is_inside() && entry.version != self.version {
            return None;
        }
        entry.last_known()
    }

    /// Where the entry of `ip` stands.
    #[must_use]
    pub fn place(&self, link: Link, ip: Ipv4Addr) -> Place {
        let slot = self.index.get(&(link, ip)).and_then(|slot| u32::try_from(*slot).ok());
        slot.map_or(Place::NOWHERE, Place)
    }

    /// Whether the entry of `ip` stands there, and `mac` was last known to have it; outdated or not.
    #[must_use]
    pub fn is_at(&self, place: Place, link: Link, ip: Ipv4Addr, mac: Mac) -> bool {
        let entry = self.entries.get(place.0 as usize).filter(|entry| entry.key == (link, ip));
        entry.and_then(Entry::last_known) == Some(mac)
    }

    /// What [`NeighbourCache::lookup`] says if the entry of `ip` stands there, outdated or not, and nobody needs to be
    /// asked; else `None`.
    pub fn fresh(&mut self, now_ns: u64, place: Place, link: Link, ip: Ipv4Addr) -> Option<Mac> {
        let entry = self.entries.get_mut(place.0 as usize).filter(|entry| entry.key == (link, ip))?;
        match entry.state {
            State::Known(known) if now_ns.saturating_sub(known.learned_ns) < FRESH_NS => {
                entry.used = Used::Yes;
                Some(known.mac)
            }
            State::Known(_) | State::Asking { .. } => None,
        }
    }

    /// Whether what [`NeighbourCache::fresh`] said stands still. Of an address that is in `use` it is asked for again before it
    /// is stale, as far as questions are free.
    pub fn is_kept(&mut self, now_ns: u64, place: Place, (link, ip): (Link, Ipv4Addr), used: bool) -> bool {
        let Some(entry) = self.entries.get_mut(place.0 as usize).filter(|entry| entry.key == (link, ip)) else {
            return false;
        };
        let State::Known(known) = &mut entry.state else { return false };
        let age_ns = now_ns.saturating_sub(known.learned_ns);
        if used {
            entry.used = Used::Yes;
        }
        let asks = used && age_ns >= KEPT_NS && known.polls < POLLS_MAX;
        if asks && known.asked_before(now_ns, REFRESH_INTERVAL_NS) && self.refreshes.len() < REFRESHES_MAX {
            (known.polls, known.asked_ns) = (known.polls + 1, Some(now_ns));
            self.refreshes.push(Refresh { link, ip, mac: known.mac });
        }
        age_ns < FRESH_NS
    }

    /// The known card of an address has just sent in its name, so it is there still.
    pub fn heard(&mut self, now_ns: u64, place: Place, (link, ip): (Link, Ipv4Addr), mac: Mac) {
        let entry = self.entries.get_mut(place.0 as usize).filter(|entry| entry.key == (link, ip));
        if let Some(State::Known(known)) = entry.map(|entry| &mut entry.state)
            && known.mac == mac
            && known.disputed == Disputed::No
        {
            (known.learned_ns, known.polls) = (now_ns, 0);
        }
    }

    /// Addresses that have another MAC than before, since this was asked; the last one stands for any if it is unspecified.
    pub fn moved(&mut self) -> impl Iterator<Item = (Link, Ipv4Addr)> + '_ {
        self.moved.drain(..)
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// Whether `ip` was asked for as often as it is worth, and nobody has answered since.
    #[must_use]
    pub fn is_silent(&self, link: Link, ip: Ipv4Addr) -> bool {
        let state = self.index.get(&(link, ip)).map(|slot| self.entries[*slot].state);
        matches!(state, Some(State::Asking { asks, .. }) if asks >= ASKS_MAX)
    }

    /// Whether `mac` may send in the name of `ip`. Makes sure that the known one is asked about a rival.
    pub fn source(&mut self, now_ns: u64, link: Link, ip: Ipv4Addr, mac: Mac, may_ask: MayAsk) -> Source {
        let Some(&slot) = self.index.get(&(link, ip)) else { return Source::Unknown };
        let entry = &mut self.entries[slot];
        match &mut entry.state {
            State::Known(known) if known.mac == mac => Source::Own,
            State::Known(known) => {
                if may_ask == MayAsk::No || !known.asked_before(now_ns, ASK_INTERVAL_NS) {
                    return Source::Rival;
                }
                if known.disputed == Disputed::No {
                    (known.disputed, known.polls) = (Disputed::Yes, 0);
                }
                if known.polls >= POLLS_MAX {
                    entry.state = State::Known(Known::learned(mac, now_ns));
                    note_moved(&mut self.moved, entry.key);
                    return Source::Own;
                }
                if self.refreshes.len() < REFRESHES_MAX {
                    (known.polls, known.asked_ns) = (known.polls + 1, Some(now_ns));
                    self.refreshes.push(Refresh { link, ip, mac: known.mac });
                }
                Source::Rival
            }
            State::Asking { was: None, .. } => Source::Unknown,
            State::Asking { was: Some(was), .. } if *was == mac => Source::Own,
            State::Asking { asks, .. } if *asks >= POLLS_MAX => Source::Unknown,
            State::Asking { .. } => Source::Rival,
        }
    }

    /// What to do with a packet for `ip`. Counts an `Ask` as asked, so the caller must send it.
    pub fn lookup(&mut self, now_ns: u64, link: Link, ip: Ipv4Addr) -> Lookup {
        let first = |was| State::Asking { asks: 1, asked_ns: now_ns, was };
        let Some(&slot) = self.index.get(&(link, ip)) else {
            self.insert((link, ip), first(None));
            return Lookup::Ask;
        };
        let entry = &mut self.entries[slot];
        entry.used = Used::Yes;
        if link.is_inside() && entry.version != self.version {
            return Lookup::Outdated;
        }
        match &mut entry.state {
            State::Known(known) => {
                let age_ns = now_ns.saturating_sub(known.learned_ns);
                if age_ns >= FRESH_NS + STALE_NS {
                    let was = (known.polls < POLLS_MAX).then_some(known.mac);
                    entry.state = first(was);
                    return Lookup::Ask;
                }
                if age_ns >= FRESH_NS && known.asked_before(now_ns, REFRESH_INTERVAL_NS) {
                    if known.polls >= POLLS_MAX {
                        entry.state = first(None);
                        return Lookup::Ask;
                    }
                    if self.refreshes.len() < REFRESHES_MAX {
                        (known.polls, known.asked_ns) = (known.polls + 1, Some(now_ns));
                        self.refreshes.push(Refresh { link, ip, mac: known.mac });
                    }
                }
                Lookup::Known(known.mac)
            }
            State::Asking { asks, asked_ns, was } => {
                let waited_ns = now_ns.saturating_sub(*asked_ns);
                if waited_ns < ASK_INTERVAL_NS {
                    Lookup::Wait
                } else if *asks < ASKS_MAX {
                    (*asks, *asked_ns) = (*asks + 1, now_ns);
                    Lookup::Ask
                } else if waited_ns < ASK_INTERVAL_NS + UNREACHABLE_NS {
                    Lookup::Unreachable
                } else {
                    let was = *was;
                    entry.state = first(was);
                    Lookup::Ask
                }
            }
        }
    }

    /// The next question about an entry that is stale and in use, or disputed. To be called after each batch
    /// until it yields `None`; without that such an entry is asked for only when it has run out.
    pub fn poll_refresh(&mut self) -> Option<Refresh> {
        self.refreshes.pop()
    }

    fn insert(&mut self, key: (Link, Ipv4Addr), state: State) {
        let entry = Entry { key, state, used: Used::No, version: self.version };
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

fn note_moved(moved: &mut Vec<(Link, Ipv4Addr)>, key: (Link, Ipv4Addr)) {
    match moved.len() {
        ..MOVED_MAX => moved.push(key),
        _ => moved[MOVED_MAX - 1] = (Link::Outside, Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
#[path = "neigh_tests.rs"]
mod tests;
