//! The shard map: who replicates and who prefers to own each shard, and the re-creation of a shard that lost its quorum.
//!
//! [`Shard`] is the entry of one shard; rules N1, N2 and N4 are its methods. It must never count a replica as gone by
//! time, and never name a base that its node has forgotten. Changed by `apply`; read by `compile`, `reconcile`, `view`.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, Incarnation, NodeId, SHARDS_MAX, ShardId};

use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::resource::Settings;

/// Replicas on their way out that are remembered; gone ones beyond it are forgotten.
const LEAVING_MAX: usize = 16;

/// One shard.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Shard {
    /// Grows with each founding and re-creation, also from one shard of an id to the next; terms of epoch `e` start at
    /// `e << 32`. Until the shard is placed, that of the last shard of this id; 0 for none.
    pub epoch: u32,
    /// The control index at which the epoch began: its first `control_index` (N4).
    pub epoch_since: ControlIndex,
    /// The voters that it should have, by successor rank; rank 0 is the preferred owner (E1).
    pub members: Vec<Incarnation>,
    /// Replicas that are to be removed; they live until the applied change is reported (N1).
    pub leaving: Vec<Incarnation>,
    /// How the epoch began.
    pub origin: Origin,
    /// The index of the seal command, if the epoch is being sealed (N4).
    pub sealing: Option<ControlIndex>,
    /// Reports of sealed replicas: (last term, last index); (0, 0) holds nothing.
    pub seals: BTreeMap<Incarnation, (u64, u64)>,
    /// Voters of the epoch's configuration as last reported; at first those that it began with.
    pub voters: Vec<Incarnation>,
    /// The index of the last change of members, leaving, origin or sealing.
    pub changed: ControlIndex,
    /// Replicas of earlier epochs that may still repeat committed mappings (L4): neither gone nor sealed when their epoch
    /// ended, and no epoch has served since. Serving in the next one waits for them as it did in theirs (N4).
    pub unsealed_before: BTreeSet<Incarnation>,
    /// Living replicas that an operator or a rebalance moved out in this epoch. They forgot their vote and their log, so the
    /// same life may not come back: it could vote twice in one term, and what it acknowledged before, still on its way,
    /// would count for entries that it has not got any more. Its next life may.
    pub moved_out: BTreeSet<Incarnation>,
}

/// How an epoch began (N4, N5).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Origin {
    /// Not placed yet: no node was registered.
    Unplaced,
    /// These incarnations found it, tables empty.
    Founded {
        /// The founding voters.
        voters: Vec<Incarnation>,
    },
    /// Continued from the table of `base`, alone.
    Recreated {
        /// The holder.
        base: Incarnation,
        /// Term of its last log entry in the sealed epoch.
        last_term: u64,
        /// Index of it.
        last_index: u64,
        /// Serving waits that long.
        wait_ms: u64,
    },
    /// Nobody survived: `holder` begins alone with an empty table.
    Lost {
        /// The holder.
        holder: Incarnation,
        /// New flows wait that long.
        wait_ms: u64,
    },
}

impl Shard {
    /// A shard that no node holds yet.
    #[must_use]
    pub(crate) fn unplaced(index: ControlIndex) -> Self {
        Self {
            epoch: 0,
            epoch_since: index,
            members: Vec::new(),
            leaving: Vec::new(),
            origin: Origin::Unplaced,
            sealing: None,
            seals: BTreeMap::new(),
            voters: Vec::new(),
            changed: index,
            unsealed_before: BTreeSet::new(),
            moved_out: BTreeSet::new(),
        }
    }

