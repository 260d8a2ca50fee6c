//! I3: every external port in use lies in its backend's committed preallocation, or in a block that drains from it.

use std::net::Ipv4Addr;

use control::state::State;
use engine::ids::VnetId;

use super::{Check, ensure};

/// Checks a translation against the newest control state that any node has applied: a block that it has given to somebody
/// else is used by nobody else.
///
/// # Errors
/// If the port is not, or no longer, the backend's.
pub fn check(newest: &State, (network, inside): (VnetId, Ipv4Addr), public: (Ipv4Addr, u16)) -> Check {
    let allocation = newest.allocation();
    let at = allocation.frontends.iter().find(|(_, frontend)| frontend.ip == public.0).map(|(id, _)| *id);
    let holds = |block: &engine::ids::PortBlock| Some(block.frontend) == at && block.contains(public.1);
    let leased = allocation.backends.iter().filter(|(_, backend)| (backend.vnet, backend.ip) == (network, inside)).any(
        |(id, backend)| {
            let draining = allocation.drains.iter().any(|(block, drain)| drain.backend == *id && holds(block));
            backend.lease.iter().any(holds) || draining
        },
    );
    ensure(leased, "I3", || {
        format!("{inside} of network {network} left as {}:{} at control index {}", public.0, public.1, newest.index())
    })
}
