//! What people see of probes: `qnat get probes`. Pure; made of the state alone.

use std::net::Ipv4Addr;

use engine::ids::BackendId;
use engine::probes::Health;
use serde::{Deserialize, Serialize};

use super::machines::{Machines, declared};
use super::model::{Probe, ProbeRef};
use crate::allocation::{Backend, Declared};
use crate::resource::PoolRef;
use crate::state::State;

/// A probe and one of those that it asks; `qnat get probes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeView {
    /// `load_balancer/probe`, or `instance NAME` for the machine's own.
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
    /// The pool of who is asked, `load_balancer/pool`; none: it is in none, or no rule has the probe ask anybody.
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
            let reference = ProbeRef::LoadBalancer { load_balancer: name.clone(), probe: probe.clone() };
            let before = views.len();
            for pool in balancer.pools.iter().filter(|pool| balancer.probes_of(pool).contains(&Some(probe.as_str()))) {
                let pool = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
                let members = members(state, &pool);
                views.extend(members.map(|(id, backend)| view(state, (&reference, declared), Some((id, backend)))));
            }
            if views.len() == before {
                views.push(view(state, (&reference, declared), None));
            }
        }
    }
    let machines = Machines::of(state);
    for (name, declared) in declared(&state.desired) {
        let asked = machines.asked(name).and_then(|id| Some((id, state.allocation.backends.get(&id)?)));
        views.push(view(state, (&ProbeRef::Instance(name.clone()), declared), asked));
    }
    views
}

/// The members of a pool.
pub(super) fn members<'a>(state: &'a State, pool: &'a PoolRef) -> impl Iterator<Item = (BackendId, &'a Backend)> {
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
