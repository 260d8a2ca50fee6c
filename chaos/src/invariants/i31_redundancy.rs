//! I31: replacing a replica never leaves a group with fewer voters than it had (N2), so a rolling restart loses no quorum.

use std::collections::BTreeMap;

use consensus::event::{Epoch, GroupId, Incarnation};
use consensus::flow_groups::GroupStatus;

use super::{Check, ensure};

/// Voters of each replica's applied configuration as last seen.
#[derive(Debug, Default)]
pub struct Redundancy(BTreeMap<(Incarnation, GroupId, Epoch), usize>);

impl Redundancy {
    /// A status of `life`'s replica; the control map wants `wanted` members.
    ///
    /// # Errors
    /// If a configuration shrank although the map does not ask for it.
    pub fn check(&mut self, life: Incarnation, status: &GroupStatus, wanted: usize) -> Check {
        if status.voters.is_empty() {
            return Ok(());
        }
        let now = status.voters.len();
        let before = self.0.insert((life, status.group, status.epoch), now).unwrap_or(0);
        ensure(now >= before.min(wanted), "I31", || {
            format!("group {}: {before} voters became {now}, {wanted} are wanted: {:?}", status.group.0, status.voters)
        })
    }
}
