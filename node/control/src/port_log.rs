//! What the control log says of ports: which backend got which, and from when to when (R24, RFC 6888 REQ-12).
//!
//! [`PortLog`] follows the state entry by entry and tells what each one changed, port by port: it says nothing about a
//! block that is only cut or joined. Pure, and the same on every member that applies the same entries. It must never
//! change the state. Called by the member beside `State::apply`; `node` writes it down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{BackendId, ControlIndex, FrontendId, PortBlock, VnetId};

use crate::holdings::Backend;
use crate::places::blocks_on;
use crate::state::State;

/// A range of ports, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortUse {
    /// The public address.
    pub public: Ipv4Addr,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// Name of the backend's virtual network.
    pub network: String,
    /// The backend's private address.
    pub inside: Ipv4Addr,
    /// Its name: instance and IP configuration.
    pub backend: String,
}

/// What became of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortFate {
    /// The backend may open flows on it.
    Granted,
    /// It may not open any more; those that are there may still go on.
    Draining,
    /// Nothing is left of it: somebody else may get it.
    Released,
}

/// Whether a batch says everything or what is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortScope {
    /// All that stands; what it does not name is nobody's. What led there is not known here.
    All,
    /// What changed.
    Changes,
}

/// What one entry of the control log did to ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortBatch {
    /// The cluster's id: indexes of another one mean nothing here.
    pub cluster: [u8; 16],
    /// The entry.
    pub index: ControlIndex,
    /// Its time by the proposers' clocks; it never falls.
    pub unix_ms: u64,
    /// Whether there is more.
    pub scope: PortScope,
    /// By frontend and port; of one range what ends stands before what begins.
    pub changes: Vec<(PortFate, PortUse)>,
}

/// Whose a range is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tenure {
    backend: BackendId,
    fate: PortFate,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct PortLog {
    /// Leased and draining blocks, in order.
    blocks: BTreeMap<PortBlock, Tenure>,
    /// Who is meant by the ids in `blocks`, since the state forgets those who are gone.
    backends: BTreeMap<BackendId, (String, Ipv4Addr, String)>,
    frontends: BTreeMap<FrontendId, Ipv4Addr>,
    /// The entry up to which the state was followed.
    followed: ControlIndex,
}

impl PortLog {
    /// Entries were applied; what they changed, if anything. Looks only at frontends whose blocks may have changed.
    pub fn follow(&mut self, state: &State) -> Option<PortBatch> {
        let changed: Vec<FrontendId> = state.allocation.places.changed_since(self.followed).collect();
        self.followed = state.index;
        let mut changes = Vec::new();
        let mut lost: BTreeSet<BackendId> = BTreeSet::new();
        for frontend in changed {
            let after = blocks_of(state, frontend);
            let before: BTreeMap<PortBlock, Tenure> =
                self.blocks.range(blocks_on(frontend)).map(|(block, tenure)| (*block, *tenure)).collect();
            if after == before {
                continue;
            }
            self.learn(state, frontend);
            for (range, old, new) in transitions(&before, &after) {
                let gone = old.filter(|old| new.is_none_or(|new| new.backend != old.backend || new.fate < old.fate));
                changes.extend(gone.map(|old| (PortFate::Released, self.named(old.backend, range))));
                changes.extend(new.map(|new| (new.fate, self.named(new.backend, range))));
            }
            lost.extend(before.values().map(|tenure| tenure.backend));
            for block in before.keys() {
                self.blocks.remove(block);
            }
            self.blocks.extend(after);
        }
        self.forget(state, &lost);
        (!changes.is_empty()).then(|| batch(state, PortScope::Changes, changes))
    }

    /// The state came whole; all that stands in it.
    pub fn restart(&mut self, state: &State) -> PortBatch {
        *self = Self { followed: state.index, ..Self::default() };
        for frontend in state.allocation.frontends.keys() {
            self.blocks.extend(blocks_of(state, *frontend));
            self.learn(state, *frontend);
        }
        let standing = transitions(&BTreeMap::new(), &self.blocks).into_iter();
        let named = standing.filter_map(|(range, _, new)| new.map(|t| (t.fate, self.named(t.backend, range))));
        batch(state, PortScope::All, named.collect())
    }

