//! Reads probes from a file's tables. Judges nothing that a second resource is needed for (`checking`). Used by `config`.

use std::collections::BTreeMap;

use super::model::{Probe, ProbeProtocol};
use crate::toml_reader::{Reader, Source, choice, named};

const PROTOCOLS: [(&str, ProbeProtocol); 3] = [
    (ProbeProtocol::Tcp.label(), ProbeProtocol::Tcp),
    (ProbeProtocol::Http.label(), ProbeProtocol::Http),
    (ProbeProtocol::Https.label(), ProbeProtocol::Https),
];

/// One of a load balancer.
pub(crate) fn probe(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    kind: &str,
    into: &mut BTreeMap<String, Probe>,
) {
    let name = named(source, &mut reader, kind, into);
    let probe = fields(source, reader);
    into.extend(name.map(|name| (name, probe)));
}

/// A machine's own, of the table at this path.
pub(crate) fn own_probe(source: &mut Source<'_>, mut reader: Reader<'_, '_>, path: String) -> Probe {
    reader.settle(source, path);
    fields(source, reader)
}

fn fields(source: &mut Source<'_>, mut reader: Reader<'_, '_>) -> Probe {
    let protocol = choice(source, &mut reader, "protocol", &PROTOCOLS);
    let port = reader.number(source, "port", 0);
    let given = reader.string_if(source, "request_path");
    let by_default = if protocol == ProbeProtocol::Tcp { "" } else { "/" };
    let request_path = given.unwrap_or_else(|| by_default.to_owned());
    let interval_seconds = reader.number(source, "interval_seconds", 15);
    let number_of_probes = reader.number(source, "number_of_probes", 2);
    reader.finish(source);
    Probe { protocol, port, request_path, interval_seconds, number_of_probes }
}
