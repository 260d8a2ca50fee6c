//! What is wrong in a simulated world at a moment, and until when: state alone, which `faults.rs`, `deaths.rs` and `stops.rs`
//! write.

use std::collections::{BTreeMap, BTreeSet};

use consensus::control::storage::memory::MemoryStore;
use engine::ids::NodeId;
use member::frame::{CHANNEL_CONTROL, CHANNEL_JOIN};
use words::Incarnation;

/// A node on its way through a graceful stop (N3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    AsksForToken { until_ns: u64 },
    HandsOver { until_ns: u64 },
    Done,
}

/// What is wrong now, and until when.
#[derive(Debug, Default)]
pub(super) struct Healing {
    pub(super) dead: BTreeMap<NodeId, (u64, MemoryStore)>,
    pub(super) held_up_until_ns: u64,
    pub(super) cuts: BTreeMap<(NodeId, NodeId, Lane), u64>,
    /// Until when, and by how much, what one sends to the other takes longer.
    pub(super) slow: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    pub(super) links_down: BTreeMap<NodeId, u64>,
    pub(super) swallowed: BTreeMap<NodeId, u64>,
    pub(super) stopping: BTreeMap<NodeId, Stop>,
    pub(super) rolling: BTreeSet<NodeId>,
    /// Lives that asked for the stop token, and live on without it.
    pub(super) gave_up: BTreeSet<engine::ids::Incarnation>,
    pub(super) next_ns: u64,
    pub(super) majority_died: bool,
    /// Nodes that an operator has powered off and removes; they come back with an empty disk once that is applied.
    removing: BTreeMap<NodeId, Incarnation>,
    pub(super) next_operation_ns: u64,
}

/// What of a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lane {
    All,
    Control,
    Flow,
}

impl Healing {
    /// An operator powers a dead node off for good and means to have it back with an empty disk.
    pub(super) fn removes(&mut self, id: NodeId, life: Incarnation) {
        self.removing.insert(id, life);
        if let Some((_, store)) = self.dead.get_mut(&id) {
            *store = MemoryStore::new();
        }
    }

    pub(super) fn is_removing(&self) -> bool {
        !self.removing.is_empty()
    }

    pub(super) fn removing(&self) -> Option<(NodeId, Incarnation)> {
        self.removing.first_key_value().map(|(id, life)| (*id, *life))
    }

    pub(super) fn removed(&mut self, id: NodeId) {
        self.removing.remove(&id);
    }

    /// The only node that is down, if there is one and nobody is stopping.
    pub(super) fn only_dead(&self) -> Option<NodeId> {
        let mut dead = self.dead.keys();
        let only = dead.next().copied().filter(|_| self.stopping.is_empty() && self.rolling.is_empty());
        only.filter(|_| dead.next().is_none())
    }

    pub(super) fn rolls(&mut self, ids: BTreeSet<NodeId>) {
        self.rolling = ids;
    }

    pub(super) fn has_stopped(&mut self, id: NodeId) {
        if let Some(stop) = self.stopping.get_mut(&id) {
            *stop = Stop::Done;
        }
    }

    pub(super) fn is_cut(&self, (from, to): (NodeId, NodeId), channel: u32, now_ns: u64) -> bool {
        let cut = |lane| self.cuts.get(&(from, to, lane)).is_some_and(|until| now_ns < *until);
        let control = matches!(channel, CHANNEL_CONTROL | CHANNEL_JOIN);
        cut(Lane::All) || cut(if control { Lane::Control } else { Lane::Flow })
    }

    /// By how much a frame takes longer.
    pub(super) fn slowed_ns(&self, from: NodeId, to: NodeId, now_ns: u64) -> u64 {
        let slow = self.slow.get(&(from, to)).filter(|(until, _)| now_ns < *until);
        slow.map_or(0, |(_, by)| *by)
    }

    /// What is still wrong, in words; `None` if nothing is.
    pub(super) fn wrong(&self, now_ns: u64) -> Option<String> {
        let ids = |ids: Vec<&NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let since = |until: u64| now_ns < until;
        if let Some((id, life)) = self.removing.first_key_value() {
            return Some(format!("node {id} waits for its removal as incarnation {}", life.0));
        }
        let what = [
            ("down", ids(self.dead.keys().collect())),
            ("stopping", ids(self.stopping.keys().collect())),
            ("to be stopped in turn", ids(self.rolling.iter().collect())),
            ("without data links", ids(self.links_down.keys().collect())),
            ("on a data network that swallows", ids(self.swallowed.keys().collect())),
            ("slow", ids(self.slow.iter().filter(|(_, s)| since(s.0)).map(|(pair, _)| &pair.1).collect())),
            ("cut off", ids(self.cuts.iter().filter(|(_, u)| since(**u)).map(|(pair, _)| &pair.0).collect())),
        ];
        let what = what.iter().find(|(_, who)| !who.is_empty()).map(|(what, who)| format!("{what}: {who}"));
        what.or_else(|| since(self.held_up_until_ns).then(|| "a thread is held up".to_owned()))
    }
}
