//! From declared inbound rules, and from addresses that are one backend's own, to what workers judge packets by.
//!
//! Whether such an address is its backend's already, or still, the backend says. A rule is left out while its port is a grant's, or still drains; a member, while it lives in another shard (M3). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::codec::Format;
use engine::ids::{BackendId, FrontendId, ShardId};
use engine::probes::Probes;
use engine::record::Proto;
use engine::rules::{Distribution, Rule, Rules};
use engine::snapshot::TcpReset;

use super::model::{self, InboundRule, RuleProtocol, Target};
use super::reach::rules as declared;
use crate::allocation::{Declared, Purpose};
use crate::places::blocks_on;
use crate::probing::compiling::Asked;
use crate::resource::PoolRef;
use crate::state::State;

/// Whom rules lead to.
#[derive(Default)]
struct Members<'a> {
    pools: BTreeMap<&'a PoolRef, Vec<(BackendId, Option<ShardId>)>>,
    alone: BTreeMap<(&'a str, &'a str), (BackendId, Option<ShardId>)>,
}

impl<'a> Members<'a> {
    fn of(state: &'a State) -> Self {
        let mut members = Self::default();
        for (id, backend) in &state.allocation.backends {
            if backend.declared == Declared::No {
                continue;
            }
            if let Some(pool) = &backend.pool {
                members.pools.entry(pool).or_default().push((*id, backend.home));
            }
            members.alone.insert((&backend.instance, &backend.ip_configuration), (*id, backend.home));
        }
        members
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
    if declared(&state.desired).next().is_none() {
        return (rules, Probes::default());
    }
    let mut asked = Asked::of(state);
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
        let probe = asked.ask(balancer, rule.probe.as_ref(), &here);
        compiled.push((format!("{balancer}/{name}"), frontend, (rule, probe), Arc::<[BackendId]>::from(here)));
    }
    rules.waiting = waiting;
    for (name, frontend, (rule, probe), members) in compiled {
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
                members: Arc::clone(&members),
                probe,
                distribution: match rule.distribution {
                    model::Distribution::Connection => Distribution::Connection,
                    model::Distribution::SourceAndProtocol => Distribution::SourceAndProtocol,
                    model::Distribution::Source => Distribution::Source,
                },
                idle_timeout_ms: u32::from(rule.idle_timeout_minutes) * 60_000,
                tcp_reset_on_idle: if rule.enable_tcp_reset { TcpReset::On } else { TcpReset::Off },
            });
        }
    }
    (rules, asked.probes(state))
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
