//! What an owner owes its shard besides packets: idle flows close, flows that lost their right close, holds end, drained
//! blocks are fenced. All in bounded steps and only through the stream; nothing here writes the table. Called by the
//! worker's timers.

use std::sync::Arc;

use words::time::MS;

use crate::cache::Cache;
use crate::flow::{Mark, Record, Slot};
use crate::ids::{ControlIndex, PortBlock, ShardId};
use crate::nat::timeouts::{SHORTEST_NS, Terms, silence};
use crate::record::{CloseReason, FlowRecord, HoldClass, Scenario};
use crate::shard::standing::{Asked, may_stand, note_again};
use crate::shard::{Forces, Leadership, Shard, Sweep};
use crate::snapshot::{Backend, Snapshot};

/// Idle sweeps visit every slot in this time, so idle expiry is at most that late (I48).
const SWEEP_NS: u64 = 1_000_000_000;
/// Slots that one call may visit, so that packets need not wait long; ten million take a second and a quarter.
const SWEEP_MAX: u64 = 16_384;
/// As many slots cost as much as asking security groups about one flow.
const VERDICT_SLOTS: u64 = 8;
/// Slots that a turn judges under a newer snapshot, in all shards; and in each at least.
pub(crate) const JUDGED_PER_TURN: (u64, u64) = (SWEEP_MAX / 2, 256);
/// Backends that one call of `forget_gone` looks at.
const FORGET_STEP: usize = 256;
/// Frontends of which all is forgotten in one step.
const FORGET_FRONTENDS_STEP: usize = 4;
/// Ended holds wait this long for a batch to ride on before they get one of their own.
const HOLD_BATCH_NS: u64 = 100_000_000;
/// Committed fences of blocks that still drain are reported again.
const REPORT_NS: u64 = 1_000_000_000;

impl Shard {
    /// Why `record` ends now, if it has been idle for its timeout (S13, R14, R18).
    fn idle_end(
        lead: &Leadership,
        record: &Record,
        position: u32,
        (backend, snapshot): (&Backend, &Snapshot),
        now_ns: u64,
    ) -> Option<CloseReason> {
        let (silence, reason) = {
            let terms = Terms::of(record, backend, &snapshot.rules);
            silence(record, record.tcp.known_in(lead.term), terms, &snapshot.params)
        };
        let takeover = lead.takeover_ns.unwrap_or(now_ns);
        let end = if record.last_seen.ns() > takeover {
            record.last_seen.ns().saturating_add(silence)
        } else {
            // A full timeout after a takeover, spread over a tenth of it so that not all flows close at once (I48).
            let jitter = silence / 10 / 1024 * u64::from(position.wrapping_mul(0x9e37_79b9) >> 22);
            takeover.saturating_add(silence + jitter)
        };
        (now_ns >= end).then_some(reason)
    }

    /// Walks a part of the slab, paced so that a whole round takes `SWEEP_NS`, and closes idle flows.
    pub(crate) fn sweep_idle(&mut self, now_ns: u64, snapshot: &Snapshot, cache: &mut Cache) {
        let slots = u64::from(self.replica.table.slots());
        let Some(lead) = &self.leadership else { return };
        let elapsed = now_ns.saturating_sub(lead.sweep.at_ns);
        let budget = (slots.saturating_mul(elapsed) / (SWEEP_NS / 2)).min(slots).min(SWEEP_MAX);
        if budget == 0 {
            return;
        }
        let mut position = lead.sweep.position;
        for _ in 0..budget {
            position = if u64::from(position) + 1 >= slots { 0 } else { position + 1 };
            let Some(slot) = self.replica.table.occupied(position) else { continue };
            let record = self.replica.table.record(slot);
            if !record.is_live()
                || record.closing().is_some()
                || now_ns < record.last_seen.ns().saturating_add(SHORTEST_NS)
            {
                continue;
            }
            let (Some(lead), Some(backend)) = (&self.leadership, snapshot.backends.get(&record.backend)) else {
                continue;
            };
            let mut end = Self::idle_end(lead, record, position, (backend, snapshot), now_ns);
            if end.is_some() {
                // Whatever passed in the kernel until now counts (K1).
                cache.end(&mut self.replica.table, slot);
                let record = self.replica.table.record(slot);
                end = Self::idle_end(lead, record, position, (backend, snapshot), now_ns);
            }
            if let Some(reason) = end
                && !self.close(snapshot.control_index, slot, reason)
            {
                break;
            }
        }
        if let Some(lead) = &mut self.leadership {
            lead.sweep = Sweep { position, at_ns: now_ns, behind: budget == SWEEP_MAX };
        }
    }

