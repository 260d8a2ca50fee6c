//! Free ports of one frontend as maximal buddies (D3).
//!
//! A view, not a state: it is built from what is in use, so it cannot drift from the leases. Blocks are powers of two,
//! aligned to their length, at most [`tier::BLOCK_LEN_MAX`] long. Used by `allocation` only.

use std::collections::BTreeSet;

use engine::ids::{FrontendId, PortBlock};

use crate::tier;

/// Free blocks of one frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FreeBlocks {
    frontend: FrontendId,
    // (length, start): the best fit is the first entry of at least the wanted length.
    blocks: BTreeSet<(u16, u16)>,
    ports: u32,
}

impl FreeBlocks {
    /// What is left beside the blocks in use and the reserved ports. Used blocks may come in any order.
    pub(crate) fn new(frontend: FrontendId, used: &[PortBlock], reserved: &BTreeSet<u16>) -> Self {
        let mut taken: Vec<(u32, u32)> =
            used.iter().map(|b| (b.start.into(), u32::from(b.start) + u32::from(b.len))).collect();
        // A reserved port spoils the smallest block that is newly given.
        let unit = u32::from(tier::BLOCK_LEN_MIN);
        taken.extend(reserved.iter().map(|port| u32::from(*port) / unit * unit).map(|start| (start, start + unit)));
        taken.sort_unstable();
        let mut free = Self { frontend, blocks: BTreeSet::new(), ports: 0 };
        let mut at = u32::from(tier::PORT_MIN);
        for (start, end) in taken {
            free.insert_range(at, start);
            at = at.max(end);
        }
        free.insert_range(at, 1 << 16);
        free
    }

    /// Whether a block of `len` is free in one piece.
    pub(crate) fn fits(&self, len: u16) -> bool {
        self.blocks.last().is_some_and(|(largest, _)| *largest >= len)
    }

    /// Free ports in all.
    pub(crate) fn ports(&self) -> u32 {
        self.ports
    }

    /// Takes a block of `len`, a power of two, from the smallest free block that holds it.
    pub(crate) fn take(&mut self, len: u16) -> Option<PortBlock> {
        let (mut size, start) = *self.blocks.range((len, 0)..).next()?;
        self.blocks.remove(&(size, start));
        while size > len {
            size /= 2;
            self.blocks.insert((size, start + size));
        }
        self.ports -= u32::from(len);
        Some(PortBlock { frontend: self.frontend, start, len })
    }

    /// Takes this very block, if it is free.
    pub(crate) fn take_exactly(&mut self, block: PortBlock) -> bool {
        let holds = |&&(size, start): &&(u16, u16)| start <= block.start && block.start - start < size;
        let Some(&(mut size, mut start)) = self.blocks.range((block.len, 0)..).find(holds) else { return false };
        self.blocks.remove(&(size, start));
        while size > block.len {
            size /= 2;
            let upper = start + size;
            if block.start >= upper {
                self.blocks.insert((size, start));
                start = upper;
            } else {
                self.blocks.insert((size, upper));
            }
        }
        self.ports -= u32::from(block.len);
        true
    }

    /// Cuts a free range into maximal buddies.
    fn insert_range(&mut self, mut at: u32, end: u32) {
        while at < end {
            let aligned = 1 << at.trailing_zeros().min(u32::from(tier::BLOCK_LEN_MAX).trailing_zeros());
            let mut len: u32 = aligned;
            while at + len > end {
                len /= 2;
            }
            let narrow =
                |n: u32| u16::try_from(n).expect("a free range lies within the ports, and blocks are at most 1024");
            self.blocks.insert((narrow(len), narrow(at)));
            self.ports += len;
            at += len;
        }
    }
}

/// The lower and the upper half of a block of at least two ports.
pub(crate) fn halves(block: PortBlock) -> (PortBlock, PortBlock) {
    let len = block.len / 2;
    (PortBlock { len, ..block }, PortBlock { start: block.start + len, len, ..block })
}

/// The block that completes this one to the next size.
pub(crate) fn buddy_of(block: PortBlock) -> PortBlock {
    PortBlock { start: block.start ^ block.len, ..block }
}

/// Sorts blocks and merges buddies.
pub(crate) fn coalesce(blocks: &mut Vec<PortBlock>) {
    loop {
        blocks.sort_unstable();
        let pair = blocks.windows(2).position(|pair| {
            pair[0].len == pair[1].len && pair[0].len < tier::BLOCK_LEN_MAX && buddy_of(pair[0]) == pair[1]
        });
        let Some(at) = pair else { return };
        blocks[at].len *= 2;
        blocks.remove(at + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FrontendId = FrontendId(7);

    fn block(start: u16, len: u16) -> PortBlock {
        PortBlock { frontend: F, start, len }
    }

    #[test]
    fn an_empty_frontend_has_63_blocks_of_1024() {
        let free = FreeBlocks::new(F, &[], &BTreeSet::new());
        assert_eq!(free.blocks.len(), 63);
        assert_eq!(free.ports(), 64_512);
        assert_eq!(free.blocks.first(), Some(&(1024, 1024)));
        assert_eq!(free.blocks.last(), Some(&(1024, 64_512)));
    }

    #[test]
    fn small_blocks_come_from_the_smallest_free_block() {
        let mut free = FreeBlocks::new(F, &[block(1024, 32)], &BTreeSet::new());
        assert_eq!(free.take(32), Some(block(1056, 32)));
        assert_eq!(free.take(32), Some(block(1088, 32)));
        assert_eq!(free.take(1024), Some(block(2048, 1024)));
        assert_eq!(free.ports(), 64_512 - 32 * 3 - 1024);
    }

    #[test]
    fn a_reserved_port_spoils_its_32_and_the_1024_around_it() {
        let mut free = FreeBlocks::new(F, &[], &BTreeSet::from([1500]));
        assert_eq!(free.take(1024), Some(block(2048, 1024)));
        let mut given = Vec::new();
        while let Some(b) = free.take(32) {
            given.push(b);
        }
        assert!(given.iter().all(|b| !b.contains(1500)));
        assert_eq!(given.len() * 32, 64_512 - 1024 - 32);
    }

    #[test]
    fn taking_and_rebuilding_agree() {
        let mut free = FreeBlocks::new(F, &[], &BTreeSet::new());
        let mut used = Vec::new();
        for len in [1024, 32, 512, 64, 8, 1024, 256, 32] {
            used.push(free.take(len).expect("room"));
        }
        assert!(free.take_exactly(block(40_960, 128)));
        used.push(block(40_960, 128));
        assert!(!free.take_exactly(block(40_960, 64)), "no longer free");
        assert_eq!(free, FreeBlocks::new(F, &used, &BTreeSet::new()));
    }

    #[test]
    fn buddies_merge_up_to_1024() {
        let mut blocks = vec![block(2048 + 512, 512), block(2048, 256), block(2048 + 256, 256), block(3072, 1024)];
        coalesce(&mut blocks);
        assert_eq!(blocks, vec![block(2048, 1024), block(3072, 1024)]);
    }
}
