//! What the control leader proposes by itself, from what it sees of the nodes.

use std::collections::BTreeMap;

use consensus::control::storage::LogStore;
use control::command::CommandBody;
use control::reconcile::{self, Observed};

use super::io::Now;
use super::{ControlMember, RETRY_NS};
use words::time::MS;

impl<S: LogStore> ControlMember<S> {
    pub(super) fn reconcile(&mut self, now: Now) {
        let Some(since_ns) = self.leading_since_ns else { return };
        if self.pending.values().any(|pending| pending.own) {
            return;
        }
        self.note_changes(now);
        let changed_ms = self.changed_ns.iter().map(|(shard, (_, at_ns))| (*shard, at_ns / MS)).collect();
        let observed = Observed {
            now_ms: now.ns / MS,
            since_ms: since_ns / MS,
            owner_seen_ms: self.owners.seen_ms(&self.state),
            changed_ms,
            live: self.live(now),
            voters: BTreeMap::new(),
            unix_ms: now.unix_ms,
        };
        let mut proposals = reconcile::next(&self.state, &observed);
        let (voters, learners) = &self.configured;
        if learners.is_empty() && !voters.is_empty() && self.state.control_applied() != voters.as_slice() {
            proposals.push(CommandBody::ControlConfApplied { voters: voters.clone() });
        }
        for body in proposals {
            if let Some(key) = self.enqueue(now, None, body)
                && let Some(pending) = self.pending.get_mut(&key)
            {
                pending.own = true;
                pending.deadline_ns = now.ns + 2 * RETRY_NS;
            }
        }
    }

    /// Since when the entry of each shard is as it is, as far as this leader has seen.
    fn note_changes(&mut self, now: Now) {
        let shards = self.state.shards();
        self.changed_ns.retain(|shard, _| shards.contains_key(shard));
        for (shard, entry) in shards {
            let known = self.changed_ns.entry(*shard).or_insert((entry.changed, now.ns));
            if known.0 != entry.changed {
                *known = (entry.changed, now.ns);
            }
        }
    }
}
