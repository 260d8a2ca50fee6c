//! W2: by an address of its own a flow's first packet may leave before its mapping is committed, since the control log says
//! whose that public end is. No other packet of the flow may: what passed beyond it a successor knows.

use std::collections::BTreeMap;

use engine::ids::{NodeId, ShardId, Term};
use engine::record::{InsideKey, Proto, PublicKey};
use engine::wire::{IcmpKind, IpPacket, TcpFlags};

use super::{Check, ensure};

/// First packets that left uncommitted, by owner and public end: whose they were, and which.
#[derive(Debug, Default)]
pub struct Firsts(BTreeMap<(NodeId, ShardId, Term, PublicKey), (InsideKey, u64)>);

impl Firsts {
    /// A packet leaves as `public` for `inside`, which has no committed mapping. `packet` is told apart by when it was sent.
    ///
    /// # Errors
    /// If it cannot begin a flow, or another one of the flow has left so before.
    pub fn left(
        &mut self,
        (node, shard, term): (NodeId, ShardId, Term),
        (public, inside): (PublicKey, InsideKey),
        packet: &IpPacket,
        sent_ns: u64,
    ) -> Check {
        ensure(begins(packet), "W2", || format!("{inside:?} left as {public:?} before its commit, and begins nothing"))?;
        let first = *self.0.entry((node, shard, term, public)).or_insert((inside, sent_ns));
        ensure(first == (inside, sent_ns), "W2", || {
            format!("a second packet of {inside:?}, sent at {sent_ns}, left as {public:?} before its commit; {first:?} was the first")
        })
    }

    /// The log has decided about a public end.
    pub fn decided(&mut self, shard: ShardId, public: &PublicKey) {
        self.0.retain(|(_, of, _, end), _| (*of, &*end) != (shard, public));
    }

    /// An owner's batch was refused: what it had in the log it has not, and flows may begin again.
    pub fn again(&mut self, node: NodeId, shard: ShardId) {
        self.0.retain(|(of, at, _, _), _| (*of, *at) != (node, shard));
    }
}

/// Whether a packet may begin a flow.
fn begins(packet: &IpPacket) -> bool {
    match (packet.proto, packet.tcp, packet.icmp) {
        (Proto::Tcp, Some(tcp), _) => tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::ACK),
        (Proto::Udp, ..) | (Proto::Icmp, _, Some(IcmpKind::EchoRequest)) => true,
        (Proto::Tcp | Proto::Icmp, ..) => false,
    }
}
