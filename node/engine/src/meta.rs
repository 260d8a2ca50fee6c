//! The values of a shard that headers of entries replicate.

use crate::ids::{ControlIndex, LogIndex};
use crate::record::HOLD_CLASSES;

/// The values that the headers replicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) applied: LogIndex,
    /// Greatest of all headers (F2).
    pub(crate) control_index: ControlIndex,
    pub(crate) holds_ended: [LogIndex; HOLD_CLASSES],
    pub(crate) orphan_grace_ms: u32,
    /// Greatest grace so far: some predecessor may still use it.
    pub(crate) grace_peak_ms: u32,
    pub(crate) hold_ms: [u32; HOLD_CLASSES],
}
