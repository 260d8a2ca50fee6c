//! Reads inbound rules from a file's tables. Judges nothing that a second resource is needed for (`checking`). Used by `config`.

use std::collections::BTreeMap;

use super::model::{Distribution, InboundRule, RuleProtocol, Target};
use crate::toml_reader::{Reader, Source, choice, named, pair};

const PROTOCOLS: [(&str, RuleProtocol); 3] =
    [("tcp", RuleProtocol::Tcp), ("udp", RuleProtocol::Udp), ("all", RuleProtocol::All)];
const DISTRIBUTIONS: [(&str, Distribution); 3] = [
    ("5-tuple", Distribution::Connection),
    ("source-ip-protocol", Distribution::SourceAndProtocol),
    ("source-ip", Distribution::Source),
];

/// Which table it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    LoadBalancing,
    InboundNat,
}

pub(crate) fn rule(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    (kind, table): (&str, Table),
    into: &mut BTreeMap<String, InboundRule>,
) {
    let name = named(source, &mut reader, kind, into);
    let frontend = reader.string(source, "frontend");
    let protocol = choice(source, &mut reader, "protocol", &PROTOCOLS);
    let frontend_port = reader.number(source, "frontend_port", 0);
    let backend_port = reader.number(source, "backend_port", frontend_port);
    let (target, distribution, probe) = match table {
        Table::LoadBalancing => {
            let pool = reader.string(source, "pool").map(Target::Pool);
            let distribution = choice(source, &mut reader, "distribution", &DISTRIBUTIONS);
            (pool, distribution, reader.string_if(source, "probe"))
        }
        Table::InboundNat => (ip_configuration(source, &mut reader), Distribution::default(), None),
    };
    let idle_timeout_minutes = reader.number(source, "idle_timeout_minutes", 4);
    let enable_tcp_reset = reader.truth(source, "enable_tcp_reset");
    let floating_ip = reader.truth(source, "floating_ip");
    reader.finish(source);
    if let (Some(name), Some(frontend), Some(target)) = (name, frontend, target) {
        let rule = InboundRule {
            frontend,
            protocol,
            frontend_port,
            target,
            backend_port,
            probe,
            distribution,
            idle_timeout_minutes,
            enable_tcp_reset,
            floating_ip,
        };
        into.insert(name, rule);
    }
}

fn ip_configuration(source: &mut Source<'_>, reader: &mut Reader<'_, '_>) -> Option<Target> {
    let text = reader.string(source, "ip_configuration")?;
    let (instance, name) = pair(source, reader, "ip_configuration", &text, "\"instance/ip_configuration\"")?;
    Some(Target::IpConfiguration { instance, ip_configuration: name })
}
