//! Applying the control log: one entry, one step (C1).
//!
//! Deterministic and total: whatever the bytes are, every replica comes to the same state and outcome. A refused command
//! changes nothing but the applied index and the memory of keys. It must never look at a clock or at anything outside
//! the state and the entry. Called by the control group's actor for each committed entry, in order.

use std::collections::BTreeSet;

use engine::ids::{ControlIndex, FrontendId, Incarnation, NodeId, ShardId};

use crate::allocation::{Declared, Settle};
use crate::command::{Command, CommandBody, InStep};
use crate::loads::PortLoad;
use crate::outcome::{Outcome, Yield};
use crate::parts::Parts;
use crate::refusal::Refusal;
use crate::registry::Registration;
use crate::resource::Desired;
use crate::shards::{Load, Origin, Shard};
use crate::state::{State, StopToken};
use crate::{parts, validate};

impl State {
    /// Applies the entry at `index`. Empty bytes are raft's own entries and only move the index.
    pub fn apply_bytes(&mut self, index: u64, bytes: &[u8]) -> Outcome {
        if index <= self.index.0 {
            return already(index, self.index);
        }
        if bytes.is_empty() {
            self.index = ControlIndex(index);
            return Outcome::Applied { index: self.index, result: Yield::Nothing };
        }
        match Command::decode(bytes) {
            Ok(command) => self.apply(index, &command),
            Err(_) => {
                self.index = ControlIndex(index);
                Outcome::Refused(Refusal::EntryUnreadable {})
            }
        }
    }

