//! How system addresses and availability sets are written in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use words::Prefix;

use super::model::DefaultOutbound;
use crate::toml_reader::{Reader, Source, named};

const FORM: &str = "addresses and networks, as in [\"203.0.113.240/29\", \"203.0.113.9\"]";

/// `[[availability_set]]`.
pub(crate) fn availability_sets(source: &mut Source<'_>, root: &mut Reader<'_, '_>) -> BTreeSet<String> {
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    for mut reader in root.tables(source, "availability_set") {
        let name = named(source, &mut reader, "availability_set", &names);
        reader.finish(source);
        names.extend(name.map(|name| (name, ())));
    }
    names.into_keys().collect()
}

/// `[default_outbound]`.
pub(crate) fn default_outbound(source: &mut Source<'_>, mut reader: Reader<'_, '_>) -> DefaultOutbound {
    reader.settle(source, "default_outbound".into());
    let texts = reader.one_or_many(source, "addresses");
    if !reader.has("addresses") {
        reader.missing(source, "addresses", &format!("write {FORM}, or leave [default_outbound] out"));
    }
    let mut addresses = Vec::with_capacity(texts.len());
    for text in &texts {
        match (text.parse::<Ipv4Addr>(), text.parse::<Prefix>()) {
            (Ok(network), _) => addresses.push(Prefix { network, len: 32 }),
            (_, Ok(prefix)) => addresses.push(prefix),
            (Err(_), Err(_)) => reader.refuse(source, "addresses", text, "is no address or network", FORM),
        }
    }
    reader.finish(source);
    DefaultOutbound { addresses }
}
