//! A hash index from keys to slots. Hot path. Keeps 32 bits of each hash beside the slot, so that a lookup touches the
//! slab only for a likely match, and growing touches it not at all.
//!
//! A lookup reads one cache line of cells, seldom a second one: linear probing by lines, whose cells fill from the first. It is
//! written here because a general hash table keeps its marks apart from its cells, and so makes a processor wait for main
//! memory twice.
//!
//! It is cut into parts that grow one by one: a hash table that grows moves all its cells at once, and packets would wait
//! for ten million of them.

/// A part of ten million cells has forty thousand, which move in less than a millisecond.
const PARTS: usize = 256;
/// Cells of a line.
const LINE: usize = 8;
/// Of five cells four are used at most, so that nearly every key is found in the line where the search begins; and a part grows
/// by a quarter, so that three of five are used at least.
const USED_MAX: (usize, usize) = (4, 5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    slot: u32,
    tag: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([Cell; LINE]);

const _: () = assert!(size_of::<Cell>() == 8, "two index cells per flow are part of the memory budget");
const _: () = assert!(size_of::<Line>() == 64, "a line of cells is a line of the cache");

impl Cell {
    /// No slab has a slot of this number.
    const EMPTY: Self = Self { slot: u32::MAX, tag: 0 };

    fn is_empty(self) -> bool {
        self.slot == Self::EMPTY.slot
    }
}

/// Slots by the tag of their key; the caller compares keys.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[Part; PARTS]>,
}

#[derive(Debug)]
struct Part {
    lines: Vec<Line>,
    used: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: Box::new([const { Part { lines: Vec::new(), used: 0 } }; PARTS]) }
    }
}

impl Index {
    /// By the top bits of the tag; the others choose the line.
    fn part(&self, tag: u32) -> &Part {
        let [part, ..] = tag.to_be_bytes();
        &self.parts[usize::from(part)]
    }

    fn part_mut(&mut self, tag: u32) -> &mut Part {
        let [part, ..] = tag.to_be_bytes();
        &mut self.parts[usize::from(part)]
    }

    pub(super) fn find(&self, tag: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let part = self.part(tag);
        part.position(tag, is).map(|at| part.cell(at).slot)
    }

    /// The slot that `find` would look at first, without looking at it.
    pub(super) fn guess(&self, tag: u32) -> Option<u32> {
        self.find(tag, |_| true)
    }

    /// Something of the line where a search begins.
    pub(super) fn begin(&self, tag: u32) -> u32 {
        let part = self.part(tag);
        part.lines.get(part.home(tag)).map_or(0, |line| line.0[0].slot)
    }

    /// Points the key at `slot`; `is` tells a cell of the same key, which is replaced. Returns the slot replaced.
    pub(super) fn set(&mut self, tag: u32, slot: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let part = self.part_mut(tag);
        if let Some(at) = part.position(tag, is) {
            return Some(std::mem::replace(&mut part.cell_mut(at).slot, slot));
        }
        part.insert(Cell { slot, tag });
        None
    }

