//! W3: what comes in by a rule, or to an address of its own. Beyond its handshake a connection's packets reach a backend only under a committed mapping, and
//! only the backend that the mapping names; so does an answer to a datagram leave. What clients only begin writes no log. I39 for
//! these: a connection stays on its backend, whoever owns the shard, as long as nothing closed its mapping.
//!
//! Where a rule floats (D17) the backend gets its packets under the address that the client asked, and answers from there; else under its
//! own. Who has got a packet its card says, since all members of a pool may have the frontend's address.
//!
//! Each connection of a run has a number, by which its packets are known on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{ControlIndex, ShardId, VnetId};
use engine::record::{Addr, CloseReason, Endpoint, InsideKey, Manner, Open, Proto, PublicKey, Scenario};
use engine::wire::{IpPacket, TcpFlags};

use super::committed::{Committed, Mapping};
use super::rights::Rights;
use super::{Check, Violation, ensure};

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// An instance: its network, and its own address there.
pub type Place = (VnetId, Ipv4Addr);

/// A connection of a client, or a stream of its datagrams.
#[derive(Clone, Copy, Debug)]
struct Conn {
    proto: Proto,
    client: End,
    public: End,
    /// The rule that it comes by floats.
    floats: bool,
    /// The backend that got what only an open connection has, and how often the public end had been closed by then.
    backend: Option<(Place, u32)>,
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
    /// A client begins connection `number`, by a rule that floats or not.
    pub fn begins(&mut self, number: u32, proto: Proto, client: End, public: End, floats: bool) {
        self.conns.insert(number, Conn { proto, client, public, floats, backend: None, is_over: false });
    }

    /// It sends something else than a SYN.
    pub fn speaks(&mut self, number: u32) {
        if let Some(Conn { proto, client, public, .. }) = self.conns.get(&number) {
            self.spoke.insert((*proto, *client, *public));
        }
    }

