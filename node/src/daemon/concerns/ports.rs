//! Backends that use most of their ports, or of the flows that one of them may have. The thresholds are those of the clouds' health
//! events: a warning above three quarters, critical when flows were refused. Who has no port free towards a remote is told of by
//! `shortages`.

use control::concern::{Concern, Severity, Subject, What};
use engine::record::Scenario;

use crate::answers::{BackendPorts, Ports};

/// A backend with more of its ports, or of its flows, in use is told of.
const HIGH_PERCENT: u32 = 75;
/// Backends that are named at most, those with the greatest share first.
const NAMED_MAX: usize = 20;

/// What helps who goes out by a system address.
const DEFAULT_REMEDY: &str = "a public_ip of its own, a pool with a rule, or a smaller availability set gives it more ports; `qnat \
                              flows` shows the remotes that it spends them on";

/// Judges the flows of backends, of which each may have `most`. `refused`: flows of backends that had too many were refused
/// since the last time.
pub(in crate::daemon) fn judge_flows(ports: &Ports, node: u32, most: u32, refused: u64) -> Vec<Concern> {
    let share = |row: &BackendPorts| u64::from(row.flows.unwrap_or(0)) * 100 / u64::from(most).max(1);
    let mut high: Vec<&BackendPorts> =
        ports.backends.iter().filter(|row| share(row) > u64::from(HIGH_PERCENT)).collect();
    high.sort_by_key(|row| (std::cmp::Reverse(row.flows), row.id));
    let remedy = "`qnat flows` shows its remotes; it, or flows_per_backend_max under [settings], is too small for what it \
                  does: `qnat apply -f FILE`";
    let say = |row: &&BackendPorts| {
        let full = refused > 0 && share(row) >= 100;
        let severity = if full { Severity::Critical } else { Severity::Warning };
        let refusals = if full { ", and new ones were refused" } else { "" };
        let why = format!("it has {} of at most {most} flows{refusals}", row.flows.unwrap_or(0));
        let subject = Subject::Backend { name: row.backend.clone() };
        Concern::new(severity, subject, What::LimitNear, why, remedy)
    };
    let mut found: Vec<Concern> = high.iter().take(NAMED_MAX).map(say).collect();
    let me = Subject::Member { node };
    if high.len() > NAMED_MAX {
        let why = format!("{} more backends have most of the flows that they may have", high.len() - NAMED_MAX);
        found.push(Concern::warning(me, What::LimitNear, why, "`qnat ports` lists them"));
    } else if refused > 0 && !found.iter().any(|concern| concern.severity == Severity::Critical) {
        // In a table that is nearly full whoever has as many flows as there is room left gets no more (I40).
        let why =
            format!("{refused} packets of new flows were dropped: their backends have more flows than there is room");
        let remedy = "`qnat flows` shows whose the flows of a shard are";
        found.push(Concern::warning(me, What::LimitNear, why, remedy));
    }
    found
}

/// Judges the use of ports.
pub(in crate::daemon) fn judge(ports: &Ports, node: u32) -> Vec<Concern> {
    let share = |row: &BackendPorts| row.used.unwrap_or(0) * 100 / u32::from(row.allocated).max(1);
    // Who has none, as behind an address of its own, may still have flows on ports that it had.
    let is_high = |row: &&BackendPorts| row.allocated > 0 && share(row) > HIGH_PERCENT;
    let mut high: Vec<&BackendPorts> = ports.backends.iter().filter(is_high).collect();
    high.sort_by_key(|row| (std::cmp::Reverse(share(row)), row.id));
    let remedy = "a smaller pool, or a public_ip of its own, gives it more ports; `qnat flows` shows the remotes that it \
                  spends them on";
    let mut found = Vec::new();
    for row in high.iter().take(NAMED_MAX) {
        let why = format!("{} of its {} ports are in use", row.used.unwrap_or(0), row.allocated);
        let subject = Subject::Backend { name: row.backend.clone() };
        let helps = if row.way_out.as_deref() == Some(Scenario::Default.label()) { DEFAULT_REMEDY } else { remedy };
        found.push(Concern::warning(subject, What::PortUseHigh, why, helps));
    }
    if high.len() > NAMED_MAX {
        let why = format!("{} more backends use most of their ports", high.len() - NAMED_MAX);
        found.push(Concern::warning(Subject::Member { node }, What::PortUseHigh, why, "`qnat ports` lists them"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(id: u32, used: u32) -> BackendPorts {
        BackendPorts { backend: format!("b{id}/ip"), id, allocated: 64, used: Some(used), ..BackendPorts::default() }
    }

    fn found(ports: &[u32]) -> Vec<(Severity, String)> {
        let backends = (1..).zip(ports).map(|(id, used)| backend(id, *used)).collect();
        judge(&Ports { backends }, 1).into_iter().map(|c| (c.severity, c.subject.to_string())).collect()
    }

    #[test]
    fn a_backend_that_has_most_of_its_flows_is_told_of_before_flows_are_refused() {
        let found = |flows: &[u32], refused| -> Vec<(Severity, String)> {
            let row = |(id, flows): (u32, &u32)| BackendPorts { flows: Some(*flows), ..backend(id, 0) };
            let backends = (1..).zip(flows).map(row).collect();
            let said = judge_flows(&Ports { backends }, 1, 1_000, refused);
            assert!(said.iter().all(|c| c.what == What::LimitNear), "{said:?}");
            said.into_iter().map(|c| (c.severity, c.subject.to_string())).collect()
        };
        assert_eq!(found(&[0, 759], 0), []);
        assert_eq!(found(&[0, 760], 0), [(Severity::Warning, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[0, 1_000], 0), [(Severity::Warning, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[0, 1_000], 3), [(Severity::Critical, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[1, 2], 3), [(Severity::Warning, "n1".to_owned())]);
        assert_eq!(found(&[900; 30], 0).len(), NAMED_MAX + 1);
    }

    #[test]
    fn a_backend_that_uses_most_of_its_ports_is_told_of_before_flows_are_refused() {
        assert_eq!(found(&[0, 48]), []);
        assert_eq!(found(&[0, 49]), [(Severity::Warning, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[0, 64]), [(Severity::Warning, "backend b2/ip".to_owned())]);
        // Flows go on by ports that it had.
        let left = Ports { backends: vec![BackendPorts { used: Some(1), allocated: 0, ..backend(1, 1) }] };
        assert_eq!(judge(&left, 1), []);
        let many = found(&[64; 30]);
        assert_eq!((many.len(), many[NAMED_MAX].1.as_str()), (NAMED_MAX + 1, "n1"));
    }
}
