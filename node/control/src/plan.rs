//! What a configuration would change, before it is applied (`--dry-run`, C5).
//!
//! Found by applying it to a copy, so a plan cannot disagree with apply, but for the draws: a new backend's frontend is
//! drawn at apply. It must never touch the state. Called by the API and the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use engine::ids::{BackendId, PortBlock, ShardId};
use engine::snapshot::OnReclaim;
use serde::Serialize;

use crate::allocation::{Backend, Declared, Drain, Purpose};
use crate::census::Census;
use crate::command::{Command, CommandBody, Configure, PlanHash};
use crate::concern::Concern;
use crate::default_outbound::ways::{SetCensus, Sharers};
use crate::limits::HINTS_MAX;
use crate::loads::{Loads, PortLoad};
use crate::nsg::cutting::{Cutting, cutting};
use crate::nsg::model::{Model, SecurityGroup};
use crate::nsg::warnings::warnings;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::resource::{Desired, LoadBalancer, PoolRef};
use crate::state::State;
use crate::tier;

/// Fields of each side that a modification names.
const DIFFERENCES_MAX: usize = 6;

/// What a change does to a resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub enum ChangeKind {
    /// It comes.
    #[serde(rename = "+")]
    Add,
    /// It goes.
    #[serde(rename = "-")]
    Remove,
    /// It changes.
    #[serde(rename = "~")]
    Modify,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// Add, remove or modify.
    pub kind: ChangeKind,
    /// The resource, as `kind.name`.
    pub resource: String,
    /// What of it, for people.
    pub detail: String,
}

/// What a configuration would do.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The changes, resources first, then leases.
    pub changes: Vec<Change>,
    /// Hash of the blocks and configurations that it was made from; `Configure::base_hash`.
    pub hash: PlanHash,
    /// Why it would be refused.
    pub refused: Option<Refusal>,
    /// The leased blocks that it takes, whole or in part, in pieces small enough to tell apart what stays and what goes: by
    /// the shards whose owners know the live flows on them (D4).
    pub pieces: BTreeMap<ShardId, Vec<PortBlock>>,
    /// Shards of which not all such blocks are among the pieces, there being more than may be counted.
    pub uncounted: BTreeSet<ShardId>,
    /// Live flows on the ports that it takes, as far as they were counted.
    pub flows_taken: u64,
    /// Security groups that do not do what they seem to, or take away what instances need.
    pub warnings: Vec<Concern>,
    /// Whose live flows it may end, by other groups or because they go (D19).
    pub cutting: Option<Cutting>,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Remove => "-",
            Self::Modify => "~",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.resource)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// What `desired` would change. Without flow counts; see [`diff_with`].
#[must_use]
pub fn diff(state: &State, desired: &Desired) -> Plan {
    diff_with(state, desired, &[])
}

/// What `desired` would change, with live flows per piece of port space to tell which halves drain (D4).
#[must_use]
pub fn diff_with(state: &State, desired: &Desired, hints: &[PortLoad]) -> Plan {
    let hash = hash(state, desired);
    let configure = Configure { desired: desired.clone(), base_hash: None, hints: hints.to_vec() };
    let body = CommandBody::Configure(Box::new(configure));
    // The remembered keys of a copy do not matter: a fresh index and an unknown key make it apply.
    let mut after = State { keys: crate::state::Keys::default(), parts: None, ..state.clone() };
    let command = Command { key: [0; 16], stamped_unix_ms: state.stamped_unix_ms, draw: 0, body };
    let outcome = after.apply(state.index.0.saturating_add(1), &command);
    if let Outcome::Refused(refusal) = outcome {
        let (pieces, uncounted) = (BTreeMap::new(), BTreeSet::new());
        let (changes, warnings) = (Vec::new(), Vec::new());
        let refused = Some(refusal);
        return Plan { changes, hash, refused, pieces, uncounted, flows_taken: 0, warnings, cutting: None };
    }
    let mut changes = Vec::new();
    resources(&state.desired, desired, &mut changes);
    tiers(&state.desired, desired, &mut changes);
    set_tiers(&state.desired, desired, &mut changes);
    leases(state, &after, &mut changes);
    let (pieces, uncounted) = pieces(state, &after);
    let loads = Loads::new(hints);
    let flows_taken = taken(state, &after).map(|(block, _)| loads.flows(*block)).sum();
    let warnings = warnings(&after);
    let cutting = cutting(state, &after);
    Plan { changes, hash, refused: None, pieces, uncounted, flows_taken, warnings, cutting }
}

