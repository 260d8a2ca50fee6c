//! I1: no two live mappings share (public address, port, protocol, remote). I10: no inside flow has two live mappings.
//!
//! Over the dumps of the serving owners of all shards, taken at one moment.

use std::collections::BTreeMap;

use engine::ids::BackendId;
use engine::record::{InsideKey, Proto, Scenario};
use engine::status::{FlowState, FlowView};

use super::{Check, ensure};

/// Checks the dumps of all owners together.
///
/// # Errors
/// The first two mappings that collide.
pub fn check<'a>(owners: impl Iterator<Item = &'a FlowView>) -> Check {
    // Where a rule floats all members of a pool have one inside end (D17).
    let mut public: BTreeMap<_, (InsideKey, BackendId)> = BTreeMap::new();
    let mut flows: BTreeMap<_, _> = BTreeMap::new();
    for view in owners.filter(|view| matches!(view.state, FlowState::Live | FlowState::Closing)) {
        let (frontend, address, port) = view.public;
        // By address: two frontends, and so two shards, that had the same one would take each other's ports.
        // What is not translated is told apart by its network, where addresses come twice (D14).
        let network = (view.scenario == Scenario::Private).then_some(view.inside.vnet);
        let key = (view.proto, (network, address.ok_or(frontend)), port, view.remote);
        let other = public.insert(key, (view.inside, view.backend));
        ensure(other.is_none_or(|other| other == (view.inside, view.backend)), "I1", || {
            format!("{other:?} and {:?} are both {key:?}", (view.inside, view.backend))
        })?;
        // A flow whose mapping is about to close may have its next one already.
        if view.state == FlowState::Live {
            let flow: (Proto, InsideKey, _) = (view.proto, view.inside, view.remote);
            let other = flows.insert(flow, (frontend, port));
            ensure(other.is_none_or(|other| other == (frontend, port)), "I10", || {
                format!("{flow:?} is both {other:?} and {:?}", (frontend, port))
            })?;
        }
    }
    Ok(())
}
