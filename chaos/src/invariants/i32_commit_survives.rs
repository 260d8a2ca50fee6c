//! I32: an acknowledged commit survives the loss of any minority.
//!
//! An entry counts as acknowledged as soon as any member has applied it, because a packet may then have left under it.
//! From there on every member that reaches its index finds exactly it there, whoever leads by then, and an epoch that
//! continues from a survivor's log continues behind it.

use engine::ids::ShardId;

use super::{Check, ensure};

/// One entry: its term and bytes.
pub type Entry<'a> = (u64, &'a [u8]);

/// A member applies `found` at an index where another one applied `acknowledged`.
///
/// # Errors
/// If they differ.
pub fn same(shard: ShardId, at: (u32, u64), acknowledged: Option<Entry<'_>>, found: Entry<'_>) -> Check {
    ensure(acknowledged == Some(found), "I32", || {
        let terms = (acknowledged.map(|entry| entry.0), found.0);
        format!(
            "shard {shard} epoch {} index {}: acknowledged in term {:?}, found term {}",
            at.0, at.1, terms.0, terms.1
        )
    })
}

/// A new epoch continues behind `base`; entries up to `acknowledged` had been applied by somebody.
///
/// # Errors
/// If some are lost.
pub fn continued(shard: ShardId, epoch: u32, acknowledged: u64, base: u64) -> Check {
    ensure(base >= acknowledged, "I32", || {
        format!("shard {shard} continues in epoch {epoch} behind index {base}, {acknowledged} was acknowledged")
    })
}
