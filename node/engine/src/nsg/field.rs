//! One field of a rule set: for each value of it, the rules that take it.
//!
//! A value lies in one of the intervals that the ranges of all rules cut. An interval has a row of bits, one per rule in the order
//! of the rules. Most rules take any value of most fields, so a row says only in which words it differs from the row of those, and
//! which words have a bit at all: whoever looks for the first bit that several rows share looks at few of them.

use std::collections::BTreeMap;

/// Values from the first to the last, both taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// The last; not below the first.
    pub last: u32,
}

impl Range {
    /// One value.
    #[must_use]
    pub const fn one(value: u32) -> Self {
        Self { first: value, last: value }
    }

    /// Whether it has the value.
    #[must_use]
    pub const fn contains(self, value: u32) -> bool {
        self.first <= value && value <= self.last
    }
}

/// Bits in a word.
pub(super) const WORD: usize = u64::BITS as usize;

/// Compiled; see above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Field {
    /// Where each interval begins; the first one at 0.
    begins: Box<[u32]>,
    /// Where each interval's row begins in `rows`.
    row_of: Box<[u32]>,
    /// Rows, each once: which words have a bit and which differ (`masks` words each, a bit per word), then the differing ones
    /// that have one.
    rows: Box<[u64]>,
    /// The row of the rules that take any value.
    any: Box<[u64]>,
    masks: usize,
}

/// What a field says of one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    filled: &'a [u64],
    differs: &'a [u64],
    words: &'a [u64],
    any: &'a [u64],
}

impl Row<'_> {
    /// Which of the words `64 * mask` and the following have a bit.
    pub(super) fn filled(&self, mask: usize) -> u64 {
        self.filled[mask]
    }

    /// The bits of the rules `64 * at` and the following; of a word that has one.
    pub(super) fn word(&self, at: usize) -> u64 {
        let (mask, bit) = (at / WORD, at % WORD);
        if self.differs[mask] & 1 << bit == 0 {
            return self.any[at];
        }
        let stored = |mask: usize| self.differs[mask] & self.filled[mask];
        let before: u32 = (0..mask).map(|mask| stored(mask).count_ones()).sum();
        let within = (stored(mask) & ((1 << bit) - 1)).count_ones();
        self.words[(before + within) as usize]
    }
}

impl Field {
    /// The field of rules that take these ranges; none: any value.
    pub(super) fn new<'a>(rules: impl ExactSizeIterator<Item = &'a [Range]> + Clone) -> Self {
        let words = rules.len().div_ceil(WORD);
        let masks = words.div_ceil(WORD);
        let mut any = vec![0; words];
        let mut begins = vec![0];
        // Where a rule begins to take values, and where it takes no more.
        let mut edges: Vec<(u32, usize, bool)> = Vec::new();
        for (rule, ranges) in rules.enumerate() {
            if ranges.is_empty() {
                any[rule / WORD] |= 1 << (rule % WORD);
            }
            for range in merged(ranges) {
                edges.push((range.first, rule, true));
                edges.extend(range.last.checked_add(1).map(|behind| (behind, rule, false)));
            }
        }
        edges.sort_unstable();
        begins.extend(edges.iter().map(|(at, ..)| *at));
        begins.dedup();
        let mut field =
            Self { begins: Box::default(), row_of: Box::default(), rows: Box::default(), any: any.into(), masks };
        let (mut rows, mut row_of, mut known) = (Vec::new(), Vec::with_capacity(begins.len()), BTreeMap::new());
        let (mut now, mut edges) = (field.any.to_vec(), edges.into_iter().peekable());
        for begin in &begins {
            while let Some((_, rule, takes)) = edges.next_if(|(at, ..)| at <= begin) {
                let bit = 1 << (rule % WORD);
                if takes { now[rule / WORD] |= bit } else { now[rule / WORD] &= !bit }
            }
            let row = field.packed(&now);
            let place = u32::try_from(rows.len()).expect("bounded by RULES_MAX and the ranges that a rule may have");
            row_of.push(*known.entry(row).or_insert_with_key(|row: &Vec<u64>| {
                rows.extend(row);
                place
            }));
        }
        (field.begins, field.row_of, field.rows) = (begins.into(), row_of.into(), rows.into());
        field
    }

    fn packed(&self, now: &[u64]) -> Vec<u64> {
        let mut row = vec![0; 2 * self.masks];
        for (at, (now, any)) in now.iter().zip(&self.any).enumerate() {
            let (mask, bit) = (at / WORD, 1 << (at % WORD));
            if *now != 0 {
                row[mask] |= bit;
            }
            if now != any {
                row[self.masks + mask] |= bit;
                row.extend(Some(*now).filter(|now| *now != 0));
            }
        }
        row
    }

    pub(super) fn row(&self, value: u32) -> Row<'_> {
        let interval = self.begins.partition_point(|begin| *begin <= value) - 1;
        let row = &self.rows[self.row_of[interval] as usize..];
        let (filled, row) = row.split_at(self.masks);
        let (differs, words) = row.split_at(self.masks);
        Row { filled, differs, words, any: &self.any }
    }

    /// Octets of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.begins) + size_of_val(&*self.row_of) + size_of_val(&*self.rows) + size_of_val(&*self.any)
    }
}

/// The same values by ranges that neither overlap nor touch.
fn merged(ranges: &[Range]) -> Vec<Range> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}
