//! How many mappings, live and held, use each port: what a fence (F4) and `qnat ports` ask.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::ids::{FrontendId, PortBlock};
use crate::map::Keyed;
use crate::record::is_untranslated;

const PAGE_BITS: u16 = 8;
const PAGE: usize = 1 << PAGE_BITS;

#[derive(Debug)]
struct Page {
    live: [u32; PAGE],
    held: [u32; PAGE],
}

/// Use of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockUse {
    /// Ports with at least one live mapping.
    pub used: u32,
    /// Ports without a live mapping but with held ones.
    pub held: u32,
    /// Live mappings.
    pub live_flows: u64,
    /// Held mappings.
    pub held_flows: u64,
}

/// A block whose emptiness is waited for.
#[derive(Clone, Copy, Debug)]
struct Watched {
    block: PortBlock,
    /// Live and held mappings on it.
    flows: u64,
}

/// Mappings per port of a shard's frontends. Pages come with the first mapping in them and stay as long as the frontend does.
/// Blocks that are watched have a count of their own, kept as mappings come and go.
#[derive(Debug, Default)]
pub struct PortUsage {
    pages: HashMap<(FrontendId, u16), Box<Page>, Keyed>,
    /// By frontend and first port; blocks do not overlap.
    watched: BTreeMap<(FrontendId, u16), Watched>,
    /// Watched blocks that have become empty since they were last taken, by frontend and first port.
    emptied: BTreeSet<(FrontendId, u16)>,
}

impl PortUsage {
    /// Live and held mappings on a block. Counted port by port unless the block is watched.
    #[must_use]
    pub fn flows(&self, block: &PortBlock) -> u64 {
        if let Some(watched) = self.watched.get(&(block.frontend, block.start)).filter(|w| w.block == *block) {
            return watched.flows;
        }
        let u = self.block(block);
        u.live_flows + u.held_flows
    }

    /// Use of a block.
    #[must_use]
    pub fn block(&self, block: &PortBlock) -> BlockUse {
        let mut sum = BlockUse::default();
        let (start, len) = (usize::from(block.start), usize::from(block.len));
        for number in start / PAGE..(start + len).div_ceil(PAGE) {
            let at = u16::try_from(number).ok().and_then(|number| self.pages.get(&(block.frontend, number)));
            let Some(page) = at else { continue };
            let ports = start.max(number * PAGE) - number * PAGE..(start + len - number * PAGE).min(PAGE);
            for (live, held) in page.live[ports.clone()].iter().zip(&page.held[ports]) {
                sum.used += u32::from(*live > 0);
                sum.held += u32::from(*live == 0 && *held > 0);
                sum.live_flows += u64::from(*live);
                sum.held_flows += u64::from(*held);
            }
        }
        sum
    }

    /// How many blocks are watched.
    pub(crate) fn watched(&self) -> usize {
        self.watched.len()
    }

    /// Watches exactly these blocks, which do not overlap; those that are empty now are told as emptied.
    pub(crate) fn watch(&mut self, blocks: impl Iterator<Item = PortBlock>) {
        let watched = blocks.map(|block| ((block.frontend, block.start), Watched { block, flows: self.flows(&block) }));
        let watched: BTreeMap<_, _> = watched.collect();
        self.emptied = watched.iter().filter(|(_, w)| w.flows == 0).map(|(at, _)| *at).collect();
        self.watched = watched;
    }

    /// Watched blocks that have become empty since this was asked last, by frontend and first port.
    pub(crate) fn take_emptied(&mut self) -> BTreeSet<(FrontendId, u16)> {
        std::mem::take(&mut self.emptied)
    }

    #[cfg(test)]
    pub(crate) fn emptied(&self, block: &PortBlock) -> bool {
        self.emptied.contains(&(block.frontend, block.start))
    }

