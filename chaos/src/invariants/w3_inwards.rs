//! W3: what comes in by a rule. Beyond its handshake a connection's packets reach a backend only under a committed mapping, and
//! only the backend that the mapping names; so does an answer to a datagram leave. What clients only begin writes no log. I39 for
//! these: a connection stays on its backend, whoever owns the shard, as long as nothing closed its mapping.
//!
//! Each connection of a run has a number, by which its packets are known on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::ShardId;
use engine::record::{InsideKey, Open, Proto, PublicKey, Scenario};
use engine::wire::{IpPacket, TcpFlags};

use super::committed::Committed;
use super::{Check, ensure};

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// A connection of a client, or a stream of its datagrams.
#[derive(Clone, Copy, Debug)]
struct Conn {
    proto: Proto,
    client: End,
    public: End,
    /// The backend that got what only an open connection has, and how often the public end had been closed by then.
    backend: Option<(InsideKey, u32)>,
}

/// All connections of a run that came from outside.
#[derive(Debug, Default)]
pub struct Inwards {
    conns: BTreeMap<u32, Conn>,
    /// Ends whose client has sent more than what begins a connection.
    spoke: BTreeSet<(Proto, End, End)>,
}

impl Inwards {
    /// A client begins connection `number`.
    pub fn begins(&mut self, number: u32, proto: Proto, client: End, public: End) {
        self.conns.insert(number, Conn { proto, client, public, backend: None });
    }

    /// It sends something else than a SYN.
    pub fn speaks(&mut self, number: u32) {
        if let Some(Conn { proto, client, public, .. }) = self.conns.get(&number) {
            self.spoke.insert((*proto, *client, *public));
        }
    }

    /// The ends of a connection: the client, and what it asked.
    #[must_use]
    pub fn ends(&self, number: u32) -> Option<(End, End)> {
        self.conns.get(&number).map(|conn| (conn.client, conn.public))
    }

    /// An entry opens a mapping of this public address.
    ///
    /// # Errors
    /// If it is for a client that never said more than that it wants to begin.
    pub fn opened(&self, address: Ipv4Addr, open: &Open) -> Check {
        let Some(remote) = open.public.remote.addr.ipv4() else { return Ok(()) };
        let ends = (open.public.proto, (remote, open.public.remote.port), (address, open.public.port));
        let may = open.scenario != Scenario::Rule || open.public.proto != Proto::Tcp || self.spoke.contains(&ends);
        ensure(may, "W3", || format!("{open:?} was opened for a client that only sent SYNs"))
    }

    /// A packet of connection `number` reaches `inside`; `public` is its public end, in `shard`.
    ///
    /// # Errors
    /// If it is more than a beginning and not covered, or covered by a mapping to somebody else, or if its connection was
    /// another one's before.
    pub fn comes(
        &mut self,
        committed: &Committed,
        (shard, public): (ShardId, &PublicKey),
        number: u32,
        inside: InsideKey,
        packet: &IpPacket,
    ) -> Check {
        let standing = committed.standing(shard, public);
        ensure(standing.is_none_or(|m| (m.inside, m.scenario) == (inside, Scenario::Rule)), "W3", || {
            format!("connection {number} to {public:?} reached {inside:?}; {standing:?} stands")
        })?;
        if is_half(packet) {
            return Ok(());
        }
        let covered = committed.mapping(shard, public).is_some_and(|m| m.inside == inside);
        ensure(covered || packet.tcp.is_none(), "W3", || {
            format!("a packet of connection {number} to {public:?} reached {inside:?}, and no mapping is committed: {packet:?}")
        })?;
        let closes = committed.closes(shard, public);
        let Some(conn) = self.conns.get_mut(&number).filter(|_| covered) else { return Ok(()) };
        let before = conn.backend.replace((inside, closes));
        let moved = before.is_some_and(|(of, then)| of != inside && then == closes);
        ensure(!moved || committed.lost(shard), "I39", || {
            format!("connection {number} to {public:?} was {before:?} and is {inside:?}, and nothing closed it")
        })
    }

    /// A packet that answers connection `number` leaves as `public` for `inside`.
    ///
    /// # Errors
    /// If it leaves by another end than the client asked, or for another client, or without what has to be committed.
    pub fn leaves(
        &self,
        committed: &Committed,
        (shard, public): (ShardId, &PublicKey),
        number: u32,
        inside: InsideKey,
        packet: &IpPacket,
    ) -> Check {
        let asked = self.conns.get(&number).map(|conn| (conn.client, conn.public));
        let got = ((packet.dst, packet.dst_port), (packet.src, packet.src_port));
        ensure(asked == Some(got), "I39", || format!("connection {number} is {asked:?}; its answer left as {got:?}"))?;
        let standing = committed.standing(shard, public);
        ensure(standing.is_none_or(|m| (m.inside, m.scenario) == (inside, Scenario::Rule)), "W3", || {
            format!("an answer of {inside:?} to connection {number} left as {public:?}; {standing:?} stands")
        })?;
        let covered = committed.mapping(shard, public).is_some_and(|m| m.inside == inside);
        ensure(covered || is_half(packet), "W3", || {
            format!("an answer of {inside:?} to connection {number} left as {public:?}, and no mapping is committed")
        })
    }

    /// How often the public end of a connection that is open had been closed when its backend last got something of it.
    #[must_use]
    pub fn closes_before(&self, number: u32) -> Option<u32> {
        self.conns.get(&number)?.backend.map(|(_, closes)| closes)
    }
}

/// Whether a packet may belong to a handshake that is not complete: what begins a connection, answers that, or gives it up.
fn is_half(packet: &IpPacket) -> bool {
    packet.tcp.is_some_and(|tcp| tcp.flags.intersects(TcpFlags(TcpFlags::SYN.0 | TcpFlags::RST.0 | TcpFlags::FIN.0)))
}

/// Connections that stood while members failed must stand when all is well again.
///
/// # Errors
/// The ones that do not.
pub fn survive(silent: &[u32]) -> Check {
    ensure(silent.is_empty(), "W3", || {
        format!("connections {silent:?} were open, nothing closed them, and their backends answer no more")
    })
}
