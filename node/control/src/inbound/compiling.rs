//! From declared inbound rules, and from addresses that are one backend's own, to what workers judge packets by.
//!
//! Whether such an address is its backend's already, or still, the backend says. A rule is left out while its port is a grant's, or still drains; a member, while it lives in another shard (M3). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::codec::Format;
use engine::ids::{BackendId, FrontendId, ShardId};
use engine::probes::Probes;
use engine::record::Proto;
use engine::rules::{AdminState, Distribution, Rule, Rules};
use engine::snapshot::TcpReset;

use super::model::{self, InboundRule, RuleProtocol, Target};
use super::reach::{admin_state, rules as declared};
use crate::allocation::{Declared, Purpose};
use crate::places::blocks_on;
use crate::probing::compiling::Asking;
use crate::resource::{self, PoolRef};
use crate::state::State;

/// Whom rules lead to.
#[derive(Default)]
struct Members<'a> {
    pools: BTreeMap<&'a PoolRef, Vec<(BackendId, Option<ShardId>)>>,
    admin: BTreeMap<BackendId, AdminState>,
    alone: BTreeMap<(&'a str, &'a str), (BackendId, Option<ShardId>)>,
}

impl<'a> Members<'a> {
    fn of(state: &'a State) -> Self {
        let mut members = Self::default();
        for (id, backend) in &state.allocation.backends {
            if backend.declared == Declared::No {
                continue;
            }
            let admin = match admin_state(&state.desired, backend) {
                resource::AdminState::None => None,
                resource::AdminState::Up => Some(AdminState::Up),
                resource::AdminState::Down => Some(AdminState::Down),
            };
            members.admin.extend(admin.map(|admin| (*id, admin)));
            if let Some(pool) = &backend.pool {
                members.pools.entry(pool).or_default().push((*id, backend.home));
            }
            members.alone.insert((&backend.instance, &backend.ip_configuration), (*id, backend.home));
        }
        members
    }

    /// What the operator says of those that a rule leads to. An inbound NAT rule has one, whom nobody chooses.
    fn admin_of(&self, rule: &InboundRule, of: &[BackendId]) -> Arc<[(BackendId, AdminState)]> {
        match rule.target {
            Target::Pool(_) => of.iter().filter_map(|id| Some((*id, *self.admin.get(id)?))).collect(),
            Target::IpConfiguration { .. } => Arc::default(),
        }
    }
}

/// The rules of a state, and their probes.
pub(crate) fn rules(state: &State) -> (Rules, Probes) {
    let mut rules = Rules::default();
    // Of a mapping that came in, a cluster of the first level could not say so (C2).
    if Format::of_level(state.level) == Format::First {
        return (rules, Probes::default());
    }
    for (id, frontend) in &state.allocation.frontends {
        if let Purpose::Own(backend) = frontend.purpose {
            rules.put_own(*id, backend);
        }
    }
    let mut asking = Asking::of(state);
    if declared(&state.desired).next().is_none() {
        return (rules, asking.probes(state));
    }
    let frontends = state.allocation.frontends_by_address();
    let members = Members::of(state);
    let (mut compiled, mut waiting) = (Vec::new(), false);
    for (balancer, (_, name), rule) in declared(&state.desired) {
        let Some(public) = state.desired.public_ips.get(&rule.frontend) else { continue };
        let Some(frontend) = frontends.get(&public.address).copied() else { continue };
        if is_granted(state, frontend, rule) {
            waiting = true;
            continue;
        }
        let shard = state.allocation.frontends[&frontend].shard;
        let all: Vec<(BackendId, Option<ShardId>)> = match &rule.target {
            Target::Pool(pool) => {
                let pool = PoolRef { load_balancer: balancer.clone(), pool: pool.clone() };
                members.pools.get(&pool).cloned().unwrap_or_default()
            }
            Target::IpConfiguration { instance, ip_configuration } => {
                members.alone.get(&(instance.as_str(), ip_configuration.as_str())).copied().into_iter().collect()
            }
        };
        let here: Vec<BackendId> = all.iter().filter(|(_, home)| *home == Some(shard)).map(|(id, _)| *id).collect();
        waiting |= here.len() < all.len();
        let health = asking.source(balancer, rule, &here);
        compiled.push((format!("{balancer}/{name}"), frontend, (rule, health), Arc::<[BackendId]>::from(here)));
    }
    rules.waiting = waiting;
    for (name, frontend, (rule, health), of) in compiled {
        let admin = members.admin_of(rule, &of);
        let protos: &[Proto] = match rule.protocol {
            RuleProtocol::Tcp => &[Proto::Tcp],
            RuleProtocol::Udp => &[Proto::Udp],
            RuleProtocol::All => &[Proto::Tcp, Proto::Udp],
        };
        for proto in protos {
            rules.put(Rule {
                name: name.as_str().into(),
                frontend,
                proto: *proto,
                port: rule.frontend_port,
                backend_port: rule.backend_port,
                floats: rule.floating_ip,
                members: Arc::clone(&of),
                health,
                admin: Arc::clone(&admin),
                distribution: distribution(rule.distribution),
                idle_timeout_ms: u32::from(rule.idle_timeout_minutes) * 60_000,
                tcp_reset_on_idle: if rule.enable_tcp_reset { TcpReset::On } else { TcpReset::Off },
            });
        }
    }
    (rules, asking.probes(state))
}

/// As workers have it.
const fn distribution(declared: model::Distribution) -> Distribution {
    match declared {
        model::Distribution::Connection => Distribution::Connection,
        model::Distribution::SourceAndProtocol => Distribution::SourceAndProtocol,
        model::Distribution::Source => Distribution::Source,
    }
}

/// Whether somebody may still send by what the rule is to have.
fn is_granted(state: &State, frontend: FrontendId, rule: &InboundRule) -> bool {
    if rule.is_for_all_ports() {
        return state.allocation.in_use(frontend);
    }
    let port = BTreeSet::from([rule.frontend_port]);
    let drains = || state.allocation.drains.range(blocks_on(frontend));
    drains().any(|(block, _)| block.contains(rule.frontend_port)) || state.allocation.user_of(frontend, &port).is_some()
}
