//! What this node may do for a shard at this moment (L4, M1): by its lease, in grace, or by passing frames on. Asked for each
//! packet; changes nothing but what a shard says of its serving.

use words::time::MS;

use crate::context::{Access, Cx, Owner};
use crate::event::{Authority, DropReason, WorkerOutput};
use crate::ids::{LeaseWord, ShardId};
use crate::lease::LeaseWords;
use crate::shard::LAST_OWNER_NS;
use crate::shard::shards::Shards;
use crate::snapshot::Snapshot;

impl Shards {
    /// What becomes of a shard's packets here.
    pub(crate) fn access<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId) -> Access {
        let Some(entry) = self.get(shard) else { return Access::Nothing(DropReason::NoForward) };
        let word = cx.words.word(shard);
        // Another worker's, as long as this life may say anything for the shard.
        if !self.share.has(shard) && word.incarnation == self.me && word.grace_runs(cx.now_ns) {
            return Access::Forward(Owner::WorkerOf(shard));
        }
        if let Some(term) = entry.replica.as_ref().and_then(|r| r.serves(cx.now_ns, self.me, word)) {
            return Access::Here(Authority::Lease { shard, term });
        }
        let led = entry.replica.as_ref().and_then(|r| r.leadership.as_ref()).map(|l| l.term);
        match entry.owner {
            Some((term, Some(node))) if node != self.node && led.is_none_or(|led| led < term) => {
                return Access::Forward(Owner::Member(node));
            }
            Some((_, Some(_) | None)) | None => {}
        }
        let Some(replica) = &entry.replica else { return Access::Nothing(DropReason::NoForward) };
        // The grace of the last committed header counts, not the configured one (F6).
        let grace_end = replica.lease_end_ns.saturating_add(u64::from(replica.replica.meta.orphan_grace_ms) * MS);
        let orphan = entry.last_owned_ns.is_some() && word.incarnation == self.me;
        if orphan && cx.now_ns < word.grace_until_ns.min(grace_end) {
            return Access::Here(Authority::Grace { shard });
        }
        Access::Nothing(if led.is_some() { DropReason::NotOwner } else { DropReason::NoForward })
    }

    /// The lease of a shard that serves here.
    pub(crate) fn right_of<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId) -> Option<Authority> {
        let term = self.replica(shard)?.serves(cx.now_ns, self.me, cx.words.word(shard))?;
        Some(Authority::Lease { shard, term })
    }

    /// The lease of some shard that serves here: for questions that are not one shard's alone. The first worker of a member may use
    /// the lease of another one's shard: it alone asks for all.
    pub(crate) fn any_right<W: LeaseWords>(&self, cx: &Cx<'_, W>) -> Option<Authority> {
        let others = || self.ids().filter(|shard| self.share.is_first() && !self.share.has(*shard));
        let leased = |shard| {
            let LeaseWord { term, .. } = cx.words.word(shard);
            let runs = cx.words.word(shard).lease_runs_for(self.me, term, cx.now_ns);
            runs.then_some(Authority::Lease { shard, term })
        };
        self.ids().find_map(|shard| self.right_of(cx, shard)).or_else(|| others().find_map(leased))
    }

    /// The right by which a packet of `authority`'s shard is translated for `target` here, if this node may.
    pub(crate) fn right_for(&self, authority: Authority, target: ShardId) -> Option<Authority> {
        match authority {
            Authority::Lease { shard, .. } | Authority::Grace { shard } if shard == target => Some(authority),
            // Whether the lease still runs is looked at as the frame leaves.
            Authority::Lease { .. } => {
                let lead = self.replica(target)?.leadership.as_ref()?;
                (lead.serving == Some(Ok(()))).then_some(Authority::Lease { shard: target, term: lead.term })
            }
            Authority::Grace { .. } | Authority::Forward => None,
        }
    }

    /// Whether this node owns the shard or was its last owner a short while ago (M1).
    pub(crate) fn is_or_was_owner<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId) -> bool {
        let Some(entry) = self.get(shard) else { return false };
        if entry.last_owned_ns.is_some_and(|at| cx.now_ns < at.saturating_add(LAST_OWNER_NS)) {
            return true;
        }
        let term = entry.replica.as_ref().and_then(|s| s.leadership.as_ref()).map(|l| l.term);
        term.is_some_and(|term| cx.words.word(shard).lease_runs_for(self.me, term, cx.now_ns))
    }

    /// Whether a shard serves (F7), if that is news.
    pub(crate) fn judge_serving(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        shard: ShardId,
        snapshot: Option<&Snapshot>,
        links_carry: bool,
    ) -> Option<WorkerOutput> {
        let me = self.me;
        let entry = self.get_mut(shard)?;
        let s = entry.replica.as_mut()?;
        let was = s.leadership.as_ref().is_some_and(|l| l.serving == Some(Ok(())));
        let changed = s.judge_serving(now_ns, me, words.word(shard), snapshot, links_carry);
        if was || changed.is_some_and(|(_, state)| state.is_ok()) {
            entry.last_owned_ns = Some(now_ns);
        }
        changed.map(|(term, state)| WorkerOutput::Serving { shard, term, state })
    }
}
