//! The declarative file that `qnat apply -f FILE` takes, in TOML.
//!
//! [`parse`] turns text into a [`Desired`], or into all of its errors at once: each names file, line, field, value, what
//! is wrong and what would be right. Unknown fields are refused. It must never change anything and never guess. Called by
//! the command line and the API.
//!
//! ```toml
//! [[virtual_network]]
//! name = "vnet1"
//! [[virtual_network.subnet]]
//! name = "default"
//! prefix = "10.0.0.0/16"
//! gateway = "10.0.0.1"
//!
//! [[public_ip]]
//! name = "pip1"
//! address = "203.0.113.1"
//! [[public_ip]]
//! name = "pip2"
//! address = "203.0.113.2"
//!
//! [[load_balancer]]
//! name = "lb1"
//! frontends = ["pip1"]
//! [[load_balancer.pool]]
//! name = "web"
//! [[load_balancer.outbound_rule]]
//! name = "out"
//! pool = "web"
//! idle_timeout_minutes = 4
//! [[load_balancer.load_balancing_rule]]
//! name = "http"
//! frontend = "pip1"
//! protocol = "tcp"
//! frontend_port = 80
//! pool = "web"
//! backend_port = 8080
//! probe = "alive"
//! [[load_balancer.probe]]
//! name = "alive"
//! protocol = "http"
//! port = 8080
//! request_path = "/healthz"
//! interval_seconds = 5
//! number_of_probes = 2
//! [[load_balancer.inbound_nat_rule]]
//! name = "ssh-b1"
//! frontend = "pip1"
//! frontend_port = 2201
//! ip_configuration = "b1/ipconfig1"
//! backend_port = 22
//!
//! [[availability_set]]
//! name = "as1"
//!
//! [[instance]]
//! name = "b1"
//! availability_set = "as1"
//! # role = "web" or "worker", of a classic cloud service: then without a public_ip
//! [instance.probe]
//! protocol = "http"
//! port = 8080
//! request_path = "/machine"
//! interval_seconds = 5
//! number_of_probes = 2
//! [[instance.ip_configuration]]
//! name = "ipconfig1"
//! private_ip = "10.0.1.1"
//! mac = "52:54:00:12:34:56"
//! subnet = "vnet1/default"
//! pool = "lb1/web"
//! public_ip = "pip2"
//! nic = "nic1"
//!
//! [[nic]]
//! name = "nic1"
//! subnet = "vnet1/default"
//! security_group = "nsg1"
//! application_security_groups = ["WebServers"]
//!
//! [[application_security_group]]
//! name = "WebServers"
//!
//! [[security_group]]
//! name = "nsg1"
//! [[security_group.rule]]
//! name = "web"
//! priority = 100
//! direction = "inbound"
//! access = "allow"
//! protocol = "tcp"
//! source = "Internet"
//! destination = "WebServers"
//! destination_ports = [80, "8000-8080"]
//!
//! [default_outbound]
//! addresses = ["203.0.113.240/29"]
//!
//! [outside]
//! network = "203.0.113.0/24"
//! next_hop = "203.0.113.254"
//! ```

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

use crate::default_outbound;
use crate::inbound::reading::{Table, rule};
use crate::limits::FILE_LEN_MAX;
use crate::nsg::model::Nic;
use crate::nsg::reading::{self, Spelling};
use crate::probing::reading::{own_probe, probe};
use crate::resource::{
    AdminState, Desired, Filtering, Instance, IpConfiguration, LoadBalancer, OnReclaim, OutboundRule, Outside, PoolRef,
    Prefix, Profile, PublicIp, Role, Settings, Sharing, Subnet, VirtualNetwork,
};
pub use crate::toml_reader::ConfigError;
use crate::toml_reader::{Reader, Source, choice, named, pair};
use crate::validate;

