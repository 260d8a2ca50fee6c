//! I3: every external port in use lies in its backend's committed preallocation, or in a block that drains from it. At an
//! address of an instance's own only that instance has any, and keeps the port that it sends from (S2).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::allocation::Purpose;
use control::state::State;
use engine::ids::{BackendId, ControlIndex, FrontendId, VnetId};
use engine::record::{Open, Scenario};

use super::{Check, ensure};

/// Checks a translation against the newest control state that any node has applied: a block that it has given to somebody
/// else is used by nobody else.
///
/// # Errors
/// If the port is not, or no longer, the backend's.
pub fn check(newest: &State, (network, inside, port): (VnetId, Ipv4Addr, u16), public: (Ipv4Addr, u16)) -> Check {
    let allocation = newest.allocation();
    let frontend = allocation.frontends.iter().find(|(_, frontend)| frontend.ip == public.0);
    let at = frontend.map(|(id, _)| *id);
    let own = frontend.is_some_and(|(_, frontend)| matches!(frontend.purpose, Purpose::Own(_)));
    ensure(!own || port == public.1, "I3", || {
        format!("{inside}:{port} of network {network} left by an address of its own as {}:{}", public.0, public.1)
    })?;
    let holds = |block: &engine::ids::PortBlock| Some(block.frontend) == at && block.contains(public.1);
    let leased = allocation.backends.iter().filter(|(_, backend)| (backend.vnet, backend.ip) == (network, inside)).any(
        |(id, backend)| {
            let draining = allocation.drains.iter().any(|(block, drain)| drain.backend == *id && holds(block));
            backend.lease.iter().any(holds) || (own && backend.own == at) || draining
        },
    );
    ensure(leased, "I3", || {
        format!("{inside} of network {network} left as {}:{} at control index {}", public.0, public.1, newest.index())
    })
}

/// Whose own which address was, by control index.
#[derive(Debug, Default)]
pub struct OwnAddresses(BTreeMap<ControlIndex, BTreeMap<FrontendId, BackendId>>);

impl OwnAddresses {
    /// Some node has applied this state.
    pub fn note(&mut self, state: &State) {
        if self.0.last_key_value().is_none_or(|(newest, _)| *newest < state.index()) {
            let backends = state.allocation().backends.iter();
            let own = backends.filter_map(|(id, backend)| Some((backend.own?, *id))).collect();
            self.0.insert(state.index(), own);
        }
    }

    /// An entry that was judged under the control state of index `judged` opens a mapping.
    ///
    /// # Errors
    /// If it does by an own address that was not its backend's then: who has lost one keeps its flows, and begins none (D12).
    pub fn check(&self, judged: ControlIndex, open: &Open) -> Check {
        if open.scenario != Scenario::OwnOut {
            return Ok(());
        }
        let whose = |own: &BTreeMap<FrontendId, BackendId>| own.get(&open.public.frontend) == Some(&open.backend);
        // Not each state was seen: a node may apply several entries at once.
        let (before, after) = (self.0.range(..=judged).next_back(), self.0.range(judged..).next());
        let its = before.into_iter().chain(after).any(|(_, own)| whose(own));
        ensure(its && open.inside.endpoint.port == open.public.port, "I3", || {
            format!("{open:?} was opened at control index {judged}; own addresses were {before:?} and {after:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use engine::record::{Addr, Endpoint, InsideKey, Proto, PublicKey};

    use super::*;

    #[test]
    fn an_own_address_opens_for_whom_it_was_when_the_entry_was_judged_and_keeps_the_port() {
        let whose = |backend| BTreeMap::from([(FrontendId(7), BackendId(backend))]);
        let own = OwnAddresses(BTreeMap::from([(ControlIndex(5), whose(1)), (ControlIndex(9), whose(2))]));
        let open = |backend, port| {
            let end = |last, port| Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, last)), port };
            let public = PublicKey { proto: Proto::Udp, frontend: FrontendId(7), port, remote: end(9, 7) };
            let inside = InsideKey { vnet: VnetId(1), endpoint: end(1, 20_000) };
            Open { public, inside, backend: BackendId(backend), scenario: Scenario::OwnOut }
        };
        let check = |judged, open| own.check(ControlIndex(judged), &open).is_ok();
        assert!(check(5, open(1, 20_000)) && !check(5, open(2, 20_000)));
        assert!(check(7, open(1, 20_000)) && check(7, open(2, 20_000)), "in between, as either says");
        assert!(check(9, open(2, 20_000)) && !check(10, open(1, 20_000)), "it was taken");
        assert!(!check(5, open(1, 20_001)), "another port");
        assert!(check(10, Open { scenario: Scenario::Pool, ..open(1, 20_001) }), "by a grant");
    }
}