    /// Every life that this entry speaks of.
    pub(crate) fn lives(&self) -> impl Iterator<Item = Incarnation> + '_ {
        let origin: &[Incarnation] = match &self.origin {
            Origin::Unplaced => &[],
            Origin::Founded { voters } => voters,
            Origin::Recreated { base, .. } => std::slice::from_ref(base),
            Origin::Lost { holder, .. } => std::slice::from_ref(holder),
        };
        let lists = self.members.iter().chain(&self.leaving).chain(&self.voters).chain(origin);
        lists.chain(self.seals.keys()).chain(&self.moved_out).copied()
    }

    /// Every replica that the epoch's configuration may hold.
    #[must_use]
    pub fn possible(&self) -> BTreeSet<Incarnation> {
        self.members.iter().chain(&self.leaving).chain(&self.voters).copied().collect()
    }

    /// Whether this replica can do nothing more in the epoch: it reported so, or it registered after the seal, and so
    /// never saw the epoch unsealed.
    #[must_use]
    pub fn sealed(&self, life: Incarnation) -> bool {
        self.seals.contains_key(&life) || self.sealing.is_some_and(|since| life.0 > since.0)
    }

    /// Replicas of the epoch that are neither gone nor sealed.
    #[must_use]
    pub fn active(&self, registry: &Registry) -> BTreeSet<Incarnation> {
        self.possible().into_iter().filter(|life| !registry.gone(*life) && !self.sealed(*life)).collect()
    }

    /// Replicas that may still repeat what they once owned when this epoch ends: its active ones, those that were moved out
    /// of it, and those that earlier epochs left behind and no serving epoch has waited for.
    fn unsealed(&self, registry: &Registry) -> BTreeSet<Incarnation> {
        let earlier = self.unsealed_before.union(&self.moved_out);
        let earlier = earlier.filter(|life| !registry.gone(**life) && !self.sealed(**life)).copied();
        earlier.chain(self.active(registry)).collect()
    }

    /// An owner of the epoch serves, so it has waited for whoever could still repeat mappings of earlier epochs.
    pub(crate) fn served(&mut self) {
        self.unsealed_before.clear();
    }

    /// Whether some replica of the epoch is gone.
    #[must_use]
    pub fn some_gone(&self, registry: &Registry) -> bool {
        self.possible().iter().any(|life| registry.gone(*life))
    }

    /// Whether no quorum of active replicas is possible in any configuration that the group may have reached.
    ///
    /// The control log knows the configuration only up to changes that nobody has reported yet. Certain voters are those
    /// last reported that are to stay; the other possible replicas may or may not vote. Since a swap adds and removes in
    /// one joint change (N2), no configuration is smaller than the smaller of the reported and the wanted one. The worst
    /// configuration holds all active replicas and as few others as these bounds allow; if active ones are at most half
    /// of it, no configuration, and no half of a joint one, has a quorum of them.
    #[must_use]
    pub fn quorum_impossible(&self, registry: &Registry) -> bool {
        let active = self.active(registry);
        let certain = |life: &&Incarnation| self.members.contains(*life) && !self.leaving.contains(*life);
        let inert = self.voters.iter().filter(certain).filter(|life| !active.contains(*life)).count();
        let smallest = self.voters.len().min(self.members.len());
        active.len() <= inert.max(smallest.saturating_sub(active.len()))
    }

    /// The sealed replica to continue from: the greatest (term, index) whose holder still lives that life (N4).
    #[must_use]
    pub fn base(&self, registry: &Registry) -> Option<(Incarnation, (u64, u64))> {
        let holds = |(life, last): &(Incarnation, (u64, u64))| *last != (0, 0) && !registry.gone(*life);
        let seals = self.seals.iter().map(|(life, last)| (*life, *last)).filter(holds);
        seals.max_by_key(|(life, last)| (*last, std::cmp::Reverse(*life)))
    }

    /// Nodes that could be members and are not: those that may not in their present life, having given the shard away in
    /// this epoch, and those that may.
    pub(crate) fn spare(&self, registry: &Registry) -> (Vec<Incarnation>, Vec<Incarnation>) {
        let spare = registry.eligible().map(|(_, life)| life).filter(|life| !self.members.contains(life));
        spare.partition(|life| self.moved_out.contains(life))
    }

    /// Whether `life` holds nothing of the epoch and may not any more, and no other node is left to be a member: only
    /// another life of its node can be.
    pub(crate) fn awaits_next_life_of(&self, life: Incarnation, registry: &Registry) -> bool {
        let (barred, free) = self.spare(registry);
        free.is_empty() && barred.contains(&life) && !self.possible().contains(&life)
    }

    /// A node has a new life: it takes the rank of the old one, which leaves.
    pub(crate) fn replace(&mut self, index: ControlIndex, old: Incarnation, new: Incarnation) {
        let Some(slot) = self.members.iter_mut().find(|life| **life == old) else { return };
        *slot = new;
        self.changed = index;
        if !self.leaving.contains(&old) {
            self.leaving.push(old);
        }
        // Only lives whose end is certain overflow this list, and the group's own configuration still names a voter.
        while self.leaving.len() > LEAVING_MAX {
            let at = self.leaving.iter().position(|life| !self.voters.contains(life)).unwrap_or(0);
            self.leaving.remove(at);
        }
    }

    /// A node was removed: `substitute` takes its rank, or the rank goes. Never leaves the shard without members.
    pub(crate) fn drop_member(&mut self, index: ControlIndex, old: Incarnation, substitute: Option<Incarnation>) {
        match substitute {
            Some(new) => self.replace(index, old, new),
            None if self.members.len() > 1 && self.members.contains(&old) => {
                self.members.retain(|life| *life != old);
                self.leaving.push(old);
                self.changed = index;
            }
            None => {}
        }
    }

    /// Founds the shard, or changes its members.
    pub(crate) fn set_members(&mut self, index: ControlIndex, wanted: Vec<Incarnation>) -> Result<(), Refusal> {
        if self.origin == Origin::Unplaced {
            // Above 1 if the id belonged to a shard that has retired: what is said about that one fits this one never (N1).
            self.epoch += 1;
            self.epoch_since = index;
            self.origin = Origin::Founded { voters: wanted.clone() };
            self.voters.clone_from(&wanted);
            self.members = wanted;
            self.changed = index;
            return Ok(());
        }
        if self.sealing.is_some() {
            return Err(Refusal::MembersWhileSealed {});
        }
        let out: Vec<Incarnation> = self.members.iter().filter(|life| !wanted.contains(life)).copied().collect();
        let added = wanted.iter().any(|life| !self.members.contains(life));
        if (added || !out.is_empty()) && !self.leaving.is_empty() {
            return Err(Refusal::MembersChanging {});
        }
        if let Some(life) = wanted.iter().find(|life| self.moved_out.contains(life)) {
            return Err(Refusal::MovedOut { incarnation: *life });
        }
        self.moved_out.extend(&out);
        self.leaving.extend(out);
        self.members = wanted;
        self.changed = index;
        Ok(())
    }

    /// The group's applied configuration holds these no longer.
    pub(crate) fn replicas_gone(&mut self, index: ControlIndex, gone: &[Incarnation]) -> Result<(), Refusal> {
        let before = self.leaving.len();
        self.leaving.retain(|life| !gone.contains(life));
        if self.leaving.len() == before {
            return Err(Refusal::ReplicasNotLeaving {});
        }
        self.voters.retain(|life| !gone.contains(life) || self.members.contains(life));
        self.changed = index;
        Ok(())
    }

    /// The leader's configuration. A late report names a configuration that the group had before; that is what
    /// `quorum_impossible` reckons with, as long as everyone in it is still a member or leaving.
    pub(crate) fn voters_applied(&mut self, voters: &[Incarnation]) -> Result<(), Refusal> {
        let known = |life: &Incarnation| self.members.contains(life) || self.leaving.contains(life);
        let distinct: BTreeSet<Incarnation> = voters.iter().copied().collect();
        if voters.is_empty() || distinct.len() != voters.len() || !voters.iter().all(known) {
            return Err(Refusal::VotersNotInMap {});
        }
        if self.sealing.is_some() {
            return Err(Refusal::VotersWhileSealed {});
        }
        self.voters = distinct.into_iter().collect();
        Ok(())
    }

    pub(crate) fn seal(&mut self, index: ControlIndex, registry: &Registry) -> Result<(), Refusal> {
        if self.sealing.is_some() {
            return Err(Refusal::SealedAlready {});
        }
        if !self.some_gone(registry) {
            return Err(Refusal::NoReplicaGone {});
        }
        self.sealing = Some(index);
        self.changed = index;
        Ok(())
    }

    pub(crate) fn report_seal(&mut self, life: Incarnation, last: (u64, u64)) -> Result<(), Refusal> {
        if self.sealing.is_none() {
            return Err(Refusal::SealNotAsked {});
        }
        if !self.possible().contains(&life) {
            return Err(Refusal::NoReplica { incarnation: life });
        }
        // The first report stands: a sealed log does not change.
        self.seals.entry(life).or_insert(last);
        Ok(())
    }

    /// Ends the sealed epoch and begins the next one (N4).
    pub(crate) fn recreate(
        &mut self,
        index: ControlIndex,
        registry: &Registry,
        settings: &Settings,
        holder_if_lost: Incarnation,
    ) -> Result<(), Refusal> {
        if self.sealing.is_none() {
            return Err(Refusal::NotSealed {});
        }
        if !self.quorum_impossible(registry) {
            return Err(Refusal::QuorumPossible {});
        }
        let active = self.active(registry);
        let handover = u64::from(settings.lease_ms()) + u64::from(settings.orphan_grace_ms);
        let unsealed = self.unsealed(registry);
        let (holder, origin) = match self.base(registry) {
            Some((base, (last_term, last_index))) => {
                let wait_ms = if unsealed.is_empty() { 0 } else { handover };
                (base, Origin::Recreated { base, last_term, last_index, wait_ms })
            }
            None if !active.is_empty() => return Err(Refusal::SurvivorUnknown {}),
            None if registry.gone(holder_if_lost) => {
                return Err(Refusal::HolderGone { incarnation: holder_if_lost });
            }
            None => {
                let wait_ms = handover.max(settings.recreate_quarantine_ms.into());
                (holder_if_lost, Origin::Lost { holder: holder_if_lost, wait_ms })
            }
        };
        let epoch = self.epoch.checked_add(1).ok_or(Refusal::EpochsSpent {})?;
        self.members.retain(|life| !registry.gone(*life));
        if !self.members.contains(&holder) {
            // A survivor that was on its way out stays: it alone holds the table.
            if self.members.len() >= usize::try_from(settings.replicas).unwrap_or(usize::MAX) {
                self.members.pop();
            }
            self.members.push(holder);
        }
        let next = Self::unplaced(index);
        let members = std::mem::take(&mut self.members);
        *self = Self { epoch, origin, members, voters: vec![holder], unsealed_before: unsealed, ..next };
        Ok(())
    }
}

