//! Takes note of packets that pass by a mapping: how far its connection is, and when it was used last. Whoever translated the
//! packet asks, at length or by what was decided. Hot path.

use crate::cache::Cache;
use crate::context::At;
use crate::event::Authority;
use crate::flow::{Record, Seen, Slot, State};
use crate::nat::tcp::{Direction, Progress};
use crate::nat::timeouts::{Terms, awaits_answer, note_answer};
use crate::record::{CloseReason, Proto};
use crate::shard::Shard;
use crate::wire::IpPacket;
use words::time::MS;

/// Before a port changes hands towards a remote, the last packet of its former flow is at least 16 s old: as long as the
/// shortest hold of a connection (D6), and a margin for how exactly its beginning is known.
const QUIET_NS: u64 = 17_000_000_000;

impl Shard {
    /// Whether a mapping that lives no longer takes late packets of its backend still: not at the end of its hold, after which
    /// somebody else may have the port towards the same remote (I11).
    pub(crate) fn takes_late(&self, record: &Record, now_ns: u64) -> bool {
        let State::Held(class) = record.state else { return true };
        // Nobody but its own client can have the tuple.
        if record.scenario().comes_in() {
            return true;
        }
        let takeover_ns = self.leadership.as_ref().and_then(|lead| lead.takeover_ns).unwrap_or(0);
        let hold_ns = u64::from(self.replica.meta.hold_ms[class.index()]) * MS;
        let began_ns = record.last_seen.ns().max(takeover_ns);
        now_ns.saturating_add(QUIET_NS) < began_ns.saturating_add(hold_ns)
    }

    /// A packet went out by the mapping.
    pub(crate) fn note_out(&mut self, cache: &mut Cache, at: At<'_>, by: Authority, slot: Slot, p: &IpPacket) {
        // What the kernel saw comes before what a worker sees now.
        cache.absorb(&mut self.replica.table, slot);
        let record = self.watched(slot);
        record.tcp.ask();
        let progress = p.tcp.as_ref().map_or(Progress::Open, |tcp| record.tcp.observe(Direction::Out, tcp));
        self.went_on(cache, at, by, slot, progress);
    }

    /// A packet came in by it: a segment of its connection, or a datagram, which keeps nothing alive (R5, I19) but what
    /// anybody may begin anew.
    pub(crate) fn note_in(&mut self, cache: &mut Cache, at: At<'_>, by: Authority, slot: Slot, p: &IpPacket) {
        let s = at.snapshot;
        cache.absorb(&mut self.replica.table, slot);
        let record = self.watched(slot);
        if let Some(tcp) = &p.tcp {
            let progress = record.tcp.observe(Direction::In, tcp);
            self.went_on(cache, at, by, slot, progress);
        } else if record.scenario().comes_in() {
            self.went_on(cache, at, by, slot, Progress::Open);
        } else if awaits_answer(record, &s.params)
            && let Some(backend) = s.backends.get(&record.backend)
        {
            let terms = Terms::of(record, backend, &s.rules);
            note_answer(record, terms, &s.params, at.now_ns);
        }
    }

    fn went_on(&mut self, cache: &mut Cache, at: At<'_>, by: Authority, slot: Slot, progress: Progress) {
        let record = self.replica.table.record_mut(slot);
        if progress != Progress::Ignored && record.is_live() {
            record.last_seen = Seen::at(at.now_ns);
        }
        if record.proto == Proto::Tcp && record.tcp.settled().is_none() {
            // From here on each packet may matter.
            cache.end(&mut self.replica.table, slot);
        }
        let record = self.replica.table.record(slot);
        let ends = progress == Progress::Finished && record.is_live() && record.closing().is_none();
        if ends && matches!(by, Authority::Lease { .. }) {
            // Both FINs were seen: it closes and is held (D6); late packets still pass. A stream that takes nothing now sees the
            // next packet's FIN bits again, or the idle sweep.
            self.close(at.snapshot.control_index, slot, CloseReason::Fin);
        }
    }
}