    /// Judges a part of the flows under the loaded snapshot, after each load and takeover: what has lost its backend, its
    /// port or its groups' consent closes (D5, D19, N4). Returns whether more remain.
    pub(crate) fn judge_flows(&mut self, snapshot: &Snapshot, slots_max: u64, cache: &mut Cache) -> bool {
        let Some(mut position) = self.leadership.as_ref().and_then(|l| l.judge) else { return false };
        let judged = self.leadership.as_ref().and_then(|lead| lead.groups.clone());
        let mut left = slots_max;
        let slots = self.replica.table.slots();
        while position < slots && left > 0 {
            left = left.saturating_sub(1);
            if let Some(slot) = self.replica.table.occupied(position) {
                self.claim(slot, snapshot);
                let record = self.replica.table.record(slot);
                let now = snapshot.security.revision(record.backend);
                let asked = match &judged {
                    // Two backends' groups: asked each time.
                    _ if record.scenario() == Scenario::Private => {
                        left = left.saturating_sub(2 * VERDICT_SLOTS);
                        Asked::No
                    }
                    _ if now == 0 => Asked::Yes,
                    Some(judged) if judged.revision(record.backend) == now => Asked::Yes,
                    Some(_) | None => {
                        left = left.saturating_sub(VERDICT_SLOTS);
                        Asked::No
                    }
                };
                let lives = record.is_live() && record.closing().is_none();
                if lives && asked == Asked::No && record.scenario() != Scenario::Private {
                    note_again(&mut self.hits, snapshot, record);
                }
                if lives && let Err(reason) = may_stand(record, snapshot, &self.drains, asked) {
                    cache.end(&mut self.replica.table, slot);
                    if !self.close(snapshot.control_index, slot, reason) {
                        break;
                    }
                }
            }
            position += 1;
        }
        let more = position < slots;
        if let Some(lead) = &mut self.leadership {
            lead.judge = more.then_some(position);
            if !more {
                lead.groups = Some(Arc::clone(&snapshot.security));
            }
        }
        more
    }

    /// Takes note of what drains, also if this replica is younger than the snapshot that says so; what has drained for too
    /// long is judged again (D5).
    pub(crate) fn watch_drains(&mut self, now_ns: u64, home: ShardId, snapshot: &Snapshot) {
        if let Some(config) = snapshot.shards.get(&home) {
            self.drains.note(now_ns, &config.draining);
        }
        if self.drains.end(now_ns) {
            self.judge_again();
        }
    }

    /// Forgets a part of what is kept of backends that are gone or have another lease, and of frontends that are gone, after
    /// each load.
    pub(crate) fn forget_gone(&mut self, snapshot: &Snapshot) {
        for _ in 0..self.gone.len().min(FORGET_FRONTENDS_STEP) {
            // A replica may be behind its snapshot, and hold mappings of one that has none left.
            let Some(id) = self.gone.pop_front() else { break };
            if !self.replica.table.forget_frontend(id) {
                self.gone.push_back(id);
            }
        }
        let part = self.unlooked.split_off(self.unlooked.len().saturating_sub(FORGET_STEP));
        for id in part {
            let backend = snapshot.backends.get(&id);
            if backend.is_none() {
                self.rates.forget(id);
            }
            if let Some(order) = self.orders.get(&id)
                && !backend.is_some_and(|b| order.is_of(&b.lease))
            {
                self.orders.remove(&id);
            }
        }
    }

    /// Judges everything again: an entry was applied that was judged under an older snapshot.
    pub(crate) fn is_judging(&self) -> bool {
        self.leadership.as_ref().is_some_and(|lead| lead.judge.is_some())
    }

    pub(crate) fn judge_again(&mut self) {
        if let Some(lead) = &mut self.leadership {
            lead.judge_all();
        }
    }

