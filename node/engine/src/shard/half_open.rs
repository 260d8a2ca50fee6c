//! Flows that came in by a rule and are not proved yet: connections whose handshake is not complete, datagrams without an answer
//! (W3). Bounded for each frontend: where a flood comes in, the oldest give way, and no other frontend has fewer for it.
//!
//! The owner's own, lost with the term: rules and committed pools say again who gets a client. Never a right to more than these
//! packets. Hot path. Asked by `judge::policy`, written by `judge::entering` and `judge::outbound`.

use std::collections::VecDeque;

use words::time::SECOND_NS;

use crate::flow::FlowKey;
use crate::ids::FrontendId;
use crate::record::{Open, PublicKey};
use crate::snapshot::Map;
use crate::wire::{TcpFields, TcpFlags};

/// Flows of one frontend that wait for a proof.
pub(crate) const HALF_OPEN_MAX: usize = 16_384;
/// A flow that nobody proves is forgotten; a client has given up long before (RFC 9293 3.8.3).
const PATIENCE_NS: u64 = 75 * SECOND_NS;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Half {
    /// The mapping that it will have.
    pub(crate) open: Open,
    /// Its backend has answered, and what proves that the client heard it.
    proof: Option<Proof>,
    number: u64,
    since_ns: u64,
}

impl Half {
    /// Whether its backend has answered.
    pub(crate) const fn is_answered(&self) -> bool {
        self.proof.is_some()
    }

    /// Whether a segment is of somebody who has heard the backend's answer: it acknowledges it. Who only writes in a client's name
    /// does not know its number; a host that never asked resets what it hears.
    pub(crate) fn is_proved_by(&self, tcp: &TcpFields) -> bool {
        let heard = |proof: Proof| tcp.ack.wrapping_sub(proof.first) <= proof.data;
        let speaks = tcp.flags.contains(TcpFlags::ACK) && !tcp.flags.contains(TcpFlags::RST);
        speaks && self.proof.is_some_and(heard)
    }
}

/// The acknowledgment numbers that a backend's SYN-ACK asks for (RFC 9293 3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proof {
    /// Of the SYN.
    first: u32,
    /// Octets that came with it (RFC 7413).
    data: u32,
}

impl Proof {
    pub(crate) const fn of(answer: &TcpFields) -> Self {
        Self { first: answer.seq.wrapping_add(1), data: answer.payload_len }
    }
}

#[derive(Debug, Default)]
struct OfFrontend {
    flows: Map<PublicKey, Half>,
    /// In the order in which they came; what is no longer among the flows under its number counts for nothing.
    order: VecDeque<(u64, PublicKey)>,
    /// Flows in mid-stream that were taken for an earlier owner's.
    adopted: usize,
}

/// Those of a shard.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    frontends: Map<FrontendId, OfFrontend>,
    by_flow: Map<FlowKey, PublicKey>,
    next: u64,
}

impl HalfOpen {
    /// By what comes from outside.
    pub(crate) fn of(&self, key: &PublicKey, now_ns: u64) -> Option<Half> {
        let half = self.frontends.get(&key.frontend)?.flows.get(key)?;
        (now_ns < half.since_ns.saturating_add(PATIENCE_NS)).then_some(*half)
    }

    /// By what its backend sends.
    pub(crate) fn of_flow(&self, flow: &FlowKey, now_ns: u64) -> Option<Half> {
        if self.by_flow.is_empty() {
            return None;
        }
        self.of(self.by_flow.get(flow)?, now_ns)
    }

    /// One more, or another one in the place of one with this public end.
    pub(crate) fn put(&mut self, now_ns: u64, open: Open, proof: Option<Proof>) {
        let key = open.public;
        self.remove(&key);
        self.next += 1;
        let number = self.next;
        let of = self.frontends.entry(key.frontend).or_default();
        of.order.push_back((number, key));
        of.flows.insert(key, Half { open, proof, number, since_ns: now_ns });
        self.by_flow.insert(flow_of(&open), key);
        while let Some((number, oldest)) = of.order.front().copied() {
            let known = of.flows.get(&oldest).filter(|half| half.number == number).copied();
            if let Some(half) = known {
                let old = now_ns >= half.since_ns.saturating_add(PATIENCE_NS);
                if !old && of.flows.len() <= HALF_OPEN_MAX {
                    break;
                }
                of.flows.remove(&oldest);
                forget(&mut self.by_flow, &half.open);
            }
            of.order.pop_front();
        }
    }

    /// Whether all that a frontend may have are taken, and the oldest would give way to one more.
    pub(crate) fn is_full(&self, frontend: FrontendId) -> bool {
        self.frontends.get(&frontend).is_some_and(|of| of.flows.len() >= HALF_OPEN_MAX)
    }

