//! Whether inbound rules make sense: what they name, their bounds, and that a packet and its answer find one rule each. A part of
//! `validate`.

use std::collections::BTreeMap;

use super::bounds::INBOUND_RULES_MAX;
use super::model::{InboundRule, RuleProtocol, Target};
use super::reach::{Reach, ip_configuration, rules};
use crate::issues::{Judge, names};
use crate::resource::{Desired, LoadBalancer, PoolRef};

const IDLE_MINUTES: std::ops::RangeInclusive<u8> = 4..=100;

/// Says what is wrong with the inbound rules of a configuration.
pub(crate) fn check(judge: &mut Judge, desired: &Desired) {
    let count = rules(desired).count();
    if judge.too_many("load_balancer.load_balancing_rule", "inbound rules in the cluster", count, INBOUND_RULES_MAX) {
        return;
    }
    let mut ends = Ends::default();
    let pooled = |(_, _, rule): &(_, _, &InboundRule)| matches!(rule.target, Target::Pool(_));
    let alone = rules(desired).filter(|rule| !pooled(rule));
    for (name, (table, rule_name), rule) in rules(desired).filter(pooled).chain(alone) {
        let path = format!("load_balancer.{name}.{table}.{rule_name}");
        judge.name(&format!("{path}.name"), rule_name);
        if let Some(balancer) = desired.load_balancers.get(name) {
            frontend(judge, &path, balancer, rule);
            ports(judge, &path, rule);
            target(judge, desired, &path, balancer, rule);
        }
        if !IDLE_MINUTES.contains(&rule.idle_timeout_minutes) {
            let path = format!("{path}.idle_timeout_minutes");
            judge.say(&path, rule.idle_timeout_minutes, "is out of range", "use 4 to 100 minutes");
        }
        ends.public(judge, &path, rule);
        ends.inside(judge, desired, &path, (name, rule));
    }
    for (name, balancer) in &desired.load_balancers {
        outbound(judge, name, balancer);
    }
    one_shard(judge, desired);
}

fn frontend(judge: &mut Judge, path: &str, balancer: &LoadBalancer, rule: &InboundRule) {
    if !balancer.frontends.contains(&rule.frontend) {
        let known = names(balancer.frontends.iter());
        let problem = "is no frontend of this load balancer";
        judge.say(&format!("{path}.frontend"), &rule.frontend, problem, format!("use one of: {known}"));
    }
}

fn ports(judge: &mut Judge, path: &str, rule: &InboundRule) {
    let (field, port) = (format!("{path}.frontend_port"), rule.frontend_port);
    match (rule.protocol, port) {
        (RuleProtocol::All, 0) => {
            if rule.backend_port != 0 {
                let problem = "is of no use: with the protocol all each port leads to the same port";
                judge.say(&format!("{path}.backend_port"), rule.backend_port, problem, "leave it out");
            }
            if matches!(rule.target, Target::IpConfiguration { .. }) {
                let remedy = "write \"tcp\" or \"udp\", or give the instance a public address of its own";
                judge.say(&format!("{path}.protocol"), "all", "is for load-balancing rules", remedy);
            }
        }
        (RuleProtocol::All, _) => {
            let problem = "is of no use: the protocol all means every port";
            judge.say(&field, port, problem, "leave it out, or write the protocol tcp or udp");
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, 0) => {
            let remedy = "use 1 to 65535, or the protocol all without a port";
            judge.say(&field, port, "is no port", remedy);
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, _) if rule.backend_port == 0 => {
            judge.say(&format!("{path}.backend_port"), 0, "is no port", "use 1 to 65535");
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, _) if rule.floating_ip && rule.backend_port != port => {
            let problem = format!("is another one than the frontend's, {port}: floating_ip leads to it unchanged");
            let remedy = "leave it out, or write floating_ip = false";
            judge.say(&format!("{path}.backend_port"), rule.backend_port, problem, remedy);
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, _) => {}
    }
}

fn target(judge: &mut Judge, desired: &Desired, path: &str, balancer: &LoadBalancer, rule: &InboundRule) {
    match &rule.target {
        Target::Pool(pool) if !balancer.pools.contains(pool) => {
            let remedy = format!("declare it, or use one of: {}", names(balancer.pools.iter()));
            judge.say(&format!("{path}.pool"), pool, "is no pool of this load balancer", remedy);
        }
        Target::IpConfiguration { instance, ip_configuration: name }
            if ip_configuration(desired, instance, name).is_none() =>
        {
            let written = format!("{instance}/{name}");
            let remedy = "name an instance and an ip_configuration of it that are declared";
            judge.say(&format!("{path}.ip_configuration"), written, "does not exist", remedy);
        }
        Target::Pool(_) | Target::IpConfiguration { .. } => {}
    }
}

/// Which ends have a rule: the port of a frontend, and the port of a backend, or every one.
#[derive(Default)]
struct Ends<'a> {
    public: BTreeMap<(&'a str, RuleProtocol, u16), String>,
    inside: BTreeMap<(Inside, RuleProtocol, u16), String>,
}

