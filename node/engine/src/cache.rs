//! The books of the fast path: which mappings and which pairs of instances it carries, under which number, and which numbers rest. It hands over nothing by
//! itself: `judge::caching` does. What passed there is brought into the records from here, so that whoever asks a record
//! (its idle end, its connection) hears of packets that no worker has seen (K1).

use std::collections::VecDeque;

use crate::event::WorkerOutput;
use crate::fast::{FastCounts, FastEntry, FastMode, FastTable};
use crate::flow::{Seen, Slot, Table, Translation};
use crate::ids::{BackendId, ShardId, Side};
use crate::map::Map;
use crate::record::{Proto, Scenario};
use words::time::SECOND_NS;

/// Packets each way before a mapping, or a pair, is worth an entry: short flows never pay for it.
const WORTH: u8 = 4;
/// Mappings that wait to be handed over.
const WANTED_MAX: usize = 256;
/// Mappings handed over in one turn: each is two calls into the kernel.
pub(crate) const CALLS_PER_TURN: usize = 32;
/// Entries removed in one.
const REMOVED_PER_TURN: usize = 256;
/// A number rests so long before it is used again. A packet that was on its way by it is gone by then, and what finds it was
/// removed.
const REST_NS: u64 = 2 * SECOND_NS;
/// Entries that are looked at in a second: each is some lines of memory that nobody had lately. So a round takes a second up to so many,
/// and eight with the most that there can be: less than a neighbour has from when it is asked again until it is stale.
const LOOKED_AT_PER_S: u64 = 131_072;
/// Entries that one turn looks at.
const LOOKED_AT_MAX: u64 = 4_096;
/// Room is short when fewer numbers than an eighth, and than so many, are free or soon to be: what becomes worth an entry is to find one.
const SPARE_MAX: usize = 16_384;
/// Rounds without a packet after which an entry is cold.
const COLD: u8 = 2;
/// The same for a pair's, which no end of a mapping takes back, whether room is short or not.
const PAIR_COLD: u8 = 60;
/// Pairs whose packets are counted.
const PAIRS_MAX: usize = 4_096;

/// What an entry stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// A mapping of the shard's.
    Mapping(Slot),
    /// All that passes between two instances, the first of which has the lower number; nothing of it is kept anywhere else (W4).
    Pair(BackendId, BackendId),
}

/// What the kernel carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) shard: ShardId,
    pub(crate) whose: Whose,
    /// The revision at which it was handed over.
    pub(crate) made: u64,
    /// By direction, at the last look.
    packets: [u64; 2],
    /// Rounds since a packet passed.
    quiet: u8,
}

/// What a worker knows of the way into the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Handing {
    /// Packets that it has passed on, of each side, until it was handed over; they end at 255.
    passed: [u8; 2],
    /// One more than the number of the entry; 0: there is none.
    fast: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    table: Option<Box<dyn FastTable>>,
    mode: FastMode,
    /// By number.
    carried: Vec<Option<Carried>>,
    free: Vec<u32>,
    /// Killed since the last turn.
    killed: Vec<u32>,
    /// Killed and not removed yet; removed, and free from then on.
    dead: VecDeque<u32>,
    resting: VecDeque<(u64, u32)>,
    wanted: Vec<(ShardId, Whose)>,
    pairs: Map<(BackendId, BackendId), Handing>,
    hand: usize,
    looked_ns: u64,
    counts: FastCounts,
    /// Something changed for which no entry stands.
    upset: bool,
    /// What was handed over before this revision no longer stands.
    since: u64,
}

/// Whether an entry was used since it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// In both directions.
    Both,
    Used,
    Quiet,
    /// Long enough, and room is short; or for so long that a pair's goes anyway.
    Cold,
}

impl Cache {
    /// From now on there is a fast path.
    pub(crate) fn begin(&mut self, table: Box<dyn FastTable>, mode: FastMode) {
        let flows = table.flows();
        self.carried = vec![None; usize::try_from(flows).unwrap_or(0)];
        self.free = (0..flows).rev().collect();
        self.counts.room = flows.into();
        self.table = Some(table);
        self.mode = mode;
    }

    pub(crate) fn set_mode(&mut self, mode: FastMode) {
        if mode == FastMode::Off && self.mode != mode {
            self.upset = true;
            self.wanted.clear();
        }
        self.mode = mode;
    }

