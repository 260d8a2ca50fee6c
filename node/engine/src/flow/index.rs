//! A hash index from keys to slots. Hot path. Keeps 32 bits of each hash beside the slot, so that a lookup touches the
//! slab only for a likely match, and growing touches it not at all.
//!
//! It is cut into parts that grow one by one: a hash table that grows moves all its cells at once, and packets would wait
//! for ten million of them.

use hashbrown::HashTable;

/// A part of ten million cells has forty thousand, which move in less than a millisecond.
const PARTS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Cell {
    slot: u32,
    tag: u32,
}

const _: () = assert!(size_of::<Cell>() == 8, "two index cells per flow are part of the memory budget");

/// Slots by the tag of their key; the caller compares keys.
#[derive(Debug)]
pub(super) struct Index {
    parts: Box<[HashTable<Cell>; PARTS]>,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: Box::new([const { HashTable::new() }; PARTS]) }
    }
}

/// hashbrown takes the bucket from the low bits and its fingerprint from the top seven.
const fn spread(tag: u32) -> u64 {
    (tag as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// By the top bits: the low ones choose the bucket.
const fn place(tag: u32) -> usize {
    let [part, ..] = tag.to_be_bytes();
    part as usize
}

impl Index {
    pub(super) fn find(&self, tag: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.parts[place(tag)].find(spread(tag), |c| c.tag == tag && is(c.slot)).map(|c| c.slot)
    }

    /// The slot that `find` would look at first, without looking at it.
    pub(super) fn guess(&self, tag: u32) -> Option<u32> {
        self.find(tag, |_| true)
    }

    /// Points the key at `slot`; `is` tells a cell of the same key, which is replaced. Returns the slot replaced.
    pub(super) fn set(&mut self, tag: u32, slot: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let part = &mut self.parts[place(tag)];
        if let Some(cell) = part.find_mut(spread(tag), |c| c.tag == tag && is(c.slot)) {
            return Some(std::mem::replace(&mut cell.slot, slot));
        }
        part.insert_unique(spread(tag), Cell { slot, tag }, |c| spread(c.tag));
        None
    }

    /// Forgets `slot` if the key points at it.
    pub(super) fn remove(&mut self, tag: u32, slot: u32) {
        if let Ok(cell) = self.parts[place(tag)].find_entry(spread(tag), |c| c.tag == tag && c.slot == slot) {
            cell.remove();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(HashTable::allocation_size).sum()
    }

    pub(super) fn clear(&mut self) {
        self.parts.iter_mut().for_each(HashTable::clear);
    }
}
