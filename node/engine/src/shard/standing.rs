//! Whether a mapping may stand, and how it is held when it ends: said here alone. Pure. Asked after each load for what there is
//! (`duties`), and by `judge::policy` for packets of mappings that live no longer.

use crate::flow::{Record, State};
use crate::ports::in_lease;
use crate::record::{Addr, CloseReason, HoldClass, Scenario};
use crate::shard::drains::Drains;
use crate::snapshot::Snapshot;

/// Whether a live mapping may stay under this snapshot, or why it closes (D5, N4).
pub(crate) fn may_stand(record: &Record, snapshot: &Snapshot, drains: &Drains) -> Result<(), CloseReason> {
    let backend = snapshot.backends.get(&record.backend);
    let Some(backend) = backend.filter(|b| b.vnet == record.vnet && Addr::from(b.ip) == record.inside.addr) else {
        return Err(CloseReason::Policy);
    };
    match record.scenario() {
        Scenario::Pool | Scenario::Default => {}
        // A snapshot of this build gives nobody these rights.
        Scenario::OwnOut | Scenario::OwnIn | Scenario::Rule | Scenario::Private => return Err(CloseReason::Policy),
    }
    if in_lease(&backend.lease, record.frontend, record.public_port) {
        return Ok(());
    }
    // Outside its lease: taken back, or a base of a re-creation that lacked the reclaim (N4).
    if drains.allows(record.frontend, record.public_port) { Ok(()) } else { Err(CloseReason::Reclaim) }
}

/// The class that a mapping is held in, or will be once its proposed close commits; `None`: it lives.
pub(crate) fn ending(record: &Record) -> Option<HoldClass> {
    match record.state {
        State::Held(class) => Some(class),
        State::Live | State::Free => record.closing().map(|reason| HoldClass::of(reason, record.proto)),
    }
}
