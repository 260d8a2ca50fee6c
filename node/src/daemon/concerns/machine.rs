//! This member's own machine: links, guard, log, configuration in use.

use control::concern::{Concern, Subject, What};

use super::facts::Facts;
use crate::daemon::reports::{GUARD_ATTACHED, GUARD_OFF};

/// The log may have something to write for so long, and write nothing, in milliseconds.
const LOG_STUCK_MS: u64 = 2_000;

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let me = || Subject::Member { node: facts.node };
    if facts.guard != GUARD_ATTACHED {
        let why = format!("the kernel's egress guard is {}: the worker's own check remains", facts.guard);
        let remedy = "start it with the rights to load BPF programs (root), or set [data] guard = \"required\"";
        found.push(match facts.guard.contains(GUARD_OFF) {
            true => Concern::notice(me(), What::GuardMissing, why, "set [data] guard = \"required\" and restart it"),
            false => Concern::warning(me(), What::GuardMissing, why, remedy),
        });
    }
    if facts.log.waiting_ms >= LOG_STUCK_MS {
        let (for_s, lost) = (facts.log.waiting_ms / 1_000, facts.log_lost.count);
        let why =
            format!("its address-translation log has waited for its disk for {for_s} s; {lost} lines are lost so far");
        let remedy =
            "look at the disk under nat_log.path (`dmesg`, `iostat -x`); packets and the other members do not wait";
        found.push(Concern::warning(me(), What::LogStuck, why, remedy));
    }
    if facts.log_lost.lately {
        let why = format!("its address-translation log lacks {} lines since its start", facts.log_lost.count);
        let remedy =
            "look at the space and the speed of the disk under nat_log.path; other members' logs have the port blocks";
        found.push(Concern::warning(me(), What::LogIncomplete, why, remedy));
    }
    found.extend(facts.machine.iter().cloned());
    let (loaded, index) = (facts.flows.report.control_loaded, facts.control.status.control_index);
    if facts.flows.running && loaded < index {
        let why = format!("its worker judges by the configuration of index {loaded}; {index} is committed");
        found.push(Concern::warning(me(), What::NotProgrammed, why, "look at its log; a restart loads the newest"));
    }
}
