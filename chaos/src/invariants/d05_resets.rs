//! D5, `reset`: both ends of a connection whose port is taken back hear of it, if the owner has seen what a reset needs (a
//! segment of the backend's that acknowledges something, in this very term) and nothing goes wrong meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use engine::LeaseWords;
use engine::codec::decode_entry;
use engine::event::GroupEvent;
use engine::ids::{NodeId, ShardId, Side, Term};
use engine::record::{CloseReason, FlowRecord, Proto};
use engine::wire::{IpPacket, TcpFlags};
use std::net::Ipv4Addr;

use control::state::State;

use super::{Check, ensure};

/// What a reset may take: frames may wait for a second in front of the wire.
const WITHIN_NS: u64 = 1_500_000_000;

/// A connection as the outside sees it: the public end, and the remote one.
type Outer = ((Ipv4Addr, u16), (Ipv4Addr, u16));

/// What each owner has seen, and what it owes.
#[derive(Debug, Default)]
pub struct Resets {
    /// Connections whose numbers are known, with the owner and its term.
    known: BTreeSet<(NodeId, ShardId, Term, Outer)>,
    /// Who owes an outside reset, as the owner of which shard, and since when.
    owed: BTreeMap<(NodeId, Outer), (ShardId, u64)>,
    /// How many were owed, while nothing was wrong, and left.
    pub paid: u64,
}

impl Resets {
    /// An owner translated a segment of the backend's.
    pub fn passed(&mut self, (node, shard, term): (NodeId, ShardId, Term), packet: &IpPacket, flags: TcpFlags) {
        if flags.contains(TcpFlags::ACK) && !flags.contains(TcpFlags::RST) {
            let outer = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
            self.known.insert((node, shard, term, outer));
        }
    }

    /// What a worker is told: closes of its own, in its own term, are what it resets for.
    pub fn event(
        &mut self,
        (now_ns, node): (u64, NodeId),
        words: &impl LeaseWords,
        event: &GroupEvent,
        newest: &State,
    ) {
        if let GroupEvent::Following { shard } | GroupEvent::Dropped { shard } = event {
            // Who is no owner any more resets nothing.
            self.owed.retain(|(owing, _), (of, _)| (*owing, *of) != (node, *shard));
        }
        let GroupEvent::Committed { shard, term, entry, .. } = event else { return };
        let mut records = Vec::new();
        if words.word(*shard).term != *term || decode_entry(entry, &mut records).is_err() {
            return;
        }
        for record in records {
            let FlowRecord::Close { public, reason: CloseReason::Reclaim } = record else { continue };
            let frontend = newest.allocation().frontends.get(&public.frontend);
            let (Some(frontend), Some(remote)) = (frontend, public.remote.addr.ipv4()) else { continue };
            let outer = ((frontend.ip, public.port), (remote, public.remote.port));
            if public.proto == Proto::Tcp && self.known.remove(&(node, *shard, *term, outer)) {
                self.owed.insert((node, outer), (*shard, now_ns));
            }
        }
    }

    /// A reset of a member's own leaves.
    pub fn left(&mut self, node: NodeId, side: Side, packet: &IpPacket) {
        let outer = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        if side == Side::Outside && self.owed.remove(&(node, outer)).is_some() {
            self.paid += 1;
        }
    }

    /// Nothing has been wrong since `calm_since_ns`.
    ///
    /// # Errors
    /// If a reset is owed for too long, all of it in calm.
    pub fn check(&mut self, calm_since_ns: u64, now_ns: u64) -> Check {
        // What was owed while something went wrong may have been lost with it.
        self.owed.retain(|_, (_, since_ns)| *since_ns >= calm_since_ns);
        let late = self.owed.iter().find(|(_, (_, since_ns))| now_ns.saturating_sub(*since_ns) > WITHIN_NS);
        ensure(late.is_none(), "D5", || format!("no reset has left for {late:?} at {now_ns}"))
    }
}
