//! `qnat explain`: what may be asked, and the explanation as text: first what becomes of the packet, then why.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use engine::record::{CommitClass, Scenario};

use crate::answers::{EvaluatedGroup, Explained, PassedOver, Remedy};
use crate::daemon::request::{ExplainProtocol, PacketQuestion, Request};

/// The port of a source that none is given for: any that the instance might choose.
const SOURCE_PORT: u16 = 50_000;

/// An address, with a port or without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    ip: Ipv4Addr,
    port: Option<u16>,
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        let end: SocketAddrV4 =
            text.parse().map_err(|_| "no IPv4 address, nor one with a port as 10.0.1.1:80".to_owned())?;
        Ok(Self { ip: *end.ip(), port: Some(end.port()) })
    }
}

/// The question.
///
/// # Errors
/// With what is missing.
pub(super) fn request(
    source: End,
    destination: End,
    protocol: ExplainProtocol,
    vnet: Option<String>,
) -> Result<Request, String> {
    let proto = protocol.proto();
    let (from, to) = match (destination.port, proto.has_ports()) {
        (Some(port), true) => (source.port.unwrap_or(SOURCE_PORT), port),
        (None, true) => return Err(format!("which port of {0}? Say {0}:80, or icmp for a ping", destination.ip)),
        (_, false) if protocol == ExplainProtocol::Icmp => (source.port.unwrap_or(SOURCE_PORT), 0),
        (None, false) if source.port.is_none() => (0, 0),
        (_, false) => return Err(format!("{} has no ports: write both addresses without one", proto.label())),
    };
    let (source, destination) = (SocketAddrV4::new(source.ip, from), SocketAddrV4::new(destination.ip, to));
    Ok(Request::Explain { of: PacketQuestion { protocol, source, destination, vnet } })
}

/// As text.
pub(super) fn explained(told: &Explained) -> String {
    let mut text = format!("{} {} -> {}: {}\n", told.protocol, told.source, told.destination, headline(told));
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("  {name:<14} {value}\n");
        }
    };
    line("backend", told.backend.clone());
    for group in &told.groups.evaluated_network_security_groups {
        line("security", Some(judged(group)));
    }
    if told.groups.evaluated_network_security_groups.is_empty() && told.backend.is_some() {
        let of_mapping = told.direction == "Inbound" && told.mapping.is_some();
        let why = if of_mapping { "not asked: it belongs to a flow that is there" } else { "no group judges it" };
        line("security", Some(why.to_owned()));
    }
    for PassedOver { backend, why, probe } in &told.passed_over {
        let by = probe.as_ref().map_or_else(String::new, |probe| format!(" (probe {probe})"));
        line("not to", Some(format!("{backend}: {why}{by}")));
    }
    line(
        "mapping",
        told.mapping.as_ref().map(|row| {
            format!(
                "{} as {}, {}, written by entry {}, last packet {} ms ago",
                row.inside, row.public, row.state, row.written_at, row.idle_ms
            )
        }),
    );
    line("right", told.scenario.clone());
    line("way out", told.why.clone());
    line("what helps", told.remedy.clone());
    line("comes back", told.back_in_ms.map(|ms| format!("the first one that is held, in {:.1} s", ms as f64 / 1e3)));
    for Remedy { what, condition, price } in &told.remedies {
        line("what helps", Some(format!("{what}; if {condition}; price: {price}")));
    }
    line("next hop", told.next_hop.map(|ip| ip.to_string()));
    line(
        "shard",
        told.shard.map(|shard| {
            let owner = told.owner.map_or_else(|| "no owner is known".to_owned(), |owner| format!("owned by n{owner}"));
            format!("{shard}, {owner}{}", told.term.map_or_else(String::new, |term| format!(" in term {term}")))
        }),
    );
    if !told.not_in_dump.is_empty() {
        line("not in a dump", Some(told.not_in_dump.join(", ")));
    }
    line("said by", Some(format!("n{}, which judges by configuration {}", told.node, told.control_index)));
    text
}