    pub(crate) const fn mode(&self) -> FastMode {
        self.mode
    }

    pub(crate) const fn counts(&self) -> FastCounts {
        self.counts
    }

    /// No entry stands any more: who owns a shard, what a link takes, or what has to be carried has changed.
    pub(crate) const fn upset(&mut self) {
        self.upset = true;
    }

    /// A shard says of its serving: the kernel carries nothing for one that does not serve, though its lease may run.
    pub(crate) fn heard(&mut self, news: Option<&WorkerOutput>) {
        if let Some(WorkerOutput::Serving { state: Err(_), .. }) = news {
            self.upset = true;
        }
    }

    /// Whether that happened since this was asked.
    pub(crate) const fn take_upset(&mut self) -> bool {
        std::mem::replace(&mut self.upset, false)
    }

    /// What was handed over before `made` no longer stands, whoever's it is.
    pub(crate) fn raise_all(&mut self, made: u64) {
        self.since = made;
        if let Some(kernel) = self.table.as_deref_mut() {
            kernel.raise_all(made);
        }
    }

    /// Whether the kernel uses the entry of a translation that names it so (`Translation::fast`).
    pub(crate) fn is_used(&self, fast: u32) -> bool {
        fast.checked_sub(1).and_then(|number| self.carried(number)).is_some_and(|own| self.stands(&own))
    }

    /// Whether an entry was handed over after that.
    pub(crate) const fn stands(&self, carried: &Carried) -> bool {
        carried.made >= self.since
    }

    /// What was handed over of a backend before `made` no longer stands.
    pub(crate) fn raise(&mut self, backend: BackendId, made: u64) {
        if let Some(kernel) = self.table.as_deref_mut() {
            kernel.raise(backend, made);
        }
    }

    /// A worker has translated a packet of a mapping that came in on `side`; private: of its beginner, or of the other one.
    #[inline]
    pub(crate) fn note(&mut self, shard: ShardId, slot: Slot, translation: &mut Translation, side: Side) {
        if self.mode == FastMode::Off {
            return;
        }
        let handing = Handing { passed: translation.passed, fast: translation.fast };
        let Handing { passed, fast } = self.count(shard, Whose::Mapping(slot), handing, side);
        (translation.passed, translation.fast) = (passed, fast);
    }

