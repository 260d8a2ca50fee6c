//! I12: a block is given back only through the log, and only when nothing is left on it (F4).

use std::fmt::Debug;

use engine::ids::{PortBlock, ShardId};

use super::{Check, ensure};

/// Checks a fence that is being committed, with what is left on its block.
///
/// # Errors
/// If a mapping, live or held, is on the block.
pub fn check(left: Option<&impl Debug>, shard: ShardId, block: &PortBlock) -> Check {
    ensure(left.is_none(), "I12", || format!("shard {shard}: {block:?} was fenced with {left:?} on it"))
}