    fn learn(&mut self, state: &State, frontend: FrontendId) {
        let names: BTreeMap<VnetId, &String> = state.vnets.iter().map(|(name, vnet)| (*vnet, name)).collect();
        self.frontends.insert(frontend, state.allocation.frontends[&frontend].ip);
        let drains = state.allocation.drains.range(blocks_on(frontend)).map(|(_, drain)| drain.backend);
        for id in state.allocation.places.bound_to(frontend).chain(drains) {
            let backend = &state.allocation.backends[&id];
            let network = names.get(&backend.vnet).map(|name| (*name).clone()).unwrap_or_default();
            let name = format!("{}/{}", backend.instance, backend.ip_configuration);
            self.backends.insert(id, (network, backend.ip, name));
        }
    }

    /// Forgets those of `lost` that have no block any more, and frontends without one.
    fn forget(&mut self, state: &State, lost: &BTreeSet<BackendId>) {
        for id in lost {
            let has_none = |b: &Backend| b.lease.is_empty() && b.own.is_none() && !state.allocation.places.drains(*id);
            if state.allocation.backends.get(id).is_none_or(has_none) {
                self.backends.remove(id);
            }
        }
        let blocks = &self.blocks;
        self.frontends.retain(|id, _| blocks.range(blocks_on(*id)).next().is_some());
    }

    fn named(&self, backend: BackendId, (frontend, first, last): Range) -> PortUse {
        let (network, inside, backend) = self.backends[&backend].clone();
        PortUse { public: self.frontends[&frontend], first, last, network, inside, backend }
    }
}

impl PartialOrd for PortFate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// In the order in which a range goes through them.
impl Ord for PortFate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

fn batch(state: &State, scope: PortScope, changes: Vec<(PortFate, PortUse)>) -> PortBatch {
    let (cluster, index, unix_ms) = (state.cluster_id, state.index, state.stamped_unix_ms);
    PortBatch { cluster, index, unix_ms, scope, changes }
}

type Range = (FrontendId, u16, u16);

/// Leased and draining blocks of a frontend.
fn blocks_of(state: &State, frontend: FrontendId) -> BTreeMap<PortBlock, Tenure> {
    let leased = state.allocation.places.bound_to(frontend).flat_map(|id| {
        let tenure = Tenure { backend: id, fate: PortFate::Granted };
        state.allocation.backends[&id].blocks_on(frontend).map(move |block| (block, tenure))
    });
    let drains = state.allocation.drains.range(blocks_on(frontend));
    let draining = drains.map(|(block, d)| (*block, Tenure { backend: d.backend, fate: PortFate::Draining }));
    leased.chain(draining).collect()
}

/// Ranges whose tenure differs, as long as they can be.
fn transitions(
    before: &BTreeMap<PortBlock, Tenure>,
    after: &BTreeMap<PortBlock, Tenure>,
) -> Vec<(Range, Option<Tenure>, Option<Tenure>)> {
    // Where a block begins or ends on either side; an end may lie behind the last port.
    let mut cuts: BTreeSet<(FrontendId, u32)> = BTreeSet::new();
    let blocks = before.iter().filter(|(b, t)| after.get(b) != Some(t));
    let differing = blocks.chain(after.iter().filter(|(b, t)| before.get(b) != Some(t)));
    for (block, _) in differing {
        cuts.insert((block.frontend, u32::from(block.start)));
        cuts.insert((block.frontend, u32::from(block.start) + u32::from(block.len)));
    }
    let mut found: Vec<(Range, Option<Tenure>, Option<Tenure>)> = Vec::new();
    for (from, to) in cuts.iter().zip(cuts.iter().skip(1)) {
        let (Ok(first), Ok(last)) = (u16::try_from(from.1), u16::try_from(to.1.wrapping_sub(1))) else { continue };
        let (old, new) = (tenure_at(before, from.0, first), tenure_at(after, from.0, first));
        if from.0 != to.0 || old == new {
            continue;
        }
        match found.last_mut() {
            Some((range, o, n))
                if (range.0, range.2.checked_add(1)) == (from.0, Some(first)) && (*o, *n) == (old, new) =>
            {
                range.2 = last;
            }
            _ => found.push(((from.0, first, last), old, new)),
        }
    }
    found
}

fn tenure_at(blocks: &BTreeMap<PortBlock, Tenure>, frontend: FrontendId, port: u16) -> Option<Tenure> {
    let last = PortBlock { frontend, start: port, len: u16::MAX };
    let (block, tenure) = blocks.range(..=last).next_back()?;
    (block.frontend == frontend && block.contains(port)).then_some(*tenure)
}