/// Reads a configuration. `file` is only used in messages.
///
/// # Errors
/// Everything that is wrong with it, in order of lines, at most [`validate::ISSUES_MAX`] of each kind of check.
pub fn parse(file: &str, text: &str) -> Result<Desired, Vec<ConfigError>> {
    let mut source = Source::new(file, text);
    if text.len() > FILE_LEN_MAX {
        let value = format!("{} bytes", text.len());
        source.error(None, "file", &value, "is too large", &format!("at most {FILE_LEN_MAX} bytes"));
        return Err(source.errors);
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map(|span| source.line_at(span.start));
            source.error(line, "syntax", "", error.message(), "see https://toml.io for the syntax");
            return Err(source.errors);
        }
    };
    let root = Reader::new(&mut source, table.get_ref(), String::new(), 0);
    let desired = read(&mut source, root);
    // Checks across resources make sense only if every field could be read.
    if source.errors.is_empty() {
        for issue in validate::issues(&desired) {
            let line = source.line_of(&issue.path);
            source.error(line, &issue.path, &issue.value, &issue.problem, &issue.remedy);
        }
    }
    if source.errors.is_empty() {
        return Ok(desired);
    }
    source.errors.sort_by_key(|error| error.line);
    source.errors.dedup();
    Err(source.errors)
}

/// Whether a file that declares no resource is taken at its word. An empty file is more often a command that failed
/// before a pipe, or the wrong file, than the wish that everything goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emptiness {
    /// No resource is an error.
    Refused,
    /// The operator said so.
    Meant,
}

/// What is wrong with a file that declares no resource.
pub const DECLARES_NOTHING: &str = "declares no resource: applied, it would remove everything";

/// Reads a configuration that takes the place of all that is; see [`parse`].
///
/// # Errors
/// Those of [`parse`], and that no resource is declared, unless that is meant.
pub fn parse_whole(file: &str, text: &str, emptiness: Emptiness) -> Result<Desired, Vec<ConfigError>> {
    let desired = parse(file, text)?;
    if emptiness == Emptiness::Refused && !desired.has_resources() {
        let mut source = Source::new(file, text);
        let value = format!("{} bytes", text.len());
        let remedy = "declare what shall be; if everything shall go, say so: qnat apply -f FILE --yes";
        source.error(None, "file", &value, DECLARES_NOTHING, remedy);
        return Err(source.errors);
    }
    Ok(desired)
}

fn read(source: &mut Source<'_>, mut root: Reader<'_, '_>) -> Desired {
    let mut desired = Desired::default();
    for reader in root.tables(source, "virtual_network") {
        virtual_network(source, reader, &mut desired.virtual_networks);
    }
    for reader in root.tables(source, "public_ip") {
        public_ip(source, reader, &mut desired.public_ips);
    }
    for reader in root.tables(source, "load_balancer") {
        load_balancer(source, reader, &mut desired.load_balancers);
    }
    for reader in root.tables(source, "nic") {
        reading::nic(source, reader, &mut desired.nics);
    }
    let cards = (&Spelling::of(desired.nics.keys()), &desired.nics);
    for reader in root.tables(source, "instance") {
        instance(source, reader, cards, &mut desired.instances);
    }
    for reader in root.tables(source, "security_group") {
        reading::security_group(source, reader, &mut desired.security_groups);
    }
    let mut members: BTreeMap<String, ()> = BTreeMap::new();
    for reader in root.tables(source, "application_security_group") {
        reading::application_security_group(source, reader, &mut members);
    }
    desired.application_security_groups = members.into_keys().collect();
    desired.availability_sets = default_outbound::reading::availability_sets(source, &mut root);
    if let Some(reader) = root.table(source, "default_outbound") {
        desired.default_outbound = default_outbound::reading::default_outbound(source, reader);
    }
    spell(&mut desired);
    if let Some(reader) = root.table(source, "outside") {
        desired.outside = outside(source, reader);
    }
    if let Some(reader) = root.table(source, "settings") {
        desired.settings = settings(source, reader);
    }
    root.finish(source);
    desired
}

