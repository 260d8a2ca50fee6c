//! All flow groups of one node: one loop drives them (F9). Inputs in, effects out, in order; time is an argument.
//!
//! Called by the daemon's flow-group thread (`handle` for each input, `tick` about every millisecond, then `poll` until it is
//! empty, performing the effects in the order given) and by the simulator. Knows nothing of NAT: entries are bytes.

pub mod admit;
mod barrier;
mod election;
pub mod frame;
mod group;
mod handover;
mod lease;
mod log;
mod membership;
mod owners;
mod peers;
mod recreate;
mod roles;
mod status;
mod transfer;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::ConfState;
use words::{Epoch, GroupEvent, Incarnation, LogIndex, ShardId, Term};

pub use group::status::{GroupStatus, Role, Waiting};

use crate::event::{FlowEffect, FlowInput, GroupSpec, Passage, Report, Sealing, Timing};
use crate::flow::admit::FrameDrop;
use crate::flow::barrier::{LoadBarrier, Reports};
use crate::flow::election::Ticker;
use crate::flow::frame::{Frame, Key, Owned};
use crate::flow::group::{Batch, Effects, FlowGroup, RETAINED_ENTRIES, Seed, Standing, first_term};
use crate::flow::handover::Leaving;
use crate::flow::owners::Owners;
use crate::flow::recreate::{Before, Beginning, Begun};
use crate::flow::transfer::{Joining, Scanned};
use crate::flow::turns::Turns;

/// How often a member without a replica asks for one (F10).
const JOIN_REPEAT_NS: u64 = 50_000_000;
/// A joiner of an epoch that is being sealed repeats its report this often.
const SEALED_REPEAT_NS: u64 = 500_000_000;
/// How long a graceful stop waits for somebody to take the groups.
const STOP_WAIT_NS: u64 = 2_000_000_000;

/// All flow groups of one node.
#[derive(Debug)]
pub struct FlowGroups {
    me: Incarnation,
    timing: Timing,
    seed: u64,
    control_index: u64,
    specs: BTreeMap<ShardId, GroupSpec>,
    replicas: BTreeMap<ShardId, FlowGroup>,
    joining: BTreeMap<ShardId, Joining>,
    /// Epochs that this process has begun: never twice (N5).
    begun: BTreeSet<(ShardId, Epoch)>,
    /// Epochs of which this process said that it holds nothing, and when last: it never joins them (N4).
    abstained: BTreeMap<(ShardId, Epoch), u64>,
    mismatched: BTreeSet<ShardId>,
    /// Groups whose replica may have something ready.
    dirty: BTreeSet<ShardId>,
    nodes: BTreeSet<Incarnation>,
    owners: Owners,
    announced: (Vec<Owned>, u64),
    reports: Reports,
    turns: Turns,
    barrier: LoadBarrier,
    transfers: u64,
    retained_entries: u64,
    ticker: Ticker,
    out: Effects,
    drops: BTreeMap<FrameDrop, u64>,
    stopping_since_ns: Option<u64>,
    stopped: bool,
}

impl FlowGroups {
    /// A node without groups. `seed` only tells lives apart in traces.
    ///
    /// # Panics
    /// If `me` is 0 or a tick has no length.
    #[must_use]
    pub fn new(me: Incarnation, timing: Timing, seed: u64, now_ns: u64) -> Self {
        assert_ne!(me.0, 0, "an incarnation is never 0");
        Self {
            me,
            timing,
            seed,
            control_index: 0,
            specs: BTreeMap::new(),
            replicas: BTreeMap::new(),
            joining: BTreeMap::new(),
            begun: BTreeSet::new(),
            abstained: BTreeMap::new(),
            mismatched: BTreeSet::new(),
            dirty: BTreeSet::new(),
            nodes: BTreeSet::new(),
            owners: Owners::default(),
            announced: (Vec::new(), 0),
            reports: Reports::new(me),
            turns: Turns::default(),
            barrier: LoadBarrier::default(),
            transfers: 0,
            retained_entries: RETAINED_ENTRIES,
            ticker: Ticker::new(timing.tick_ns, now_ns),
            out: VecDeque::new(),
            drops: BTreeMap::new(),
            stopping_since_ns: None,
            stopped: false,
        }
    }

