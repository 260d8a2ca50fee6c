//! The flow half of a member: routes between the flow groups, the worker, the peers and the control half.
//!
//! Sans-IO. It adds no rule of its own but one: a peer's frame counts only if the incarnation that it claims is a life
//! of the node that the transport proved (N1). Driven by the daemon's flow actor and by the simulator.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use consensus::event::{FlowEffect, FlowInput, GroupHealth, Passage, Report};
use consensus::flow::{FlowGroups, GroupStatus};
use engine::event::{GroupEvent, Last, WorkerOutput};
use engine::histogram::Histogram;
use engine::links::Standing;
use engine::snapshot::Snapshot;
use engine::soundings::Passing;
use words::{ControlIndex, Epoch, Incarnation, LeaseWord, NodeId, PortBlock, ShardId, Term};

use super::frame::{channel_of, flow_frame, split_flow_frame};
use super::view::View;
use words::time::MS;

/// Versions of the configuration that wait for their load barrier (F2); older ones are of no use.
const WAITING_SNAPSHOTS_MAX: usize = 16;
/// How often the owners that are heard are told anew.
const HEARD_REPEAT_NS: u64 = 100 * MS;

/// What the worker is handed, in order.
#[derive(Clone, Debug)]
pub enum WorkerInput {
    /// Of a flow group.
    Event(GroupEvent),
    /// A new configuration, cleared for loading (F2).
    Snapshot(Arc<Snapshot>),
}

/// What the control half has to know or to propose.
#[derive(Clone, Debug)]
pub enum ControlDuty {
    /// The shards of which an owner is heard, and of which epoch; told at each change and again and again, since the word of
    /// a flow half that hangs must not live on.
    Owners { heard: BTreeMap<ShardId, u32> },
    /// Voters of the shard's applied, not joint, configuration, as its leader has them, and whether that leader has served
    /// in this epoch. `in_step`: those that it hears and that have what is committed.
    Voters { shard: ShardId, epoch: u32, voters: Vec<Incarnation>, in_step: Vec<Incarnation>, served: bool },
    /// The applied configuration holds these no longer (N1).
    Removed { shard: ShardId, epoch: u32, gone: Vec<Incarnation> },
    /// This node's replica is sealed (N4).
    Sealed { shard: ShardId, epoch: u32, last_term: u64, last_index: u64 },
    /// A fence is committed (F5).
    Fenced { shard: ShardId, epoch: u32, block: PortBlock, reclaim_index: ControlIndex },
    /// A graceful stop has handed everything over that it could; so many groups found no taker.
    Stopped { kept: u32 },
}

impl ControlDuty {
    /// Whether it is said again and again by itself, so that it may be left out while what was said before is unread.
    #[must_use]
    pub const fn comes_again(&self) -> bool {
        matches!(self, Self::Owners { .. } | Self::Voters { .. })
    }
}

/// What the driver has to do, in order (L2).
#[derive(Clone, Debug)]
pub enum FlowOut {
    /// Send on a channel of its own per group.
    Send { to: NodeId, channel: u32, frame: Bytes },
    /// Send bulk bytes; may wait for space.
    SendBulk { to: NodeId, channel: u32, frame: Bytes },
    /// Write the lease word.
    Word { shard: ShardId, word: LeaseWord },
    /// Hand to the worker.
    Worker(WorkerInput),
    /// Hand to the control half.
    Control(ControlDuty),
}

/// The flow half of one life of a node.
#[derive(Debug)]
pub struct FlowMember {
    me: Incarnation,
    groups: FlowGroups,
    view: Arc<View>,
    waiting: VecDeque<Arc<Snapshot>>,
    report: Report,
    healthy: Vec<GroupHealth>,
    strangers: u64,
    /// Owner last known of each shard, and how often another one followed.
    leaders: BTreeMap<ShardId, (Incarnation, u64)>,
    /// Shards with an owner, and its epoch; when that was told last.
    heard: BTreeMap<ShardId, u32>,
    heard_told_ns: Option<u64>,
    /// The terms in which this node has served.
    served: BTreeMap<ShardId, Term>,
    failovers: Histogram,
    /// What an effect means beyond its first meaning.
    also: VecDeque<FlowOut>,
}