/// Names of groups and interfaces compare without case: references are spelled as what they name.
fn spell(desired: &mut Desired) {
    let Desired { nics, security_groups, application_security_groups, virtual_networks, instances, .. } = desired;
    reading::spell(nics, security_groups, application_security_groups);
    let groups = Spelling::of(security_groups.keys());
    let subnets = virtual_networks.values_mut().flat_map(|network| network.subnets.values_mut());
    subnets.flat_map(|subnet| &mut subnet.security_group).for_each(|group| groups.mend(group));
    instances.values_mut().flat_map(|instance| &mut instance.security_group).for_each(|group| groups.mend(group));
}

const PREFIX_FORM: &str = "a network such as \"10.0.0.0/16\"";
const MAC_FORM: &str = "a MAC address such as \"52:54:00:12:34:56\"";
const ADDRESS_FORM: &str = "an IPv4 address such as \"10.0.1.1\"";

fn virtual_network(source: &mut Source<'_>, mut reader: Reader<'_, '_>, into: &mut BTreeMap<String, VirtualNetwork>) {
    let name = named(source, &mut reader, "virtual_network", into);
    let spaces = reader.strings(source, "address_space");
    let mut network = VirtualNetwork::default();
    for text in spaces {
        network.address_space.extend(reader.parse::<Prefix>(source, "address_space", &text, PREFIX_FORM));
    }
    network.peerings = reader.one_or_many(source, "peerings").into_iter().collect::<BTreeSet<_>>();
    for text in reader.one_or_many(source, "on_premises") {
        network.on_premises.extend(reader.parse::<Prefix>(source, "on_premises", &text, PREFIX_FORM));
    }
    let kind = reader.at("subnet");
    for mut subnet in reader.tables(source, "subnet") {
        let name = named(source, &mut subnet, &kind, &network.subnets);
        let prefix = subnet.parsed(source, "prefix", PREFIX_FORM);
        let gateway = subnet.parsed(source, "gateway", ADDRESS_FORM);
        let security_group = subnet.string_if(source, "security_group");
        let isolated = subnet.truth(source, "isolated");
        let default_outbound_access = subnet.truth_or(source, "default_outbound_access", true);
        subnet.finish(source);
        if let (Some(name), Some(prefix), Some(gateway)) = (name, prefix, gateway) {
            let subnet = Subnet { prefix, gateway, security_group, isolated, default_outbound_access };
            network.subnets.insert(name, subnet);
        }
    }
    reader.finish(source);
    into.extend(name.map(|name| (name, network)));
}

fn public_ip(source: &mut Source<'_>, mut reader: Reader<'_, '_>, into: &mut BTreeMap<String, PublicIp>) {
    let name = named(source, &mut reader, "public_ip", into);
    let address = reader.parsed(source, "address", ADDRESS_FORM);
    let ports = reader.numbers::<u16>(source, "reserved_ports", "a list of ports, as in [8080, 9000]");
    reader.finish(source);
    if let (Some(name), Some(address)) = (name, address) {
        into.insert(name, PublicIp { address, reserved_ports: ports.unwrap_or_default().into_iter().collect() });
    }
}

fn load_balancer(source: &mut Source<'_>, mut reader: Reader<'_, '_>, into: &mut BTreeMap<String, LoadBalancer>) {
    let name = named(source, &mut reader, "load_balancer", into);
    let mut balancer = LoadBalancer { frontends: reader.strings(source, "frontends"), ..LoadBalancer::default() };
    let mut pools: BTreeMap<String, ()> = BTreeMap::new();
    let kind = reader.at("pool");
    for mut pool in reader.tables(source, "pool") {
        if let Some(name) = named(source, &mut pool, &kind, &pools) {
            pools.insert(name, ());
        }
        pool.finish(source);
    }
    balancer.pools = pools.into_keys().collect();
    let kind = reader.at("outbound_rule");
    for rule in reader.tables(source, "outbound_rule") {
        outbound_rule(source, rule, &kind, &mut balancer.outbound_rules);
    }
    let kind = reader.at("probe");
    for table in reader.tables(source, "probe") {
        probe(source, table, &kind, &mut balancer.probes);
    }
    let kind = reader.at("load_balancing_rule");
    for table in reader.tables(source, "load_balancing_rule") {
        rule(source, table, (&kind, Table::LoadBalancing), &mut balancer.load_balancing_rules);
    }
    let kind = reader.at("inbound_nat_rule");
    for table in reader.tables(source, "inbound_nat_rule") {
        rule(source, table, (&kind, Table::InboundNat), &mut balancer.inbound_nat_rules);
    }
    reader.finish(source);
    into.extend(name.map(|name| (name, balancer)));
}

