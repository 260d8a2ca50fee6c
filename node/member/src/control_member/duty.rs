//! What the flow half reports, and what becomes of it: a command, or a note of what this node knows of owners.

use consensus::control::storage::LogStore;
use control::command::{CommandBody, InStep};
use control::shards::Shard;

use super::ControlMember;
use super::io::Now;
use crate::flow_member::ControlDuty;
use words::time::MS;

impl<S: LogStore> ControlMember<S> {
    /// What the flow half reports.
    pub fn handle_duty(&mut self, now: Now, duty: ControlDuty) {
        match duty {
            ControlDuty::Owners { heard } => {
                self.owners.hear(&self.state, heard.iter().map(|(shard, epoch)| (*shard, *epoch)), now.ns);
                self.owners.own = heard;
                self.owners.own_ns = now.ns;
            }
            ControlDuty::Voters { shard, epoch, mut voters, in_step, served } => {
                self.measured.measure(now.ns, InStep { shard, epoch, lives: in_step });
                voters.sort_unstable();
                let stale = self.state.shards().get(&shard).is_some_and(|entry| {
                    let mut known = entry.voters.clone();
                    known.sort_unstable();
                    entry.epoch == epoch && known != voters
                });
                let due = self.reported_ns.get(&shard).is_none_or(|at| now.ns.saturating_sub(*at) > 500 * MS);
                if stale && due {
                    self.reported_ns.insert(shard, now.ns);
                    self.enqueue(now, None, CommandBody::VotersApplied { shard, epoch, voters });
                }
                let waited = |entry: &Shard| entry.epoch == epoch && !entry.unsealed_before.is_empty();
                if served && due && self.state.shards().get(&shard).is_some_and(waited) {
                    self.reported_ns.insert(shard, now.ns);
                    self.enqueue(now, None, CommandBody::EpochServed { shard, epoch });
                }
            }
            ControlDuty::Removed { shard, epoch, gone } => {
                let leaving = self.state.shards().get(&shard).filter(|entry| entry.epoch == epoch);
                if leaving.is_some_and(|entry| gone.iter().any(|life| entry.leaving.contains(life))) {
                    self.enqueue(now, None, CommandBody::ReplicaGone { shard, epoch, gone });
                }
            }
            ControlDuty::Sealed { shard, epoch, last_term, last_index } => {
                let Some(incarnation) = self.incarnation else { return };
                let body = CommandBody::Sealed { shard, epoch, incarnation, last_term, last_index };
                let wanted = self.state.shards().get(&shard);
                if wanted.is_some_and(|entry| entry.epoch == epoch && !entry.seals.contains_key(&incarnation)) {
                    self.enqueue(now, None, body);
                }
            }
            ControlDuty::Fenced { shard, epoch, block, reclaim_index } => {
                self.fences.note(shard, epoch, (block, reclaim_index));
            }
            ControlDuty::Stopped { .. } => {}
        }
    }

    /// Reports fences that have gathered; what the state knows already, or another life of the shard, is left out.
    pub(super) fn report_fences(&mut self, now: Now) {
        let (pending, drains) = (&self.pending, &self.state.allocation().drains);
        let due = self.fences.due(
            |key| pending.contains_key(key),
            |(block, index)| drains.get(block).is_some_and(|drain| drain.reclaim_index == *index),
        );
        for (shard, report) in due {
            if let Some(key) = self.enqueue(now, None, report) {
                self.fences.reported(shard, key);
            }
        }
    }
}
