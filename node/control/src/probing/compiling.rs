//! From declared probes and committed health to what workers choose by, and the prober asks by. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::ids::{BackendId, ControlIndex};
use engine::map::Map;
use engine::probes::{Ask, Asked, Health, HealthSource, Probe, ProbeId, Probes};

use super::machines::{self, Machines};
use super::model::{self, ProbeProtocol, ProbeRef};
use crate::allocation::Declared;
use crate::inbound::model::{InboundRule, Target};
use crate::state::State;

/// All declared probes, in the order of their ids, which is that of [`ProbeRef`].
fn declared(state: &State) -> impl Iterator<Item = (ProbeRef, &model::Probe)> {
    let balancers = state.desired.load_balancers.iter();
    let of_balancers = balancers.flat_map(|(name, balancer)| {
        let reference = |probe: &String| ProbeRef::LoadBalancer { load_balancer: name.clone(), probe: probe.clone() };
        balancer.probes.iter().map(move |(probe, declared)| (reference(probe), declared))
    });
    let own = machines::declared(&state.desired).map(|(name, probe)| (ProbeRef::Instance(name.clone()), probe));
    of_balancers.chain(own)
}

/// The ids of probes, and whom rules and machines have them ask.
pub(crate) struct Asking<'a> {
    names: Vec<(ProbeRef, &'a model::Probe)>,
    members: Vec<BTreeSet<BackendId>>,
}

impl<'a> Asking<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        let names: Vec<_> = declared(state).collect();
        let members = vec![BTreeSet::new(); names.len()];
        Self { names, members }
    }

    /// Whose probe speaks for the members of a rule; its own, if it has one, asks them.
    pub(crate) fn source(&mut self, balancer: &str, rule: &InboundRule, members: &[BackendId]) -> HealthSource {
        match (&rule.target, &rule.probe) {
            (Target::IpConfiguration { .. }, _) => HealthSource::Nobody,
            (Target::Pool(_), None) => HealthSource::Machine,
            (Target::Pool(_), Some(probe)) => {
                let name = ProbeRef::LoadBalancer { load_balancer: balancer.to_owned(), probe: probe.clone() };
                // `validate` refuses a rule whose probe there is not.
                self.ask(&name, members).map_or(HealthSource::Nobody, HealthSource::Rule)
            }
        }
    }

    fn ask(&mut self, probe: &ProbeRef, members: &[BackendId]) -> Option<ProbeId> {
        let at = self.names.binary_search_by(|(name, _)| name.cmp(probe)).ok()?;
        self.members[at].extend(members);
        u32::try_from(at).ok().map(ProbeId)
    }

    /// What is told of them; machines' own ask whatever rules there are.
    pub(crate) fn probes(mut self, state: &State) -> Probes {
        let machines = Machines::of(state);
        let mut of_machines = Map::default();
        for (id, backend) in &state.allocation.backends {
            if backend.declared == Declared::Yes
                && let Some(asked) = machines.asked(&backend.instance)
                && let Some(probe) = self.ask(&ProbeRef::Instance(backend.instance.clone()), &[asked])
            {
                of_machines.insert(*id, Asked { probe, backend: asked });
            }
        }
        let Self { names, members } = self;
        let all = names.into_iter().zip(members).map(|((name, declared), members)| {
            let path = || declared.request_path.as_str().into();
            let health = |id: BackendId| state.healths.of(&name, id).map(|committed| committed.health);
            Arc::new(Probe {
                name: name.to_string().into(),
                ask: match declared.protocol {
                    ProbeProtocol::Tcp => Ask::Tcp,
                    ProbeProtocol::Http => Ask::Http(path()),
                    ProbeProtocol::Https => Ask::Https(path()),
                },
                port: declared.port,
                interval_ms: u32::from(declared.interval_seconds) * 1_000,
                threshold: declared.number_of_probes.into(),
                members: members.into_iter().map(|id| (id, health(id))).collect::<Box<[(BackendId, Option<Health>)]>>(),
            })
        });
        Probes { all: all.collect(), machines: Arc::new(of_machines) }
    }
}

/// The same probes after entries that changed nothing but health: those of which nothing changed are shared.
pub(crate) fn renewed(state: &State, last: &Arc<Probes>, since: ControlIndex) -> Arc<Probes> {
    if !state.healths.changed_since(since) || last.all.is_empty() {
        return Arc::clone(last);
    }
    let each = declared(state).zip(&last.all).map(|((name, _), before)| {
        let Some(of) = state.healths.probes.get(&name).filter(|of| of.changed > since) else {
            return Arc::clone(before);
        };
        let health = |id: &BackendId| of.backends.get(id).map(|committed| committed.health);
        let members = before.members.iter().map(|(id, _)| (*id, health(id))).collect();
        Arc::new(Probe { members, ..Probe::clone(before) })
    });
    Arc::new(Probes { all: each.collect(), machines: Arc::clone(&last.machines) })
}