    /// A worker has passed a packet on between two instances that no group judges.
    pub(crate) fn note_pair(&mut self, shard: ShardId, from: BackendId, to: BackendId) {
        if self.mode == FastMode::Off {
            return;
        }
        let (pair, side) = if from < to { ((from, to), Side::Inside) } else { ((to, from), Side::Outside) };
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&pair) {
            // Those that are in use are soon there again.
            self.pairs.retain(|_, handing| handing.fast > 0);
            if self.pairs.len() >= PAIRS_MAX {
                return;
            }
        }
        let handing = self.pairs.get(&pair).copied().unwrap_or_default();
        let handing = self.count(shard, Whose::Pair(pair.0, pair.1), handing, side);
        self.pairs.insert(pair, handing);
    }

    #[inline]
    fn count(&mut self, shard: ShardId, whose: Whose, mut handing: Handing, side: Side) -> Handing {
        if let Some(number) = handing.fast.checked_sub(1) {
            if self.is_used(handing.fast) {
                return handing;
            }
            // All that passed by it was brought into the record with this packet; it is in use, so it is handed over anew.
            if self.carried(number).is_some_and(|own| own.shard == shard && own.whose == whose) {
                self.forget(number);
            }
            handing = Handing { passed: [WORTH; 2], fast: 0 };
        }
        let passed = &mut handing.passed[side.index()];
        *passed = passed.saturating_add(1);
        let worth = self.mode == FastMode::Eager || handing.passed.iter().all(|passed| *passed >= WORTH);
        if worth && self.wanted.len() < WANTED_MAX {
            // Others come first, should it be refused.
            handing.passed = [0; 2];
            self.wanted.push((shard, whose));
        }
        handing
    }

    /// What is to be handed over next.
    pub(crate) fn next_wanted(&mut self) -> Option<(ShardId, Whose)> {
        self.wanted.pop()
    }

    /// Hands over what is a mapping of this table's, or a pair.
    pub(crate) fn install(&mut self, table: &mut Table, whose: Whose, entry: &FastEntry) {
        let (Some(kernel), Some(number)) = (self.table.as_deref_mut(), self.free.pop()) else {
            self.counts.refused += 1;
            return;
        };
        if !kernel.install(number, entry) {
            self.counts.refused += 1;
            self.free.push(number);
            return;
        }
        self.carried[number as usize] =
            Some(Carried { shard: entry.shard, whose, made: entry.made, packets: [0; 2], quiet: 0 });
        match whose {
            Whose::Mapping(slot) => table.translation_mut(slot).fast = number + 1,
            Whose::Pair(a, b) => self.pairs.entry((a, b)).or_default().fast = number + 1,
        }
        self.counts.installed += 1;
        self.counts.entries += 1;
    }

    /// Whether there is an entry of two instances.
    pub(crate) fn carries_pair(&self, a: BackendId, b: BackendId) -> bool {
        self.pairs.get(&(a, b)).is_some_and(|handing| handing.fast > 0)
    }

    /// Whether an entry is the one that what it stands for knows of.
    pub(crate) fn is_known(&self, table: &Table, number: u32, whose: Whose) -> bool {
        let fast = match whose {
            Whose::Mapping(slot) => table.translation(slot).map_or(0, |translation| translation.fast),
            Whose::Pair(a, b) => self.pairs.get(&(a, b)).map_or(0, |handing| handing.fast),
        };
        fast == number + 1
    }

    /// Brings what passed in the kernel into the record of a mapping. Nothing if no entry carries it.
    #[inline]
    pub(crate) fn absorb(&self, table: &mut Table, slot: Slot) {
        let fast = table.translation_mut(slot).fast;
        if let (Some(number), Some(kernel)) = (fast.checked_sub(1), self.table.as_deref()) {
            absorb(kernel, number, table, slot);
        }
    }

    /// Takes a mapping back, with what passed until then (K1). Nothing if no entry carries it.
    #[inline]
    pub(crate) fn end(&mut self, table: &mut Table, slot: Slot) {
        let fast = std::mem::take(&mut table.translation_mut(slot).fast);
        let Some(number) = fast.checked_sub(1) else { return };
        let own = self.carried.get(number as usize).copied().flatten();
        if own.is_some_and(|own| own.whose == Whose::Mapping(slot)) {
            self.forget(number);
            if let Some(kernel) = self.table.as_deref() {
                absorb(kernel, number, table, slot);
            }
        }
    }

    /// Takes an entry back: a pair's, or one of which no mapping knows any more.
    pub(crate) fn forget(&mut self, number: u32) {
        if let Some(kernel) = self.table.as_deref_mut() {
            kernel.kill(number);
        }
        if let Some(own) = self.carried[number as usize].take() {
            if let Whose::Pair(a, b) = own.whose {
                self.pairs.remove(&(a, b));
            }
            self.counts.entries -= 1;
            self.counts.ended += 1;
            self.killed.push(number);
        }
    }

    /// A shard's table goes: another one may stand in its place before its entries are looked through, with other slots.
    pub(crate) fn forget_shard(&mut self, shard: ShardId) {
        self.upset = true;
        self.wanted.retain(|(of, _)| *of != shard);
        let of_it = |carried: &Option<Carried>| carried.is_some_and(|carried| carried.shard == shard);
        let numbers = (0_u32..).zip(&self.carried).filter(|(_, carried)| of_it(carried)).map(|(number, _)| number);
        for number in numbers.collect::<Vec<_>>() {
            self.forget(number);
        }
    }

    /// The numbers of entries that are due to be looked at.
    pub(crate) fn due(&mut self, now_ns: u64) -> impl Iterator<Item = u32> + use<> {
        let all = self.carried.len();
        let elapsed = now_ns.saturating_sub(self.looked_ns);
        let share = (all as u64).min(LOOKED_AT_PER_S).saturating_mul(elapsed) / SECOND_NS;
        let count = share.min(LOOKED_AT_MAX).min(all as u64);
        let (from, count) = (self.hand, usize::try_from(count).expect("not more than there are"));
        if count > 0 {
            self.looked_ns = now_ns;
            self.hand = (from + count) % all;
        }
        (from..from + count).map(move |at| u32::try_from(at % all).expect("a number"))
    }

    pub(crate) fn carried(&self, number: u32) -> Option<Carried> {
        self.carried.get(number as usize).copied().flatten()
    }

    /// Whether an entry was used since this was asked.
    pub(crate) fn usage(&mut self, number: u32) -> Use {
        let coming = self.killed.len() + self.dead.len() + self.resting.len();
        let scarce = self.free.len() + coming < (self.carried.len() / 8).clamp(1, SPARE_MAX);
        let seen = self.table.as_deref().map(|kernel| kernel.seen(number)).unwrap_or_default();
        let packets = [seen.out.packets, seen.incoming.packets];
        let Some(Some(own)) = self.carried.get_mut(number as usize) else { return Use::Quiet };
        if packets != own.packets {
            let both = packets[0] != own.packets[0] && packets[1] != own.packets[1];
            (own.packets, own.quiet) = (packets, 0);
            return if both { Use::Both } else { Use::Used };
        }
        own.quiet = own.quiet.saturating_add(1);
        let is_pair = matches!(own.whose, Whose::Pair(..));
        if (own.quiet >= COLD && scarce) || (own.quiet >= PAIR_COLD && is_pair) {
            self.counts.cold += 1;
            return Use::Cold;
        }
        Use::Quiet
    }

    /// Whether all that was killed is removed. Before, nothing is handed over: what finds an old entry of a mapping would be
    /// taken from its new one.
    pub(crate) fn is_clear(&self) -> bool {
        self.killed.is_empty() && self.dead.is_empty()
    }

    /// Whether there is a fast path at all.
    pub(crate) const fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// Removes what was killed, and has numbers that have rested serve again: some of them in each turn.
    pub(crate) fn clear(&mut self, now_ns: u64) {
        self.dead.extend(self.killed.drain(..));
        for _ in 0..REMOVED_PER_TURN {
            let (Some(number), Some(kernel)) = (self.dead.pop_front(), self.table.as_deref_mut()) else { break };
            kernel.remove(number);
            self.resting.push_back((now_ns.saturating_add(REST_NS), number));
        }
        while let Some((_, number)) = self.resting.pop_front_if(|(until_ns, _)| now_ns >= *until_ns) {
            self.free.push(number);
        }
    }
}