/// Hash over the blocks and the configuration of the state, and the wanted configuration (C5); not over live flows.
#[must_use]
pub fn hash(state: &State, desired: &Desired) -> PlanHash {
    let mut hasher = blake3::Hasher::new();
    let parts = (&state.desired, &state.allocation, desired);
    let bytes = bincode::encode_to_vec(parts, bincode::config::standard());
    hasher.update(&bytes.expect("encoding plain data into memory does not fail"));
    *hasher.finalize().as_bytes()
}

fn resources(old: &Desired, new: &Desired, into: &mut Vec<Change>) {
    compare("virtual_network", &old.virtual_networks, &new.virtual_networks, into);
    compare("public_ip", &old.public_ips, &new.public_ips, into);
    let bare = |desired: &Desired| -> BTreeMap<String, LoadBalancer> {
        let without = |balancer: &LoadBalancer| LoadBalancer {
            load_balancing_rules: BTreeMap::new(),
            inbound_nat_rules: BTreeMap::new(),
            probes: BTreeMap::new(),
            ..balancer.clone()
        };
        desired.load_balancers.iter().map(|(name, balancer)| (name.clone(), without(balancer))).collect()
    };
    compare("load_balancer", &bare(old), &bare(new), into);
    let none = LoadBalancer::default();
    let names: BTreeSet<&String> = old.load_balancers.keys().chain(new.load_balancers.keys()).collect();
    for name in names {
        let [old, new] = [old, new].map(|desired| desired.load_balancers.get(name).unwrap_or(&none));
        let at = |table: &str| format!("load_balancer.{name}.{table}");
        compare(&at("load_balancing_rule"), &old.load_balancing_rules, &new.load_balancing_rules, into);
        compare(&at("inbound_nat_rule"), &old.inbound_nat_rules, &new.inbound_nat_rules, into);
        compare(&at("probe"), &old.probes, &new.probes, into);
    }
    compare("instance", &old.instances, &new.instances, into);
    compare("nic", &old.nics, &new.nics, into);
    let applications = |desired: &Desired| -> BTreeMap<String, ()> {
        desired.application_security_groups.iter().map(|name| (name.clone(), ())).collect()
    };
    compare("application_security_group", &applications(old), &applications(new), into);
    let sets = |desired: &Desired| -> BTreeMap<String, ()> {
        desired.availability_sets.iter().map(|name| (name.clone(), ())).collect()
    };
    compare("availability_set", &sets(old), &sets(new), into);
    let models = |desired: &Desired| -> BTreeMap<String, Model> {
        desired.security_groups.iter().map(|(name, group)| (name.clone(), group.model)).collect()
    };
    compare("security_group", &models(old), &models(new), into);
    // Rule by rule: a group may have many.
    let none = SecurityGroup::default();
    let names: BTreeSet<&String> = old.security_groups.keys().chain(new.security_groups.keys()).collect();
    for name in names {
        let [old, new] = [old, new].map(|desired| desired.security_groups.get(name).unwrap_or(&none));
        compare(&format!("security_group.{name}.rule"), &old.rules, &new.rules, into);
    }
    let mut whole = |resource: &str, detail: String| {
        into.push(Change { kind: ChangeKind::Modify, resource: resource.into(), detail });
    };
    if old.default_outbound != new.default_outbound {
        whole("default_outbound", differences(&old.default_outbound, &new.default_outbound));
    }
    if old.outside != new.outside {
        whole("outside", differences(&old.outside, &new.outside));
    }
    if old.settings != new.settings {
        whole("settings", differences(&old.settings, &new.settings));
    }
}

fn compare<T: PartialEq + Serialize>(
    kind: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    into: &mut Vec<Change>,
) {
    let mut push = |change, name: &String, detail| {
        into.push(Change { kind: change, resource: format!("{kind}.{name}"), detail });
    };
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        push(ChangeKind::Remove, name, String::new());
    }
    for (name, value) in new {
        match old.get(name) {
            None => push(ChangeKind::Add, name, String::new()),
            Some(before) if before != value => {
                push(ChangeKind::Modify, name, differences(before, value));
            }
            Some(_) => {}
        }
    }
}

