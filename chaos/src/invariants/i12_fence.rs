//! I12: a block is given back only through the log, and only when nothing is left on it (F4).

use engine::ids::{PortBlock, ShardId};

use super::committed::Committed;
use super::{Check, ensure};

/// Checks a fence that is being committed.
///
/// # Errors
/// If a mapping, live or held, is on the block.
pub fn check(committed: &Committed, shard: ShardId, block: &PortBlock) -> Check {
    let left = committed.on_block(shard, block);
    ensure(left.is_none(), "I12", || format!("shard {shard}: {block:?} was fenced with {left:?} on it"))
}