fn outbound_rule(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    kind: &str,
    into: &mut BTreeMap<String, OutboundRule>,
) {
    let name = named(source, &mut reader, kind, into);
    let pool = reader.string(source, "pool");
    let frontends = reader.strings(source, "frontends");
    let idle_timeout_minutes = reader.number(source, "idle_timeout_minutes", 4);
    let enable_tcp_reset = reader.truth(source, "enable_tcp_reset");
    let profile = choice(source, &mut reader, "profile", &[("azure", Profile::Azure), ("rfc", Profile::Rfc)]);
    let sharing = choice(source, &mut reader, "sharing", &[("2018", Sharing::Tuple), ("2017", Sharing::Address)]);
    let modes =
        [("address_dependent", Filtering::AddressDependent), ("endpoint_independent", Filtering::EndpointIndependent)];
    let filtering = choice(source, &mut reader, "filtering", &modes);
    let fates = [("expire", OnReclaim::Expire), ("drain", OnReclaim::Drain), ("reset", OnReclaim::Reset)];
    let on_reclaim = choice(source, &mut reader, "on_reclaim", &fates);
    reader.finish(source);
    if let (Some(name), Some(pool)) = (name, pool) {
        let rule = OutboundRule {
            pool,
            frontends,
            idle_timeout_minutes,
            enable_tcp_reset,
            profile,
            sharing,
            filtering,
            on_reclaim,
        };
        into.insert(name, rule);
    }
}

fn instance(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    nics: (&Spelling, &BTreeMap<String, Nic>),
    into: &mut BTreeMap<String, Instance>,
) {
    let name = named(source, &mut reader, "instance", into);
    let security_group = reader.string_if(source, "security_group");
    let availability_set = reader.string_if(source, "availability_set");
    let role = choice(source, &mut reader, "role", &[("web", Some(Role::Web)), ("worker", Some(Role::Worker))]);
    let path = reader.at("probe");
    let probe = reader.table(source, "probe").map(|table| own_probe(source, table, path));
    let mut instance = Instance { security_group, availability_set, probe, role, ..Instance::default() };
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    let kind = reader.at("ip_configuration");
    for ip in reader.tables(source, "ip_configuration") {
        if let Some(ip) = ip_configuration(source, ip, (&kind, &names), nics) {
            names.insert(ip.name.clone(), ());
            instance.ip_configurations.push(ip);
        }
    }
    reader.finish(source);
    into.extend(name.map(|name| (name, instance)));
}

