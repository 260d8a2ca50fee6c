//! The blocks of a shard that drain: how long each has, by this node's clock, since a drain waits for its flows but not
//! for ever (D5), and which of them may be empty and so be fenced (F4).
//!
//! Every replica keeps it, so that a successor does not begin anew. It is told of blocks when a snapshot is loaded and of
//! empty ones when that happens, and never looks through ports. It closes nothing itself. Called by the shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::flow::Table;
use crate::ids::{ControlIndex, FrontendId, PortBlock};
use crate::snapshot::{DRAIN_MAX_MS, Draining, OnReclaim};

const DRAIN_MAX_NS: u64 = DRAIN_MAX_MS as u64 * 1_000_000;

/// Whether a block still waits for its flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// Since then.
    Since { ns: u64 },
    /// It has waited long enough.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    draining: Draining,
    wait: Wait,
}

/// The blocks of one shard that drain.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    /// The list that named them.
    noted: Option<Arc<[Draining]>>,
    /// By frontend and first port; blocks do not overlap.
    blocks: BTreeMap<(FrontendId, u16), Drain>,
    /// The earliest end of a wait that is not over.
    next_end_ns: Option<u64>,
    /// Blocks that were empty when they were last looked at and are not fenced.
    unfenced: BTreeSet<(FrontendId, u16)>,
    /// Whether each block is to be looked at again: a snapshot, a term or a stream is new.
    examine: bool,
}

impl Drains {
    /// Takes note of the blocks that drain now, at no cost if they are the very same as before.
    pub(crate) fn note(&mut self, now_ns: u64, draining: &Arc<[Draining]>) {
        if self.noted.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, draining)) {
            return;
        }
        self.noted = Some(Arc::clone(draining));
        let mut before = std::mem::take(&mut self.blocks);
        for draining in draining.iter() {
            let known = before.remove(&place(&draining.block)).filter(|known| known.draining == *draining);
            let fresh = Drain { draining: *draining, wait: Wait::Since { ns: now_ns } };
            self.blocks.insert(place(&draining.block), known.unwrap_or(fresh));
        }
        self.set_next_end();
        self.examine = true;
    }

    /// Whether a block has waited long enough since this was asked last: its flows are to be judged again.
    pub(crate) fn end(&mut self, now_ns: u64) -> bool {
        if self.next_end_ns.is_none_or(|at| now_ns < at) {
            return false;
        }
        for drain in self.blocks.values_mut() {
            if end_of(drain).is_some_and(|at| now_ns >= at) {
                drain.wait = Wait::Over;
            }
        }
        self.set_next_end();
        true
    }

    /// Whether flows may stay on the port although it is outside its backend's lease.
    pub(crate) fn allows(&self, frontend: FrontendId, port: u16) -> bool {
        let before = self.blocks.range(..=(frontend, port)).next_back().map(|(_, drain)| drain);
        let block = before.filter(|d| d.draining.block.frontend == frontend && d.draining.block.contains(port));
        block.is_some_and(|d| match d.draining.on_reclaim {
            OnReclaim::Keep => true,
            OnReclaim::Drain => d.wait != Wait::Over,
            OnReclaim::Expire | OnReclaim::Reset => false,
        })
    }

    /// All blocks are looked at again: fences that were proposed may be lost (F4, F8).
    pub(crate) fn examine_again(&mut self) {
        self.examine = true;
    }

    /// Drained blocks without a flow, live or held, for which no fence is known to be under way. Only what has become
    /// empty since it was last asked is looked at.
    pub(crate) fn empty(&mut self, table: &mut Table) -> Vec<(PortBlock, ControlIndex)> {
        if std::mem::take(&mut self.examine) || table.usage().watched() != self.blocks.len() {
            table.watch(self.blocks.values().map(|drain| drain.draining.block));
            self.unfenced.clear();
        }
        self.unfenced.append(&mut table.take_emptied());
        let (blocks, usage) = (&self.blocks, table.usage());
        // One that is used again becomes empty again, and is told then.
        self.unfenced.retain(|at| blocks.get(at).is_some_and(|d| usage.flows(&d.draining.block) == 0));
        let empty = self.unfenced.iter().filter_map(|at| self.blocks.get(at));
        empty.map(|d| (d.draining.block, d.draining.reclaim_index)).collect()
    }

    /// A fence of the block is under way, or committed.
    pub(crate) fn fenced(&mut self, block: &PortBlock) {
        self.unfenced.remove(&place(block));
    }

    fn set_next_end(&mut self) {
        self.next_end_ns = self.blocks.values().filter_map(end_of).min();
    }
}

/// When a block that waits for its flows has waited long enough.
fn end_of(drain: &Drain) -> Option<u64> {
    match drain.wait {
        Wait::Since { ns } if drain.draining.on_reclaim == OnReclaim::Drain => Some(ns.saturating_add(DRAIN_MAX_NS)),
        Wait::Since { .. } | Wait::Over => None,
    }
}

fn place(block: &PortBlock) -> (FrontendId, u16) {
    (block.frontend, block.start)
}
