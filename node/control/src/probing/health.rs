//! What is committed of the health of backends: by probe and backend, changed by entries that report changes alone (W3).
//!
//! The report names shard and term under which its owner asked: what a former owner says late changes nothing of what its
//! successor has said. A backend that nothing is known of is down (S22). Plain data; `applying` writes it.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use engine::ids::{BackendId, ControlIndex, ShardId, Term};
use engine::probes::Health;

use super::model::ProbeRef;

/// What an owner has found.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct HealthChange {
    /// By which probe.
    pub probe: ProbeRef,
    /// Of whom.
    pub backend: BackendId,
    /// What.
    pub health: Health,
    /// The shard in which the backend lives, by its owner's view.
    pub shard: ShardId,
    /// The term in which it asked.
    pub term: Term,
}

/// What is committed of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Committed {
    /// It.
    pub health: Health,
    /// When its owner proposed it, by its clock, in milliseconds of the Unix epoch.
    pub since_unix_ms: u64,
    /// Whose shard said so.
    pub(super) shard: ShardId,
    /// In which term.
    pub(super) term: Term,
}

/// That of a probe.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct OfProbe {
    /// The entry that changed it last.
    pub changed: ControlIndex,
    /// By backend.
    pub backends: BTreeMap<BackendId, Committed>,
}

/// That of all probes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Healths {
    /// By probe.
    pub probes: BTreeMap<ProbeRef, OfProbe>,
}

impl Healths {
    /// What is committed of a backend by a probe.
    #[must_use]
    pub fn of(&self, probe: &ProbeRef, backend: BackendId) -> Option<&Committed> {
        self.probes.get(probe)?.backends.get(&backend)
    }

    /// Whether anything changed after an entry.
    pub(crate) fn changed_since(&self, index: ControlIndex) -> bool {
        self.probes.values().any(|probe| probe.changed > index)
    }
}
