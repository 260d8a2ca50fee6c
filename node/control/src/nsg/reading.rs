//! Reads security groups, network interfaces and application security groups from a file's tables, and spells references as
//! what they name: names compare without case. Judges nothing that a second resource is needed for (`checking`). Used by `config`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use words::Prefix;

use super::model::{Access, Addresses, Direction, Model, Nic, Ports, Protocol, Rule, SecurityGroup};
use super::tag::{NoTag, Tag};
use crate::toml_reader::{Reader, Source, choice, named, pair};

/// Names of one kind, to be found without case.
#[derive(Debug, Default)]
pub(crate) struct Spelling(BTreeMap<String, String>);

impl Spelling {
    /// The names that are declared.
    pub(crate) fn of<'a>(declared: impl Iterator<Item = &'a String>) -> Self {
        Self(declared.map(|name| (name.to_ascii_lowercase(), name.clone())).collect())
    }

    /// Writes a reference as the name is declared; what names nothing stays, and is refused later.
    pub(crate) fn mend(&self, reference: &mut String) {
        if let Some(declared) = self.0.get(&reference.to_ascii_lowercase()) {
            reference.clone_from(declared);
        }
    }
}

pub(crate) fn nic(source: &mut Source<'_>, mut reader: Reader<'_, '_>, into: &mut BTreeMap<String, Nic>) {
    let name = named(source, &mut reader, "nic", into);
    let subnet = reader.string(source, "subnet");
    let subnet = subnet.and_then(|text| pair(source, &reader, "subnet", &text, "\"virtual_network/subnet\""));
    let security_group = reader.string_if(source, "security_group");
    let application_security_groups = reader.one_or_many(source, "application_security_groups").into_iter().collect();
    reader.finish(source);
    if let (Some(name), Some((virtual_network, subnet))) = (name, subnet) {
        into.insert(name, Nic { virtual_network, subnet, security_group, application_security_groups });
    }
}

pub(crate) fn application_security_group(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    into: &mut BTreeMap<String, ()>,
) {
    let name = named(source, &mut reader, "application_security_group", into);
    reader.finish(source);
    into.extend(name.map(|name| (name, ())));
}

pub(crate) fn security_group(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    into: &mut BTreeMap<String, SecurityGroup>,
) {
    let name = named(source, &mut reader, "security_group", into);
    let models = [("resource_manager", Model::ResourceManager), ("classic", Model::Classic)];
    let mut group = SecurityGroup { model: choice(source, &mut reader, "model", &models), rules: BTreeMap::new() };
    let kind = reader.at("rule");
    for table in reader.tables(source, "rule") {
        rule(source, table, &kind, &mut group.rules);
    }
    reader.finish(source);
    into.extend(name.map(|name| (name, group)));
}

