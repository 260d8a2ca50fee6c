//! What the flow groups tell a worker: entries that are committed, who leads, and scans. Everything that a mapping is follows
//! from here; the worker itself only proposes.

use crate::apply::Effect;
use crate::event::{DropReason, GroupEvent, WorkerOutput};
use crate::flow::Slot;
use crate::held::Parked;
use crate::ids::{BackendId, ControlIndex, LogIndex, ShardId, Term};
use crate::lease::LeaseWords;
use crate::scan::ScanJob;
use crate::sessions::SessionFate;
use crate::shard::Shard;
use crate::worker::Worker;

impl Worker {
    /// Takes an event of the flow groups. Events of one shard come in order and none is lost.
    pub fn handle_event(&mut self, now_ns: u64, words: &impl LeaseWords, event: GroupEvent) {
        match event {
            GroupEvent::Opened { shard, epoch, index, loads } => {
                self.forget_replica(shard);
                let seed = self.seed ^ u64::from(shard.0);
                let mut opened = Box::new(Shard::new(seed, epoch, index, loads));
                opened.replica.newest = self.newest;
                self.entry(shard).replica = Some(opened);
            }
            GroupEvent::Reopened { shard, epoch, control_index } => {
                if let Some(s) = self.replica_mut(shard) {
                    s.epoch = epoch;
                    s.replica.reopened(control_index);
                    s.applied_dirty = true;
                }
            }
            GroupEvent::Dropped { shard } => self.forget_replica(shard),
            GroupEvent::Committed { shard, index, term, entry } => {
                self.committed(now_ns, shard, index, term, &entry);
                self.judge_serving_of(now_ns, words, shard);
            }
            GroupEvent::Leading { shard, term } => {
                self.lose_overlay(shard);
                if let Some(s) = self.replica_mut(shard) {
                    s.lead(now_ns, term);
                }
                self.judge_serving_of(now_ns, words, shard);
            }
            GroupEvent::Following { shard } => {
                self.lose_overlay(shard);
                if let Some(s) = self.replica_mut(shard) {
                    s.leadership = None;
                    // Only a leader's chunks are wanted.
                    s.replica.scan = None;
                }
            }
            GroupEvent::Owner { shard, term, node } => {
                let entry = self.entry(shard);
                if entry.owner.is_none_or(|(known, _)| known <= term) {
                    entry.owner = Some((term, node));
                }
            }
            GroupEvent::Refused { shard, term, stream } => {
                if self.replica(shard).is_some_and(|s| s.is_leading_in(term) && s.stream.number() == stream) {
                    self.lose_overlay(shard);
                    if let Some(s) = self.replica_mut(shard) {
                        s.stream.restart(now_ns);
                    }
                }
            }
            GroupEvent::Scan { shard, transfer } => self.scan(shard, transfer),
            GroupEvent::ScanOver { shard, transfer } => {
                if let Some(s) = self.replica_mut(shard) {
                    s.replica.scan.take_if(|job| job.transfer() == transfer);
                }
            }
            GroupEvent::Load { shard, epoch, chunk } => {
                if let Some(s) = self.replica_mut(shard) {
                    s.epoch = epoch;
                    s.replica.load(&chunk);
                }
            }
            GroupEvent::Loaded { shard, base, until } => {
                if let Some(s) = self.replica_mut(shard) {
                    s.replica.loaded(now_ns, base, until);
                    s.applied_dirty = true;
                }
            }
        }
    }

    fn scan(&mut self, shard: ShardId, transfer: u64) {
        if let Some(s) = self.replica_mut(shard) {
            s.replica.scan = Some(ScanJob::new(transfer, s.replica.meta, &s.replica.table));
        }
        self.chunks.grant(1);
    }