    /// Forgets `slot` if the key points at it.
    pub(super) fn remove(&mut self, tag: u32, slot: u32) {
        let part = self.part_mut(tag);
        if let Some(at) = part.position(tag, |s| s == slot) {
            part.remove(at);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.lines.capacity() * size_of::<Line>()).sum()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Part {
    /// The line where the search for a tag begins: they stand in the order of their tags' lower bits, so that a part that
    /// grows is read and written from its beginning to its end.
    fn home(&self, tag: u32) -> usize {
        let lower = u64::from(tag << 8);
        usize::try_from((lower * self.lines.len() as u64) >> 32).expect("a line of this part")
    }

    fn cell(&self, at: usize) -> Cell {
        self.lines[at / LINE].0[at % LINE]
    }

    fn cell_mut(&mut self, at: usize) -> &mut Cell {
        &mut self.lines[at / LINE].0[at % LINE]
    }

    fn cells(&self) -> usize {
        self.lines.len() * LINE
    }

    /// Where the first cell of `tag` stands whose slot `is` the right one.
    fn position(&self, tag: u32, is: impl Fn(u32) -> bool) -> Option<usize> {
        let mut at = self.home(tag);
        loop {
            let line = &self.lines.get(at)?.0;
            // All cells at once: where the tag stands cannot be foretold, and a wrong guess costs more than eight comparisons.
            let mut same =
                line.iter().enumerate().fold(0_u32, |bits, (n, cell)| bits | u32::from(cell.tag == tag) << n);
            while same != 0 {
                let n = same.trailing_zeros() as usize;
                let cell = line[n];
                if !cell.is_empty() && is(cell.slot) {
                    return Some(at * LINE + n);
                }
                same &= same - 1;
            }
            // Lines fill from the first cell on, and none is left empty between a key and where its search begins.
            if line[LINE - 1].is_empty() {
                return None;
            }
            at = if at + 1 == self.lines.len() { 0 } else { at + 1 };
        }
    }

    fn insert(&mut self, cell: Cell) {
        if (self.used + 1) * USED_MAX.1 > self.cells() * USED_MAX.0 {
            self.grow();
        }
        self.put(cell);
    }

    fn put(&mut self, cell: Cell) {
        let mut at = self.home(cell.tag) * LINE;
        while !self.cell(at).is_empty() {
            at = self.next(at);
        }
        *self.cell_mut(at) = cell;
        self.used += 1;
    }

    fn grow(&mut self) {
        let lines = self.lines.len() + (self.lines.len() / 4).max(1);
        let old = std::mem::replace(&mut self.lines, vec![Line([Cell::EMPTY; LINE]); lines]);
        self.used = 0;
        for line in old {
            for cell in line.0 {
                if !cell.is_empty() {
                    self.put(cell);
                }
            }
        }
    }

    /// Empties a cell, and moves up those behind it that may stand there.
    fn remove(&mut self, mut hole: usize) {
        let mut at = hole;
        loop {
            at = self.next(at);
            let cell = self.cell(at);
            if cell.is_empty() {
                break;
            }
            if self.distance(self.home(cell.tag) * LINE, at) >= self.distance(hole, at) {
                *self.cell_mut(hole) = cell;
                hole = at;
            }
        }
        *self.cell_mut(hole) = Cell::EMPTY;
        self.used -= 1;
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.cells() { 0 } else { at + 1 }
    }

    /// Cells from one to a later one, around the end.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.cells() - from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Few different tags, so that lines run over, also around the end of a part.
        #[test]
        fn an_index_finds_what_a_map_has(ops in prop::collection::vec((any::<bool>(), 0_u32..60, 0_u32..3), 0..400), spread in 1_u32..0x4000) {
            let mut index = Index::default();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            // The key is the slot's lower half: several of them share a tag.
            let tag = |key: u32| (key / 2) * spread + 0x07ff_ff00;
            for (set, key, version) in ops {
                let slot = version << 16 | key;
                if set {
                    prop_assert_eq!(index.set(tag(key), slot, |s| s & 0xffff == key), model.insert(key, slot));
                } else if let Some(slot) = model.remove(&key) {
                    index.remove(tag(key), slot);
                }
                index.remove(tag(key), 0xffff_0000 | key);
                for key in 0..60 {
                    let found = index.find(tag(key), |s| s & 0xffff == key);
                    prop_assert_eq!(found, model.get(&key).copied());
                    prop_assert_eq!(index.guess(tag(key)).is_some(), model.contains_key(&(key & !1)) || model.contains_key(&(key | 1)));
                }
            }
            for part in &*index.parts {
                prop_assert_eq!(part.used, part.lines.iter().flat_map(|line| line.0).filter(|cell| !cell.is_empty()).count());
                prop_assert!(part.used * 5 <= part.cells() * 4);
                for line in &part.lines {
                    prop_assert!(line.0.is_sorted_by_key(|cell| cell.is_empty()), "lines fill from the first cell on");
                }
            }
        }
    }

    #[test]
    fn a_part_grows_by_little_and_takes_little() {
        let mut index = Index::default();
        for n in 0..1_000_000_u32 {
            index.set(n.wrapping_mul(0x9e37_79b9), n, |_| false);
        }
        assert!((0..1_000_000_u32).all(|n| index.find(n.wrapping_mul(0x9e37_79b9), |s| s == n) == Some(n)));
        assert!(index.bytes() <= 13_000_000, "{} octets", index.bytes());
        assert!(index.bytes() >= 10_000_000, "{} octets", index.bytes());
    }
}
