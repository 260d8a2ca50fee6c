//! What the flow groups tell a worker: entries that are committed, who leads, and scans. Everything that a mapping is follows
//! from here; the worker itself only proposes.

use crate::cache::Cache;
use crate::codec::Format;
use crate::context::{At, Cx};
use crate::egress::Egress;
use crate::event::{Authority, DropReason, GroupEvent, WorkerOutput};
use crate::flow::Slot;
use crate::ids::{ControlIndex, LogIndex, NodeId, ShardId, Term};
use crate::judge::Judge;
use crate::judge::fragments::Fragments;
use crate::lease::LeaseWords;
use crate::record::{CloseReason, is_untranslated};
use crate::revision::Revisions;
use crate::shard::Shard;
use crate::shard::apply::Effect;
use crate::shard::overlay::Parked;
use crate::shard::scan::ScanJob;
use crate::shard::shards::Shards;
use crate::snapshot::Snapshot;
use crate::tell::sessions::SessionFate;
use crate::tell::telling::Telling;
use crate::wire::IpPacket;

/// The parts of the worker that an event of a flow group touches.
pub(crate) struct Group<'a, W> {
    pub(crate) now_ns: u64,
    pub(crate) words: &'a W,
    pub(crate) snapshot: Option<&'a Snapshot>,
    pub(crate) revisions: &'a Revisions,
    pub(crate) cache: &'a mut Cache,
    pub(crate) shards: &'a mut Shards,
    pub(crate) egress: &'a mut Egress,
    pub(crate) datagrams: &'a mut Fragments,
    pub(crate) telling: &'a mut Telling,
    pub(crate) effects: &'a mut Vec<Effect>,
    pub(crate) seed: u64,
    /// The newest format that is read.
    pub(crate) newest: Format,
}

