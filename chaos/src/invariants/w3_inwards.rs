//! W3: what comes in by a rule, or to an address of its own. Beyond its handshake a connection's packets reach a backend only under a committed mapping, and
//! only the backend that the mapping names; so does an answer to a datagram leave. What clients only begin writes no log. I39 for
//! these: a connection stays on its backend, whoever owns the shard, as long as nothing closed its mapping.
//!
//! Each connection of a run has a number, by which its packets are known on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{ControlIndex, ShardId};
use engine::record::{CloseReason, InsideKey, Open, Proto, PublicKey, Scenario};
use engine::wire::{IpPacket, TcpFlags};

use super::committed::{Committed, Mapping};
use super::rights::Rights;
use super::{Check, Violation, ensure};

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
    /// It was closed, and then came to another backend, which knows nothing of it.
    is_over: bool,
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
        self.conns.insert(number, Conn { proto, client, public, backend: None, is_over: false });
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

    /// An entry opens a mapping of this public address, for a client.
    ///
    /// # Errors
    /// If it is for a client that never said more than that it wants to begin.
    pub fn opened(&self, address: Ipv4Addr, open: &Open) -> Check {
        let Some(remote) = open.public.remote.addr.ipv4() else { return Ok(()) };
        let ends = (open.public.proto, (remote, open.public.remote.port), (address, open.public.port));
        let may = open.public.proto != Proto::Tcp || self.spoke.contains(&ends);
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
        let covered = covers(committed, (shard, public), number, inside)?;
        if is_half(packet) {
            return Ok(());
        }
        ensure(covered || packet.tcp.is_none(), "W3", || {
            format!(
                "a packet of connection {number} to {public:?} reached {inside:?}, and no mapping is committed: {packet:?}"
            )
        })?;
        let closes = committed.closes(shard, public);
        // Late packets of one that was closed pass as long as it is held.
        let lives = committed.standing(shard, public).is_some_and(|m| m.hold.is_none());
        let Some(conn) = self.conns.get_mut(&number).filter(|_| lives) else { return Ok(()) };
        let before = conn.backend.replace((inside, closes));
        let moved = before.is_some_and(|(of, _)| of != inside);
        conn.is_over |= moved;
        let unasked = before.is_some_and(|(_, then)| moved && then == closes);
        ensure(!unasked || committed.lost(shard), "I39", || {
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
        let covered = covers(committed, (shard, public), number, inside)?;
        ensure(covered || is_half(packet), "W3", || {
            format!("an answer of {inside:?} to connection {number} left as {public:?}, and no mapping is committed")
        })
    }

    /// How often the public end of a connection that is open had been closed when its backend last got something of it.
    #[must_use]
    pub fn closes_before(&self, number: u32) -> Option<u32> {
        let conn = self.conns.get(&number).filter(|conn| !conn.is_over)?;
        conn.backend.map(|(_, closes)| closes)
    }
}

/// An entry that was judged under the control state of index `judged` opens a mapping by a rule.
///
/// # Errors
/// If no rule led there then.
pub fn led(rights: &Rights, judged: ControlIndex, open: &Open) -> Check {
    let to = (open.backend, open.inside.endpoint.port);
    ensure(rights.around(judged).any(|known| known.leads(&open.public, to)), "W3", || {
        format!("{open:?} was opened at control index {judged}, where no rule led there")
    })
}

/// The same closes one.
///
/// # Errors
/// If it does in the name of the configuration, and the rule leads there as before.
pub fn closed(
    rights: &Rights,
    judged: ControlIndex,
    mapping: &Mapping,
    public: &PublicKey,
    reason: CloseReason,
) -> Check {
    let to = (mapping.backend, mapping.inside.endpoint.port);
    let mut seen = rights.around(judged).peekable();
    let ended_itself = !matches!(reason, CloseReason::Policy | CloseReason::Reclaim);
    let may_close = ended_itself || seen.peek().is_none() || seen.any(|known| !known.leads(public, to));
    ensure(may_close, "W3", || {
        format!(
            "{mapping:?} of {public:?} was closed at control index {judged} as {reason:?}, and its rule leads there"
        )
    })
}

/// Whether a committed mapping, live or held, is for a packet of connection `number` between `public` and `inside`.
///
/// # Errors
/// If the one that stands there is somebody else's.
fn covers(
    committed: &Committed,
    (shard, public): (ShardId, &PublicKey),
    number: u32,
    inside: InsideKey,
) -> Result<bool, Violation> {
    let standing = committed.standing(shard, public);
    ensure(standing.is_none_or(|m| m.inside == inside && leads(m.scenario, public.proto)), "W3", || {
        format!("connection {number} passed between {public:?} and {inside:?}; {standing:?} stands")
    })?;
    Ok(committed.mapping(shard, public).is_some_and(|m| m.inside == inside))
}

/// Whether what a client asks may be answered under such a mapping. By an address of its own a server's datagram to somebody whose
/// question the owner does not know any more begins a flow, with the very ends of the question.
fn leads(scenario: Scenario, proto: Proto) -> bool {
    match scenario {
        Scenario::Rule | Scenario::OwnIn => true,
        Scenario::OwnOut => proto == Proto::Udp,
        Scenario::Pool | Scenario::Default | Scenario::Private => false,
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

#[cfg(test)]
mod tests {
    use engine::ids::{BackendId, FrontendId, VnetId};
    use engine::record::{Addr, Endpoint};

    use super::*;
    use crate::invariants::rights::{Known, Way};

    const CLIENT: End = (Ipv4Addr::new(203, 0, 113, 100), 40_000);
    const PUBLIC: End = (Ipv4Addr::new(203, 0, 113, 16), 80);

    fn open() -> Open {
        let end = |(ip, port): End| Endpoint { addr: Addr::from(ip), port };
        let public = PublicKey { proto: Proto::Tcp, frontend: FrontendId(8), port: 80, remote: end(CLIENT) };
        let inside = InsideKey { vnet: VnetId(1), endpoint: end((Ipv4Addr::new(10, 0, 0, 1), 8_080)) };
        Open { public, inside, backend: BackendId(1), scenario: Scenario::Rule }
    }

    #[test]
    fn who_only_sent_a_syn_is_in_no_log() {
        let mut all = Inwards::default();
        all.begins(1, Proto::Tcp, CLIENT, PUBLIC);
        assert!(all.opened(PUBLIC.0, &open()).is_err());
        all.speaks(1);
        assert!(all.opened(PUBLIC.0, &open()).is_ok());
    }

    #[test]
    fn a_connection_opens_by_a_rule_and_ends_by_itself_as_long_as_the_rule_leads_there() {
        let without = || Known::sample(Way::Pool, false, None, None);
        let rights = Rights::of([(5, without().led()), (6, without())]);
        let Open { public, inside, backend, scenario } = open();
        let elsewhere = InsideKey { endpoint: Endpoint { port: 8_081, ..inside.endpoint }, ..inside };
        assert!(led(&rights, ControlIndex(5), &open()).is_ok());
        assert!(led(&rights, ControlIndex(5), &Open { inside: elsewhere, ..open() }).is_err());
        assert!(led(&rights, ControlIndex(6), &open()).is_err());
        let mapping = Mapping { inside, backend, scenario, hold: None };
        let close = |judged, reason| closed(&rights, ControlIndex(judged), &mapping, &public, reason).is_ok();
        assert!(!close(5, CloseReason::Policy) && close(5, CloseReason::Fin));
        assert!(close(6, CloseReason::Policy), "it leads there no more");
    }
}