    /// Replicas that begin from now on keep so many entries for followers that lag; for tests, which want them to lag often.
    pub const fn set_retained_entries(&mut self, entries: u64) {
        self.retained_entries = entries;
    }

    /// Takes one input. Effects come out of `poll`.
    pub fn handle(&mut self, now_ns: u64, input: FlowInput) {
        match input {
            FlowInput::Specs { control_index, specs } => self.specify(control_index, specs, now_ns),
            FlowInput::Peer { from, frame } => self.peer(from, &frame, now_ns),
            FlowInput::Propose { group, term, stream, sequence, entry } => {
                self.propose(group, Batch { term, stream, sequence, entry });
            }
            FlowInput::Applied { group, epoch, index, control_index } => {
                if let Some(replica) = self.replicas.get_mut(&group).filter(|r| r.epoch() == epoch) {
                    replica.applied(index, control_index);
                }
            }
            FlowInput::Serving { group, term, state } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.serving(term, state.is_ok(), now_ns);
                }
            }
            FlowInput::Report(report) => self.set_report(*report, now_ns),
            FlowInput::Turned { at_ns } => {
                self.turns.stamped(at_ns);
                self.follow_turns(now_ns);
            }
            FlowInput::Chunk { group, transfer, base, until, last, chunk } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    let scanned = Scanned { transfer, base, until, last };
                    replica.scanned(scanned, chunk, now_ns, &mut self.out);
                }
            }
            FlowInput::Stop => self.stop(now_ns),
            FlowInput::Nodes(nodes) => {
                self.nodes = nodes.into_iter().filter(|id| *id != self.me).collect();
                self.forget_strangers();
            }
        }
    }

    /// Runs what is due. Call often; a tick happens only at its due time, and missed ones are skipped (E3).
    pub fn tick(&mut self, now_ns: u64) {
        if !self.ticker.take(now_ns) {
            return;
        }
        self.turns.tick();
        self.follow_turns(now_ns);
        let lease_bound_ns = self.turns.lease_bound_ns(&self.timing);
        let leaving = if self.turns.hang(&self.timing) { Leaving::Yes } else { Leaving::No };
        let groups: Vec<ShardId> = self.replicas.keys().copied().collect();
        for group in groups {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            replica.bound_lease(lease_bound_ns);
            replica.tick(now_ns, &mut self.out);
            replica.lead(&self.reports, leaving, now_ns, &mut self.out);
            replica.compact();
            if !replica.is_kept() {
                self.drop_replica(group);
            }
        }
        self.abstain(now_ns);
        self.ask_for_tables(now_ns);
        self.follow_roles(now_ns);
        self.send_report(now_ns);
        self.poll_barrier(now_ns);
        self.finish_stop(now_ns);
    }

    /// The next effect; to be performed before the one after it. `None`: nothing to do until the next input or tick.
    pub fn poll(&mut self, now_ns: u64) -> Option<FlowEffect> {
        if self.out.is_empty() && !self.dirty.is_empty() {
            for group in std::mem::take(&mut self.dirty) {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.settle(now_ns, &mut self.out);
                }
            }
            self.follow_roles(now_ns);
        }
        self.out.pop_front()
    }

    /// When `tick` has something to do at the latest.
    #[must_use]
    pub const fn next_due_ns(&self) -> u64 {
        self.ticker.due_ns()
    }

    /// Frames of peers that were dropped, by reason.
    #[must_use]
    pub const fn drops(&self) -> &BTreeMap<FrameDrop, u64> {
        &self.drops
    }

    /// Every group that this node has a part in, in order of group.
    #[must_use]
    pub fn status(&self, now_ns: u64) -> Vec<GroupStatus> {
        self.specs.values().filter_map(|spec| self.status_of(spec, now_ns)).collect()
    }

    // ---- specifications ----

    fn specify(&mut self, control_index: u64, specs: Vec<GroupSpec>, now_ns: u64) {
        // Two compilations may arrive in the wrong order; the control log's order counts.
        if control_index < self.control_index {
            return;
        }
        self.control_index = control_index;
        let specs: BTreeMap<ShardId, GroupSpec> = specs.into_iter().map(|s| (s.group, s)).collect();
        let unlisted: Vec<ShardId> = self.specs.keys().filter(|g| !specs.contains_key(*g)).copied().collect();
        for group in unlisted {
            self.drop_replica(group);
            self.drop_joining(group);
            self.mismatched.remove(&group);
        }
        self.owners.retain(|group| specs.contains_key(&group));
        self.specs = specs;
        for spec in self.specs.values().cloned().collect::<Vec<_>>() {
            self.specify_one(spec, now_ns);
        }
        self.forget_strangers();
    }

    fn specify_one(&mut self, spec: GroupSpec, now_ns: u64) {
        let (group, epoch) = (spec.group, spec.epoch);
        if self.joining.get(&group).is_some_and(|j| j.epoch != epoch || !spec.members.contains(&self.me)) {
            self.drop_joining(group);
        }
        match self.replicas.get_mut(&group).map(|r| (r.epoch(), r)) {
            Some((old, replica)) if old == epoch => {
                replica.respecify(spec, now_ns, &mut self.out);
                self.dirty.insert(group);
                if !self.replicas[&group].is_kept() {
                    self.drop_replica(group);
                }
            }
            // An epoch never goes back.
            Some((old, _)) if old > epoch => {}
            _ if self.joining.contains_key(&group) => {}
            _ => self.begin(spec, now_ns),
        }
    }

    /// Takes this node's part in an epoch in which it has none yet.
    fn begin(&mut self, spec: GroupSpec, now_ns: u64) {
        let (group, epoch) = (spec.group, spec.epoch);
        let begun = if self.begun.contains(&(group, epoch)) { Begun::Before } else { Begun::Never };
        let before = self.replicas.get(&group).map_or(Before::Nothing, |r| {
            let (last_term, last_index) = r.log_end();
            Before::Log { last_term, last_index }
        });
        self.mismatched.remove(&group);
        match recreate::beginning(&spec, self.me, before, begun) {
            Beginning::Nothing => self.drop_replica(group),
            Beginning::Join if self.abstained.contains_key(&(group, epoch)) => {}
            Beginning::Join => {
                self.drop_replica(group);
                self.joining.insert(group, Joining::new(epoch));
            }
            Beginning::Empty { conf, wait_ns } => {
                self.drop_replica(group);
                self.out.push_back(FlowEffect::Worker(GroupEvent::Opened {
                    shard: group,
                    epoch: epoch.0,
                    index: LogIndex(1),
                    loads: false,
                }));
                let at = (1, first_term(epoch));
                self.start(spec, at, None, conf, until(now_ns, wait_ns), now_ns);
            }
            Beginning::Continue { last_term, last_index, wait_ns } => {
                let mut old = self.replicas.remove(&group).expect("the base was found in it");
                old.close(&mut self.out);
                old.commit_tail(now_ns, &mut self.out);
                self.out.push_back(FlowEffect::Reopened { group, epoch });
                let conf = recreate::voters(&[self.me]);
                self.start(spec, (last_index, last_term), None, conf, until(now_ns, wait_ns), now_ns);
            }
            Beginning::Mismatch => {
                self.drop_replica(group);
                self.mismatched.insert(group);
            }
        }
    }

    /// A replica begins at `at` (index and term); a table that is loaded is whole once it stands at `loading_until`.
    fn start(
        &mut self,
        spec: GroupSpec,
        at: (u64, u64),
        loading_until: Option<u64>,
        conf: ConfState,
        wait_until_ns: u64,
        now_ns: u64,
    ) {
        let (group, epoch) = (spec.group, spec.epoch);
        self.begun.insert((group, epoch));
        let listed = spec.clone();
        let first_nonce = self.seed.rotate_left(17) ^ (u64::from(group.0) << 40);
        let retained_entries = self.retained_entries;
        let seed = Seed {
            me: self.me,
            spec,
            timing: self.timing,
            at,
            loading_until,
            conf,
            wait_until_ns,
            first_nonce,
            retained_entries,
        };
        let mut replica = FlowGroup::new(seed);
        if self.stopping_since_ns.is_some() {
            replica.set_stopping();
        }
        replica.set_standing(standing_of(&self.reports.own().of(replica.group())));
        // It may have been listed for sealing before it began.
        replica.respecify(listed, now_ns, &mut self.out);
        self.replicas.insert(group, replica);
        self.dirty.insert(group);
    }

    fn drop_replica(&mut self, group: ShardId) {
        if let Some(mut replica) = self.replicas.remove(&group) {
            replica.close(&mut self.out);
            self.out.push_back(FlowEffect::Worker(GroupEvent::Dropped { shard: group }));
            self.owners.lost(group, self.me);
        }
    }

    /// Gives up joining. The worker may hold a part of the table.
    fn drop_joining(&mut self, group: ShardId) {
        if self.joining.remove(&group).is_some_and(|j| j.incoming.have().is_some()) {
            self.out.push_back(FlowEffect::Worker(GroupEvent::Dropped { shard: group }));
        }
    }

    fn is_known(&self, id: Incarnation) -> bool {
        self.nodes.contains(&id) || self.specs.values().any(|s| s.members.contains(&id) || s.leaving.contains(&id))
    }

    fn forget_strangers(&mut self) {
        let mut reports = std::mem::replace(&mut self.reports, Reports::new(self.me));
        reports.retain(|id| self.is_known(id));
        self.reports = reports;
    }

    // ---- tables ----

    /// N4 waits for every living member of an epoch that is being sealed. One that has no replica of it reports that it
    /// holds nothing, and will never get a table of that epoch.
    fn abstain(&mut self, now_ns: u64) {
        let me = self.me;
        let sealing = self.specs.values().filter(|s| s.sealing == Sealing::Yes);
        let listed = sealing.filter(|s| s.members.contains(&me) || s.leaving.contains(&me));
        let without = listed.filter(|s| self.replicas.get(&s.group).is_none_or(|r| r.epoch() != s.epoch));
        for (group, epoch) in without.map(|s| (s.group, s.epoch)).collect::<Vec<_>>() {
            self.drop_joining(group);
            let told = self.abstained.get(&(group, epoch));
            if told.is_none_or(|told| now_ns.saturating_sub(*told) >= SEALED_REPEAT_NS) {
                self.abstained.insert((group, epoch), now_ns);
                self.out.push_back(FlowEffect::Sealed { group, epoch, last_term: 0, last_index: 0 });
            }
        }
    }

    fn ask_for_tables(&mut self, now_ns: u64) {
        for (group, joining) in &mut self.joining {
            if joining.asked_ns.is_some_and(|at| now_ns.saturating_sub(at) < JOIN_REPEAT_NS) {
                continue;
            }
            joining.asked_ns = Some(now_ns);
            let Some(spec) = self.specs.get(group) else { continue };
            for to in spec.members.iter().chain(&spec.leaving).copied().filter(|id| *id != self.me) {
                let key = Key { group: *group, epoch: joining.epoch, from: self.me, to };
                let frame = Frame::Join { key, have: joining.incoming.have() }.encode();
                self.out.push_back(FlowEffect::Send { to, group: *group, frame });
            }
        }
    }

    fn propose(&mut self, group: ShardId, batch: Batch) {
        let (term, stream) = (batch.term, batch.stream);
        if let Some(replica) = self.replicas.get_mut(&group) {
            replica.propose(batch, &mut self.out);
            self.dirty.insert(group);
        } else {
            self.out.push_back(FlowEffect::Worker(GroupEvent::Refused { shard: group, term: Term(term), stream }));
        }
    }

    // ---- stopping ----

    fn stop(&mut self, now_ns: u64) {
        if self.stopping_since_ns.is_some() {
            return;
        }
        self.stopping_since_ns = Some(now_ns);
        for replica in self.replicas.values_mut() {
            replica.set_stopping();
        }
        self.set_report(self.reports.own(), now_ns);
    }

    fn finish_stop(&mut self, now_ns: u64) {
        let Some(since) = self.stopping_since_ns.filter(|_| !self.stopped) else { return };
        let kept = self.replicas.values().filter(|r| r.leads().is_some()).count();
        if kept == 0 || now_ns.saturating_sub(since) >= STOP_WAIT_NS {
            self.stopped = true;
            self.out.push_back(FlowEffect::Stopped { kept: u32::try_from(kept).expect("groups have u32 ids") });
        }
    }
}

/// Whether a node that reports this of a group should be elected.
fn standing_of(report: &Report) -> Standing {
    let serves_all = report.can_serve() && report.lacking.is_empty() && report.passage != Passage::Silent;
    if serves_all { Standing::InTurn } else { Standing::Behind }
}

/// The end of a wait that begins now; 0 if there is none.
const fn until(now_ns: u64, wait_ns: u64) -> u64 {
    if wait_ns == 0 { 0 } else { now_ns.saturating_add(wait_ns) }
}