impl FlowMember {
    /// Begins the flow half of incarnation `me`, under the version of the control state that registered it.
    #[must_use]
    pub fn new(me: Incarnation, view: Arc<View>, seed: u64, now_ns: u64) -> Self {
        let groups = FlowGroups::new(me, view.timing, seed, now_ns);
        let report = Report { links_up: true, ..Report::default() };
        let mut member = Self {
            me,
            groups,
            view: Arc::clone(&view),
            waiting: VecDeque::new(),
            report,
            healthy: Vec::new(),
            strangers: 0,
            leaders: BTreeMap::new(),
            heard: BTreeMap::new(),
            heard_told_ns: None,
            served: BTreeMap::new(),
            failovers: Histogram::default(),
            also: VecDeque::new(),
        };
        member.handle_view(now_ns, view);
        member
    }

    /// See `FlowGroups::set_retained_entries`.
    pub const fn set_retained_entries(&mut self, entries: u64) {
        self.groups.set_retained_entries(entries);
    }

    /// A newer version of the control state.
    pub fn handle_view(&mut self, now_ns: u64, view: Arc<View>) {
        let nodes = view.newest.values().copied().collect();
        self.groups.handle(now_ns, FlowInput::Nodes(nodes));
        let specs = FlowInput::Specs { control_index: view.control_index.0, specs: view.specs.clone() };
        self.groups.handle(now_ns, specs);
        if self.waiting.len() == WAITING_SNAPSHOTS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Arc::clone(&view.snapshot));
        self.report.control_ready = view.control_index.0;
        self.heard.retain(|shard, _| view.epochs.contains_key(shard));
        self.view = view;
        self.groups.handle(now_ns, FlowInput::Report(Box::new(self.report)));
    }

    /// A frame of the node `from`, as the transport proved it.
    pub fn handle_peer(&mut self, now_ns: u64, from: NodeId, bytes: &Bytes) {
        let known = split_flow_frame(bytes).filter(|(life, _)| self.view.node_of.get(life) == Some(&from));
        match known {
            Some((life, frame)) => self.groups.handle(now_ns, FlowInput::Peer { from: life, frame }),
            None => self.strangers += 1,
        }
    }

    /// Something that the worker says.
    pub fn handle_worker(&mut self, now_ns: u64, output: WorkerOutput) -> Option<ControlDuty> {
        let input = match output {
            WorkerOutput::Propose { shard, term, stream, sequence, entry } => {
                FlowInput::Propose { group: shard, term: term.0, stream, sequence, entry }
            }
            WorkerOutput::Applied { shard, epoch, index, control_index } => {
                FlowInput::Applied { group: shard, epoch: Epoch(epoch), index: index.0, control_index: control_index.0 }
            }
            WorkerOutput::Serving { shard, term, state } => {
                if state.is_ok() {
                    self.serves(now_ns, shard, term);
                }
                FlowInput::Serving { group: shard, term: term.0, state: state.map_err(|why| why as u8) }
            }
            WorkerOutput::SnapshotLoaded { control_index } => {
                self.report.control_loaded = control_index.0;
                FlowInput::Report(Box::new(self.report))
            }
            WorkerOutput::Chunk { shard, transfer, base, until, last, chunk } => FlowInput::Chunk {
                group: shard,
                transfer,
                base: base.0,
                until: until.0,
                last: last == Last::Yes,
                chunk,
            },
            WorkerOutput::Fenced { shard, epoch, block, reclaim_index } => {
                return Some(ControlDuty::Fenced { shard, epoch, block, reclaim_index });
            }
        };
        self.groups.handle(now_ns, input);
        None
    }

    /// The data links went up or down, or their networks began or ceased to carry frames (F7).
    pub fn set_links(&mut self, now_ns: u64, links: &Standing) {
        let Standing { outside_up: links_up, outside, lacking, silent, unproved } = *links;
        let report = Report { links_up, passage: passage(outside), lacking, silent, unproved, ..self.report };
        if report != self.report {
            self.report = report;
            self.groups.handle(now_ns, FlowInput::Report(Box::new(report)));
        }
    }

    /// The worker's loop passed last at `at_ns` (L1, F7). Told before each tick, and whenever it is cheap.
    pub fn worker_turned(&mut self, now_ns: u64, at_ns: u64) {
        self.groups.handle(now_ns, FlowInput::Turned { at_ns });
    }

    /// Begins the graceful stop: all leaderships go to others (N3).
    pub fn stop(&mut self, now_ns: u64) {
        self.report.stopping = true;
        self.groups.handle(now_ns, FlowInput::Report(Box::new(self.report)));
        self.groups.handle(now_ns, FlowInput::Stop);
    }

    /// Runs what is due; call about every millisecond.
    pub fn tick(&mut self, now_ns: u64) {
        self.groups.tick(now_ns);
        if self.heard_told_ns.is_none_or(|told| now_ns.saturating_sub(told) >= HEARD_REPEAT_NS) {
            self.tell_heard(now_ns);
        }
    }

    fn tell_heard(&mut self, now_ns: u64) {
        self.heard_told_ns = Some(now_ns);
        self.also.push_back(FlowOut::Control(ControlDuty::Owners { heard: self.heard.clone() }));
    }

    /// The next thing to do; do it before asking again.
    pub fn poll(&mut self, now_ns: u64) -> Option<FlowOut> {
        if let Some(out) = self.also.pop_front() {
            return Some(out);
        }
        loop {
            let effect = self.groups.poll(now_ns)?;
            if let Some(out) = self.route(now_ns, effect) {
                return Some(out);
            }
        }
    }

    /// This life.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.me
    }

    /// What this node reports to the others.
    #[must_use]
    pub const fn report(&self) -> Report {
        self.groups.report()
    }

    /// Every group of this node.
    #[must_use]
    pub fn status(&self, now_ns: u64) -> Vec<GroupStatus> {
        self.groups.status(now_ns)
    }

    /// Last health of each group that this node leads or led.
    #[must_use]
    pub fn health(&self) -> &[GroupHealth] {
        &self.healthy
    }

    /// The version of the control state in use.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Frames from incarnations that were not the sender's.
    #[must_use]
    pub const fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Frames that the groups dropped, by reason.
    #[must_use]
    pub const fn groups(&self) -> &FlowGroups {
        &self.groups
    }

    /// Takeovers by the time from the last word of the former leader to serving; a shard's first owner takes nothing over.
    #[must_use]
    pub const fn failovers(&self) -> &Histogram {
        &self.failovers
    }

    /// How often each shard's owner changed, as this node was told.
    #[must_use]
    pub fn leader_changes(&self) -> BTreeMap<ShardId, u64> {
        self.leaders.iter().map(|(shard, (_, changes))| (*shard, *changes)).collect()
    }

    /// The worker serves; it may say so again in the same term, when a link came back.
    fn serves(&mut self, now_ns: u64, shard: ShardId, term: Term) {
        if self.served.insert(shard, term) != Some(term)
            && let Some(heard_ns) = self.groups.leader_heard_ns(shard)
        {
            self.failovers.record(now_ns.saturating_sub(heard_ns));
        }
    }

    fn route(&mut self, now_ns: u64, effect: FlowEffect) -> Option<FlowOut> {
        let event = match effect {
            FlowEffect::Send { to, group, frame } => {
                let (to, frame) = self.addressed(to, &frame)?;
                return Some(FlowOut::Send { to, channel: channel_of(group), frame });
            }
            FlowEffect::SendBulk { to, group, frame } => {
                let (to, frame) = self.addressed(to, &frame)?;
                return Some(FlowOut::SendBulk { to, channel: channel_of(group), frame });
            }
            FlowEffect::Word { group, word } => return Some(FlowOut::Word { shard: group, word }),
            FlowEffect::MayLoad { control_index } => return self.cleared(control_index).map(FlowOut::Worker),
            FlowEffect::Health(health) => return self.health_of(now_ns, health).map(FlowOut::Control),
            FlowEffect::Removed { group, epoch, gone } => {
                let duty = ControlDuty::Removed { shard: group, epoch: epoch.0, gone };
                return Some(FlowOut::Control(duty));
            }
            FlowEffect::Sealed { group, epoch, last_term, last_index } => {
                let duty = ControlDuty::Sealed { shard: group, epoch: epoch.0, last_term, last_index };
                return Some(FlowOut::Control(duty));
            }
            FlowEffect::Stopped { kept } => return Some(FlowOut::Control(ControlDuty::Stopped { kept })),
            FlowEffect::Owner { group, term, owner } => {
                let (shard, epoch) = (group, Term(term).epoch().0);
                match owner {
                    Some(_) => self.heard.insert(shard, epoch),
                    None => self.heard.remove(&shard),
                };
                self.tell_heard(now_ns);
                if let Some(life) = owner {
                    let known = self.leaders.entry(shard).or_insert((life, 0));
                    *known = (life, known.1 + u64::from(known.0 != life));
                }
                let node = owner.and_then(|life| self.view.node_of.get(&life).copied());
                GroupEvent::Owner { shard, term: Term(term), node }
            }
            FlowEffect::Worker(event) => event,
            FlowEffect::Reopened { group, epoch } => {
                let control_index = self.view.control_index;
                GroupEvent::Reopened { shard: group, epoch: epoch.0, control_index }
            }
        };
        Some(FlowOut::Worker(WorkerInput::Event(event)))
    }

    /// What a leader knows of its group, for status and for the control half.
    fn health_of(&mut self, now_ns: u64, health: GroupHealth) -> Option<ControlDuty> {
        let shard = health.group;
        let epoch = health.epoch.0;
        let voters = health.voters.iter().map(|(life, _)| *life).collect();
        let up = health.voters.iter().filter(|(_, up)| *up);
        let in_step = up.map(|(life, _)| *life).collect();
        let joint = self.is_joint(health.group, now_ns);
        self.healthy.retain(|known| known.group != health.group);
        self.healthy.push(health);
        let served = self.served.get(&shard).is_some_and(|term| term.epoch().0 == epoch);
        (!joint).then_some(ControlDuty::Voters { shard, epoch, voters, in_step, served })
    }

    fn is_joint(&self, group: ShardId, now_ns: u64) -> bool {
        self.groups.status(now_ns).iter().any(|status| status.group == group && !status.outgoing.is_empty())
    }

    fn addressed(&self, to: Incarnation, frame: &[u8]) -> Option<(NodeId, Bytes)> {
        let node = self.view.node_of.get(&to).copied()?;
        Some((node, flow_frame(self.me, frame)))
    }

    /// The newest waiting configuration that the barrier lets through.
    fn cleared(&mut self, control_index: u64) -> Option<WorkerInput> {
        let mut newest = None;
        while self.waiting.front().is_some_and(|waiting| waiting.control_index.0 <= control_index) {
            newest = self.waiting.pop_front();
        }
        newest.map(WorkerInput::Snapshot)
    }
}

const fn passage(passing: Passing) -> Passage {
    match passing {
        Passing::Unproved => Passage::Unproved,
        Passing::Yes => Passage::Passes,
        Passing::Silent => Passage::Silent,
    }
}

#[cfg(test)]
#[path = "flow_member_tests.rs"]
mod tests;
