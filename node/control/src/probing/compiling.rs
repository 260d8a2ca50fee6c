//! From declared probes and committed health to what workers choose by, and the prober asks by. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::ids::{BackendId, ControlIndex};
use engine::probes::{Ask, Health, Probe, ProbeId, Probes};

use super::model::{self, ProbeProtocol, ProbeRef};
use crate::state::State;

/// All declared probes, in the order of their ids.
fn declared(state: &State) -> impl Iterator<Item = (ProbeRef, &model::Probe)> {
    let balancers = state.desired.load_balancers.iter();
    balancers.flat_map(|(name, balancer)| {
        balancer
            .probes
            .iter()
            .map(|(probe, declared)| (ProbeRef { load_balancer: name.clone(), probe: probe.clone() }, declared))
    })
}

/// The ids of probes, and whom rules have them ask.
pub(crate) struct Asked<'a> {
    names: Vec<(ProbeRef, &'a model::Probe)>,
    members: Vec<BTreeSet<BackendId>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        let names: Vec<_> = declared(state).collect();
        let members = vec![BTreeSet::new(); names.len()];
        Self { names, members }
    }

    /// The probe of a rule, which leads to these.
    pub(crate) fn ask(&mut self, balancer: &str, probe: Option<&String>, members: &[BackendId]) -> Option<ProbeId> {
        let probe = probe?;
        let key = (balancer, probe.as_str());
        let at = self.names.binary_search_by(|(name, _)| (name.load_balancer.as_str(), name.probe.as_str()).cmp(&key));
        // `validate` refuses a rule whose probe there is not.
        let at = at.ok()?;
        self.members[at].extend(members);
        u32::try_from(at).ok().map(ProbeId)
    }

    /// What is told of them.
    pub(crate) fn probes(self, state: &State) -> Probes {
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
        Probes(all.collect())
    }
}

/// The same probes after entries that changed nothing but health: those of which nothing changed are shared.
pub(crate) fn renewed(state: &State, last: &Arc<Probes>, since: ControlIndex) -> Arc<Probes> {
    if !state.healths.changed_since(since) || last.0.is_empty() {
        return Arc::clone(last);
    }
    let each = declared(state).zip(&last.0).map(|((name, _), before)| {
        let Some(of) = state.healths.probes.get(&name).filter(|of| of.changed > since) else {
            return Arc::clone(before);
        };
        let health = |id: &BackendId| of.backends.get(id).map(|committed| committed.health);
        let members = before.members.iter().map(|(id, _)| (*id, health(id))).collect();
        Arc::new(Probe { members, ..Probe::clone(before) })
    });
    Arc::new(Probes(each.collect()))
}
