//! D5, `reset`: both ends of a connection whose port is taken back hear of it, if the owner has seen what a reset needs (a
//! segment of the backend's that acknowledges something, in this very term) and nothing goes wrong meanwhile. A run that is
//! to say something takes ports back in calm.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::state::State;
use engine::LeaseWords;
use engine::codec::{Format, decode_entry};
use engine::event::GroupEvent;
use engine::ids::{Link, NodeId, ShardId, Term};
use engine::record::{CloseReason, FlowRecord, Proto};
use engine::wire::{IpPacket, TcpFlags};

use super::rights::Rights;
use super::{Check, ensure};

/// What a reset may take: frames may wait for a second in front of the wire.
const WITHIN_NS: u64 = 1_500_000_000;

/// An address and a port.
type End = (Ipv4Addr, u16);

/// A connection as the outside sees it: the public end, and the remote one.
type Outer = (End, End);

/// What each owner has seen, and what it owes.
#[derive(Debug, Default)]
pub struct Resets {
    /// Connections whose numbers are known to the owner in its term, and the backend's end of each, with its link.
    known: BTreeMap<(NodeId, ShardId, Term, Outer), (Link, End)>,
    /// Who owes a reset by which link from which end to which, as the owner of which shard, and since when.
    owed: BTreeMap<(NodeId, Link, End, End), (ShardId, u64)>,
    /// How many were owed and left.
    pub paid: u64,
}

impl Resets {
    /// An owner translated a segment of the backend's, which has the end `inside`.
    pub fn passed(
        &mut self,
        (node, shard, term): (NodeId, ShardId, Term),
        inside: (Link, End),
        packet: &IpPacket,
        flags: TcpFlags,
    ) {
        let outer = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        if flags.contains(TcpFlags::RST) || !flags.contains(TcpFlags::ACK) {
            // It is over, or another one begins.
            self.known.remove(&(node, shard, term, outer));
        } else {
            self.known.insert((node, shard, term, outer), inside);
        }
    }

    /// What a worker is told: closes of its own, in its own term, are what it resets for.
    pub fn event(
        &mut self,
        (now_ns, node): (u64, NodeId),
        words: &impl LeaseWords,
        event: &GroupEvent,
        (newest, rights): (&State, &Rights),
    ) {
        if let GroupEvent::Following { shard } | GroupEvent::Dropped { shard } = event {
            // Who is no owner any more resets nothing.
            self.owed.retain(|(owing, ..), (of, _)| (*owing, *of) != (node, *shard));
        }
        let GroupEvent::Committed { shard, term, entry, .. } = event else { return };
        let mut records = Vec::new();
        if words.word(*shard).term != *term || decode_entry(Format::NEWEST, entry, &mut records).is_err() {
            return;
        }
        for record in records {
            let FlowRecord::Close { public, reason } = record else { continue };
            let frontend = newest.allocation().frontends.get(&public.frontend);
            let (Some(frontend), Some(remote)) = (frontend, public.remote.addr.ipv4()) else { continue };
            let outer = ((frontend.ip, public.port), (remote, public.remote.port));
            if public.proto != Proto::Tcp {
                continue;
            }
            let known = self.known.remove(&(node, *shard, *term, outer));
            // Who is in the pool no longer has no rule that says so.
            let ruled = rights.is_ruled(public.frontend, public.port);
            if let (Some((link, inside)), CloseReason::Reclaim, true) = (known, reason, ruled) {
                self.owed.insert((node, Link::Outside, outer.0, outer.1), (*shard, now_ns));
                self.owed.insert((node, link, outer.1, inside), (*shard, now_ns));
            }
        }
    }

    /// A reset of a member's own leaves.
    pub fn left(&mut self, node: NodeId, link: Link, packet: &IpPacket) {
        let ends = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        self.paid += u64::from(self.owed.remove(&(node, link, ends.0, ends.1)).is_some());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_that_is_owed_in_calm_leaves_in_time() {
        let ends = ((Ipv4Addr::new(203, 0, 113, 1), 1_024), (Ipv4Addr::new(198, 51, 100, 7), 80));
        let owed = || BTreeMap::from([((NodeId(1), Link::Outside, ends.0, ends.1), (ShardId(1), 100))]);
        let mut resets = Resets { owed: owed(), ..Resets::default() };
        assert!(resets.check(100, 100 + WITHIN_NS).is_ok());
        assert!(resets.check(100, 101 + WITHIN_NS).is_err());
        assert!(resets.check(101, 101 + WITHIN_NS).is_ok(), "something was wrong when it was owed");
        assert!(resets.owed.is_empty(), "it may be lost with that");
    }
}
