//! A configuration on its way in parts; `upload` moves it on.

use std::collections::BTreeSet;

use control::command::{Key, PlanHash};
use engine::ids::ControlIndex;

/// One configuration that is being sent.
pub(super) struct Upload {
    pub(super) ticket: u64,
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) hash: PlanHash,
    /// Its number, once it has begun.
    pub(super) attempt: Option<ControlIndex>,
    /// The next part to be sent.
    pub(super) next: usize,
    /// Those that the log has not answered.
    pub(super) under_way: BTreeSet<Key>,
}
