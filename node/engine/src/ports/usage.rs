//! How many mappings, live and held, use each port: what a fence (F4) and `qnat ports` ask.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::ids::{FrontendId, PortBlock};

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

/// Mappings per port of a shard's frontends. Pages come with the first mapping in them and stay.
#[derive(Debug, Default)]
pub struct PortUsage {
    pages: HashMap<(FrontendId, u16), Box<Page>, FixedState>,
}

impl PortUsage {
    /// Live and held mappings on a block.
    #[must_use]
    pub fn flows(&self, block: &PortBlock) -> u64 {
        let u = self.block(block);
        u.live_flows + u.held_flows
    }

    /// Use of a block.
    #[must_use]
    pub fn block(&self, block: &PortBlock) -> BlockUse {
        let mut sum = BlockUse::default();
        for port in (block.start..=u16::MAX).take(usize::from(block.len)) {
            let Some(page) = self.pages.get(&(block.frontend, port >> PAGE_BITS)) else { continue };
            let at = usize::from(port) % PAGE;
            let (live, held) = (page.live[at], page.held[at]);
            sum.used += u32::from(live > 0);
            sum.held += u32::from(live == 0 && held > 0);
            sum.live_flows += u64::from(live);
            sum.held_flows += u64::from(held);
        }
        sum
    }

    pub(crate) fn open(&mut self, frontend: FrontendId, port: u16) {
        self.page(frontend, port).live[usize::from(port) % PAGE] += 1;
    }

    pub(crate) fn hold_new(&mut self, frontend: FrontendId, port: u16) {
        self.page(frontend, port).held[usize::from(port) % PAGE] += 1;
    }

    pub(crate) fn close(&mut self, frontend: FrontendId, port: u16) {
        let page = self.page(frontend, port);
        let at = usize::from(port) % PAGE;
        page.live[at] = page.live[at].checked_sub(1).expect("a live mapping was counted");
        page.held[at] += 1;
    }

    pub(crate) fn reopen(&mut self, frontend: FrontendId, port: u16) {
        self.release(frontend, port);
        self.open(frontend, port);
    }

    pub(crate) fn release(&mut self, frontend: FrontendId, port: u16) {
        let held = &mut self.page(frontend, port).held[usize::from(port) % PAGE];
        *held = held.checked_sub(1).expect("a held mapping was counted");
    }

    fn page(&mut self, frontend: FrontendId, port: u16) -> &mut Page {
        self.pages
            .entry((frontend, port >> PAGE_BITS))
            .or_insert_with(|| Box::new(Page { live: [0; PAGE], held: [0; PAGE] }))
    }
}
