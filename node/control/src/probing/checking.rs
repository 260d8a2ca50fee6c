//! Whether probes make sense: their fields, the rules that name them, and how many there are. A part of `validate`.

use std::collections::BTreeMap;

use super::bounds::{PATH_LEN_MAX, PROBED_MAX, PROBES_MAX};
use super::machines;
use super::model::{Probe, ProbeProtocol};
use crate::inbound::model::Target;
use crate::issues::{Judge, names};
use crate::resource::{Desired, LoadBalancer, PoolRef};

const INTERVAL_SECONDS: std::ops::RangeInclusive<u16> = 1..=3600;
const NUMBER: std::ops::RangeInclusive<u8> = 1..=20;

/// Says what is wrong with the probes of a configuration.
pub(crate) fn check(judge: &mut Judge, desired: &Desired) {
    let of_machines = machines::declared(desired).count();
    let count = desired.load_balancers.values().map(|balancer| balancer.probes.len()).sum::<usize>() + of_machines;
    if judge.too_many("load_balancer.probe", "probes in the cluster, those of instances included", count, PROBES_MAX) {
        return;
    }
    machines::declared(desired).for_each(|(name, probe)| fields(judge, &format!("instance.{name}.probe"), probe));
    let mut asked = of_machines;
    let mut sizes: BTreeMap<&PoolRef, usize> = BTreeMap::new();
    let members = desired.instances.values().flat_map(|instance| &instance.ip_configurations);
    members.filter_map(|ip| ip.pool.as_ref()).for_each(|pool| *sizes.entry(pool).or_default() += 1);
    for (name, balancer) in &desired.load_balancers {
        for (probe_name, probe) in &balancer.probes {
            let path = format!("load_balancer.{name}.probe.{probe_name}");
            judge.name(&format!("{path}.name"), probe_name);
            fields(judge, &path, probe);
        }
        named(judge, name, balancer);
        for pool in &balancer.pools {
            let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            asked +=
                balancer.probes_of(pool).into_iter().flatten().count() * sizes.get(&reference).copied().unwrap_or(0);
        }
    }
    judge.too_many("load_balancer.probe", "IP configurations to ask, each once by each probe", asked, PROBED_MAX);
}

fn fields(judge: &mut Judge, path: &str, probe: &Probe) {
    if probe.port == 0 {
        judge.say(&format!("{path}.port"), 0, "is no port", "use 1 to 65535: where the instance answers");
    }
    let field = format!("{path}.request_path");
    match probe.protocol {
        ProbeProtocol::Tcp if !probe.request_path.is_empty() => {
            let remedy = "leave it out, or write the protocol http or https";
            judge.say(&field, &probe.request_path, "is of no use with tcp", remedy);
        }
        ProbeProtocol::Http | ProbeProtocol::Https if !is_path(&probe.request_path) => {
            let remedy =
                format!("begin it with /, as \"/healthz?full=1\", with at most {PATH_LEN_MAX} characters of a URL");
            judge.say(&field, &probe.request_path, "is no path", remedy);
        }
        ProbeProtocol::Tcp | ProbeProtocol::Http | ProbeProtocol::Https => {}
    }
    if !INTERVAL_SECONDS.contains(&probe.interval_seconds) {
        judge.say(
            &format!("{path}.interval_seconds"),
            probe.interval_seconds,
            "is out of range",
            "use 1 to 3600 seconds",
        );
    }
    if !NUMBER.contains(&probe.number_of_probes) {
        judge.say(&format!("{path}.number_of_probes"), probe.number_of_probes, "is out of range", "use 1 to 20");
    }
}

/// Whether a request may ask for it (RFC 9112 3.2.1): a path, with a query or without (RFC 3986 3.3, 3.4).
fn is_path(text: &str) -> bool {
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&octet);
    text.starts_with('/') && text.len() <= PATH_LEN_MAX && text.bytes().all(fits)
}

/// The rules that name probes.
fn named(judge: &mut Judge, name: &str, balancer: &LoadBalancer) {
    for ((table, rule_name), rule) in balancer.inbound() {
        let Some(probe) = &rule.probe else { continue };
        let field = format!("load_balancer.{name}.{table}.{rule_name}.probe");
        if !balancer.probes.contains_key(probe) {
            let remedy = match balancer.probes.is_empty() {
                true => "declare it: [[load_balancer.probe]]".to_owned(),
                false => format!("declare it, or use one of: {}", names(balancer.probes.keys())),
            };
            judge.say(&field, probe, "is no probe of this load balancer", remedy);
        }
        if matches!(rule.target, Target::IpConfiguration { .. }) {
            let remedy = "leave it out: one instance has nobody to stand in for it";
            judge.say(&field, probe, "is for load-balancing rules", remedy);
        }
    }
}
