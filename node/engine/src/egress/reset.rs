//! Resets to both ends of a connection that went idle (R27, `enable_tcp_reset`) or whose port was taken back (D5, `reset`).
//! Called by the worker when the close is committed, so that a mapping which goes on never sees one; under the lease alone,
//! and only with sequence numbers that are known to lie in the receiver's window. Best effort, like any reset: what finds no
//! room is not sent.

use std::net::SocketAddrV4;

use crate::addresses::{next_hop, own_end};
use crate::context::{At, Exit};
use crate::egress::Egress;
use crate::event::Authority;
use crate::flow::{Record, Slot};
use crate::ids::{Link, ShardId, Term};
use crate::nat::tcp::Direction;
use crate::record::{CloseReason, Proto, Scenario};
use crate::shard::Shard;
use crate::snapshot::{OnReclaim, Snapshot, TcpReset};
use crate::wire::build_reset;

impl Egress {
    /// The close of a mapping of this owner's is committed.
    pub(crate) fn reset_both(
        &mut self,
        at: At<'_>,
        (home, term): (ShardId, Term),
        shard: &Shard,
        slot: Slot,
        reason: CloseReason,
    ) -> Option<()> {
        let s = at.snapshot;
        let record = shard.replica.table.record(slot);
        let wanted = match reason {
            CloseReason::Idle => reset_on_idle(s, record) == TcpReset::On,
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
            self.send_own(at, Exit { link: Link::Outside, authority }, hop, &mut frame);
        }
        if let Some(seq) = back {
            let mut frame = build_reset(remote, inside, seq, out);
            let hop = own_end(s, record.backend, record.inside).addr.ipv4()?;
            self.send_own(at, Exit { link: network, authority }, hop, &mut frame);
        }
        Some(())
    }
}

/// What the rule of a mapping says, or, of one that its backend began, the backend's.
fn reset_on_idle(s: &Snapshot, record: &Record) -> TcpReset {
    match record.scenario() {
        Scenario::Rule => s.rules.of(&record.public()).map_or(TcpReset::Off, |rule| rule.tcp_reset_on_idle),
        Scenario::OwnOut | Scenario::OwnIn => TcpReset::Off,
        Scenario::Pool | Scenario::Default | Scenario::Private => {
            s.backends.get(&record.backend).map_or(TcpReset::Off, |backend| backend.tcp_reset_on_idle)
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
