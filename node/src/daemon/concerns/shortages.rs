//! Backends that find no port free towards a remote (S12, S16): who, under which address, towards whom, and when a port comes back.

use std::collections::BTreeMap;

use control::concern::{Concern, Destination, Exhausted, Severity, Subject, What};
use engine::shortages::Shortage;
use member::control_member::Now;

use crate::answers::{BackendPorts, Ports};
use crate::nat_log::time_text;

/// Who was refused a port this long ago, and not since, is not short of them now.
const RECENT_NS: u64 = 6_000_000_000;
/// Backends that are named at most, those with the most dropped packets first; and remotes of each, in its sentence.
const NAMED_MAX: usize = 20;
const REMOTES_MAX: usize = 3;

/// Judges what workers have noted of late.
pub(in crate::daemon) fn judge(ports: &Ports, node: u32, shortages: &[Shortage], now: Now) -> Vec<Concern> {
    let mut by_backend: BTreeMap<u32, Vec<&Shortage>> = BTreeMap::new();
    for one in shortages.iter().filter(|one| now.ns.saturating_sub(one.at_ns) <= RECENT_NS) {
        by_backend.entry(one.backend.0).or_default().push(one);
    }
    let rows = by_backend.into_iter().filter_map(|(id, mut all)| {
        all.sort_by_key(|one| (std::cmp::Reverse(one.packets), one.remote));
        Some((ports.backends.iter().find(|row| row.id == id)?, all))
    });
    let mut rows: Vec<(&BackendPorts, Vec<&Shortage>)> = rows.collect();
    let packets = |all: &[&Shortage]| all.iter().map(|one| one.packets).sum::<u64>();
    rows.sort_by_key(|(row, all)| (std::cmp::Reverse(packets(all)), row.id));
    let mut found: Vec<Concern> = rows.iter().take(NAMED_MAX).map(|(row, all)| concern(row, all, now)).collect();
    if let count @ 1.. = rows.len().saturating_sub(NAMED_MAX) {
        let why = format!("{count} more backends find no port free, so new flows are refused");
        found.push(Concern::critical(
            Subject::Member { node },
            What::PortsExhausted,
            why,
            "`qnat ports` lists their use",
        ));
    }
    found
}

fn concern(row: &BackendPorts, all: &[&Shortage], now: Now) -> Concern {
    let destinations: Vec<Destination> = all.iter().map(|one| destination(one, now)).collect();
    let named = destinations.iter().take(REMOTES_MAX).map(|to| format!("{} ({})", to.address, to.protocol));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match destinations.len().saturating_sub(REMOTES_MAX) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let under = row.frontend.map_or_else(String::new, |ip| format!(" of {ip}"));
    let back = match destinations.iter().filter_map(|to| to.back_unix_ms).min() {
        Some(at) => format!("the first one that is held comes back at {}", time_text(at)),
        None => "one comes back when its flow has ended and its hold has passed".to_owned(),
    };
    let (used, allocated) = (row.used.unwrap_or(0), row.allocated);
    let why = format!(
        "no port{under} is free towards {named}{more}, so new flows are refused; {used} of its {allocated} ports are in use; {back}"
    );
    let inside_ip = row.ip.map_or_else(String::new, |ip| ip.to_string());
    let first = destinations.first().cloned().unwrap_or_default();
    let (remote_end, protocol) = (first.address, first.protocol);
    let remedy = format!(
        "reuse connections, pool them, wait longer between attempts, or give it a public_ip of its own; \
         `qnat explain {inside_ip} {remote_end} {protocol}` says what each of these takes"
    );
    let subject = Subject::Backend { name: row.backend.clone() };
    let exhausted = Exhausted { frontend: row.frontend, destinations };
    let concern = Concern::new(Severity::Critical, subject, What::PortsExhausted, why, &remedy);
    Concern { exhausted: Some(exhausted), ..concern }
}

