//! First packets that came while the owner's lease was lapsed. A machine that stands still for a moment loses its lease, and mostly
//! has it back after the next heartbeat: what came meanwhile waits for that, and is judged then as if it came in. Nothing is
//! proposed for it before (L4). If somebody else is heard of as the owner, it goes there.
//!
//! Packets of mappings that stand do not wait: in grace they are repeated. Called by the worker before it judges what
//! comes in, so that a flow's packets keep their order (I56), and by its timers.

use crate::context::{Access, Frame};
use crate::egress::lapsed::Lapsed;
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::{Link, ShardId};
use crate::judge::Judge;
use crate::lease::LeaseWords;
use crate::wire::{IpPacket, Parsed, parse};

impl<W: LeaseWords> Judge<'_, W> {
    /// What becomes of a packet that would open something, untouched so far, where the lease of its shard has lapsed. A piece of a
    /// datagram does not wait: the others would pass it.
    pub(crate) fn await_lease(
        &mut self,
        shard: ShardId,
        link: Link,
        p: &IpPacket,
        frame: &Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let has_room = p.fragment.is_none() && self.egress.lapsed.has_room();
        let copy = if has_room { self.egress.held.copy(&self.cx.snapshot.params, frame.bytes) } else { None };
        let frame =
            Lapsed { link, meta: *frame.meta, frame: copy.ok_or(DropReason::NotOwner)?, since_ns: self.cx.now_ns };
        self.egress.lapsed.put(shard, frame);
        Ok(Verdict::Consumed)
    }

    /// Judges those whose lease is back, or whose owner is known, before what comes in later.
    pub(crate) fn resume_lapsed(&mut self) {
        while let Some(shard) = self.egress.lapsed.first_shard(|shard| self.knows_owner(shard)) {
            for waits in self.egress.lapsed.take(shard) {
                self.judge_lapsed(waits);
            }
        }
    }

    /// The same, and drops those that have waited for too long.
    pub(crate) fn lapsed_timers(&mut self) {
        self.resume_lapsed();
        while let Some(waits) = self.egress.lapsed.expired(self.cx.now_ns) {
            self.egress.drop_waiting(waits.frame, DropReason::NotOwner);
        }
    }

    /// Whether it is known who may open something: this node, which has the lease, or another one.
    fn knows_owner(&self, shard: ShardId) -> bool {
        matches!(self.shards.access(&self.cx, shard), Access::Here(Authority::Lease { .. }) | Access::Forward(_))
    }

    fn judge_lapsed(&mut self, Lapsed { link, meta, frame: mut bytes, since_ns }: Lapsed) {
        // As it was when it came in, so it can be read.
        let result = match &parse(&bytes, &meta) {
            Ok(Parsed::Ip(p)) => self.judge_packet(link, p, &mut Frame { meta: &meta, bytes: &mut bytes }),
            Ok(Parsed::Arp(_) | Parsed::Sounding(_) | Parsed::Fragment(_) | Parsed::Error(_)) => {
                Err(DropReason::NotOwner)
            }
            Err(reason) => Err(*reason),
        };
        self.egress.settle_turned(since_ns, result, meta, bytes);
    }
}