impl<W: LeaseWords> Group<'_, W> {
    pub(crate) fn handle_event(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Opened { shard, epoch, index, loads } => {
                self.forget_replica(shard);
                let seed = self.seed ^ u64::from(shard.0);
                let mut opened = Box::new(Shard::new(seed, epoch, index, loads));
                opened.replica.newest = self.newest;
                self.shards.entry(shard).replica = Some(opened);
            }
            GroupEvent::Reopened { shard, epoch, control_index } => {
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.epoch = epoch;
                    s.replica.reopened(control_index);
                    s.applied_dirty = true;
                }
            }
            GroupEvent::Dropped { shard } => self.forget_replica(shard),
            GroupEvent::Committed { shard, index, term, entry } => {
                self.committed(shard, index, term, &entry);
                self.judge_serving(shard);
            }
            GroupEvent::Leading { shard, term } => {
                self.lose_overlay(shard);
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.lead(self.now_ns, term);
                }
                self.judge_serving(shard);
            }
            GroupEvent::Following { shard } => {
                self.lose_overlay(shard);
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.leadership = None;
                    // Only a leader's chunks are wanted.
                    s.replica.scan = None;
                }
            }
            GroupEvent::Owner { shard, term, node } => self.owns(shard, term, node),
            GroupEvent::Refused { shard, term, stream } => {
                if self.shards.replica(shard).is_some_and(|s| s.is_leading_in(term) && s.stream.number() == stream) {
                    self.lose_overlay(shard);
                    if let Some(s) = self.shards.replica_mut(shard) {
                        s.stream.restart(self.now_ns);
                    }
                }
            }
            GroupEvent::Scan { shard, transfer } => self.scan(shard, transfer),
            GroupEvent::ScanOver { shard, transfer } => {
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.replica.scan.take_if(|job| job.transfer() == transfer);
                }
            }
            GroupEvent::Load { shard, epoch, chunk } => {
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.epoch = epoch;
                    s.replica.load(&chunk);
                }
            }
            GroupEvent::Loaded { shard, base, until } => {
                if let Some(s) = self.shards.replica_mut(shard) {
                    s.replica.loaded(self.now_ns, base, until);
                    s.applied_dirty = true;
                }
            }
        }
    }

    fn owns(&mut self, shard: ShardId, term: Term, node: Option<NodeId>) {
        let entry = self.shards.entry(shard);
        if entry.owner.is_none_or(|(known, _)| known <= term) {
            entry.owner = Some((term, node));
            // What somebody else owns is forwarded.
            self.cache.upset();
        }
    }

    fn scan(&mut self, shard: ShardId, transfer: u64) {
        if let Some(s) = self.shards.replica_mut(shard) {
            s.replica.scan = Some(ScanJob::new(transfer, s.replica.meta, &s.replica.table));
        }
        self.telling.chunks.grant(1);
    }

    fn judge_serving(&mut self, shard: ShardId) {
        let carry = self.egress.links.carry(shard);
        let news = self.shards.judge_serving(self.now_ns, self.words, shard, self.snapshot, carry);
        self.cache.heard(news.as_ref());
        self.telling.outputs.extend(news);
    }

    fn committed(&mut self, shard: ShardId, index: LogIndex, term: Term, entry: &[u8]) {
        let now_ns = self.now_ns;
        let loaded = self.snapshot.map_or(ControlIndex(0), |s| s.control_index);
        let vote_ms = self.snapshot.map_or(0, |s| s.params.vote_timeout_ms);
        let mut effects = std::mem::take(self.effects);
        let Some(s) = self.shards.replica_mut(shard) else { return };
        let header = s.replica.apply(now_ns, index, entry, vote_ms, &mut effects);
        let took = s.applied(now_ns, term, header.as_ref());
        if header.is_some_and(|h| h.control_index < loaded) {
            s.judge_again();
        }
        let mine = s.is_leading_in(term);
        for effect in effects.drain(..) {
            self.perform(shard, term, mine, effect);
        }
        *self.effects = effects;
        if let Some(ns) = took {
            self.egress.counters.commit.record(ns);
        }
    }

    fn perform(&mut self, id: ShardId, term: Term, mine: bool, effect: Effect) {
        match effect {
            Effect::Fenced { block, reclaim_index } => {
                if let Some(s) = self.shards.replica_mut(id) {
                    s.overlay.fenced(block, reclaim_index);
                    let epoch = s.epoch;
                    // Its owner reports it; a successor reports all that it finds when it begins to serve.
                    if mine {
                        self.telling.outputs.push_back(WorkerOutput::Fenced { shard: id, epoch, block, reclaim_index });
                    }
                }
            }
            Effect::Freed { public, backend } => {
                if let Some(s) = self.shards.replica_mut(id) {
                    s.port_freed(backend, &public);
                }
            }
            Effect::Closed { slot, reason } => {
                let Some(s) = self.shards.replica_mut(id) else { return };
                s.overlay.closed(slot, reason);
                if mine {
                    let record = s.replica.table.record(slot);
                    if !is_untranslated(record.frontend) {
                        self.egress.counters.snat_mut(record.proto).closed += 1;
                    }
                    self.note_session(id, slot, SessionFate::Closed);
                    self.reset_both(id, term, slot, reason);
                }
            }
            Effect::Opened { slot, public } if mine => {
                self.claim(id, slot);
                self.note_session(id, slot, SessionFate::Opened);
                let Some(s) = self.shards.replica_mut(id) else { return };
                s.half_open.remove(&public);
                let Some((flow, pending)) = s.overlay.resolve(&public) else { return };
                assert!(s.replica.table.record(slot).flow() == flow, "only this stream opens mappings in this term");
                if !is_untranslated(public.frontend) {
                    self.egress.counters.snat_mut(flow.proto).successful += 1;
                }
                match &pending.left {
                    // It is taken note of only now: before, there was nothing to note it in (W2).
                    Some(first) => self.note_left(id, term, slot, first),
                    None if is_untranslated(public.frontend) => {}
                    None => self.egress.counters.hold.record(self.now_ns.saturating_sub(pending.since_ns)),
                }
                for parked in pending.parked {
                    self.egress.held.unpark(pending.open.backend, &parked.frame);
                    self.release_parked(id, term, slot, parked);
                }
            }
            Effect::OpenRefused { public } if mine => {
                let Some(s) = self.shards.replica_mut(id) else { return };
                let Some((flow, pending)) = s.overlay.resolve(&public) else { return };
                if !is_untranslated(public.frontend) {
                    self.egress.counters.snat_mut(flow.proto).failed_later += 1;
                }
                for parked in pending.parked {
                    self.egress.drop_parked(pending.open.backend, parked, DropReason::OpenRefused);
                }
            }
            Effect::Opened { slot, .. } => self.claim(id, slot),
            Effect::OpenRefused { .. } => {}
        }
    }

    /// The first packet of a mapping left before its commit.
    fn note_left(&mut self, home: ShardId, term: Term, slot: Slot, first: &IpPacket) {
        if let (Some(shard), Some(snapshot)) = (self.shards.replica_mut(home), self.snapshot) {
            let at = At { now_ns: self.now_ns, snapshot };
            shard.note_out(self.cache, at, Authority::Lease { shard: home, term }, slot, first);
        }
    }

    fn claim(&mut self, shard: ShardId, slot: Slot) {
        if let (Some(s), Some(snapshot)) = (self.shards.replica_mut(shard), self.snapshot) {
            s.claim(slot, snapshot);
        }
    }

    fn note_session(&mut self, shard: ShardId, slot: Slot, fate: SessionFate) {
        self.telling.note_session(self.now_ns, (self.shards, self.snapshot), (shard, slot), fate);
    }

    fn reset_both(&mut self, home: ShardId, term: Term, slot: Slot, reason: CloseReason) {
        if let (Some(snapshot), Some(shard)) = (self.snapshot, self.shards.replica(home)) {
            let at = At { now_ns: self.now_ns, snapshot };
            self.egress.reset_both(at, (home, term), shard, slot, reason);
        }
    }

    fn release_parked(&mut self, home: ShardId, term: Term, slot: Slot, parked: Parked) {
        let Some(snapshot) = self.snapshot else {
            return self.egress.drop_waiting(parked.frame, DropReason::TermLost);
        };
        let cx = Cx { now_ns: self.now_ns, words: self.words, snapshot };
        let Self { shards, egress, datagrams, revisions, cache, .. } = self;
        Judge { cx, shards, egress, datagrams, revisions, cache }.release_parked(home, term, slot, parked);
    }

    /// F1, F8: what was proposed and is not applied is given up with its packets.
    fn lose_overlay(&mut self, shard: ShardId) {
        let Some(s) = self.shards.replica_mut(shard) else { return };
        for (flow, _) in
            s.overlay.opening().into_iter().filter(|(_, pending)| !is_untranslated(pending.open.public.frontend))
        {
            self.egress.counters.snat_mut(flow.proto).failed_later += 1;
        }
        for (backend, parked) in s.drop_overlay() {
            self.egress.drop_parked(backend, parked, DropReason::TermLost);
        }
    }

    fn forget_replica(&mut self, shard: ShardId) {
        self.lose_overlay(shard);
        self.cache.forget_shard(shard);
        self.shards.entry(shard).replica = None;
    }
}
