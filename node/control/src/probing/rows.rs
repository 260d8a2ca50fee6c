//! What people see of probes: `qnat get probes`, and what `qnat status` says of pools. Pure; made of the state alone.

use std::net::Ipv4Addr;

use engine::ids::BackendId;
use engine::probes::Health;
use serde::{Deserialize, Serialize};

use super::model::{Probe, ProbeRef};
use crate::allocation::{Backend, Declared};
use crate::concern::{Concern, Subject, What};
use crate::resource::PoolRef;
use crate::state::State;

/// Backends of a pool that are named at most.
const NAMED_MAX: usize = 8;

/// A probe and one of those that it asks; `qnat get probes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeView {
    /// `load_balancer/probe`.
    pub probe: String,
    /// `tcp`, `http` or `https`.
    pub protocol: String,
    /// The port of the instance.
    pub port: u16,
    /// What it asks for.
    pub request_path: String,
    /// From one question to the next.
    pub interval_seconds: u16,
    /// So many failures in a row are an instance that is down.
    pub number_of_probes: u8,
    /// The pool, `load_balancer/pool`; none: no rule has it ask anybody.
    pub pool: Option<String>,
    /// Who is asked, `instance/ip_configuration`.
    pub backend: Option<String>,
    /// Its address.
    pub private_ip: Option<Ipv4Addr>,
    /// What is committed of it.
    pub health: HealthView,
    /// Why it is down.
    pub why: String,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_unix_ms: Option<u64>,
}

/// What is committed of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthView {
    /// It gets new flows.
    Up,
    /// It gets none.
    Down,
    /// Nothing yet, so it gets none.
    Unknown,
}

/// All probes, each with all that it asks.
#[must_use]
pub fn probes(state: &State) -> Vec<ProbeView> {
    let mut views = Vec::new();
    for (name, balancer) in &state.desired.load_balancers {
        for (probe, declared) in &balancer.probes {
            let reference = ProbeRef { load_balancer: name.clone(), probe: probe.clone() };
            let before = views.len();
            for pool in balancer.pools.iter().filter(|pool| balancer.probes_of(pool).contains(probe.as_str())) {
                let pool = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
                let members = members(state, &pool);
                views.extend(members.map(|(id, backend)| view(state, (&reference, declared), Some((id, backend)))));
            }
            if views.len() == before {
                views.push(view(state, (&reference, declared), None));
            }
        }
    }
    views
}

fn members<'a>(state: &'a State, pool: &'a PoolRef) -> impl Iterator<Item = (BackendId, &'a Backend)> {
    let of = |backend: &Backend| backend.declared == Declared::Yes && backend.pool.as_ref() == Some(pool);
    state.allocation.backends.iter().filter(move |(_, backend)| of(backend)).map(|(id, backend)| (*id, backend))
}

fn view(state: &State, (name, probe): (&ProbeRef, &Probe), asked: Option<(BackendId, &Backend)>) -> ProbeView {
    let committed = asked.and_then(|(id, _)| state.healths.of(name, id));
    let (health, why) = match committed.map(|committed| committed.health) {
        Some(Health::Up) => (HealthView::Up, String::new()),
        Some(Health::Down(failing)) => (HealthView::Down, failing.text()),
        None => (HealthView::Unknown, String::new()),
    };
    ProbeView {
        probe: name.to_string(),
        protocol: probe.protocol.label().to_owned(),
        port: probe.port,
        request_path: probe.request_path.clone(),
        interval_seconds: probe.interval_seconds,
        number_of_probes: probe.number_of_probes,
        pool: asked.and_then(|(_, backend)| backend.pool.as_ref()).map(ToString::to_string),
        backend: asked.map(|(_, backend)| format!("{}/{}", backend.instance, backend.ip_configuration)),
        private_ip: asked.map(|(_, backend)| backend.ip),
        health,
        why,
        since_unix_ms: committed.map(|committed| committed.since_unix_ms),
    }
}

/// Pools of which members are down.
pub(crate) fn concerns(state: &State) -> Vec<Concern> {
    let mut found = Vec::new();
    for (name, balancer) in &state.desired.load_balancers {
        for pool in &balancer.pools {
            let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            let probes = balancer.probes_of(pool).into_iter();
            let refs = probes.map(|probe| ProbeRef { load_balancer: name.clone(), probe: probe.to_owned() });
            found.extend(refs.filter_map(|probe| concern(state, &reference, &probe)));
        }
    }
    found
}

fn concern(state: &State, pool: &PoolRef, probe: &ProbeRef) -> Option<Concern> {
    // Most pools have nobody down, and are not looked through.
    let of = state.healths.probes.get(probe)?;
    of.backends.values().find(|committed| committed.health != Health::Up)?;
    let (mut up, mut all, mut down) = (0_usize, 0_usize, Vec::new());
    for (id, backend) in members(state, pool) {
        all += 1;
        match of.backends.get(&id).map(|committed| committed.health) {
            Some(Health::Up) => up += 1,
            Some(Health::Down(failing)) => down.push((backend, failing)),
            None => {}
        }
    }
    let (first, failing) = down.first()?;
    let first = format!("{}/{}", first.instance, first.ip_configuration);
    let subject = Subject::Pool { name: pool.to_string() };
    let remedy = "`qnat get probes` says why each is down; see that they answer, and that no security group denies \
                  AzureLoadBalancer";
    if up == 0 {
        let why = format!(
            "no member passes probe {probe}, so new flows are refused: of {all} members {} are down, as {first}: {}",
            down.len(),
            failing.text()
        );
        return Some(Concern::critical(subject, What::NoHealthyBackends, why, remedy));
    }
    let each = down
        .iter()
        .take(NAMED_MAX)
        .map(|(backend, failing)| format!("{}/{} ({})", backend.instance, backend.ip_configuration, failing.text()));
    let names = each.collect::<Vec<_>>().join(", ");
    let more = if down.len() > NAMED_MAX { ", and others" } else { "" };
    let why = format!("{} of {all} members fail probe {probe} and get no new flows: {names}{more}", down.len());
    Some(Concern::warning(subject, What::BackendsDown, why, remedy))
}
