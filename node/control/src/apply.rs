//! Applying the control log: one entry, one step (C1).
//!
//! Deterministic and total: whatever the bytes are, every replica comes to the same state and outcome. A refused command
//! changes nothing but the applied index and the memory of keys. It must never look at a clock or at anything outside
//! the state and the entry. Called by the control group's actor for each committed entry, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{BackendId, ControlIndex, FrontendId, Incarnation, NodeId, ShardId, VnetId};

use crate::allocation::{Backend, Declared, Frontend, Settle};
use crate::command::{Command, CommandBody, Configure, InStep, PortLoad, Registration};
use crate::limits::{BACKENDS_MAX, HINTS_MAX};
use crate::outcome::{Outcome, Refusal, Yield, refuse};
use crate::parts::Parts;
use crate::resource::{Desired, Instance, IpConfiguration};
use crate::shards::{Load, Origin, Shard, lowest_free_id, placement};
use crate::state::{State, StopToken};
use crate::{parts, plan, validate};

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
            Err(error) => {
                self.index = ControlIndex(index);
                Outcome::refused(
                    format!("the entry cannot be read: {error}"),
                    "propose it again, from a fitting version",
                )
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
        let outcome = match self.step(command) {
            Ok(result) => {
                self.stamped_unix_ms = self.stamped_unix_ms.max(command.stamped_unix_ms);
                self.prune_lives();
                Outcome::Applied { index: self.index, result }
            }
            Err(refusal) => Outcome::refused(refusal.why, refusal.remedy),
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
            CommandBody::StopTokenRevoke => match self.stop_token.take() {
                Some(_) => {}
                None => return refuse("nobody holds the stop token", "nothing to do"),
            },
            CommandBody::RemoveNode { node, incarnation } => self.remove_node(*node, *incarnation)?,
            CommandBody::SetLevel { level } => self.set_level(*level)?,
            CommandBody::SetMembers { shard, members, unchanged_since } => {
                self.set_members(*shard, members, *unchanged_since)?;
            }
            CommandBody::RetireFrontend { shard } => self.retire_frontend(command, *shard)?,
            CommandBody::DrainNode { node, incarnation } => self.registry.drain(*node, *incarnation)?,
            CommandBody::ResumeNode { node } => self.registry.resume(*node)?,
        }
        Ok(Yield::Nothing)
    }

    fn shard_at(&mut self, id: ShardId, epoch: u32) -> Result<&mut Shard, Refusal> {
        match self.shards.get_mut(&id) {
            None => refuse(format!("shard {id} does not exist"), "see qnat get shards"),
            Some(shard) if shard.epoch != epoch => {
                refuse(format!("shard {id} is in epoch {}, not {epoch}", shard.epoch), "the command is late: ignore it")
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
        if distinct.is_empty() || voters.len() > crate::registry::NODES_MAX * 2 {
            return refuse("this is no configuration of the control group", "report what raft applied");
        }
        self.control_applied = distinct.into_iter().collect();
        Ok(())
    }

    fn settle(&mut self, command: &Command, hints: &[PortLoad]) {
        let with = settle_with(self.index, self.stamped_unix_ms, &self.desired, command, hints);
        self.allocation.settle(&with);
    }

    /// Who may stop: one node at a time, and only if every shard has its full redundancy, by the map, by the configuration
    /// that its group reported, and by what its owner measured (N3). A shard that lacks nothing but this node's next life
    /// does not refuse: the node holds nothing of it that a stop could take away, and there is no other way to fill it.
    fn stop_token_take(&mut self, node: NodeId, seen: &[InStep]) -> Result<(), Refusal> {
        let Some(incarnation) = self.registry.newest(node) else {
            return refuse(format!("node {node} is not registered"), "only a running member can stop");
        };
        match self.stop_token {
            Some(token) if token.holder == node => return Ok(()),
            Some(token) => {
                return refuse(
                    format!("node {} holds the stop token since index {}", token.holder, token.taken),
                    "wait until it is back, or take the token back: qnat stop-token revoke",
                );
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
            return refuse(
                format!("shard {id} is not fully redundant"),
                "wait until it is: qnat status; to stop without the token: qnat stop --now",
            );
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
            Some(token) => refuse(format!("node {} holds the stop token", token.holder), "only its holder returns it"),
            None => refuse("nobody holds the stop token", "nothing to do"),
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
            return refuse(format!("the cluster is at level {} already", self.level), "levels are never lowered");
        }
        if let Some((node, n)) = self.registry.members().find(|(_, n)| n.incarnation.is_some() && n.level < level) {
            return refuse(format!("node {node} supports level {} only", n.level), "upgrade it first");
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
            return refuse(format!("shard {id} does not exist"), "see qnat get shards");
        };
        if let Some(since) = unchanged_since
            && since != shard.changed
        {
            return refuse(format!("shard {id} has changed at index {}", shard.changed), "look again and decide anew");
        }
        let distinct: BTreeSet<NodeId> = nodes.iter().copied().collect();
        if nodes.is_empty() || distinct.len() != nodes.len() || nodes.len() > validate::REPLICAS_MAX as usize {
            return refuse("members must be distinct nodes", format!("name 1 to {}", validate::REPLICAS_MAX));
        }
        let mut members = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(life) = self.registry.newest(*node) else {
                return refuse(format!("node {node} is not registered"), "start it first");
            };
            members.push(life);
        }
        shard.set_members(index, members)
    }

    /// The proposer has waited until every hold of the frontend's flows has ended.
    fn retire_frontend(&mut self, command: &Command, shard: ShardId) -> Result<(), Refusal> {
        let Some(id) = self.frontends_of(shard).next() else {
            return refuse(format!("shard {shard} does not exist"), "nothing to do");
        };
        if self.allocation.frontends[&id].declared == Declared::Yes {
            return refuse(format!("frontend {id} is declared"), "remove it from the configuration first");
        }
        if self.allocation.in_use(id) {
            return refuse(format!("frontend {id} has leases or draining blocks"), "wait until they are reclaimed");
        }
        self.allocation.frontends.remove(&id);
        if let Some(retired) = self.shards.remove(&shard) {
            self.free_shards.insert(shard, retired.epoch);
        }
        self.settle(command, &[]);
        Ok(())
    }

    fn configure(&mut self, command: &Command, configure: &Configure) -> Result<(), Refusal> {
        let desired = &configure.desired;
        if let Some(issue) = validate::issues(desired).first() {
            return refuse(format!("{} = {}: {}", issue.path, issue.value, issue.problem), issue.remedy.clone());
        }
        if configure.hints.len() > HINTS_MAX {
            return refuse("too many flow counts", format!("send at most {HINTS_MAX}"));
        }
        if let Some(hash) = configure.base_hash
            && hash != plan::hash(self, desired)
        {
            return refuse(
                "blocks or configuration have changed since the plan was made",
                "plan again: qnat apply --dry-run -f FILE",
            );
        }
        self.refuse_impossible(desired)?;
        self.parts = None;
        self.desired = desired.clone();
        self.name_networks();
        self.declare_frontends();
        self.declare_backends();
        self.settle(command, &configure.hints);
        self.place_new_shards();
        Ok(())
    }

    /// What the running state does not allow. Everything that can fail is here, before anything changes.
    fn refuse_impossible(&self, desired: &Desired) -> Result<(), Refusal> {
        let (old, new) = (&self.desired.settings, &desired.settings);
        let timing = |s: &crate::resource::Settings| (s.tick_ms, s.heartbeat_ticks, s.vote_ticks);
        if timing(old) != timing(new) && !self.shards.is_empty() {
            // E1, L1: V is one value for all; a lease of the old length would outlive a vote of the new one.
            return refuse(
                "settings.tick_ms, heartbeat_ticks and vote_ticks cannot change while shards exist",
                format!("keep {}, {} and {}", old.tick_ms, old.heartbeat_ticks, old.vote_ticks),
            );
        }
        for public in desired.public_ips.values() {
            let known = self.allocation.frontends.iter().find(|(_, f)| f.ip == public.address);
            let Some((id, frontend)) = known else { continue };
            let added: BTreeSet<u16> = public.reserved_ports.difference(&frontend.reserved).copied().collect();
            if let Some((port, backend)) = self.allocation.user_of(*id, &added) {
                return refuse(
                    format!("port {port} of {} cannot be reserved: it is leased to backend {backend}", public.address),
                    "reserve ports before backends join, or take that backend out of its pool until its blocks have drained",
                );
            }
        }
        let old = self.allocation.backends.len();
        let new = desired.instances.values().map(|instance| instance.ip_configurations.len()).sum::<usize>();
        if old + new > BACKENDS_MAX {
            let known: BTreeSet<(&str, Ipv4Addr)> = desired
                .instances
                .values()
                .flat_map(|instance| &instance.ip_configurations)
                .map(|ip| (ip.virtual_network.as_str(), ip.private_ip))
                .collect();
            let names: BTreeMap<VnetId, &str> = self.vnets.iter().map(|(name, id)| (*id, name.as_str())).collect();
            let stays = |b: &&Backend| names.get(&b.vnet).is_some_and(|name| known.contains(&(*name, b.ip)));
            let leaving = old - self.allocation.backends.values().filter(stays).count();
            if new + leaving > BACKENDS_MAX {
                return refuse(
                    format!("{new} IP configurations and {leaving} that are on their way out are too many"),
                    format!("at most {BACKENDS_MAX}; wait until the old ones have drained: qnat get backends"),
                );
            }
        }
        let wanted = frontend_addresses(desired);
        let leaving = self.allocation.frontends.values().filter(|f| !wanted.contains_key(&f.ip)).count();
        if wanted.len() + leaving > validate::FRONTENDS_MAX {
            return refuse(
                format!("{} frontends and {leaving} that are on their way out are too many", wanted.len()),
                format!(
                    "at most {}; wait until the old ones have drained: qnat get frontends",
                    validate::FRONTENDS_MAX
                ),
            );
        }
        Ok(())
    }

    fn name_networks(&mut self) {
        self.vnets.retain(|name, _| self.desired.virtual_networks.contains_key(name));
        for name in self.desired.virtual_networks.keys() {
            if !self.vnets.contains_key(name) {
                self.last_vnet = VnetId(self.last_vnet.0 + 1);
                self.vnets.insert(name.clone(), self.last_vnet);
            }
        }
    }

    fn declare_frontends(&mut self) {
        let mut wanted = frontend_addresses(&self.desired);
        for frontend in self.allocation.frontends.values_mut() {
            match wanted.remove(&frontend.ip) {
                Some(reserved) => {
                    frontend.declared = Declared::Yes;
                    frontend.reserved = reserved;
                }
                None => frontend.declared = Declared::No,
            }
        }
        for (ip, reserved) in wanted {
            let shard = lowest_free_id(&self.shards, &self.free_shards).expect("at most FRONTENDS_MAX ids are in use");
            let epoch = self.free_shards.remove(&shard).unwrap_or(0);
            self.shards.insert(shard, Shard { epoch, ..Shard::unplaced(self.index) });
            let id = FrontendId(self.allocation.last_frontend.0 + 1);
            self.allocation.last_frontend = id;
            let frontend = Frontend { ip, shard, reserved, declared: Declared::Yes, idle_since_unix_ms: None };
            self.allocation.frontends.insert(id, frontend);
        }
    }

    fn declare_backends(&mut self) {
        let mut by_address: BTreeMap<(VnetId, Ipv4Addr), BackendId> = BTreeMap::new();
        for (id, backend) in &mut self.allocation.backends {
            backend.declared = Declared::No;
            by_address.insert((backend.vnet, backend.ip), *id);
        }
        let each = |(name, instance): (&'_ String, &'_ Instance)| -> Vec<(String, IpConfiguration)> {
            instance.ip_configurations.iter().map(|ip| (name.clone(), ip.clone())).collect()
        };
        let wanted: Vec<(String, IpConfiguration)> = self.desired.instances.iter().flat_map(each).collect();
        for (instance, ip) in wanted {
            let vnet = self.vnets[&ip.virtual_network];
            let id = *by_address.entry((vnet, ip.private_ip)).or_insert_with(|| {
                self.allocation.last_backend = BackendId(self.allocation.last_backend.0 + 1);
                self.allocation.last_backend
            });
            let backend = self.allocation.backends.entry(id).or_insert_with(|| Backend {
                vnet,
                ip: ip.private_ip,
                mac: None,
                instance: String::new(),
                ip_configuration: String::new(),
                pool: None,
                declared: Declared::Yes,
                home: None,
                frontend: None,
                lease: Vec::new(),
                grant: 0,
            });
            backend.declared = Declared::Yes;
            backend.mac = ip.mac;
            backend.instance = instance;
            backend.ip_configuration = ip.name;
            backend.pool = ip.pool;
        }
    }

    /// Founds new shards on the nodes that are registered; `reconcile` extends them to later ones.
    fn place_new_shards(&mut self) {
        let nodes: BTreeSet<NodeId> = self.registry.eligible().map(|(node, _)| node).collect();
        let replicas = self.replicas_wanted();
        let mut load = Load::of(&self.registry, self.shards.values());
        for shard in self.shards.values_mut().filter(|shard| shard.members.is_empty()) {
            let chosen = placement(&mut load, &nodes, replicas);
            let lives: Vec<Incarnation> = chosen.iter().filter_map(|node| self.registry.newest(*node)).collect();
            if !lives.is_empty() {
                shard.set_members(self.index, lives).expect("a shard that is not placed takes any members");
            }
        }
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

/// Addresses that are a frontend of some load balancer, with their reserved ports.
fn frontend_addresses(desired: &Desired) -> BTreeMap<Ipv4Addr, BTreeSet<u16>> {
    let names = desired.load_balancers.values().flat_map(|balancer| &balancer.frontends);
    let publics = names.filter_map(|name| desired.public_ips.get(name));
    publics.map(|public| (public.address, public.reserved_ports.clone())).collect()
}

fn already(index: u64, applied: ControlIndex) -> Outcome {
    Outcome::refused(format!("entry {index} is not after {applied}, which is applied"), "apply entries in order, once")
}
