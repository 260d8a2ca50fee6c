//! Backends that use up their ports. The thresholds are those of the clouds' health events: a warning above three quarters,
//! critical when flows were refused for want of a port.

use control::concern::{Concern, Severity, Subject, What};

use crate::answers::{BackendPorts, Ports};

/// A backend with more of its ports in use is told of.
const HIGH_PERCENT: u32 = 75;
/// Backends that are named at most, those with the greatest share first.
const NAMED_MAX: usize = 20;

/// Judges the use of ports. `refused`: flows were refused for want of a port since the last time.
pub(in crate::daemon) fn judge(ports: &Ports, node: u32, refused: u64) -> Vec<Concern> {
    let share = |row: &BackendPorts| row.used.unwrap_or(0) * 100 / u32::from(row.allocated).max(1);
    let mut high: Vec<&BackendPorts> = ports.backends.iter().filter(|row| share(row) > HIGH_PERCENT).collect();
    high.sort_by_key(|row| (std::cmp::Reverse(share(row)), row.id));
    let remedy =
        "more frontends or a smaller pool give it more ports; `qnat flows` shows the remotes that it spends them on";
    let mut found = Vec::new();
    for row in high.iter().take(NAMED_MAX) {
        let full = refused > 0 && share(row) >= 100;
        let severity = if full { Severity::Critical } else { Severity::Warning };
        let refusals = if full { ", and new flows were refused" } else { "" };
        let why = format!("{} of its {} ports are in use{refusals}", row.used.unwrap_or(0), row.allocated);
        let subject = Subject::Backend { name: row.backend.clone() };
        found.push(Concern::new(severity, subject, What::PortsExhausted, why, remedy));
    }
    let me = Subject::Member { node };
    if high.len() > NAMED_MAX {
        let why = format!("{} more backends use most of their ports", high.len() - NAMED_MAX);
        found.push(Concern::warning(me, What::PortsExhausted, why, "`qnat ports` lists them"));
    } else if refused > 0 && !found.iter().any(|concern| concern.severity == Severity::Critical) {
        let why = format!("{refused} packets of new flows were dropped: no port was free towards their remote");
        found.push(Concern::warning(me, What::PortsExhausted, why, remedy));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(id: u32, used: u32) -> BackendPorts {
        BackendPorts { backend: format!("b{id}/ip"), id, allocated: 64, used: Some(used), ..BackendPorts::default() }
    }

    fn found(ports: &[u32], refused: u64) -> Vec<(Severity, String)> {
        let backends = (1..).zip(ports).map(|(id, used)| backend(id, *used)).collect();
        judge(&Ports { backends }, 1, refused).into_iter().map(|c| (c.severity, c.subject.to_string())).collect()
    }

    #[test]
    fn a_backend_that_uses_most_of_its_ports_is_told_of_before_flows_are_refused() {
        assert_eq!(found(&[0, 48], 0), []);
        assert_eq!(found(&[0, 49], 0), [(Severity::Warning, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[0, 64], 0), [(Severity::Warning, "backend b2/ip".to_owned())]);
        assert_eq!(found(&[0, 64], 3), [(Severity::Critical, "backend b2/ip".to_owned())]);
        // Ports are shared towards different remotes: those towards one can end before all are used.
        assert_eq!(found(&[1, 2], 3), [(Severity::Warning, "n1".to_owned())]);
        let many = found(&[64; 30], 0);
        assert_eq!((many.len(), many[NAMED_MAX].1.as_str()), (NAMED_MAX + 1, "n1"));
    }
}