fn absorb(kernel: &dyn FastTable, number: u32, table: &mut Table, slot: Slot) {
    let seen = kernel.seen(number);
    let record = table.record_mut(slot);
    // A datagram of the remote keeps nothing alive (R5, I19) but what anybody may begin anew, or what another instance says.
    let scenario = record.scenario();
    let both = record.proto == Proto::Tcp || scenario.comes_in() || scenario == Scenario::Private;
    let last_ns = if both { seen.out.last_ns.max(seen.incoming.last_ns) } else { seen.out.last_ns };
    if record.is_live() {
        record.last_seen = record.last_seen.max(Seen::at(last_ns));
    }
    if record.proto == Proto::Tcp {
        let mut track = record.tcp;
        track.catch_up([seen.out.tcp, seen.incoming.tcp]);
        record.tcp = track;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_a_second_and_of_many_entries_as_long_as_bounded_looks_take() {
        for (entries, round_ms) in [(1_000, 1_000), (131_072, 1_000), (1 << 20, 8_000)] {
            let mut cache = Cache { carried: vec![None; entries], ..Cache::default() };
            let mut seen = vec![0_u32; entries];
            // The first turn is of a clock that ran before.
            let (begun, turns) = (cache.due(5 * SECOND_NS).count(), round_ms / 2);
            for turn in 1..=turns {
                let due: Vec<u32> = cache.due(5 * SECOND_NS + turn * 2_000_000).collect();
                assert!(due.len() as u64 <= LOOKED_AT_PER_S / 500 + 1, "{entries}: {} in 2 ms", due.len());
                due.into_iter().for_each(|number| seen[number as usize] += 1);
            }
            assert!(begun as u64 <= LOOKED_AT_MAX);
            let missed = seen.iter().filter(|seen| **seen == 0).count();
            assert!(missed as u64 <= turns, "{entries}: {missed} were not looked at in {round_ms} ms");
            assert!(seen.iter().all(|seen| *seen <= 2), "{entries}: some of them often");
        }
    }
}
