//! I3: every external port in use lies in its backend's committed preallocation, or in a block that drains from it. At an
//! address of an instance's own only that instance has any, and keeps the port that it sends from (S2). What a flow begins by is
//! its backend's at the log index at which that was judged, under the right that its mapping names (S3–S5).

use std::net::Ipv4Addr;

use control::allocation::Purpose;
use control::state::State;
use engine::ids::{ControlIndex, VnetId};
use engine::record::{Open, Scenario};

use super::rights::{Known, Rights, Way};
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

/// An entry that was judged under the control state of index `judged` opens a mapping; `again`: one that its flow had before.
///
/// # Errors
/// If it does by what was not its backend's then, under that right: who has lost something keeps its flows there, and begins none
/// (D12). Or if a new flow leaves by the pool or the system's choice although there was an address of its own (S5).
pub fn opened(rights: &Rights, judged: ControlIndex, open: &Open, again: bool) -> Check {
    let Open { public, inside, backend, scenario } = open;
    let may = |known: &Known| {
        let first = match (scenario, known.backends.get(backend)) {
            (Scenario::Pool, Some(holding)) => holding.way == Way::Pool && (again || holding.own.is_none()),
            (Scenario::Default, Some(holding)) => holding.way == Way::Default && holding.own.is_none(),
            _ => inside.endpoint.port == public.port,
        };
        first && known.has(*backend, *scenario, public)
    };
    ensure(rights.around(judged).any(may), "I3", || {
        let seen: Vec<_> = rights.around(judged).map(|known| known.backends.get(backend)).collect();
        format!("{open:?} was opened at control index {judged}, where its backend had {seen:?}; again: {again}")
    })
}

#[cfg(test)]
mod tests {
    use engine::ids::{BackendId, FrontendId, PortBlock};
    use engine::record::{Addr, Endpoint, InsideKey, Proto, PublicKey};
    use engine::snapshot::OnReclaim;

    use super::*;

    fn open(scenario: Scenario, frontend: u32, port: u16) -> Open {
        let end = |last, port| Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, last)), port };
        let public = PublicKey { proto: Proto::Udp, frontend: FrontendId(frontend), port, remote: end(9, 7) };
        let inside = InsideKey { vnet: VnetId(1), endpoint: end(1, 2_000) };
        Open { public, inside, backend: BackendId(1), scenario }
    }

    fn may(states: Vec<(u64, Known)>, judged: u64, open: &Open, again: bool) -> bool {
        opened(&Rights::of(states), ControlIndex(judged), open, again).is_ok()
    }

    #[test]
    fn an_own_address_opens_for_whom_it_was_when_the_entry_was_judged_and_keeps_the_port() {
        let states =
            || vec![(5, Known::sample(Way::Own, true, None, None)), (9, Known::sample(Way::Own, false, None, None))];
        let own = open(Scenario::OwnOut, 7, 2_000);
        assert!(may(states(), 5, &own, false));
        assert!(may(states(), 7, &own, false), "in between, as either says");
        assert!(!may(states(), 9, &own, false) && !may(states(), 10, &own, true), "it was taken");
        assert!(!may(states(), 5, &open(Scenario::OwnOut, 7, 2_001), false), "another port");
        assert!(!may(states(), 5, &Open { backend: BackendId(2), ..own }, false), "another's");
    }

    #[test]
    fn granted_ports_open_under_the_right_of_their_frontend_and_not_on_their_way_back() {
        let block = |frontend| PortBlock { frontend: FrontendId(frontend), start: 1_024, len: 1_024 };
        let leased = |way, frontend| vec![(5, Known::sample(way, false, Some(block(frontend)), None))];
        assert!(may(leased(Way::Pool, 8), 5, &open(Scenario::Pool, 8, 1_030), false));
        assert!(!may(leased(Way::Pool, 8), 5, &open(Scenario::Pool, 8, 1_020), false), "another's port");
        assert!(!may(leased(Way::Pool, 8), 5, &open(Scenario::Default, 8, 1_030), false), "no address of the system's");
        assert!(may(leased(Way::Default, 9), 5, &open(Scenario::Default, 9, 1_030), false));
        assert!(!may(leased(Way::Default, 9), 5, &open(Scenario::Pool, 9, 1_030), false), "in no pool");
        let kept = Known::sample(Way::Pool, false, None, Some((block(9), OnReclaim::Keep)));
        assert!(
            !may(vec![(5, kept)], 5, &open(Scenario::Default, 9, 1_030), true),
            "flows there go on, and none begins"
        );
    }

    #[test]
    fn an_own_address_is_before_the_pool_for_all_but_flows_that_come_back() {
        let block = PortBlock { frontend: FrontendId(8), start: 1_024, len: 1_024 };
        let both = || vec![(5, Known::sample(Way::Pool, true, Some(block), None))];
        assert!(!may(both(), 5, &open(Scenario::Pool, 8, 1_030), false));
        assert!(may(both(), 5, &open(Scenario::Pool, 8, 1_030), true));
        assert!(may(both(), 5, &open(Scenario::OwnOut, 7, 2_000), false));
    }
}