/// The fields that only one of two values has, as a file would have them, on one line, bounded.
fn differences<T: Serialize>(old: &T, new: &T) -> String {
    let (old, new) = (fields(old), fields(new));
    let only = |of: &[String], not: &[String]| -> Vec<String> {
        of.iter().filter(|field| !not.contains(field)).take(DIFFERENCES_MAX).cloned().collect()
    };
    let (gone, come) = (only(&old, &new), only(&new, &old));
    match (gone.is_empty(), come.is_empty()) {
        (false, false) => format!("{} → {}", gone.join(", "), come.join(", ")),
        (true, false) => format!("now also {}", come.join(", ")),
        (false, true) => format!("no longer {}", gone.join(", ")),
        (true, true) => "order or number of its parts".into(),
    }
}

/// What a value says, as `name.name = value`; elements of a list bear the name of the list.
fn fields(of: &impl Serialize) -> Vec<String> {
    let mut into = Vec::new();
    if let Ok(value) = toml::Value::try_from(of) {
        put_fields("", &value, &mut into);
    }
    into
}

fn put_fields(at: &str, value: &toml::Value, into: &mut Vec<String>) {
    if let Some(table) = value.as_table() {
        for (name, value) in table {
            put_fields(&if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, value, into);
        }
    } else if let Some(parts) = value.as_array().filter(|parts| parts.iter().any(toml::Value::is_table)) {
        parts.iter().for_each(|part| put_fields(at, part, into));
    } else {
        into.push(if at.is_empty() { value.to_string() } else { format!("{at} = {value}") });
    }
}

fn tiers(old: &Desired, new: &Desired, into: &mut Vec<Change>) {
    let (old, census) = (Census::of(old), Census::of(new));
    for (name, balancer) in &new.load_balancers {
        for pool in &balancer.pools {
            let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            let (before, after) = (old.of_pool(&reference).0, census.of_pool(&reference).0);
            let ports = (tier::ports_per_backend(before), tier::ports_per_backend(after));
            if let (Some(from), Some(to)) = ports
                && from != to
                && before > 0
            {
                into.push(tier_change(format!("pool.{reference}"), (before, after), (from, to)));
            }
        }
    }
}

fn tier_change(resource: String, (before, after): (usize, usize), (from, to): (u16, u16)) -> Change {
    let detail = format!("{before} → {after} instances: {from} → {to} ports for each backend");
    Change { kind: ChangeKind::Modify, resource, detail }
}

/// Availability sets of which some go out by a system address, and whose size changes what each gets (D2).
fn set_tiers(old: &Desired, new: &Desired, into: &mut Vec<Change>) {
    let (old, census) = (SetCensus::of(old), SetCensus::of(new));
    for name in &new.availability_sets {
        let sharers = Sharers::Set(name.clone());
        let (before, after) = (old.of_sharers(&sharers), census.of_sharers(&sharers));
        let ports = (tier::ports_per_backend(before.instances), tier::ports_per_backend(after.instances));
        if let (Some(from), Some(to)) = ports
            && from != to
            && before.instances > 0
            && after.defaulted > 0
        {
            let counts = (before.instances, after.instances);
            into.push(tier_change(format!("availability_set.{name}"), counts, (from, to)));
        }
    }
}

fn leases(before: &State, after: &State, into: &mut Vec<Change>) {
    let mut begun = draining(before, after);
    for (id, new) in &after.allocation.backends {
        let old = before.allocation.backends.get(id);
        let (from, to) = (old.map_or(0, Backend::ports), new.ports());
        let drains = begun.remove(id).unwrap_or_default();
        let waits = new.declared == Declared::Yes && to < new.grant;
        if from == to && drains.is_empty() && !(waits && old.is_none_or(|o| o.grant != new.grant)) {
            continue;
        }
        let [left, right] = [old.and_then(|old| right(before, old)), right(after, new)];
        let mut detail = match (from, to) {
            (0, 0) => "gets no ports yet".to_owned(),
            (0, to) if right == Some("a system address") => format!("gets {to} ports of a system address"),
            (0, to) => format!("gets {to} ports of a frontend drawn at apply"),
            (from, to) => format!("{from} → {to} ports"),
        };
        if let (Some(left), Some(right)) = (left, right)
            && left != right
        {
            detail.push_str(&format!(", new flows by {right} instead of {left}"));
        }
        if waits {
            detail.push_str(&format!(", waits for {} more", new.grant - to));
        }
        if !drains.is_empty() {
            detail.push_str(&format!("; drains {}", drains.join(", ")));
        }
        let kind = match (from, to) {
            (0, _) => ChangeKind::Add,
            (_, 0) => ChangeKind::Remove,
            _ => ChangeKind::Modify,
        };
        into.push(Change { kind, resource: format!("lease.{}/{}", new.instance, new.ip_configuration), detail });
    }
}

