//! I3: every external port in use lies in its backend's committed preallocation, or in a block that drains from it. At an address
//! of an instance's own only that instance has any, and keeps the port that it sends from (S2).

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
pub fn check(
    newest: &State,
    (network, inside, port): (VnetId, Ipv4Addr, u16),
    public: (Ipv4Addr, u16),
) -> Check {
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
