//! Resets to both ends of a connection that went idle (R27, `enable_tcp_reset`) or whose port was taken back (D5, `reset`).
//! Called by the worker when the close is committed, so that a mapping which goes on never sees one; under the lease alone,
//! and only with sequence numbers that are known to lie in the receiver's window. Best effort, like any reset: what finds no
//! room is not sent.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::addresses::next_hop;
use crate::event::Authority;
use crate::flow::{Record, Slot};
use crate::held::{Origin, Outgoing};
use crate::ids::{Link, ShardId, Term};
use crate::judge::Hop;
use crate::nat::tcp::Direction;
use crate::record::{CloseReason, Proto};
use crate::snapshot::{OnReclaim, Snapshot, TcpReset};
use crate::wire::{FrameMeta, build_reset};
use crate::worker::Worker;

impl Worker {
    /// The close of a mapping of this owner's is committed.
    pub(crate) fn reset_ends(&mut self, now_ns: u64, home: ShardId, term: Term, slot: Slot, reason: CloseReason) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        self.reset_both(&snapshot, now_ns, (home, term), slot, reason);
    }

    fn reset_both(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        (home, term): (ShardId, Term),
        slot: Slot,
        reason: CloseReason,
    ) -> Option<()> {
        let shard = self.replica(home)?;
        let record = shard.replica.table.record(slot);
        let wanted = match reason {
            CloseReason::Idle => s.backends.get(&record.backend).is_some_and(|b| b.tcp_reset_on_idle == TcpReset::On),
            CloseReason::Reclaim => is_reset_on_reclaim(s, home, record),
            CloseReason::Fin | CloseReason::Rst | CloseReason::Policy | CloseReason::Service | CloseReason::IdleRfc => {
                false
            }
        };
        // A packet came while the close was on its way: the connection goes on under the same mapping.
        if record.proto != Proto::Tcp || !wanted || shard.overlay.is_opening(&record.flow()) {
            return None;
        }
        let remote = SocketAddrV4::new(record.remote.addr.ipv4()?, record.remote.port);
        let inside = SocketAddrV4::new(record.inside.addr.ipv4()?, record.inside.port);
        let network = Link::Inside(record.vnet);
        let public = SocketAddrV4::new(s.frontends.get(&record.frontend)?.ip, record.public_port);
        let known = record.tcp.known_in(term);
        let (out, back) = (known.reset_sequence(Direction::Out), known.reset_sequence(Direction::In));
        let authority = Authority::Lease { shard: home, term };
        if let (Some(seq), Ok(hop)) = (out, next_hop(s, *remote.ip())) {
            let mut frame = build_reset(public, remote, seq, back);
            self.send_own(s, now_ns, (Link::Outside, hop), authority, &mut frame);
        }
        if let Some(seq) = back {
            let mut frame = build_reset(remote, inside, seq, out);
            self.send_own(s, now_ns, (network, *inside.ip()), authority, &mut frame);
        }
        Some(())
    }

    /// Sends a frame of the worker's own to a neighbour, at once or when that one has answered.
    pub(crate) fn send_own(
        &mut self,
        s: &Snapshot,
        since_ns: u64,
        to: (Link, Ipv4Addr),
        authority: Authority,
        bytes: &mut [u8],
    ) {
        let Ok(hop) = self.address(s, since_ns, to.0, authority, to.1, bytes) else { return };
        let (link, meta) = (to.0, FrameMeta::default());
        match hop {
            Hop::Ready => {
                let Some(mut frame) = self.held.own_buffer() else { return };
                frame.extend_from_slice(bytes);
                self.held.push(Outgoing { frame, meta, link, authority, origin: Origin::Own, since_ns });
            }
            Hop::Wait(ip) => {
                // It waits like a frame that came in, and counts like one.
                let Some(frame) = self.held.copy(&s.params, bytes) else { return };
                self.counters.originated += 1;
                self.counters.parked += 1;
                let outgoing = Outgoing { frame, meta, link, authority, origin: Origin::Received, since_ns };
                if let Err(reason) = self.wait_for((link, ip), outgoing) {
                    self.counters.drop_parked(reason);
                }
            }
        }
    }
}

/// Whether the block of a mapping drains under a rule that wants resets.
fn is_reset_on_reclaim(s: &Snapshot, home: ShardId, record: &Record) -> bool {
    let draining = s.shards.get(&home).map_or(&[][..], |shard| &shard.draining);
    let (frontend, port) = (record.frontend, record.public_port);
    let after = draining.partition_point(|d| (d.block.frontend, d.block.start) <= (frontend, port));
    let before = after.checked_sub(1).and_then(|at| draining.get(at));
    before.is_some_and(|d| d.on_reclaim == OnReclaim::Reset && d.block.frontend == frontend && d.block.contains(port))
}
