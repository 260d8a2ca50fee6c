//! I29: ports that are taken back return within the hold and 2 s, and what a fence and its report take.

use control::state::State;

use super::{Check, ensure};

/// `waited_ms` have passed since nothing was amiss any more and nothing was changed; blocks whose flows close at once must
/// all be back.
///
/// # Errors
/// If some still drain.
pub fn check(newest: &State, waited_ms: u64, allowed_ms: u64) -> Check {
    let drains = &newest.allocation().drains;
    ensure(drains.is_empty() || waited_ms < allowed_ms, "I29", || {
        format!("blocks still drain after {waited_ms} ms: {drains:?}")
    })
}
