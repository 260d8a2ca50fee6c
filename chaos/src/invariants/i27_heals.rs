//! I27: when the faults are over, every shard has its members as voters, all of the newest lives, and an owner that serves.

use super::{Check, ensure};

/// `unwell` says what was missing all the time that was given.
///
/// # Errors
/// If something was.
pub fn check(unwell: Option<&str>, within_ms: u64) -> Check {
    ensure(unwell.is_none(), "I27", || format!("not whole within {within_ms} ms of the last fault: {unwell:?}"))
}