    fn committed(&mut self, now_ns: u64, shard: ShardId, index: LogIndex, term: Term, entry: &[u8]) {
        let loaded = self.snapshot.as_ref().map_or(ControlIndex(0), |s| s.control_index);
        let vote_ms = self.snapshot.as_ref().map_or(0, |s| s.params.vote_timeout_ms);
        let mut effects = std::mem::take(&mut self.effects);
        let Some(s) = self.replica_mut(shard) else { return };
        let header = s.replica.apply(now_ns, index, entry, vote_ms, &mut effects);
        let took = s.applied(now_ns, term, header.as_ref());
        if header.is_some_and(|h| h.control_index < loaded) {
            s.judge_again();
        }
        let mine = s.is_leading_in(term);
        for effect in effects.drain(..) {
            self.perform(now_ns, shard, term, mine, effect);
        }
        self.effects = effects;
        if let Some(ns) = took {
            self.counters.commit.record(ns);
        }
    }

    fn perform(&mut self, now_ns: u64, id: ShardId, term: Term, mine: bool, effect: Effect) {
        match effect {
            Effect::Fenced { block, reclaim_index } => {
                if let Some(s) = self.replica_mut(id) {
                    s.overlay.fenced(block, reclaim_index);
                    let epoch = s.epoch;
                    // Its owner reports it; a successor reports all that it finds when it begins to serve.
                    if mine {
                        self.outputs.push_back(WorkerOutput::Fenced { shard: id, epoch, block, reclaim_index });
                    }
                }
            }
            Effect::Freed { public, backend } => {
                if let Some(s) = self.replica_mut(id) {
                    s.port_freed(backend, &public);
                }
            }
            Effect::Closed { slot, reason } => {
                let Some(s) = self.replica_mut(id) else { return };
                s.overlay.closed(slot);
                if mine {
                    let proto = s.replica.table.record(slot).proto;
                    self.counters.snat_mut(proto).closed += 1;
                    self.note_session(now_ns, id, slot, SessionFate::Closed);
                    self.reset_ends(now_ns, id, term, slot, reason);
                }
            }
            Effect::Opened { slot, public } if mine => {
                self.claim(id, slot);
                self.note_session(now_ns, id, slot, SessionFate::Opened);
                let Some(s) = self.replica_mut(id) else { return };
                let Some((flow, pending)) = s.overlay.resolve(&public) else { return };
                assert!(s.replica.table.record(slot).flow() == flow, "only this stream opens mappings in this term");
                self.counters.hold.record(now_ns.saturating_sub(pending.since_ns));
                self.counters.snat_mut(flow.proto).successful += 1;
                for parked in pending.parked {
                    self.held.unpark(pending.backend, &parked.frame);
                    self.release_parked(now_ns, id, term, slot, parked);
                }
            }
            Effect::OpenRefused { public } if mine => {
                let Some(s) = self.replica_mut(id) else { return };
                let Some((flow, pending)) = s.overlay.resolve(&public) else { return };
                self.counters.snat_mut(flow.proto).failed_later += 1;
                for parked in pending.parked {
                    self.drop_parked(pending.backend, parked, DropReason::OpenRefused);
                }
            }
            Effect::Opened { slot, .. } => self.claim(id, slot),
            Effect::OpenRefused { .. } => {}
        }
    }

    fn claim(&mut self, shard: ShardId, slot: Slot) {
        if let (Some(s), Some(snapshot)) = (self.shards.replica_mut(shard), &self.snapshot) {
            s.claim(slot, snapshot);
        }
    }

    pub(crate) fn drop_parked(&mut self, backend: BackendId, parked: Parked, reason: DropReason) {
        self.held.unpark(backend, &parked.frame);
        self.held.recycle(parked.frame);
        self.counters.drop_parked(reason);
    }

    /// F1, F8: what was proposed and is not applied is given up with its packets.
    fn lose_overlay(&mut self, shard: ShardId) {
        let Some(s) = self.shards.replica_mut(shard) else { return };
        for (flow, _) in s.overlay.opening() {
            self.counters.snat_mut(flow.proto).failed_later += 1;
        }
        for (backend, parked) in s.drop_overlay() {
            self.drop_parked(backend, parked, DropReason::TermLost);
        }
    }

    fn forget_replica(&mut self, shard: ShardId) {
        self.lose_overlay(shard);
        self.entry(shard).replica = None;
    }
}
