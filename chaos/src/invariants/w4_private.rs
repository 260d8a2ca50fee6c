//! W4: what passes between instances. Nothing of it is translated, and nothing leaves its network. Where a group judges one of
//! the two, one packet may pass before the flow's mapping is committed, and no other: nothing that was answered can be forgotten.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::{Link, NodeId, ShardId, Term, VnetId};
use engine::record::{Addr, Endpoint, InsideKey, Proto};
use engine::wire::{IpPacket, TcpFlags};

use super::committed::Committed;
use super::w3_inwards::End;
use super::{Check, ensure};

/// A connection between two instances of a network: who began it, and with whom.
#[derive(Clone, Copy, Debug)]
struct Conn {
    proto: Proto,
    network: VnetId,
    ends: (End, End),
    /// A group has judged one of them since the run began.
    judged: bool,
}

/// By whose lease a packet passes.
pub type Owner = (NodeId, ShardId, Term);

/// All connections of a run between instances, by number.
#[derive(Debug, Default)]
pub struct Peers {
    conns: BTreeMap<u32, Conn>,
    /// The packet of each that has passed uncommitted, by when it was sent.
    firsts: BTreeMap<(Owner, u32), u64>,
}

impl Peers {
    /// Connection `number` begins.
    pub fn begins(&mut self, number: u32, (proto, network, ends): (Proto, VnetId, (End, End)), judged: bool) {
        self.conns.insert(number, Conn { proto, network, ends, judged });
    }

    /// A packet of it passes; `back`: as an answer. `owner`: by whose lease, if by one.
    ///
    /// # Errors
    /// If it is changed, or elsewhere, or not covered.
    pub fn passes(
        &mut self,
        committed: &Committed,
        (number, back): (u32, bool),
        (link, owner): (Link, Option<Owner>),
        packet: &IpPacket,
        sent_ns: u64,
    ) -> Check {
        let Some(conn) = self.conns.get(&number).copied() else { return Ok(()) };
        let (from, to) = if back { (conn.ends.1, conn.ends.0) } else { conn.ends };
        let got = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        ensure(link == Link::Inside(conn.network) && got == (from, to), "W4", || {
            format!("a packet of private connection {number}, {from:?} to {to:?}, left by {link:?} as {got:?}")
        })?;
        let ends_it = |flags: TcpFlags| flags.intersects(TcpFlags(TcpFlags::RST.0 | TcpFlags::FIN.0));
        if !conn.judged || is_mapped(committed, &conn) || packet.tcp.is_some_and(|tcp| ends_it(tcp.flags)) {
            return Ok(());
        }
        let first = owner.map(|owner| *self.firsts.entry((owner, number)).or_insert(sent_ns));
        ensure(first == Some(sent_ns), "W4", || {
            format!("{packet:?} of private connection {number} passed uncommitted by {owner:?}; {first:?} passed so before")
        })
    }

    /// An owner's batch was refused: what it had in the log it has not, and flows may begin again.
    pub fn again(&mut self, node: NodeId, shard: ShardId) {
        self.firsts.retain(|((of, at, _), _), _| (*of, *at) != (node, shard));
    }

    /// Whether the mapping of a connection lives, or none is needed for it.
    #[must_use]
    pub fn lives(&self, committed: &Committed, number: u32) -> bool {
        let mapped = |conn: &Conn| {
            let [forth, back] = flows(conn);
            committed.lives(forth.0, forth.1, forth.2) || committed.lives(back.0, back.1, back.2)
        };
        self.conns.get(&number).is_some_and(|conn| conn.judged && mapped(conn))
    }
}

fn is_mapped(committed: &Committed, conn: &Conn) -> bool {
    flows(conn).into_iter().any(|(proto, inside, remote)| committed.is_mapped(proto, inside, remote))
}

/// As either of the two may have begun it.
fn flows(conn: &Conn) -> [(Proto, InsideKey, Endpoint); 2] {
    let end = |(ip, port): (Ipv4Addr, u16)| Endpoint { addr: Addr::from(ip), port };
    let flow = |a, b| (conn.proto, InsideKey { vnet: conn.network, endpoint: end(a) }, end(b));
    [flow(conn.ends.0, conn.ends.1), flow(conn.ends.1, conn.ends.0)]
}

/// Connections that stood while members failed, and whose mappings live, must go on when all is well again.
///
/// # Errors
/// The ones that do not.
pub fn survive(silent: &[u32]) -> Check {
    ensure(silent.is_empty(), "W4", || format!("private connections {silent:?} have mappings, and are answered no more"))
}
