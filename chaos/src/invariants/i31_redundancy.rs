//! I31: replacing a replica never leaves a group with fewer voters than it had (N2), so a rolling restart loses no quorum.

use std::collections::BTreeMap;

use consensus::flow::GroupStatus;
use words::{Epoch, Incarnation, ShardId};

use super::{Check, ensure};

/// Voters of each replica's applied configuration as last seen, and the fewest members that the map has ever wanted of each
/// epoch: a replica that lags may apply a change that the map has taken back since.
#[derive(Debug, Default)]
pub struct Redundancy {
    voters: BTreeMap<(Incarnation, ShardId, Epoch), usize>,
    wanted: BTreeMap<(ShardId, Epoch), usize>,
}

impl Redundancy {
    /// The control map wants so many members now.
    pub fn wanted(&mut self, group: ShardId, epoch: Epoch, members: usize) {
        let least = self.wanted.entry((group, epoch)).or_insert(members);
        *least = members.min(*least);
    }

    /// A status of `life`'s replica.
    ///
    /// # Errors
    /// If a configuration shrank although the map never asked for it.
    pub fn check(&mut self, life: Incarnation, status: &GroupStatus) -> Check {
        if status.voters.is_empty() {
            return Ok(());
        }
        let now = status.voters.len();
        let wanted = self.wanted.get(&(status.group, status.epoch)).copied().unwrap_or(usize::MAX);
        let before = self.voters.insert((life, status.group, status.epoch), now).unwrap_or(0);
        ensure(now >= before.min(wanted), "I31", || {
            format!("group {}: {before} voters became {now}, {wanted} are wanted: {:?}", status.group.0, status.voters)
        })
    }
}