fn rule(source: &mut Source<'_>, mut reader: Reader<'_, '_>, kind: &str, into: &mut BTreeMap<String, Rule>) {
    let name = named(source, &mut reader, kind, into);
    if !reader.has("priority") {
        reader.missing(source, "priority", "add priority = 100, or another number up to 4096: lower ones come first");
    }
    let priority = reader.number(source, "priority", 0);
    let directions = [("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];
    let direction = needed(source, &mut reader, "direction", &directions);
    let access = needed(source, &mut reader, "access", &[("allow", Access::Allow), ("deny", Access::Deny)]);
    let protocol = protocol(source, &mut reader);
    let from = addresses(source, &mut reader, "source");
    let source_ports = ports(source, &mut reader, "source_ports");
    let to = addresses(source, &mut reader, "destination");
    let destination_ports = ports(source, &mut reader, "destination_ports");
    reader.finish(source);
    if let (Some(name), Some(direction), Some(access)) = (name, direction, access) {
        let rule = Rule {
            priority,
            direction,
            access,
            protocol,
            source: from,
            source_ports,
            destination: to,
            destination_ports,
        };
        into.insert(name, rule);
    }
}

/// A string that has to be there and is one of a few, in any case.
fn needed<T: Copy>(
    source: &mut Source<'_>,
    reader: &mut Reader<'_, '_>,
    field: &'static str,
    choices: &[(&str, T)],
) -> Option<T> {
    let known: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let known = known.join(" or ");
    if !reader.has(field) {
        let _noted = reader.string_if(source, field);
        reader.missing(source, field, &format!("add {field} = {known}"));
        return None;
    }
    let text = reader.string_if(source, field)?;
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
    if found.is_none() {
        reader.refuse(source, field, &text, "is not a known choice", &format!("write {known}"));
    }
    found.map(|(_, value)| *value)
}

fn is_any(text: &str) -> bool {
    text == "*" || text.eq_ignore_ascii_case("any")
}

fn protocol(source: &mut Source<'_>, reader: &mut Reader<'_, '_>) -> Protocol {
    let Some(text) = reader.string_if(source, "protocol") else { return Protocol::Any };
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => {
            let problem = "cannot stand alone: a rule takes TCP, UDP, or any, which includes ICMP";
            reader.refuse(source, "protocol", &text, problem, "write \"any\"");
            Protocol::Any
        }
        _ if is_any(&text) => Protocol::Any,
        _ => {
            reader.refuse(source, "protocol", &text, "is not a known choice", "write \"tcp\", \"udp\" or \"any\"");
            Protocol::Any
        }
    }
}

const ADDRESSES_FORM: &str = "an address, a network, a service tag, an application security group or \"any\"; or a list of \
                              addresses and networks, as in [\"10.0.1.4\", \"10.0.2.0/24\"]";

/// A single word that is no address is the name of a tag or of an application security group.
fn addresses(source: &mut Source<'_>, reader: &mut Reader<'_, '_>, field: &'static str) -> Addresses {
    let texts = reader.texts(source, field, ADDRESSES_FORM);
    let (mut prefixes, mut words) = (Vec::new(), Vec::new());
    for text in texts {
        match (text.parse::<Ipv4Addr>(), text.parse::<Prefix>()) {
            (Ok(network), _) => prefixes.push(Prefix { network, len: 32 }),
            (_, Ok(prefix)) => prefixes.push(prefix),
            (Err(_), Err(_)) => words.push(text),
        }
    }
    if let Some(word) = words.first()
        && (words.len() > 1 || !prefixes.is_empty())
    {
        let problem = "a field takes several addresses and networks, but a tag, a group or \"any\" only alone";
        reader.refuse(source, field, word, problem, "write a rule of its own for each tag and group");
        return Addresses::Any;
    }
    match words.pop() {
        None if prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.len == 0 && prefix.normal() == *prefix) => {
            Addresses::Any
        }
        None => Addresses::Prefixes(prefixes),
        Some(word) if is_any(&word) => Addresses::Any,
        Some(word) => match Tag::named(&word) {
            Ok(tag) => Addresses::Tag(tag),
            Err(NoTag::Unknown) => Addresses::Members(word),
            Err(why) => {
                let tags: Vec<String> = Tag::all().map(|tag| tag.to_string()).collect();
                let (problem, remedy) = match why {
                    NoTag::SqlAlone => {
                        ("has a tag in each region only", "name the region, as in Sql.EastUS".to_owned())
                    }
                    NoTag::Region | NoTag::Unknown => ("is no service tag", format!("use one of: {}", tags.join(", "))),
                };
                reader.refuse(source, field, &word, problem, &remedy);
                Addresses::Any
            }
        },
    }
}

const PORTS_FORM: &str = "a port, a range such as \"10000-10005\", or \"any\"; or a list of ports and ranges, as in [80, \
                          \"10000-10005\"]";

fn ports(source: &mut Source<'_>, reader: &mut Reader<'_, '_>, field: &'static str) -> Vec<Ports> {
    let texts = reader.texts(source, field, PORTS_FORM);
    if let [text] = &texts[..]
        && is_any(text)
    {
        return Vec::new();
    }
    let mut all = Vec::with_capacity(texts.len());
    for text in &texts {
        match range(text) {
            Some(range) => all.push(range),
            None => {
                reader.refuse(source, field, text, "is no port and no range", &format!("write {PORTS_FORM}"));
            }
        }
    }
    if all.contains(&Ports::ALL) { Vec::new() } else { all }
}

fn range(text: &str) -> Option<Ports> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|_| !text.contains('+'));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some(Ports { first, last })
}

/// Spells the references of groups and interfaces.
pub(crate) fn spell(
    nics: &mut BTreeMap<String, Nic>,
    groups: &mut BTreeMap<String, SecurityGroup>,
    application_groups: &BTreeSet<String>,
) {
    let (known, members) = (Spelling::of(groups.keys()), Spelling::of(application_groups.iter()));
    for nic in nics.values_mut() {
        nic.security_group.iter_mut().for_each(|group| known.mend(group));
        let spelled = std::mem::take(&mut nic.application_security_groups).into_iter().map(|mut group| {
            members.mend(&mut group);
            group
        });
        nic.application_security_groups = spelled.collect();
    }
    for rule in groups.values_mut().flat_map(|group| group.rules.values_mut()) {
        for field in [&mut rule.source, &mut rule.destination] {
            if let Addresses::Members(group) = field {
                members.mend(group);
            }
        }
    }
}
