//! Reads probes from a file's tables. Judges nothing that a second resource is needed for (`checking`). Used by `config`.

use std::collections::BTreeMap;

use super::model::{Probe, ProbeProtocol};
use crate::toml_reader::{Reader, Source, choice, named};

const PROTOCOLS: [(&str, ProbeProtocol); 3] = [
    (ProbeProtocol::Tcp.label(), ProbeProtocol::Tcp),
    (ProbeProtocol::Http.label(), ProbeProtocol::Http),
    (ProbeProtocol::Https.label(), ProbeProtocol::Https),
];

pub(crate) fn probe(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    kind: &str,
    into: &mut BTreeMap<String, Probe>,
) {
    let name = named(source, &mut reader, kind, into);
    let protocol = choice(source, &mut reader, "protocol", &PROTOCOLS);
    let port = reader.number(source, "port", 0);
    let given = reader.string_if(source, "request_path");
    let by_default = if protocol == ProbeProtocol::Tcp { "" } else { "/" };
    let request_path = given.unwrap_or_else(|| by_default.to_owned());
    let interval_seconds = reader.number(source, "interval_seconds", 15);
    let number_of_probes = reader.number(source, "number_of_probes", 2);
    reader.finish(source);
    if let Some(name) = name {
        into.insert(name, Probe { protocol, port, request_path, interval_seconds, number_of_probes });
    }
}
