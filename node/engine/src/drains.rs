//! How long the blocks of a shard have been draining, by this node's clock: a drain waits for its flows, but not for ever
//! (D5). Every replica keeps it, so that a successor does not begin anew. It closes nothing itself. Called by the shard.

use std::collections::BTreeMap;

use crate::ids::{ControlIndex, PortBlock};
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

/// The blocks of one shard that drain.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    waits: BTreeMap<(PortBlock, ControlIndex), Wait>,
}

impl Drains {
    /// Takes note of the blocks that drain now.
    pub(crate) fn note(&mut self, now_ns: u64, draining: &[Draining]) {
        self.waits.retain(|key, _| draining.iter().any(|d| key_of(d) == *key));
        for draining in draining.iter().filter(|d| d.on_reclaim == OnReclaim::Drain) {
            self.waits.entry(key_of(draining)).or_insert(Wait::Since { ns: now_ns });
        }
    }

    /// Whether a block has waited long enough since this was asked last: its flows are to be judged again.
    pub(crate) fn end(&mut self, now_ns: u64) -> bool {
        let mut ended = false;
        for wait in self.waits.values_mut() {
            if let Wait::Since { ns } = *wait
                && now_ns >= ns.saturating_add(DRAIN_MAX_NS)
            {
                *wait = Wait::Over;
                ended = true;
            }
        }
        ended
    }

    /// Whether flows may stay on the block.
    pub(crate) fn allows(&self, draining: &Draining) -> bool {
        draining.on_reclaim == OnReclaim::Drain && self.waits.get(&key_of(draining)) != Some(&Wait::Over)
    }
}

fn key_of(draining: &Draining) -> (PortBlock, ControlIndex) {
    (draining.block, draining.reclaim_index)
}