/// How many shards each node prefers to own, and how many it replicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Load {
    ranks: BTreeMap<NodeId, Vec<u32>>,
}

impl Load {
    pub(crate) fn of<'a>(registry: &Registry, shards: impl Iterator<Item = &'a Shard>) -> Self {
        let mut load = Self::default();
        for (node, _) in registry.registered() {
            load.ranks.insert(node, Vec::new());
        }
        for shard in shards {
            for (rank, life) in shard.members.iter().enumerate() {
                if let Some(node) = registry.node_of(*life) {
                    load.add(node, rank);
                }
            }
        }
        load
    }

    pub(crate) fn add(&mut self, node: NodeId, rank: usize) {
        let ranks = self.ranks.entry(node).or_default();
        if ranks.len() <= rank {
            ranks.resize(rank + 1, 0);
        }
        ranks[rank] += 1;
    }

    /// Shards in which the node has this rank.
    pub(crate) fn at_rank(&self, node: NodeId, rank: usize) -> u32 {
        self.ranks.get(&node).and_then(|ranks| ranks.get(rank)).copied().unwrap_or(0)
    }

    /// Shards that the node replicates.
    pub(crate) fn total(&self, node: NodeId) -> u32 {
        self.ranks.get(&node).map_or(0, |ranks| ranks.iter().sum())
    }

    /// The node to take `rank` next: fewest shards at that rank, then fewest in all, then by id.
    pub(crate) fn least(&self, rank: usize, nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
        nodes.min_by_key(|node| (self.at_rank(*node, rank), self.total(*node), *node))
    }
}

/// Members for a shard that has none yet: ranks taken by the least loaded nodes in turn, which rotates them.
pub(crate) fn placement(load: &mut Load, nodes: &BTreeSet<NodeId>, replicas: usize) -> Vec<NodeId> {
    let mut chosen = Vec::new();
    for rank in 0..replicas.min(nodes.len()) {
        let free = nodes.iter().copied().filter(|node| !chosen.contains(node));
        let Some(node) = load.least(rank, free) else { break };
        load.add(node, rank);
        chosen.push(node);
    }
    chosen
}

/// The lowest id without a shard. Ids index tables (lease words, the kernel's guard), so they are drawn from the tables'
/// places and never just count up. `free`: ids that were used before, with their last epoch; one that has had all its
/// epochs stays unused.
pub(crate) fn lowest_free_id(used: &BTreeMap<ShardId, Shard>, free: &BTreeMap<ShardId, u32>) -> Option<ShardId> {
    let mut ids = (1..SHARDS_MAX).map(ShardId);
    ids.find(|id| !used.contains_key(id) && free.get(id).is_none_or(|epoch| *epoch < u32::MAX))
}