/// By what a backend has its ports, in words.
fn right(state: &State, backend: &Backend) -> Option<&'static str> {
    let frontend = backend.frontend.filter(|_| !backend.lease.is_empty());
    match state.allocation.frontends.get(&frontend?)?.purpose {
        Purpose::System => Some("a system address"),
        Purpose::Shared | Purpose::Own(_) => Some("its pool"),
    }
}

/// Blocks that begin to drain.
fn begun<'a>(before: &'a State, after: &'a State) -> impl Iterator<Item = (&'a PortBlock, &'a Drain)> {
    after.allocation.drains.iter().filter(|(block, drain)| before.allocation.drains.get(block) != Some(drain))
}

/// Those whose flows may not stay until they close.
fn taken<'a>(before: &'a State, after: &'a State) -> impl Iterator<Item = (&'a PortBlock, &'a Drain)> {
    begun(before, after).filter(|(_, drain)| drain.on_reclaim != OnReclaim::Keep)
}

/// See `Plan`: the pieces to count flows on, and the shards that have more of them than there may be. How long they are does
/// not depend on flows, only which of them go.
fn pieces(before: &State, after: &State) -> (BTreeMap<ShardId, Vec<PortBlock>>, BTreeSet<ShardId>) {
    let (mut found, mut uncounted) = (BTreeMap::<ShardId, Vec<PortBlock>>::new(), BTreeSet::new());
    let mut room = HINTS_MAX;
    for (id, old) in &before.allocation.backends {
        let kept = after.allocation.backends.get(id).map_or(&[][..], |new| &new.lease);
        for block in old.lease.iter().filter(|block| !kept.iter().any(|kept| lies_in(block, kept))) {
            let Some(frontend) = before.allocation.frontends.get(&block.frontend) else { continue };
            if after.allocation.drains.get(block).is_some_and(|drain| drain.on_reclaim == OnReclaim::Keep) {
                continue;
            }
            let from = after.allocation.drains.range(PortBlock { len: 0, ..*block }..).map(|(drained, _)| drained);
            let parts = from.take_while(|drained| lies_in(drained, block));
            let parts = parts.chain(kept.iter().filter(|kept| lies_in(kept, block)));
            let len = parts.map(|part| part.len).min().unwrap_or(block.len);
            let count = block.len / len;
            if room < usize::from(count) {
                uncounted.insert(frontend.shard);
                continue;
            }
            room -= usize::from(count);
            let piece = |n: u16| PortBlock { start: block.start + n * len, len, ..*block };
            found.entry(frontend.shard).or_default().extend((0..count).map(piece));
        }
    }
    (found, uncounted)
}

fn lies_in(inner: &PortBlock, outer: &PortBlock) -> bool {
    let end = |block: &PortBlock| u32::from(block.start) + u32::from(block.len);
    inner.frontend == outer.frontend && inner.start >= outer.start && end(inner) <= end(outer)
}

/// Blocks that begin to drain, as `address:first-last`, by backend.
fn draining(before: &State, after: &State) -> BTreeMap<BackendId, Vec<String>> {
    let mut by_backend: BTreeMap<BackendId, Vec<String>> = BTreeMap::new();
    for (block, drain) in begun(before, after) {
        let ip = after.allocation.frontends.get(&block.frontend).map(|f| f.ip.to_string()).unwrap_or_default();
        let kept = if drain.on_reclaim == OnReclaim::Keep { ", whose flows stay" } else { "" };
        let shown = format!("{ip}:{}-{}{kept}", block.start, block.start + (block.len - 1));
        by_backend.entry(drain.backend).or_default().push(shown);
    }
    by_backend
}
