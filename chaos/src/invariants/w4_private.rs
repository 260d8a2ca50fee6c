//! W4: what passes between instances. Nothing of it is translated, and nothing leaves its network. Where a group judges one of
//! the two, one packet may pass before the flow's mapping is committed, and no other: nothing that was answered can be forgotten.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::{BackendId, ControlIndex, Link, NodeId, ShardId, Term, VnetId};
use engine::record::{Addr, CloseReason, Endpoint, InsideKey, Proto, PublicKey};
use engine::wire::{IpPacket, TcpFlags};

use super::committed::Committed;
use super::rights::{Holding, Known, Rights};
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
            format!(
                "{packet:?} of private connection {number} passed uncommitted by {owner:?}; {first:?} passed so before"
            )
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

/// An entry that was judged under the control state of index `judged` opens the mapping of a flow.
///
/// # Errors
/// If nobody judged either of the two: nothing is kept of it then.
pub fn opened(rights: &Rights, judged: ControlIndex, inside: InsideKey, remote: Endpoint) -> Check {
    let is_judged = |known: &Known| ends_of(known, inside, remote).into_iter().flatten().any(|end| end.grouped);
    ensure(rights.around(judged).any(is_judged), "W4", || {
        format!("{inside:?} to {remote:?} was opened at control index {judged}, where no group judged it")
    })
}

/// The same closes one. The groups of a run allow everything.
///
/// # Errors
/// If it does in the name of the configuration, and both instances are there, the one that began it as the very same.
pub fn closed(
    rights: &Rights,
    judged: ControlIndex,
    public: &PublicKey,
    (backend, inside): (BackendId, InsideKey),
    reason: CloseReason,
) -> Check {
    let are_there = |known: &Known| {
        let began = known.backends.get(&backend).is_some_and(|holding| holding.declared);
        began && ends_of(known, inside, public.remote).iter().all(Option::is_some)
    };
    let mut seen = rights.around(judged).peekable();
    let ended_itself = !matches!(reason, CloseReason::Policy | CloseReason::Reclaim);
    let may_close = ended_itself || seen.peek().is_none() || seen.any(|known| !are_there(known));
    ensure(may_close, "W4", || {
        let seen: Vec<_> = rights.around(judged).map(|known| ends_of(known, inside, public.remote)).collect();
        format!(
            "{inside:?} of {backend:?} to {:?} was closed at control index {judged} as {reason:?}, and both are there: {seen:?}",
            public.remote
        )
    })
}

/// The two instances of a flow, as far as they are declared.
fn ends_of(known: &Known, inside: InsideKey, remote: Endpoint) -> [Option<&Holding>; 2] {
    [inside.endpoint, remote].map(|end| known.at((inside.vnet, end.addr.ipv4()?)))
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
    ensure(silent.is_empty(), "W4", || {
        format!("private connections {silent:?} have mappings, and are answered no more")
    })
}

#[cfg(test)]
mod tests {
    use engine::ids::FrontendId;

    use super::*;
    use crate::invariants::rights::Way;

    fn flow() -> (InsideKey, PublicKey) {
        let end = |last, port| Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, last)), port };
        let public = PublicKey { proto: Proto::Tcp, frontend: FrontendId(1), port: 25_000, remote: end(2, 443) };
        (InsideKey { vnet: VnetId(1), endpoint: end(1, 25_000) }, public)
    }

    /// Two instances, the second of which is judged or not.
    fn two(grouped: bool) -> Known {
        let mut known = Known::sample(Way::Pool, false, None, None);
        let one = known.backends[&BackendId(1)].clone();
        let place = (VnetId(1), Ipv4Addr::new(10, 0, 0, 2));
        known.backends.insert(BackendId(2), Holding { place, grouped, ..one });
        known
    }

    #[test]
    fn what_nobody_judges_is_in_no_log() {
        let (inside, public) = flow();
        let open = |known| opened(&Rights::of([(5, known)]), ControlIndex(5), inside, public.remote).is_ok();
        assert!(open(two(true)) && !open(two(false)));
    }

    #[test]
    fn the_configuration_closes_no_flow_between_two_that_are_there() {
        let (inside, public) = flow();
        let close = |known, reason| {
            let whose = (BackendId(1), inside);
            closed(&Rights::of([(5, known)]), ControlIndex(5), &public, whose, reason).is_ok()
        };
        assert!(!close(two(true), CloseReason::Policy) && close(two(true), CloseReason::Fin));
        let mut alone = two(true);
        alone.backends.remove(&BackendId(2));
        assert!(close(alone, CloseReason::Policy));
        let mut another = two(true);
        let same_place = another.backends.remove(&BackendId(1)).expect("it is there");
        another.backends.insert(BackendId(3), same_place);
        assert!(close(another, CloseReason::Policy), "who is there now has begun nothing");
    }
}
