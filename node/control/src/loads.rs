//! Live flows by pieces of port space, as owners counted them: which half of a lease drains (D4).

use bincode::{Decode, Encode};
use engine::ids::PortBlock;

use crate::buddy::halves;

/// Live flows on a piece of a leased block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PortLoad {
    /// The piece.
    pub block: PortBlock,
    /// Live flows with a port in it.
    pub flows: u32,
}

/// Live flows per piece of port space, sorted, so that a large pool is halved without searching all pieces each time.
pub(crate) struct Loads(Vec<PortLoad>);

impl Loads {
    pub(crate) fn new(hints: &[PortLoad]) -> Self {
        let mut loads = hints.to_vec();
        loads.sort_unstable_by_key(|load| load.block);
        Self(loads)
    }

    /// Flows of the pieces that lie in the block.
    pub(crate) fn flows(&self, block: PortBlock) -> u64 {
        let end = u32::from(block.start) + u32::from(block.len);
        let from = self.0.partition_point(|l| (l.block.frontend, l.block.start) < (block.frontend, block.start));
        let near = self.0[from..].iter();
        let near = near.take_while(|l| l.block.frontend == block.frontend && u32::from(l.block.start) < end);
        let inside = near.filter(|l| u32::from(l.block.start) + u32::from(l.block.len) <= end);
        inside.map(|l| u64::from(l.flows)).sum()
    }

    /// (the half to keep, the half to drain): fewer live flows drain, the upper half if equal (D4).
    pub(crate) fn split(&self, block: PortBlock) -> (PortBlock, PortBlock) {
        let (lower, upper) = halves(block);
        if self.flows(upper) > self.flows(lower) { (upper, lower) } else { (lower, upper) }
    }
}
