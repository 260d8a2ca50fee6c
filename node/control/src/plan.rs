//! What a configuration would change, before it is applied (`--dry-run`, C5).
//!
//! Found by applying it to a copy, so a plan cannot disagree with apply, but for the draws: a new backend's frontend is
//! drawn at apply. It must never touch the state. Called by the API and the command line.

use std::collections::BTreeMap;
use std::fmt;

use engine::ids::BackendId;

use crate::allocation::{Backend, Declared};
use crate::command::{Command, CommandBody, Configure, PlanHash, PortLoad};
use crate::outcome::Outcome;
use crate::resource::{Desired, PoolRef};
use crate::state::State;
use crate::tier;

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
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Plan {
    /// The changes, resources first, then leases.
    pub changes: Vec<Change>,
    /// Hash of the blocks and configurations that it was made from; `Configure::base_hash`.
    #[serde(serialize_with = "as_hex")]
    pub hash: PlanHash,
    /// Why it would be refused, and what would help.
    pub refused: Option<(String, String)>,
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
    if let Outcome::Refused { why, remedy } = outcome {
        return Plan { changes: Vec::new(), hash, refused: Some((why, remedy)) };
    }
    let mut changes = Vec::new();
    resources(&state.desired, desired, &mut changes);
    tiers(&state.desired, desired, &mut changes);
    leases(state, &after, &mut changes);
    Plan { changes, hash, refused: None }
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

fn as_hex<S: serde::Serializer>(hash: &PlanHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&blake3::Hash::from_bytes(*hash).to_hex())
}

fn resources(old: &Desired, new: &Desired, into: &mut Vec<Change>) {
    compare("virtual_network", &old.virtual_networks, &new.virtual_networks, into);
    compare("public_ip", &old.public_ips, &new.public_ips, into);
    compare("load_balancer", &old.load_balancers, &new.load_balancers, into);
    compare("instance", &old.instances, &new.instances, into);
    let mut whole = |resource: &str, old: &dyn fmt::Debug, new: &dyn fmt::Debug| {
        let detail = differences(&format!("{old:#?}"), &format!("{new:#?}"));
        into.push(Change { kind: ChangeKind::Modify, resource: resource.into(), detail });
    };
    if old.outside != new.outside {
        whole("outside", &old.outside, &new.outside);
    }
    if old.settings != new.settings {
        whole("settings", &old.settings, &new.settings);
    }
}

fn compare<T: PartialEq + fmt::Debug>(
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
                push(ChangeKind::Modify, name, differences(&format!("{before:#?}"), &format!("{value:#?}")));
            }
            Some(_) => {}
        }
    }
}

/// The lines that only one of two printed values has, on one line, bounded.
fn differences(old: &str, new: &str) -> String {
    let lines =
        |text: &str| -> Vec<String> { text.lines().map(|l| l.trim().trim_end_matches(',').to_owned()).collect() };
    let (old, new) = (lines(old), lines(new));
    let plain = |line: &&String| line.chars().any(char::is_alphanumeric);
    let gone: Vec<&str> = old.iter().filter(|l| !new.contains(l)).filter(plain).take(6).map(String::as_str).collect();
    let come: Vec<&str> = new.iter().filter(|l| !old.contains(l)).filter(plain).take(6).map(String::as_str).collect();
    match (gone.is_empty(), come.is_empty()) {
        (false, false) => format!("{} → {}", gone.join(" "), come.join(" ")),
        (true, false) => format!("now also {}", come.join(" ")),
        (false, true) => format!("no longer {}", gone.join(" ")),
        (true, true) => "order or number of its parts".into(),
    }
}

fn tiers(old: &Desired, new: &Desired, into: &mut Vec<Change>) {
    for (name, balancer) in &new.load_balancers {
        for pool in &balancer.pools {
            let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            let (before, after) = (old.pool_instances(&reference), new.pool_instances(&reference));
            let ports = (tier::ports_per_backend(before), tier::ports_per_backend(after));
            if let (Some(from), Some(to)) = ports
                && from != to
                && before > 0
            {
                into.push(Change {
                    kind: ChangeKind::Modify,
                    resource: format!("pool.{reference}"),
                    detail: format!("{before} → {after} instances: {from} → {to} ports for each backend"),
                });
            }
        }
    }
}

fn leases(before: &State, after: &State, into: &mut Vec<Change>) {
    for (id, new) in &after.allocation.backends {
        let old = before.allocation.backends.get(id);
        let (from, to) = (old.map_or(0, Backend::ports), new.ports());
        let drains = draining(before, after, *id);
        let waits = new.declared == Declared::Yes && to < new.grant;
        if from == to && drains.is_empty() && !(waits && old.is_none_or(|o| o.grant != new.grant)) {
            continue;
        }
        let mut detail = match (from, to) {
            (0, 0) => "gets no ports yet".to_owned(),
            (0, to) => format!("gets {to} ports of a frontend drawn at apply"),
            (from, to) => format!("{from} → {to} ports"),
        };
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

/// Blocks of a backend that begin to drain, as `address:first-last`.
fn draining(before: &State, after: &State, backend: BackendId) -> Vec<String> {
    let begins = |(block, drain): &(&engine::ids::PortBlock, &crate::allocation::Drain)| {
        drain.backend == backend && before.allocation.drains.get(block) != Some(drain)
    };
    let shown = |(block, _): (&engine::ids::PortBlock, &crate::allocation::Drain)| {
        let ip = after.allocation.frontends.get(&block.frontend).map(|f| f.ip.to_string()).unwrap_or_default();
        format!("{ip}:{}-{}", block.start, block.start + (block.len - 1))
    };
    after.allocation.drains.iter().filter(begins).map(shown).collect()
}