fn destination(one: &Shortage, now: Now) -> Destination {
    let (port, packets) = (one.remote.port, one.packets);
    let address = one.remote.addr.ipv4().map_or_else(|| "-".to_owned(), |ip| format!("{ip}:{port}"));
    let in_ms = |at_ns: u64| at_ns.saturating_sub(now.ns) / 1_000_000;
    let back_unix_ms = one.back_ns.map(|at_ns| now.unix_ms.saturating_add(in_ms(at_ns)));
    Destination { protocol: one.proto.label().to_owned(), address, packets, back_unix_ms }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use engine::ids::{BackendId, FrontendId};
    use engine::record::{Addr, Endpoint, Proto};

    use super::*;

    const NOW: Now = Now { ns: 100_000_000_000, unix_ms: 1_700_000_000_000 };

    fn shortage(backend: u32, port: u16, at_ns: u64, back_ns: Option<u64>) -> Shortage {
        let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 7)), port };
        let (backend, frontend) = (BackendId(backend), Some(FrontendId(1)));
        Shortage { backend, frontend, proto: Proto::Udp, remote, packets: u64::from(port), at_ns, back_ns }
    }

    fn ports() -> Ports {
        let row = |id: u32| BackendPorts {
            backend: format!("b{id}/ip"),
            id,
            ip: Some(Ipv4Addr::new(10, 0, 1, 1)),
            frontend: Some(Ipv4Addr::new(203, 0, 113, 1)),
            allocated: 64,
            used: Some(60),
            ..BackendPorts::default()
        };
        Ports { backends: (1..=30).map(row).collect() }
    }

    #[test]
    fn who_has_no_port_free_is_told_of_with_address_remotes_and_moment_while_it_lasts() {
        let back = |s: u64| Some(NOW.ns + s * 1_000_000_000);
        let all: Vec<Shortage> = (1..=5).map(|port| shortage(2, port, NOW.ns, back(u64::from(10 + port)))).collect();
        let said = judge(&ports(), 1, &all, NOW);
        let [one] = &said[..] else { panic!("{said:?}") };
        assert_eq!((one.severity, one.subject.to_string()), (Severity::Critical, "backend b2/ip".to_owned()));
        let moment = time_text(NOW.unix_ms + 11_000);
        assert_eq!(
            one.why,
            format!(
                "no port of 203.0.113.1 is free towards 198.51.100.7:5 (udp), 198.51.100.7:4 (udp), 198.51.100.7:3 (udp) and \
                 2 more, so new flows are refused; 60 of its 64 ports are in use; the first one that is held comes back at \
                 {moment}"
            )
        );
        assert!(one.remedy.contains("`qnat explain 10.0.1.1 198.51.100.7:5 udp`"), "{}", one.remedy);
        let told = one.exhausted.as_ref().expect("for programs");
        assert_eq!((told.frontend, told.destinations.len()), (Some(Ipv4Addr::new(203, 0, 113, 1)), 5));
        // Nothing is known of when one comes back.
        let said = judge(&ports(), 1, &[shortage(1, 7, NOW.ns, None)], NOW);
        assert!(
            said[0].why.ends_with("one comes back when its flow has ended and its hold has passed"),
            "{}",
            said[0].why
        );
        // It was a while ago; of a backend that is gone.
        let old = [shortage(1, 7, NOW.ns - RECENT_NS - 1, None), shortage(99, 7, NOW.ns, None)];
        assert_eq!(judge(&ports(), 1, &old, NOW), []);
        let many: Vec<Shortage> = (1..=30).map(|id| shortage(id, 7, NOW.ns, None)).collect();
        let said = judge(&ports(), 1, &many, NOW);
        assert_eq!((said.len(), said[NAMED_MAX].subject.to_string().as_str()), (NAMED_MAX + 1, "n1"));
        assert!(said[NAMED_MAX].why.starts_with("10 more backends"), "{}", said[NAMED_MAX].why);
    }
}
