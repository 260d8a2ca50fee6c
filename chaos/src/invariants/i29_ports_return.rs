//! I29: ports that are taken back return within the hold and 2 s, and what a fence and its report take.

use control::allocation::Drain;
use control::state::State;
use engine::ids::PortBlock;
use engine::snapshot::OnReclaim;

use super::{Check, ensure};

/// `waited_ms` have passed since nothing was amiss any more and nothing was changed; blocks whose flows close at once must
/// all be back.
///
/// # Errors
/// If some still drain.
pub fn check(newest: &State, waited_ms: u64, allowed_ms: u64) -> Check {
    let drains: Vec<_> = waiting(newest).collect();
    ensure(drains.is_empty() || waited_ms < allowed_ms, "I29", || {
        format!("blocks still drain after {waited_ms} ms: {drains:?}")
    })
}

/// Blocks on their way back whose flows close at once. Those of an own address that was taken end by themselves (D12).
pub fn waiting(newest: &State) -> impl Iterator<Item = (&PortBlock, &Drain)> {
    let at_once = |drain: &Drain| matches!(drain.on_reclaim, OnReclaim::Expire | OnReclaim::Reset);
    newest.allocation().drains.iter().filter(move |(_, drain)| at_once(drain))
}
