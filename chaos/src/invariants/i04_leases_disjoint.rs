//! I4: preallocations, draining ones included, never overlap; and the control state keeps its own invariants.

use control::state::State;
use engine::ids::PortBlock;

use super::{Check, Violation, ensure};

/// Checks one replica of the control state.
///
/// # Errors
/// The first two blocks that overlap.
pub fn check(state: &State) -> Check {
    let allocation = state.allocation();
    let leased = allocation.backends.iter().flat_map(|(id, backend)| backend.lease.iter().map(move |b| (*b, *id)));
    let draining = allocation.drains.iter().map(|(block, drain)| (*block, drain.backend));
    let mut blocks: Vec<(PortBlock, _)> = leased.chain(draining).collect();
    blocks.sort_unstable_by_key(|(block, _)| (block.frontend, block.start));
    for pair in blocks.windows(2) {
        let [(low, of_low), (high, of_high)] = pair else { continue };
        let apart = low.frontend != high.frontend || u32::from(low.start) + u32::from(low.len) <= u32::from(high.start);
        ensure(apart, "I4", || format!("{low:?} of {of_low:?} overlaps {high:?} of {of_high:?}"))?;
    }
    state.check().map_err(|broken| Violation { invariant: "I4", what: format!("control state: {broken:?}") })
}