fn headline(told: &Explained) -> String {
    let translated = told.translated.as_deref().unwrap_or("nothing");
    let passed = match (told.verdict.as_str(), told.direction.as_str()) {
        ("passes", "Inbound") => match told.floats_to {
            Some(own) => format!("passes unchanged to {own}, which has {translated} too"),
            None => format!("passes to {translated}"),
        },
        ("passes", _) => format!("leaves as {translated}"),
        ("opens", _) if leaves_before_its_mapping(told) => {
            format!("leaves as {translated} at once, and opens a mapping, which the flow's next packets wait for")
        }
        ("opens", _) => format!("opens a mapping, and leaves as {translated} once a majority has it"),
        ("opens_if_free", _) => "opens a mapping if a port of its grant is free; many are not".to_owned(),
        ("waits", _) => "waits for its mapping, which is on its way".to_owned(),
        ("dropped", _) => format!("dropped, {}", told.reason.as_deref().unwrap_or("for no reason")),
        ("not_told", _) => "not told: it depends on a key, and no dump has one".to_owned(),
        (other, _) => format!("{other}: no owner of its shard answered"),
    };
    match (&told.turned_to, &told.turned_away) {
        (Some(to), _) => format!("{passed}; turned back inside to {to}"),
        (_, Some(why)) => format!("{passed}; turned back inside, and dropped there, {why}"),
        (None, None) => passed,
    }
}

/// Whether the right lets the first packet leave before a majority has the mapping.
fn leaves_before_its_mapping(told: &Explained) -> bool {
    let right = Scenario::ALL.into_iter().find(|scenario| told.scenario.as_deref() == Some(scenario.label()));
    matches!(right.map(Scenario::class), Some(CommitClass::BehindFirst | CommitClass::Private))
}

fn judged(group: &EvaluatedGroup) -> String {
    let rule = &group.matched_rule;
    let place = if group.applied_to == "subnet" { "subnet" } else { "interface" };
    let name = &group.network_security_group_id;
    format!("{}: {}, priority {}, of group {name} of the {place}", rule.action, rule.rule_name, rule.priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_first_packet_waits_for_its_mapping_is_said_by_its_right() {
        let told = |scenario: Scenario| Explained {
            verdict: "opens".into(),
            direction: "Outbound".into(),
            scenario: Some(scenario.label().into()),
            translated: Some("192.0.2.1:5".into()),
            ..Explained::default()
        };
        for (scenario, waits) in
            [(Scenario::Pool, true), (Scenario::Default, true), (Scenario::OwnOut, false), (Scenario::Private, false)]
        {
            let text = headline(&told(scenario));
            assert_eq!(text.contains("once a majority has it"), waits, "{text}");
            assert_eq!(text.contains("at once, and opens"), !waits, "{text}");
        }
    }

    #[test]
    fn an_end_has_a_port_or_not_and_only_pings_need_none_at_the_destination() {
        let end = |text: &str| text.parse::<End>();
        assert_eq!(end("10.0.1.1:5"), Ok(End { ip: Ipv4Addr::new(10, 0, 1, 1), port: Some(5) }));
        assert!(end("b1").is_err() && end("10.0.1.1:70000").is_err());
        let ask = |to: &str, protocol| request(end("10.0.1.1").expect("one"), end(to).expect("one"), protocol, None);
        assert!(ask("192.0.2.1", ExplainProtocol::Tcp).is_err_and(|why| why.contains("192.0.2.1:80")));
        let Ok(Request::Explain { of: PacketQuestion { source, destination, .. } }) =
            ask("192.0.2.1", ExplainProtocol::Icmp)
        else {
            panic!()
        };
        assert_eq!((source.port(), destination.port()), (SOURCE_PORT, 0));
        let Ok(Request::Explain { of: PacketQuestion { source, destination, .. } }) =
            ask("192.0.2.1", ExplainProtocol::Gre)
        else {
            panic!()
        };
        assert_eq!((source.port(), destination.port()), (0, 0), "as its packets are looked up");
        assert_eq!(
            ask("192.0.2.1:80", ExplainProtocol::Esp),
            Err("esp has no ports: write both addresses without one".into())
        );
        assert!(ask("192.0.2.1", ExplainProtocol::Sctp).is_err_and(|why| why.contains("192.0.2.1:80")));
    }
}