    /// Its backend answers: a connection waits for its proof from then on, unless it is refused.
    pub(crate) fn answered(&mut self, now_ns: u64, open: Open, answer: Option<&TcpFields>) {
        match answer {
            Some(tcp) if tcp.flags.contains(TcpFlags::SYN) => self.put(now_ns, open, Some(Proof::of(tcp))),
            Some(tcp) if tcp.flags.contains(TcpFlags::RST) => self.remove(&open.public),
            Some(_) | None => {}
        }
    }

    /// It waits no longer.
    pub(crate) fn remove(&mut self, key: &PublicKey) {
        let Some(of) = self.frontends.get_mut(&key.frontend) else { return };
        if let Some(half) = of.flows.remove(key) {
            forget(&mut self.by_flow, &half.open);
        }
        // Whoever comes and goes leaves places in the order behind.
        if of.order.len() > 2 * HALF_OPEN_MAX {
            let flows = &of.flows;
            of.order.retain(|(number, key)| flows.get(key).is_some_and(|half| half.number == *number));
        }
    }

    /// Whether one more flow in mid-stream may be taken for an earlier owner's: of each frontend so many as may wait.
    pub(crate) fn may_adopt(&self, frontend: FrontendId) -> bool {
        self.frontends.get(&frontend).is_none_or(|of| of.adopted < HALF_OPEN_MAX)
    }

    /// One was.
    pub(crate) fn adopted(&mut self, frontend: FrontendId) {
        self.frontends.entry(frontend).or_default().adopted += 1;
    }

    /// How many wait at a frontend.
    #[cfg(test)]
    fn len(&self, frontend: FrontendId) -> usize {
        self.frontends.get(&frontend).map_or(0, |of| of.flows.len())
    }
}

/// The flow of a mapping, as its backend's packets have it.
pub(crate) const fn flow_of(open: &Open) -> FlowKey {
    FlowKey { proto: open.public.proto, inside: open.inside, remote: open.public.remote }
}

fn forget(by_flow: &mut Map<FlowKey, PublicKey>, open: &Open) {
    let flow = flow_of(open);
    if by_flow.get(&flow) == Some(&open.public) {
        by_flow.remove(&flow);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ids::{BackendId, VnetId};
    use crate::record::{Addr, Endpoint, InsideKey, Proto, Scenario};

    fn open(frontend: u32, client: u32) -> Open {
        let remote = Endpoint { addr: Addr::from(Ipv4Addr::from(0x0800_0000 + client)), port: 9 };
        let public = PublicKey { proto: Proto::Tcp, frontend: FrontendId(frontend), port: 80, remote };
        let port = 8080 + u16::try_from(frontend).expect("small");
        let endpoint = Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, 4)), port };
        let inside = InsideKey { vnet: VnetId(0), endpoint };
        Open { public, inside, backend: BackendId(1), scenario: Scenario::Rule }
    }

    #[test]
    fn a_flood_makes_the_oldest_of_its_own_frontend_give_way() {
        let mut all = HalfOpen::default();
        all.put(0, open(2, 7), None);
        let flood = u32::try_from(HALF_OPEN_MAX).expect("small") + 10;
        (0..flood).for_each(|client| all.put(1, open(1, client), None));
        assert_eq!((all.len(FrontendId(1)), all.len(FrontendId(2))), (HALF_OPEN_MAX, 1));
        assert!(all.of(&open(2, 7).public, 1).is_some());
        assert!(all.of(&open(1, 9).public, 1).is_none() && all.of_flow(&flow_of(&open(1, 9)), 1).is_none());
        assert!(all.of(&open(1, 10).public, 1).is_some() && all.of_flow(&flow_of(&open(1, 10)), 1).is_some());
        assert_eq!(all.by_flow.len(), HALF_OPEN_MAX + 1);
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing_behind() {
        let mut all = HalfOpen::default();
        all.put(0, open(1, 1), None);
        for round in 0..5 * u64::try_from(HALF_OPEN_MAX).expect("small") {
            all.put(round, open(1, 2), None);
            all.remove(&open(1, 2).public);
        }
        let of = &all.frontends[&FrontendId(1)];
        assert!(of.order.len() <= 2 * HALF_OPEN_MAX + 1, "{}", of.order.len());
        assert_eq!((of.flows.len(), all.by_flow.len()), (1, 1));
        assert!(all.of(&open(1, 1).public, PATIENCE_NS - 1).is_some());
        assert!(all.of(&open(1, 1).public, PATIENCE_NS).is_none(), "nobody proved it");
        all.put(PATIENCE_NS, open(1, 3), None);
        assert_eq!(all.len(FrontendId(1)), 1);
    }
}