/// Whose ports a rule leads to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Inside {
    Pool(PoolRef),
    Alone(String, String),
}

impl<'a> Ends<'a> {
    /// A packet finds one rule.
    fn public(&mut self, judge: &mut Judge, path: &str, rule: &'a InboundRule) {
        let field = format!("{path}.frontend_port");
        let key = (rule.frontend.as_str(), rule.protocol, rule.frontend_port);
        if let Some(other) = self.public.insert(key, path.to_owned()) {
            let problem = format!("of {} leads by {other} already", rule.frontend);
            judge.say(&field, rule.frontend_port, problem, "use another port or another frontend");
        }
        let all = (rule.frontend.as_str(), RuleProtocol::All, 0);
        let of = self.public.range((rule.frontend.as_str(), RuleProtocol::Tcp, 0)..=all);
        let mut others = of.filter(|(_, by)| *by != path).map(|(_, by)| by);
        let whole =
            if rule.is_for_all_ports() { others.next() } else { self.public.get(&all).filter(|by| *by != path) };
        if let Some(other) = whole {
            let problem = format!("shares {} with {other}: one of them is for all ports", rule.frontend);
            judge.say(&field, rule.frontend_port, problem, "give the rule for all ports a frontend of its own");
        }
    }

    /// An answer finds one rule: it says by which port of the backend it comes, and nothing else. Where the rule floats it comes from
    /// the frontend, so that other frontends may float to the same port, or lead there otherwise (D17).
    fn inside(&mut self, judge: &mut Judge, desired: &Desired, path: &str, (balancer, rule): (&String, &InboundRule)) {
        if rule.floating_ip {
            return;
        }
        let pool_of = |pool: &String| PoolRef { load_balancer: balancer.clone(), pool: pool.clone() };
        let mut keys = Vec::new();
        match &rule.target {
            Target::Pool(pool) => keys.push(Inside::Pool(pool_of(pool))),
            Target::IpConfiguration { instance, ip_configuration: name } => {
                keys.push(Inside::Alone(instance.clone(), name.clone()));
                let pool = ip_configuration(desired, instance, name).and_then(|ip| ip.pool.clone());
                // Beside those of its pool, and those of it.
                keys.extend(pool.map(Inside::Pool));
            }
        }
        let field = format!("{path}.backend_port");
        let remedy = "let each port of a backend have one rule, since its answers do not say by which they came, or use floating_ip";
        for key in &keys {
            let own = (key.clone(), rule.protocol, rule.backend_port);
            let at = |protocol, port| (key.clone(), protocol, port);
            let all = self.inside.get(&at(RuleProtocol::All, 0));
            let any = self.inside.range(at(RuleProtocol::Tcp, 0)..=at(RuleProtocol::All, 0)).next().map(|(_, by)| by);
            let other = if rule.is_for_all_ports() { any } else { self.inside.get(&own).or(all) };
            if let Some(other) = other.filter(|by| *by != path) {
                judge.say(&field, rule.backend_port, format!("of the same backend is that of {other} already"), remedy);
            }
        }
        // Others of the pool may each have the port by a NAT rule of their own.
        let mine = keys.swap_remove(0);
        self.inside.entry((mine, rule.protocol, rule.backend_port)).or_insert_with(|| path.to_owned());
    }
}

/// A frontend of which every port leads in has none to grant.
fn outbound(judge: &mut Judge, name: &str, balancer: &LoadBalancer) {
    let whole =
        |frontend: &&String| balancer.inbound().any(|(_, rule)| rule.is_for_all_ports() && rule.frontend == **frontend);
    for (rule_name, rule) in &balancer.outbound_rules {
        if let Some(frontend) = balancer.frontends_of(rule).iter().find(whole) {
            let path = format!("load_balancer.{name}.outbound_rule.{rule_name}.frontends");
            let remedy = "list the other frontends in the outbound rule";
            judge.say(&path, frontend, "has no port to grant: a rule for all ports leads in by it", remedy);
        }
    }
}

/// All that a backend has is in one shard (M3): by what it is reached, and by what it leaves.
fn one_shard(judge: &mut Judge, desired: &Desired) {
    let reach = Reach::of(desired);
    for (name, balancer) in &desired.load_balancers {
        for (rule_name, rule) in &balancer.outbound_rules {
            let pool = PoolRef { load_balancer: name.clone(), pool: rule.pool.clone() };
            let Some(addresses) = reach.of_pool(&pool) else { continue };
            let publics = balancer.frontends_of(rule).iter().filter_map(|frontend| desired.public_ips.get(frontend));
            if !publics.into_iter().any(|public| addresses.contains(&public.address)) {
                let path = format!("load_balancer.{name}.outbound_rule.{rule_name}.frontends");
                let problem = "are others than those by which the pool is reached";
                let remedy = "name a frontend of its inbound rules too: all that a backend has is in one shard";
                judge.say(&path, rule.frontends.join(", "), problem, remedy);
            }
        }
    }
}
