//! Whether a mapping may stand, and how it is held when it ends: said here alone. Pure. Asked after each load for what there is
//! (`duties`), and by `judge::policy` for first packets, for those of mappings that live no longer, and for one packet of each
//! flow after a change that concerns it.

use crate::addresses::{floating_end, is_at, led_to};
use crate::consent::{groups_admit, groups_allow, note_hits, note_stranger};
use crate::flow::{FlowKey, Record, State};
use crate::ids::{BackendId, FrontendId};
use crate::nsg::Hits;
use crate::private;
use crate::record::{CloseReason, HoldClass, Open, Scenario};
use crate::rules::Inward;
use crate::shard::drains::Drains;
use crate::snapshot::{Backend, Snapshot};

/// Whether the groups of a mapping's backend were asked about it before, and have not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Yes,
    No,
}

/// Whether a live mapping may stay under this snapshot, or why it closes (D5, D19, N4).
pub(crate) fn may_stand(
    record: &Record,
    snapshot: &Snapshot,
    drains: &Drains,
    asked: Asked,
) -> Result<(), CloseReason> {
    match record.scenario() {
        Scenario::Pool | Scenario::Default | Scenario::OwnOut | Scenario::OwnIn => {}
        Scenario::Private => {
            let stands = private::stands(snapshot, record.backend, &record.flow());
            return if stands { Ok(()) } else { Err(CloseReason::Policy) };
        }
        Scenario::Rule => {
            let stands = leads_to(snapshot, record) && (asked == Asked::Yes || groups_let(snapshot, record));
            return if stands { Ok(()) } else { Err(CloseReason::Policy) };
        }
    }
    let Some(backend) = whose(snapshot, record.backend, &record.flow()) else { return Err(CloseReason::Policy) };
    if asked == Asked::No && !groups_let(snapshot, record) {
        return Err(CloseReason::Policy);
    }
    if backend.has(record.scenario(), record.frontend, record.public_port) {
        return Ok(());
    }
    // No longer its own: taken back, or a base of a re-creation that lacked the reclaim (N4).
    if drains.allows(record.frontend, record.public_port) { Ok(()) } else { Err(CloseReason::Reclaim) }
}

/// The backend of a mapping, if it is still where the mapping begins.
fn whose<'a>(s: &'a Snapshot, id: BackendId, flow: &FlowKey) -> Option<&'a Backend> {
    s.backends.get(&id).filter(|backend| is_at(backend, flow.inside))
}

/// The public end of the rule by which an inside end is reached, if exactly one leads there: an answer from a frontend's address
/// says which (D17).
pub(crate) fn led_by(s: &Snapshot, id: BackendId, flow: &FlowKey) -> Option<(FrontendId, u16)> {
    let inside = flow.inside.endpoint;
    if whose(s, id, flow).is_some() {
        return s.rules.to(flow.proto, inside.port, id).map(|(rule, port)| (rule.frontend, port));
    }
    let (key, _) = floating_end(s, flow.proto, inside, flow.remote)?;
    let leads = s.rules.of(&key)?.has(id) && s.backends.get(&id)?.vnet == flow.inside.vnet;
    leads.then_some((key.frontend, key.port))
}

/// Whether a mapping that stands would go on to do so under another configuration, as far as it is no question of ports: what
/// `may_stand` will say, foretold (D19).
pub(crate) fn keeps_right(s: &Snapshot, id: BackendId, flow: &FlowKey, scenario: Scenario) -> bool {
    let by_itself = matches!(scenario, Scenario::Private | Scenario::Rule);
    let is_there = by_itself || whose(s, id, flow).is_some();
    is_there
        && match scenario {
            Scenario::Private => private::stands(s, id, flow),
            Scenario::OwnIn => groups_admit(s, id, flow),
            Scenario::Rule => groups_admit(s, id, flow) && led_by(s, id, flow).is_some(),
            Scenario::Pool | Scenario::Default | Scenario::OwnOut => groups_allow(s, id, flow),
        }
}

/// The class that a mapping is held in, or will be once its proposed close commits; `None`: it lives.
pub(crate) fn ending(record: &Record) -> Option<HoldClass> {
    match record.state {
        State::Held(class) => Some(class),
        State::Live | State::Free => record.closing().map(|reason| record.scenario().hold_class(reason, record.proto)),
    }
}

/// Whether what a remote began would get where it went, by the rules and addresses that there are now.
pub(crate) fn leads_to(s: &Snapshot, record: &Record) -> bool {
    leads(s, &record.opened())
}

/// The same of a mapping that there may not be yet.
pub(crate) fn leads(s: &Snapshot, open: &Open) -> bool {
    let Open { public, inside, backend: id, scenario } = open;
    let Some(backend) = s.backends.get(id) else { return false };
    match (scenario, s.rules.inward(public)) {
        (Scenario::Rule, Some(Inward::Rule(rule))) => {
            rule.has(*id) && led_to(s, rule, public, backend) == Some(*inside)
        }
        (Scenario::OwnIn, Some(Inward::Own(owner))) => {
            let has = backend.has(Scenario::OwnIn, public.frontend, public.port);
            owner == *id && has && public.port == inside.endpoint.port && is_at(backend, *inside)
        }
        _ => false,
    }
}

/// Whether the security groups let a mapping's packets pass: asked about the direction in which it was begun, since what answers
/// needs no rule (S30).
pub(crate) fn groups_let(s: &Snapshot, record: &Record) -> bool {
    match record.scenario() {
        Scenario::Rule | Scenario::OwnIn => groups_admit(s, record.backend, &record.flow()),
        Scenario::Pool | Scenario::Default | Scenario::OwnOut | Scenario::Private => {
            groups_allow(s, record.backend, &record.flow())
        }
    }
}

/// Counts which rules decide about a mapping that is judged again, by the direction in which it was begun.
pub(crate) fn note_again(hits: &mut Hits, s: &Snapshot, record: &Record) {
    match record.scenario() {
        Scenario::Rule | Scenario::OwnIn => note_stranger(hits, s, record.backend, &record.flow()),
        Scenario::Pool | Scenario::Default | Scenario::OwnOut | Scenario::Private => {
            note_hits(hits, s, record.backend, &record.flow());
        }
    }
}
