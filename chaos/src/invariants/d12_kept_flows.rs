//! D12: a backend that leaves by another right than before keeps its flows: what they stand on goes on its way back without
//! closing them, and nothing but their own end closes them.

use control::allocation::{Drain, Purpose};
use engine::ids::{BackendId, ControlIndex, PortBlock, ShardId};
use engine::record::{CloseReason, PublicKey, Scenario};
use engine::snapshot::OnReclaim;

use super::rights::{Known, Rights, Way};
use super::{Check, ensure};

/// Checks a block that began to drain in this very state.
///
/// # Errors
/// If flows on it close at once although their backend only leaves by something else.
pub fn begun(known: &Known, block: &PortBlock, drain: &Drain) -> Check {
    let Some(holding) = known.backends.get(&drain.backend).filter(|holding| holding.declared) else { return Ok(()) };
    let kept = match known.frontends.get(&block.frontend) {
        Some(Purpose::Own(_)) => true,
        Some(Purpose::System) => holding.way != Way::Default,
        Some(Purpose::Shared) => holding.way == Way::Default,
        None => false,
    };
    ensure(!kept || matches!(drain.on_reclaim, OnReclaim::Keep | OnReclaim::Drain), "D12", || {
        format!("{block:?} is taken from {holding:?}, which leaves by another right, with its flows: {drain:?}")
    })
}

/// An entry that was judged under the control state of index `judged` closes a live mapping of a backend's. No run lasts as long
/// as a drain may wait.
///
/// # Errors
/// If it does in the name of the configuration, and that lets the mapping stand.
pub fn closed(
    rights: &Rights,
    judged: ControlIndex,
    (backend, scenario): (BackendId, Scenario),
    public: &PublicKey,
    reason: CloseReason,
) -> Check {
    let stands = |known: &Known| match reason {
        CloseReason::Reclaim => known.has(backend, scenario, public) || known.waits_for(backend, public),
        CloseReason::Policy => known.backends.get(&backend).is_some_and(|holding| holding.declared),
        CloseReason::Fin | CloseReason::Rst | CloseReason::Idle | CloseReason::IdleRfc | CloseReason::Service => false,
    };
    let mut seen = rights.around(judged).peekable();
    let may_close = seen.peek().is_none() || seen.any(|known| !stands(known));
    ensure(may_close, "D12", || {
        let holding: Vec<_> = rights.around(judged).map(|known| known.backends.get(&backend)).collect();
        format!("{scenario:?} mapping {public:?} of {holding:?} was closed at control index {judged} as {reason:?}")
    })
}

/// A flow whose backend leaves by another right since `before` was its end: by which it goes on now, and whether its packets were
/// answered. Nothing else was amiss.
///
/// # Errors
/// If it has another one, or does not pass.
pub fn goes_on(
    before: (ShardId, PublicKey, Scenario),
    now: Option<(ShardId, PublicKey, Scenario)>,
    answered: bool,
) -> Check {
    ensure(now == Some(before) && answered, "D12", || {
        format!("a flow that left by {before:?} and was to be kept leaves by {now:?}; answered: {answered}")
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use engine::ids::FrontendId;
    use engine::record::{Addr, Endpoint, Proto};

    use super::*;

    fn block(frontend: u32) -> PortBlock {
        PortBlock { frontend: FrontendId(frontend), start: 1_024, len: 1_024 }
    }

    fn draining(way: Way, frontend: u32, on_reclaim: OnReclaim) -> Known {
        Known::sample(way, false, None, Some((block(frontend), on_reclaim)))
    }

    #[test]
    fn who_leaves_by_another_right_keeps_what_flows_stand_on_and_who_gives_ports_back_does_not() {
        let check = |known: &Known| known.drains.iter().all(|(block, drain)| begun(known, block, drain).is_ok());
        for kept in [(Way::Default, 8), (Way::Pool, 9), (Way::Own, 9), (Way::Nothing, 9), (Way::Pool, 7)] {
            for on_reclaim in [OnReclaim::Expire, OnReclaim::Reset] {
                assert!(!check(&draining(kept.0, kept.1, on_reclaim)), "{kept:?}");
            }
            assert!(check(&draining(kept.0, kept.1, OnReclaim::Keep)), "{kept:?}");
            assert!(check(&draining(kept.0, kept.1, OnReclaim::Drain)), "somebody else is to have it, {kept:?}");
        }
        for given in [(Way::Pool, 8), (Way::Default, 9), (Way::Nothing, 8), (Way::Own, 8)] {
            assert!(check(&draining(given.0, given.1, OnReclaim::Expire)), "{given:?}");
        }
    }

    #[test]
    fn only_its_own_end_closes_a_flow_that_is_kept() {
        let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(203, 0, 113, 10)), port: 7 };
        let public = PublicKey { proto: Proto::Tcp, frontend: FrontendId(9), port: 1_030, remote };
        let check = |known: Known, reason| {
            let whose = (BackendId(1), Scenario::Default);
            closed(&Rights::of([(5, known)]), ControlIndex(5), whose, &public, reason).is_ok()
        };
        let of = |on_reclaim| draining(Way::Pool, 9, on_reclaim);
        assert!(
            !check(of(OnReclaim::Keep), CloseReason::Reclaim) && !check(of(OnReclaim::Drain), CloseReason::Reclaim)
        );
        assert!(!check(of(OnReclaim::Keep), CloseReason::Policy), "its backend is there");
        assert!(check(of(OnReclaim::Keep), CloseReason::Fin) && check(of(OnReclaim::Expire), CloseReason::Reclaim));
        let leased = || Known::sample(Way::Default, false, Some(block(9)), None);
        assert!(!check(leased(), CloseReason::Reclaim), "nobody takes it");
        let mut gone = of(OnReclaim::Keep);
        gone.backends.values_mut().for_each(|holding| holding.declared = false);
        assert!(check(gone, CloseReason::Policy));
    }
}