    /// Proposes to close a live mapping; `false` if the stream takes nothing now.
    pub(crate) fn close(&mut self, control_index: ControlIndex, slot: Slot, reason: CloseReason) -> bool {
        if !self.stream.is_open() {
            return false;
        }
        let record = self.replica.table.record_mut(slot);
        record.mark = Mark::Closing(reason);
        let public = record.public();
        self.overlay.close(slot, reason);
        self.stream.push(control_index, FlowRecord::Close { public, reason });
        true
    }

    /// Looks whether holds have ended or the header has something new to say, and makes sure that an entry carries it (F6).
    pub(crate) fn end_holds(&mut self, now_ns: u64, snapshot: &Snapshot) {
        let (meta, frees_after_ns) = (self.replica.meta, self.replica.frees_after_ns);
        let Some(lead) = &mut self.leadership else { return };
        if !self.stream.is_open() {
            return;
        }
        if let (true, Some(takeover_ns)) = (now_ns >= frees_after_ns, lead.takeover_ns) {
            for class in HoldClass::ALL {
                let length = u64::from(meta.hold_ms[class.index()]) * MS;
                // Holds restart in full on takeover.
                if now_ns < takeover_ns.saturating_add(length) {
                    continue;
                }
                let proposed = &mut lead.proposed_ended[class.index()];
                if let Some(ended) = self.replica.holds.ended(class, *proposed, now_ns - length) {
                    *proposed = ended;
                    lead.holds_due_ns.get_or_insert(now_ns.saturating_add(HOLD_BATCH_NS));
                }
            }
        }
        let forces = Forces::of(&snapshot.params);
        let in_force = Forces { orphan_grace_ms: meta.orphan_grace_ms, hold_ms: meta.hold_ms };
        // An empty shard needs no entry of its own for that: its first one will carry it. But if instances say to each other
        // what nobody keeps, there is none.
        let asked = self.replica.table.slots() > 0 || lead.wants_forces;
        let news = forces != lead.proposed_forces.unwrap_or(in_force) && asked;
        if news || lead.holds_due_ns.is_some_and(|due| now_ns >= due) {
            self.stream.push_header(snapshot.control_index);
        }
    }

    /// Emits a fence for each draining block that nothing uses any more (F4, I11). What it costs is in proportion to what
    /// has become empty since.
    pub(crate) fn fence(&mut self, now_ns: u64, snapshot: &Snapshot) {
        let Some(lead) = &self.leadership else { return };
        let grace_end = self.replica.grace_wait_ns(lead.since_ns, snapshot.params.vote_timeout_ms, 0);
        if now_ns < grace_end || !self.stream.is_open() {
            return;
        }
        let empty = self.drains.empty(&mut self.replica.table);
        if empty.is_empty() {
            return;
        }
        let opening = self.overlay.opening_ports();
        for (block, reclaim_index) in empty {
            let from = opening.range((block.frontend, block.start)..).next();
            if from.is_some_and(|(frontend, port)| *frontend == block.frontend && block.contains(*port)) {
                continue;
            }
            self.drains.fenced(&block);
            let committed = self.replica.fenced.contains(&(block, reclaim_index));
            if !committed && self.overlay.fence(block, reclaim_index) {
                self.stream.push(snapshot.control_index, FlowRecord::Fence { block, reclaim_index });
            }
        }
    }

    /// Committed fences whose block still drains: told again now and then, and after a takeover, because the one who told
    /// the control group may have died with the message.
    pub(crate) fn fences_to_report(
        &mut self,
        now_ns: u64,
        home: ShardId,
        snapshot: &Snapshot,
    ) -> Vec<(PortBlock, ControlIndex)> {
        let Some(lead) = &mut self.leadership else { return Vec::new() };
        if self.replica.fenced.is_empty() || now_ns < lead.report_ns {
            return Vec::new();
        }
        lead.report_ns = now_ns.saturating_add(REPORT_NS);
        let draining = snapshot.shards.get(&home).map_or(&[][..], |s| &s.draining[..]);
        let keys = draining.iter().map(|d| (d.block, d.reclaim_index));
        keys.filter(|key| self.replica.fenced.contains(key)).collect()
    }
}