fn ip_configuration(
    source: &mut Source<'_>,
    mut reader: Reader<'_, '_>,
    (kind, names): (&str, &BTreeMap<String, ()>),
    (spelling, nics): (&Spelling, &BTreeMap<String, Nic>),
) -> Option<IpConfiguration> {
    let name = named(source, &mut reader, kind, names);
    let private_ip = reader.parsed(source, "private_ip", ADDRESS_FORM);
    let mac = reader.parsed_if(source, "mac", MAC_FORM);
    let mut nic = reader.string_if(source, "nic");
    nic.iter_mut().for_each(|nic| spelling.mend(nic));
    let subnet = match nic.as_ref().and_then(|nic| nics.get(nic)) {
        // It is where its interface is.
        Some(nic) if !reader.has("subnet") => Some((nic.virtual_network.clone(), nic.subnet.clone())),
        Some(_) | None => {
            let subnet = reader.string(source, "subnet");
            subnet.and_then(|text| pair(source, &reader, "subnet", &text, "\"virtual_network/subnet\""))
        }
    };
    let pools = reader.one_or_many(source, "pool");
    if pools.len() > 1 {
        let line = source.line_of(&reader.at("pool"));
        let remedy = "an address is in one pool: keep one, or add an ip_configuration for the other";
        source.error(line, &reader.at("pool"), &pools.join(", "), "several pools want the same backend", remedy);
    }
    let pool = pools.first().and_then(|text| pair(source, &reader, "pool", text, "\"load_balancer/pool\""));
    let states = [("none", AdminState::None), ("up", AdminState::Up), ("down", AdminState::Down)];
    let admin_state = choice(source, &mut reader, "admin_state", &states);
    let public_ip = reader.string_if(source, "public_ip");
    reader.finish(source);
    let (virtual_network, subnet) = subnet?;
    Some(IpConfiguration {
        name: name?,
        virtual_network,
        subnet,
        private_ip: private_ip?,
        mac,
        pool: pool.map(|(load_balancer, pool)| PoolRef { load_balancer, pool }),
        admin_state,
        public_ip,
        nic,
    })
}

fn outside(source: &mut Source<'_>, mut reader: Reader<'_, '_>) -> Outside {
    reader.settle(source, "outside".into());
    let network = reader.parsed(source, "network", PREFIX_FORM);
    let next_hop = reader.parsed_if(source, "next_hop", ADDRESS_FORM);
    reader.finish(source);
    Outside { network: network.unwrap_or(Outside::default().network), next_hop }
}

fn settings(source: &mut Source<'_>, mut reader: Reader<'_, '_>) -> Settings {
    reader.settle(source, "settings".into());
    let d = Settings::default();
    let form = "five numbers: hold after FIN, after RST, of idle datagrams, of idle or reclaimed TCP, of idle UDP in profile rfc";
    let hold_ms = match reader.numbers::<u32>(source, "hold_ms", form) {
        None => d.hold_ms,
        Some(list) => <[u32; 5]>::try_from(list.as_slice()).unwrap_or_else(|_| {
            let line = source.line_of("settings.hold_ms");
            source.error(
                line,
                "settings.hold_ms",
                &format!("{list:?}"),
                "has the wrong length",
                &format!("write {form}"),
            );
            d.hold_ms
        }),
    };
    let ports = reader.numbers::<u16>(source, "short_idle_ports", "a list of ports, as in [53, 123]");
    let mss_max = reader.number(source, "mss_max", d.mss_max);
    let icmp_on_refusal = reader.truth(source, "icmp_on_refusal");
    let mut number = |field, default| reader.number(source, field, default);
    let settings = Settings {
        tick_ms: number("tick_ms", d.tick_ms),
        heartbeat_ticks: number("heartbeat_ticks", d.heartbeat_ticks),
        vote_ticks: number("vote_ticks", d.vote_ticks),
        orphan_grace_ms: number("orphan_grace_ms", d.orphan_grace_ms),
        recreate_quarantine_ms: number("recreate_quarantine_ms", d.recreate_quarantine_ms),
        hold_ms,
        replicas: number("replicas", d.replicas),
        shards_max: number("shards_max", d.shards_max),
        held_packets_per_backend_max: number("held_packets_per_backend_max", d.held_packets_per_backend_max),
        held_bytes_max: number("held_bytes_max", d.held_bytes_max),
        flows_per_shard_max: number("flows_per_shard_max", d.flows_per_shard_max),
        flows_per_backend_max: number("flows_per_backend_max", d.flows_per_backend_max),
        new_flows_per_second_max: number("new_flows_per_second_max", d.new_flows_per_second_max),
        short_idle_ports: ports.map_or(d.short_idle_ports, |ports| ports.into_iter().collect()),
        mss_max,
        icmp_on_refusal,
    };
    reader.finish(source);
    settings
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