    fn watched_at(&mut self, frontend: FrontendId, port: u16) -> Option<&mut Watched> {
        if self.watched.is_empty() {
            return None;
        }
        let (_, watched) = self.watched.range_mut(..=(frontend, port)).next_back()?;
        (watched.block.frontend == frontend && watched.block.contains(port)).then_some(watched)
    }

    fn count_one_more(&mut self, frontend: FrontendId, port: u16) {
        if let Some(watched) = self.watched_at(frontend, port) {
            watched.flows += 1;
        }
    }

    fn count_one_less(&mut self, frontend: FrontendId, port: u16) {
        let Some(watched) = self.watched_at(frontend, port) else { return };
        watched.flows = watched.flows.checked_sub(1).expect("a mapping on a watched block was counted");
        if watched.flows == 0 {
            let at = (watched.block.frontend, watched.block.start);
            self.emptied.insert(at);
        }
    }

    pub(crate) fn open(&mut self, frontend: FrontendId, port: u16) {
        if is_untranslated(frontend) {
            return;
        }
        self.count_one_more(frontend, port);
        self.page(frontend, port).live[usize::from(port) % PAGE] += 1;
    }

    pub(crate) fn hold_new(&mut self, frontend: FrontendId, port: u16) {
        if is_untranslated(frontend) {
            return;
        }
        self.count_one_more(frontend, port);
        self.page(frontend, port).held[usize::from(port) % PAGE] += 1;
    }

    pub(crate) fn close(&mut self, frontend: FrontendId, port: u16) {
        if is_untranslated(frontend) {
            return;
        }
        let page = self.page(frontend, port);
        let at = usize::from(port) % PAGE;
        page.live[at] = page.live[at].checked_sub(1).expect("a live mapping was counted");
        page.held[at] += 1;
    }

    pub(crate) fn reopen(&mut self, frontend: FrontendId, port: u16) {
        if is_untranslated(frontend) {
            return;
        }
        // Neither one less nor one more: its block is never empty in between.
        let page = self.page(frontend, port);
        let at = usize::from(port) % PAGE;
        page.held[at] = page.held[at].checked_sub(1).expect("a held mapping was counted");
        page.live[at] += 1;
    }

    pub(crate) fn release(&mut self, frontend: FrontendId, port: u16) {
        if is_untranslated(frontend) {
            return;
        }
        self.count_one_less(frontend, port);
        let held = &mut self.page(frontend, port).held[usize::from(port) % PAGE];
        *held = held.checked_sub(1).expect("a held mapping was counted");
    }

    /// Frees the pages of a frontend that have no mapping. Returns whether none is left.
    pub(crate) fn forget(&mut self, frontend: FrontendId) -> bool {
        let mut all = true;
        for number in 0..=u16::MAX >> PAGE_BITS {
            let Some(page) = self.pages.get(&(frontend, number)) else { continue };
            let unused = page.live.iter().chain(&page.held).all(|count| *count == 0);
            if unused {
                self.pages.remove(&(frontend, number));
            }
            all &= unused;
        }
        all
    }

    fn page(&mut self, frontend: FrontendId, port: u16) -> &mut Page {
        self.pages
            .entry((frontend, port >> PAGE_BITS))
            .or_insert_with(|| Box::new(Page { live: [0; PAGE], held: [0; PAGE] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_that_is_gone_keeps_no_page_once_its_last_mapping_is() {
        let (gone, stays) = (FrontendId(1), FrontendId(2));
        let mut usage = PortUsage::default();
        for frontend in [gone, stays] {
            [1024, 1025, 65_535].into_iter().for_each(|port| usage.open(frontend, port));
        }
        usage.close(gone, 65_535);
        [1024, 1025].into_iter().for_each(|port| {
            usage.close(gone, port);
            usage.release(gone, port);
        });
        assert!(!usage.forget(gone), "one is held");
        assert_eq!(usage.pages.len(), 3);
        usage.release(gone, 65_535);
        assert!(usage.forget(gone));
        assert!(usage.pages.keys().all(|(frontend, _)| *frontend == stays));
        assert_eq!(usage.pages.len(), 2);
    }
}
