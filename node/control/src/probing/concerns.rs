//! What `qnat status` says of probes: machines that are down by their own, and pools of which members get no new flows. Pure;
//! made of the state alone.

use std::collections::BTreeMap;

use engine::ids::BackendId;
use engine::probes::{Failing, Health};

use super::machines::Machines;
use super::model::ProbeRef;
use super::rows::members;
use crate::allocation::Backend;
use crate::concern::{Concern, Subject, What};
use crate::resource::PoolRef;
use crate::state::State;

/// Backends of a pool that are named at most.
const NAMED_MAX: usize = 8;
/// Machines that are told of at most.
const MACHINES_MAX: usize = 100;

/// Machines that are down, and pools of which members are.
pub(crate) fn concerns(state: &State) -> Vec<Concern> {
    let machines = Machines::of(state);
    let found: BTreeMap<&str, Option<Health>> = machines.found(state).collect();
    let down = found.iter().filter_map(|(name, health)| Some((*name, failing(*health)?)));
    let mut concerns: Vec<Concern> = down.map(|(name, why)| machine(name, why)).take(MACHINES_MAX).collect();
    let a_machine_is_down = !concerns.is_empty();
    for (name, balancer) in &state.desired.load_balancers {
        for pool in &balancer.pools {
            let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            let by = balancer.probes_of(pool).into_iter().filter_map(|probe| match probe {
                Some(probe) => {
                    let probe = ProbeRef::LoadBalancer { load_balancer: name.clone(), probe: probe.to_owned() };
                    // Most pools have nobody down, and are not looked through.
                    let of = state.healths.probes.get(&probe)?;
                    of.backends.values().find(|committed| committed.health != Health::Up)?;
                    let health = |id: BackendId, _: &Backend| of.backends.get(&id).map(|committed| committed.health);
                    concern(state, &reference, &format!("probe {probe}"), health)
                }
                None if a_machine_is_down => {
                    let health = |_: BackendId, backend: &Backend| {
                        found.get(backend.instance.as_str()).copied().unwrap_or(Some(Health::Up))
                    };
                    concern(state, &reference, "[instance.probe]", health)
                }
                None => None,
            });
            concerns.extend(by);
        }
    }
    concerns
}

fn failing(health: Option<Health>) -> Option<Failing> {
    match health {
        Some(Health::Down(failing)) => Some(failing),
        Some(Health::Up) | None => None,
    }
}

fn machine(name: &str, failing: Failing) -> Concern {
    let why = format!(
        "it fails its own probe: {}; load-balancing rules without a probe give it no new flows",
        failing.text()
    );
    let remedy = "see that it answers as `qnat get probes` says, and that no security group denies AzureLoadBalancer; or take \
                  [instance.probe] out of the file";
    Concern::warning(Subject::Instance { name: name.to_owned() }, What::InstanceDown, why, remedy)
}

/// What there is to say of a pool by one way to choose among its members.
fn concern(
    state: &State,
    pool: &PoolRef,
    probe: &str,
    health: impl Fn(BackendId, &Backend) -> Option<Health>,
) -> Option<Concern> {
    let (mut up, mut all, mut down) = (0_usize, 0_usize, Vec::new());
    for (id, backend) in members(state, pool) {
        all += 1;
        match health(id, backend) {
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
            "no member passes {probe}, so new flows are refused: of {all} members {} are down, as {first}: {}",
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
    let why = format!("{} of {all} members fail {probe} and get no new flows: {names}{more}", down.len());
    Some(Concern::warning(subject, What::BackendsDown, why, remedy))
}
