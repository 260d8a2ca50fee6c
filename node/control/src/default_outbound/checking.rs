//! Whether system addresses and availability sets make sense: that nobody has or names a system address, that sets are
//! declared, and that what they are granted can fit at all. A part of `validate`.

use std::net::Ipv4Addr;

use super::model::SYSTEM_ADDRESSES_MAX;
use super::ways::{Count, SetCensus, Sharers, named_sets};
use crate::issues::{Judge, names};
use crate::resource::Desired;
use crate::tier;

/// Most availability sets.
pub(crate) const AVAILABILITY_SETS_MAX: usize = 8_192;
const FIELD: &str = "default_outbound.addresses";

/// Says what is wrong with the system addresses and the availability sets of a configuration.
pub(crate) fn check(judge: &mut Judge, desired: &Desired) {
    sets(judge, desired);
    if addresses(judge, desired) {
        room(judge, desired);
    }
}

fn sets(judge: &mut Judge, desired: &Desired) {
    let count = desired.availability_sets.len();
    if judge.too_many("availability_set", "availability sets", count, AVAILABILITY_SETS_MAX) {
        return;
    }
    for name in &desired.availability_sets {
        judge.name(&format!("availability_set.{name}.name"), name);
    }
    let missing: Vec<&String> =
        named_sets(desired).into_iter().filter(|set| !desired.availability_sets.contains(*set)).collect();
    for (name, instance) in &desired.instances {
        if let Some(set) = instance.availability_set.as_ref().filter(|set| missing.contains(set)) {
            let known = names(desired.availability_sets.iter());
            let remedy = format!("declare it, or use one of: {known}");
            judge.say(&format!("instance.{name}.availability_set"), set, "is no availability_set", remedy);
        }
    }
}

/// Whether the addresses are some that a cluster can have.
fn addresses(judge: &mut Judge, desired: &Desired) -> bool {
    let (before, all) = (judge.issues.len(), &desired.default_outbound.addresses);
    if all.iter().any(|prefix| !judge.prefix(FIELD, *prefix, 24..=32)) {
        return false;
    }
    let count = desired.default_outbound.all().count();
    if count > SYSTEM_ADDRESSES_MAX {
        let written = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        judge.say(FIELD, written, "are too many addresses", format!("at most {SYSTEM_ADDRESSES_MAX} in all"));
        return false;
    }
    for (at, prefix) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|other| other.overlaps(*prefix)) {
            judge.say(FIELD, prefix, format!("overlaps {other}"), "name each address once");
        }
        let outside = desired.outside.network;
        let ends = [outside.network, outside.broadcast()];
        let wrong = |ip: &Ipv4Addr| ip.is_loopback() || ip.is_link_local() || !(1..224).contains(&ip.octets()[0]);
        if [prefix.network, prefix.broadcast()].iter().any(wrong) {
            let remedy = "use addresses that the outside routes to this cluster";
            judge.say(FIELD, prefix, "has no unicast addresses", remedy);
        }
        if outside.len < 31 && ends.iter().any(|end| prefix.contains(*end)) {
            let problem = format!("has the network or broadcast address of outside.network {outside}");
            judge.say(FIELD, prefix, problem, "name the addresses beside it: several smaller networks");
        }
        if let Some(hop) = desired.outside.next_hop.filter(|hop| prefix.contains(*hop)) {
            let problem = format!("has outside.next_hop {hop}");
            judge.say(FIELD, prefix, problem, "use addresses that no other machine has");
        }
        let subnets = desired.virtual_networks.iter().flat_map(|(network, declared)| {
            declared.subnets.iter().map(move |(name, subnet)| (network, name, subnet.prefix))
        });
        for (network, name, private) in subnets.filter(|(_, _, private)| private.overlaps(*prefix)).take(1) {
            let problem = format!("overlaps the private range {private} of {network}/{name}");
            judge.say(FIELD, prefix, problem, "use addresses outside every subnet");
        }
    }
    for (name, public) in &desired.public_ips {
        if let Some(prefix) = all.iter().find(|prefix| prefix.contains(public.address)) {
            let problem = format!("is a system address, of {prefix} in {FIELD}: nobody can choose one");
            let remedy = "use another address, or take this one out of the range";
            judge.say(&format!("public_ip.{name}.address"), public.address, problem, remedy);
        }
    }
    judge.issues.len() == before
}

/// D2: the size of a set, and whether what its members are granted fits on its address, and that of all sets on all.
fn room(judge: &mut Judge, desired: &Desired) {
    let addresses = desired.default_outbound.all().count();
    let mut wanted_in_all = 0;
    for (sharers, Count { instances, defaulted }) in SetCensus::of(desired).all() {
        let (path, name) = match sharers {
            Sharers::Set(name) => (format!("availability_set.{name}"), name),
            Sharers::Alone(name) => (format!("instance.{name}"), name),
        };
        let Some(ports) = tier::ports_per_backend(instances) else {
            let problem = format!("has {instances} instances, more than {}", tier::POOL_INSTANCES_MAX);
            judge.say(&path, name, problem, "split it into several availability sets");
            continue;
        };
        let wanted = defaulted * usize::from(ports);
        wanted_in_all += wanted;
        if addresses > 0 && wanted > usize::from(tier::PORTS_USABLE) {
            let problem = format!("needs {wanted} ports of one system address, which has {}", tier::PORTS_USABLE);
            let remedy = "put some of its ip_configurations into a pool with a rule, or split it";
            judge.say(&path, name, problem, remedy);
        }
    }
    let there = addresses * usize::from(tier::PORTS_USABLE);
    if addresses > 0 && wanted_in_all > there {
        let problem = format!("have {there} ports, those without another way out need {wanted_in_all}");
        let remedy = "add addresses, or write default_outbound_access = false in subnets that need no way out";
        judge.say(FIELD, addresses, problem, remedy);
    }
}
