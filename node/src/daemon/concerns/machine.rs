//! This member's own machine: links, guard, log, configuration in use.

use control::concern::{Concern, Subject, What};

use super::Facts;

/// What the guard's state says while it is in place.
pub(in crate::daemon) const GUARD_ATTACHED: &str = "attached";
/// And if the configuration asks for none.
pub(in crate::daemon) const GUARD_OFF: &str = "switched off in the configuration";

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let me = || Subject::Member { node: facts.node };
    if facts.flows.running && !facts.flows.report.links_up {
        let why = "a data interface has no carrier, or is gone: this member owns nothing meanwhile";
        let remedy = "look at the cable and at `ip link`; it serves again by itself when both are up";
        found.push(Concern::critical(me(), What::LinkDown, why, remedy));
    }
    if facts.guard != GUARD_ATTACHED {
        let why = format!("the kernel's egress guard is {}: the worker's own check remains", facts.guard);
        let remedy = "start it with the rights to load BPF programs (root), or set [data] guard = \"required\"";
        found.push(match facts.guard.contains(GUARD_OFF) {
            true => Concern::notice(me(), What::GuardMissing, why, "set [data] guard = \"required\" and restart it"),
            false => Concern::warning(me(), What::GuardMissing, why, remedy),
        });
    }
    let lost = facts.log.failed + facts.worker.sessions_lost;
    if lost > 0 {
        let why = format!("its address-translation log lacks {lost} lines since its start");
        let remedy =
            "look at the space and the speed of the disk under nat_log.path; other members' logs have the port blocks";
        found.push(Concern::warning(me(), What::LogIncomplete, why, remedy));
    }
    let (loaded, index) = (facts.flows.report.control_loaded, facts.control.status.control_index);
    if facts.flows.running && loaded < index {
        let why = format!("its worker judges by the configuration of index {loaded}; {index} is committed");
        found.push(Concern::warning(me(), What::NotProgrammed, why, "look at its log; a restart loads the newest"));
    }
}
