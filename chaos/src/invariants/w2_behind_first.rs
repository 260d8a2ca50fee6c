//! W2: by an address of its own a flow's first packet may leave before its mapping is committed, since the control log says
//! whose that public end is. No other packet of the flow may: what passed beyond it a successor knows.

use std::collections::BTreeMap;

use engine::ids::{NodeId, ShardId, Term};
use engine::record::{InsideKey, Manner, PublicKey};
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
        ensure(begins(packet), "W2", || {
            format!("{inside:?} left as {public:?} before its commit, and begins nothing")
        })?;
        let first = *self.0.entry((node, shard, term, public)).or_insert((inside, sent_ns));
        ensure(first == (inside, sent_ns), "W2", || {
            format!(
                "a second packet of {inside:?}, of {sent_ns}, left as {public:?} before its commit, after {first:?}"
            )
        })
    }

    /// The log has decided about a public end.
    pub fn decided(&mut self, shard: ShardId, public: &PublicKey) {
        self.0.retain(|(_, of, _, end), _| (*of, end) != (shard, public));
    }

    /// An owner's batch was refused: what it had in the log it has not, and flows may begin again.
    pub fn again(&mut self, node: NodeId, shard: ShardId) {
        self.0.retain(|(of, at, _, _), _| (*of, *at) != (node, shard));
    }
}

/// Whether a packet may begin a flow.
fn begins(packet: &IpPacket) -> bool {
    match (packet.proto.manner(), packet.tcp, packet.icmp) {
        (Manner::Stream, Some(tcp), _) => tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::ACK),
        (Manner::Datagram, ..) | (Manner::Query, _, Some(IcmpKind::EchoRequest)) => true,
        (Manner::Stream | Manner::Query, ..) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use engine::ids::{FrontendId, VnetId};
    use engine::record::{Addr, Endpoint, Proto};
    use engine::wire::{FrameMeta, Parsed, checksum, parse};

    use super::*;

    /// A datagram, or a TCP segment with these flags.
    fn packet(flags: Option<TcpFlags>) -> IpPacket {
        let (ends, own, to) = ([0x4e, 0x20, 0, 7], Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(203, 0, 113, 10));
        let mut l4 = ends.to_vec();
        match flags {
            None => l4.extend([0, 8, 0, 0]),
            Some(TcpFlags(flags)) => l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]),
        }
        let len = u16::try_from(l4.len()).expect("short");
        let number = if flags.is_some() { 6 } else { 17 };
        if flags.is_some() {
            let sum = !checksum::add(checksum::sum(&l4), checksum::pseudo_header(own, to, number, len));
            l4[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, number, 0, 0];
        ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        ip.extend(own.octets());
        ip.extend(to.octets());
        let sum = !checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &ip, &l4].concat();
        match parse(&frame, &FrameMeta::default()) {
            Ok(Parsed::Ip(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_packet_that_begins_a_flow_leaves_before_the_commit_and_no_other() {
        let end = |ip: [u8; 4], port| Endpoint { addr: Addr::from(Ipv4Addr::from(ip)), port };
        let remote = end([203, 0, 113, 10], 7);
        let inside = InsideKey { vnet: VnetId(1), endpoint: end([10, 0, 1, 1], 20_000) };
        let public = PublicKey { proto: Proto::Udp, frontend: FrontendId(1), port: 20_000, remote };
        let owner = (NodeId(1), ShardId(1), Term(3));
        let mut firsts = Firsts::default();
        let left = |firsts: &mut Firsts, owner, packet: &IpPacket, sent_ns| {
            firsts.left(owner, (public, inside), packet, sent_ns).is_ok()
        };
        assert!(!left(&mut firsts, owner, &packet(Some(TcpFlags::ACK)), 1), "it begins nothing");
        assert!(!left(&mut firsts, owner, &packet(Some(TcpFlags::SYN | TcpFlags::ACK)), 1), "nor does this");
        assert!(left(&mut firsts, owner, &packet(None), 5));
        assert!(!left(&mut firsts, owner, &packet(None), 6), "the next one waits");
        assert!(left(&mut firsts, (NodeId(2), ShardId(1), Term(4)), &packet(Some(TcpFlags::SYN)), 7), "another owner");
        firsts.again(NodeId(1), ShardId(2));
        assert!(!left(&mut firsts, owner, &packet(None), 8), "another shard's batch was refused");
        firsts.again(NodeId(1), ShardId(1));
        assert!(left(&mut firsts, owner, &packet(None), 9), "its batch was");
        firsts.decided(ShardId(1), &public);
        assert!(left(&mut firsts, owner, &packet(None), 10), "a new flow of the same ends");
    }
}