    /// Whom a backend asked on its own answers what is no SYN. When the mapping is gone its late words are a client's to an owner that
    /// may take up what was let in before.
    pub fn is_answered(&mut self, question: &IpPacket) {
        if question.tcp.is_some_and(|tcp| !tcp.flags.contains(TcpFlags::SYN)) {
            let (server, public) = ((question.dst, question.dst_port), (question.src, question.src_port));
            self.spoke.insert((question.proto, server, public));
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

    /// A packet of connection `number` reaches an instance, addressed to `inside`; `public` is its public end, in `shard`.
    ///
    /// # Errors
    /// If it is more than a beginning and not covered, or covered by a mapping to somebody else, if its connection was
    /// another one's before, or if it is not addressed as its rule says.
    pub fn comes(
        &mut self,
        (committed, rights): (&Committed, &Rights),
        (shard, public): (ShardId, &PublicKey),
        number: u32,
        (to, inside): (Place, InsideKey),
        packet: &IpPacket,
    ) -> Check {
        if let Some(Conn { floats, public, .. }) = self.conns.get(&number) {
            let address = Addr::from(if *floats { public.0 } else { to.1 });
            ensure((inside.vnet, inside.endpoint.addr) == (to.0, address), "D17", || {
                format!("connection {number} to {public:?} reached {to:?} as {inside:?}, and its rule floats: {floats}")
            })?;
        }
        let covered = covers((committed, rights), (shard, public), number, (to, inside))?;
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
        let before = conn.backend.replace((to, closes));
        let moved = before.is_some_and(|(of, _)| of != to);
        conn.is_over |= moved;
        let unasked = before.is_some_and(|(_, then)| moved && then == closes);
        ensure(!unasked || committed.lost(shard), "I39", || {
            format!("connection {number} to {public:?} was {before:?} and is {to:?}, and nothing closed it")
        })
    }

    /// A packet that answers connection `number` leaves as `public`, from this port of an instance.
    ///
    /// # Errors
    /// If it leaves by another end than the client asked, or for another client, or without what has to be committed.
    pub fn leaves(
        &self,
        (committed, rights): (&Committed, &Rights),
        (shard, public): (ShardId, &PublicKey),
        number: u32,
        (from, port): (Place, u16),
        packet: &IpPacket,
    ) -> Check {
        let conn = self.conns.get(&number);
        let address = conn.filter(|conn| conn.floats).map_or(from.1, |conn| conn.public.0);
        let inside = InsideKey { vnet: from.0, endpoint: Endpoint { addr: Addr::from(address), port } };
        let asked = self.conns.get(&number).map(|conn| (conn.client, conn.public));
        let got = ((packet.dst, packet.dst_port), (packet.src, packet.src_port));
        ensure(asked == Some(got), "I39", || format!("connection {number} is {asked:?}; its answer left as {got:?}"))?;
        let covered = covers((committed, rights), (shard, public), number, (from, inside))?;
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
    let to = (open.backend, open.inside);
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
    let to = (mapping.backend, mapping.inside);
    let mut seen = rights.around(judged).peekable();
    let ended_itself = !matches!(reason, CloseReason::Policy | CloseReason::Reclaim);
    let may_close = ended_itself || seen.peek().is_none() || seen.any(|known| !known.leads(public, to));
    ensure(may_close, "W3", || {
        format!(
            "{mapping:?} of {public:?} was closed at control index {judged} as {reason:?}, and its rule leads there"
        )
    })
}

/// Whether a committed mapping, live or held, is for a packet of connection `number` between `public` and an instance at `inside`.
///
/// # Errors
/// If the one that stands there is somebody else's.
fn covers(
    (committed, rights): (&Committed, &Rights),
    (shard, public): (ShardId, &PublicKey),
    number: u32,
    (place, inside): (Place, InsideKey),
) -> Result<bool, Violation> {
    let standing = committed.standing(shard, public);
    let is_its = |m: &Mapping| m.inside == inside && rights.place_of(m.backend).is_none_or(|of| of == place);
    ensure(standing.is_none_or(|m| is_its(m) && leads(m.scenario, public.proto)), "W3", || {
        format!("connection {number} passed between {public:?} and {inside:?} of {place:?}; {standing:?} stands")
    })?;
    Ok(committed.mapping(shard, public).is_some_and(is_its))
}

/// Whether what a client asks may be answered under such a mapping. By an address of its own a server's datagram to somebody whose
/// question the owner does not know any more begins a flow, with the very ends of the question.
fn leads(scenario: Scenario, proto: Proto) -> bool {
    match scenario {
        Scenario::Rule | Scenario::OwnIn => true,
        Scenario::OwnOut => proto.manner() == Manner::Datagram,
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
    use engine::ids::{BackendId, FrontendId};

    use super::*;
    use crate::invariants::rights::{Known, Way};

    const CLIENT: End = (Ipv4Addr::new(203, 0, 113, 100), 40_000);
    const PUBLIC: End = (Ipv4Addr::new(203, 0, 113, 16), 80);

    fn public_end() -> Endpoint {
        Endpoint { addr: Addr::from(PUBLIC.0), port: PUBLIC.1 }
    }

    fn open() -> Open {
        let end = |(ip, port): End| Endpoint { addr: Addr::from(ip), port };
        let public = PublicKey { proto: Proto::Tcp, frontend: FrontendId(8), port: 80, remote: end(CLIENT) };
        let inside = InsideKey { vnet: VnetId(1), endpoint: end((Ipv4Addr::new(10, 0, 0, 1), 8_080)) };
        Open { public, inside, backend: BackendId(1), scenario: Scenario::Rule }
    }

    #[test]
    fn who_only_sent_a_syn_is_in_no_log() {
        let mut all = Inwards::default();
        all.begins(1, Proto::Tcp, CLIENT, PUBLIC, false);
        assert!(all.opened(PUBLIC.0, &open()).is_err());
        all.speaks(1);
        assert!(all.opened(PUBLIC.0, &open()).is_ok());
    }

    #[test]
    fn a_connection_opens_by_a_rule_and_ends_by_itself_as_long_as_the_rule_leads_there() {
        let without = || Known::sample(Way::Pool, false, None, None);
        let rights = Rights::of([(5, without().led(None)), (6, without()), (7, without().led(Some(PUBLIC.0)))]);
        let Open { public, inside, backend, scenario } = open();
        let elsewhere = InsideKey { endpoint: Endpoint { port: 8_081, ..inside.endpoint }, ..inside };
        assert!(led(&rights, ControlIndex(5), &open()).is_ok());
        assert!(led(&rights, ControlIndex(5), &Open { inside: elsewhere, ..open() }).is_err());
        assert!(led(&rights, ControlIndex(6), &open()).is_err());
        let floats = InsideKey { endpoint: public_end(), ..inside };
        assert!(led(&rights, ControlIndex(7), &Open { inside: floats, ..open() }).is_ok());
        assert!(led(&rights, ControlIndex(7), &open()).is_err(), "D17: as the frontend, and not as itself");
        let mapping = Mapping { inside, backend, scenario, hold: None };
        let close = |judged, reason| closed(&rights, ControlIndex(judged), &mapping, &public, reason).is_ok();
        assert!(!close(5, CloseReason::Policy) && close(5, CloseReason::Fin));
        assert!(close(6, CloseReason::Policy), "it leads there no more");
    }
}