    /// Applies the command at `index`. A key that is remembered yields its first outcome again.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        if index <= self.index.0 {
            return already(index, self.index);
        }
        self.index = ControlIndex(index);
        if self.parts.as_ref().is_some_and(|parts| parts.is_over(self.index)) {
            self.parts = None;
        }
        if let Some(outcome) = self.keys.outcome(&command.key) {
            return outcome.clone();
        }
        let settled = self.allocation.places.settled();
        let outcome = match self.step(command) {
            Ok(result) => {
                // Members rely on it: whatever may be a walk over all backends they have done apart.
                let walked = self.allocation.places.settled() != settled;
                assert!(!walked || command.body.settles(), "{} has settled all leases", command.body.name());
                self.stamped_unix_ms = self.stamped_unix_ms.max(command.stamped_unix_ms);
                self.prune_lives();
                Outcome::Applied { index: self.index, result }
            }
            Err(refusal) => Outcome::Refused(refusal),
        };
        self.keys.remember(command.key, outcome.clone());
        outcome
    }

    fn step(&mut self, command: &Command) -> Result<Yield, Refusal> {
        let index = self.index;
        match &command.body {
            CommandBody::Noop => {}
            CommandBody::Configure(configure) => self.configure(command, configure)?,
            CommandBody::ConfigureBegin => self.parts = Some(Parts::begin(index)),
            CommandBody::ConfigurePart { attempt, number, bytes } => {
                parts::of(&mut self.parts, *attempt)?.put(*number, bytes)?;
            }
            CommandBody::ConfigureCommit { attempt, parts, hash } => {
                let configure = parts::of(&mut self.parts, *attempt)?.whole(*parts, hash)?;
                self.configure(command, &configure)?;
            }
            CommandBody::RegisterIncarnation(registration) => return self.register(registration),
            CommandBody::JoinControl(joiner) => return Ok(Yield::RaftId(self.registry.join(index.0, joiner)?)),
            CommandBody::ControlConfApplied { voters } => self.control_conf_applied(voters)?,
            CommandBody::ReplicaGone { shard, epoch, gone } => {
                self.shard_at(*shard, *epoch)?.replicas_gone(index, gone)?;
            }
            CommandBody::VotersApplied { shard, epoch, voters } => {
                self.shard_at(*shard, *epoch)?.voters_applied(voters)?;
            }
            CommandBody::SealEpoch { shard, epoch } => {
                self.with_shard(*shard, *epoch, |shard, state| shard.seal(index, &state.registry))?;
            }
            CommandBody::Sealed { shard, epoch, incarnation, last_term, last_index } => {
                self.shard_at(*shard, *epoch)?.report_seal(*incarnation, (*last_term, *last_index))?;
            }
            CommandBody::Recreate { shard, epoch, holder_if_lost } => {
                self.with_shard(*shard, *epoch, |shard, state| {
                    shard.recreate(index, &state.registry, state.settings(), *holder_if_lost)
                })?;
            }
            CommandBody::EpochServed { shard, epoch } => self.shard_at(*shard, *epoch)?.served(),
            CommandBody::ReclaimComplete { shard, shard_epoch, blocks } => {
                // F5: a fence of an earlier epoch may be lost in this one.
                self.shard_at(*shard, *shard_epoch)?;
                let with = settle_with(self.index, self.stamped_unix_ms, &self.desired, command, &[]);
                self.allocation.reclaim(&with, *shard, blocks)?;
            }
            CommandBody::StopTokenTake { node, seen } => self.stop_token_take(*node, seen)?,
            CommandBody::StopTokenReturn { node } => self.stop_token_return(*node)?,
            CommandBody::StopTokenRevoke => drop(self.stop_token.take().ok_or(Refusal::StopTokenFree {})?),
            CommandBody::RemoveNode { node, incarnation } => self.remove_node(*node, *incarnation)?,
            CommandBody::SetLevel { level } => self.set_level(*level)?,
            CommandBody::SetMembers { shard, members, unchanged_since } => {
                self.set_members(*shard, members, *unchanged_since)?;
            }
            CommandBody::RetireFrontends { frontends } => self.retire_frontends(command, frontends)?,
            CommandBody::DrainNode { node, incarnation } => self.registry.drain(*node, *incarnation)?,
            CommandBody::ResumeNode { node } => self.registry.resume(*node)?,
            CommandBody::SetServiceTags(tags) => self.set_service_tags(command, tags)?,
            CommandBody::HealthChanged(changes) => self.health_changed(command.stamped_unix_ms, changes)?,
        }
        Ok(Yield::Nothing)
    }

    fn shard_at(&mut self, id: ShardId, epoch: u32) -> Result<&mut Shard, Refusal> {
        match self.shards.get_mut(&id) {
            None => Err(Refusal::ShardUnknown { shard: id }),
            Some(shard) if shard.epoch != epoch => {
                Err(Refusal::ShardInAnotherEpoch { shard: id, epoch: shard.epoch, named: epoch })
            }
            Some(shard) => Ok(shard),
        }
    }

    /// Lets `change` edit a copy of the shard, with the rest of the state to read; stored if it succeeds.
    fn with_shard(
        &mut self,
        id: ShardId,
        epoch: u32,
        change: impl FnOnce(&mut Shard, &Self) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut shard = self.shard_at(id, epoch)?.clone();
        change(&mut shard, self)?;
        self.shards.insert(id, shard);
        Ok(())
    }

    fn register(&mut self, registration: &Registration) -> Result<Yield, Refusal> {
        let (life, replaced) = self.registry.register(self.index.0, self.level, registration)?;
        if let Some(old) = replaced {
            for shard in self.shards.values_mut() {
                shard.replace(self.index, old, life);
            }
        }
        Ok(Yield::Incarnation(life))
    }

    fn control_conf_applied(&mut self, voters: &[u64]) -> Result<(), Refusal> {
        let distinct: BTreeSet<u64> = voters.iter().copied().collect();
        if distinct.is_empty() || voters.len() > crate::limits::NODES_MAX * 2 {
            return Err(Refusal::NoControlConfiguration {});
        }
        self.control_applied = distinct.into_iter().collect();
        Ok(())
    }

    pub(crate) fn settle(&mut self, command: &Command, hints: &[PortLoad]) {
        let with = settle_with(self.index, self.stamped_unix_ms, &self.desired, command, hints);
        self.allocation.settle(&with);
        if self.add_own_addresses() {
            let with = settle_with(self.index, self.stamped_unix_ms, &self.desired, command, hints);
            self.allocation.settle(&with);
        }
        self.place_new_shards();
    }

    /// Who may stop: one node at a time, and only if every shard has its full redundancy, by the map, by the configuration
    /// that its group reported, and by what its owner measured (N3). A shard that lacks nothing but this node's next life
    /// does not refuse: the node holds nothing of it that a stop could take away, and there is no other way to fill it.
    fn stop_token_take(&mut self, node: NodeId, seen: &[InStep]) -> Result<(), Refusal> {
        let Some(incarnation) = self.registry.newest(node) else {
            return Err(Refusal::StopOfUnregistered { node });
        };
        match self.stop_token {
            Some(token) if token.holder == node => return Ok(()),
            Some(token) => {
                return Err(Refusal::StopTokenTaken { holder: token.holder, taken: token.taken });
            }
            None => {}
        }
        let wanted = self.replicas_wanted();
        let measured = |id: ShardId, shard: &Shard| {
            seen.iter().any(|s| (s.shard, s.epoch) == (id, shard.epoch) && same(&s.lives, &shard.members))
        };
        let redundant = |id: ShardId, shard: &Shard| {
            let full =
                whole(shard, wanted) || (settled(shard) && shard.awaits_next_life_of(incarnation, &self.registry));
            full && same(&shard.voters, &shard.members) && measured(id, shard)
        };
        // One that no node holds has nothing to lose.
        let mut placed = self.shards.iter().filter(|(_, shard)| shard.origin != Origin::Unplaced);
        if let Some((id, _)) = placed.find(|(id, shard)| !redundant(**id, shard)) {
            return Err(Refusal::ShardNotRedundant { shard: *id });
        }
        self.stop_token = Some(StopToken { holder: node, incarnation, taken: self.index });
        Ok(())
    }

    fn stop_token_return(&mut self, node: NodeId) -> Result<(), Refusal> {
        match self.stop_token {
            Some(token) if token.holder == node => {
                self.stop_token = None;
                Ok(())
            }
            Some(token) => Err(Refusal::StopTokenOfAnother { holder: token.holder }),
            None => Err(Refusal::StopTokenFree {}),
        }
    }

    fn remove_node(&mut self, node: NodeId, named: Incarnation) -> Result<(), Refusal> {
        let last = self.registry.remove(node, named)?;
        if self.stop_token.is_some_and(|token| token.holder == node) {
            self.stop_token = None;
        }
        let Some(old) = last else { return Ok(()) };
        let mut load = Load::of(&self.registry, self.shards.values());
        for shard in self.shards.values_mut() {
            let Some(rank) = shard.members.iter().position(|life| *life == old) else { continue };
            let free = |(_, life): &(NodeId, Incarnation)| {
                !shard.members.contains(life) && !shard.leaving.contains(life) && !shard.moved_out.contains(life)
            };
            let candidates: Vec<_> = self.registry.eligible().filter(free).collect();
            // Nobody may join an epoch that is being sealed; the next one is filled up again.
            let chosen = match shard.sealing {
                Some(_) => None,
                None => load.least(rank, candidates.iter().map(|(node, _)| *node)),
            };
            let substitute = candidates.iter().find(|(node, _)| Some(*node) == chosen).map(|(_, life)| *life);
            shard.drop_member(self.index, old, substitute);
            if let Some(node) = chosen {
                load.add(node, rank);
            }
        }
        Ok(())
    }

    fn set_level(&mut self, level: u16) -> Result<(), Refusal> {
        if level < self.level {
            return Err(Refusal::LevelLowered { level: self.level });
        }
        if let Some((node, n)) = self.registry.members().find(|(_, n)| n.incarnation.is_some() && n.level < level) {
            return Err(Refusal::LevelTooHigh { node, supports: n.level });
        }
        self.level = level;
        Ok(())
    }

    fn set_members(
        &mut self,
        id: ShardId,
        nodes: &[NodeId],
        unchanged_since: Option<ControlIndex>,
    ) -> Result<(), Refusal> {
        let index = self.index;
        let Some(shard) = self.shards.get_mut(&id) else {
            return Err(Refusal::ShardUnknown { shard: id });
        };
        if let Some(since) = unchanged_since
            && since != shard.changed
        {
            return Err(Refusal::ShardChanged { shard: id, changed: shard.changed });
        }
        let distinct: BTreeSet<NodeId> = nodes.iter().copied().collect();
        if nodes.is_empty() || distinct.len() != nodes.len() || nodes.len() > validate::REPLICAS_MAX as usize {
            return Err(Refusal::MembersNotDistinct {});
        }
        let mut members = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(life) = self.registry.newest(*node) else {
                return Err(Refusal::NodeNotRegistered { node: *node });
            };
            members.push(life);
        }
        shard.set_members(index, members)
    }

    /// The proposer has waited until every hold of the frontends' flows has ended. A shard goes with its last frontend.
    fn retire_frontends(&mut self, command: &Command, ids: &[FrontendId]) -> Result<(), Refusal> {
        let mut why = None;
        let mut left: BTreeSet<ShardId> = BTreeSet::new();
        for id in ids {
            match self.retired(*id) {
                Ok(shard) => _ = left.insert(shard),
                Err(refusal) => why = why.or(Some(refusal)),
            }
        }
        if left.is_empty() {
            return Err(why.unwrap_or(Refusal::NoFrontendNamed {}));
        }
        let stay: BTreeSet<ShardId> = self.allocation.frontends.values().map(|frontend| frontend.shard).collect();
        for shard in left.difference(&stay) {
            if let Some(retired) = self.shards.remove(shard) {
                self.free_shards.insert(*shard, retired.epoch);
            }
        }
        self.settle(command, &[]);
        Ok(())
    }

    /// Takes one frontend out, and says of which shard it was.
    fn retired(&mut self, id: FrontendId) -> Result<ShardId, Refusal> {
        let Some(frontend) = self.allocation.frontends.get(&id) else {
            return Err(Refusal::FrontendUnknown { frontend: id });
        };
        let shard = frontend.shard;
        if frontend.declared == Declared::Yes {
            return Err(Refusal::FrontendDeclared { frontend: id });
        }
        if self.allocation.in_use(id) {
            return Err(Refusal::FrontendInUse { frontend: id });
        }
        self.allocation.frontends.remove(&id);
        Ok(shard)
    }

    fn prune_lives(&mut self) {
        let registry = &self.registry;
        for shard in self.shards.values_mut() {
            shard.moved_out.retain(|life| !registry.gone(*life));
        }
        let referred: BTreeSet<Incarnation> = self.shards.values().flat_map(Shard::lives).collect();
        self.registry.prune(&referred);
    }
}

fn settle_with<'a>(
    index: ControlIndex,
    stamped_unix_ms: u64,
    desired: &'a Desired,
    command: &Command,
    hints: &'a [PortLoad],
) -> Settle<'a> {
    let stamped_unix_ms = stamped_unix_ms.max(command.stamped_unix_ms);
    Settle { index, stamped_unix_ms, draw: command.draw, desired, hints }
}

/// Whether these are the same replicas, in whatever order.
fn same(these: &[Incarnation], those: &[Incarnation]) -> bool {
    these.iter().collect::<BTreeSet<_>>() == those.iter().collect()
}

/// Whether the map of a shard is at its full redundancy and not changing.
pub(crate) fn whole(shard: &Shard, wanted: usize) -> bool {
    settled(shard) && shard.members.len() >= wanted
}

fn settled(shard: &Shard) -> bool {
    shard.sealing.is_none() && shard.leaving.is_empty()
}

fn already(index: u64, applied: ControlIndex) -> Outcome {
    Outcome::Refused(Refusal::EntryNotNext { index: ControlIndex(index), applied })
}
