//! One shard on this node: its replica, and, when this node leads, the overlay, the stream and the duties of an owner.
//!
//! No packets here: `judge` asks and proposes. Called by the worker only.

pub(crate) mod announcement;
pub(crate) mod apply;
pub(crate) mod chunks;
pub(crate) mod cuts;
pub(crate) mod drains;
pub(crate) mod duties;
pub(crate) mod half_open;
pub(crate) mod noting;
pub(crate) mod overlay;
pub(crate) mod pace;
pub(crate) mod picking;
pub(crate) mod quota;
pub(crate) mod rights;
pub(crate) mod scan;
pub(crate) mod shards;
pub mod shortages;
pub(crate) mod standing;
pub(crate) mod stream;

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use words::time::MS;

use crate::backend::in_lease;
use crate::codec::Encoder;
use crate::context::News;
use crate::event::{DropReason, NotServing};
use crate::flow::{FlowKey, Mark, Record, Slot};
use crate::ids::{BackendId, FrontendId, Incarnation, LogIndex, NodeId, ShardId, Term};
use crate::nsg::{Attachments, Hits};
use crate::ports::LeaseOrder;
use crate::record::{EntryHeader, HOLD_CLASSES, HOLDS_CONFIGURED, InsideKey, Proto, PublicKey, Scenario};
use crate::shard::announcement::{Announcement, Confirmed, Step};
use crate::shard::apply::{ApplyCounts, Replica, SAFETY_MS};
use crate::shard::drains::Drains;
use crate::shard::half_open::HalfOpen;
use crate::shard::overlay::Overlay;
use crate::shard::quota::Rates;
use crate::shard::shortages::Shortages;
use crate::shard::stream::Stream;
use crate::snapshot::{Filtering, Map, Params, Sharing, Snapshot};

/// A shard that this node owned so recently still has frames sent to its vMAC here (M1).
pub(crate) const LAST_OWNER_NS: u64 = 60_000_000_000;

/// So long after a takeover a packet in mid-stream may be one of a connection that the owner before let in (W3).
const ADOPTION_NS: u64 = 75_000_000_000;

/// What a mapping takes besides its tuple: only a granted port is anybody's beyond it.
pub(crate) const fn sharing_of(scenario: Scenario, granted: Sharing) -> Sharing {
    match scenario {
        Scenario::Pool | Scenario::Default => granted,
        Scenario::OwnOut | Scenario::OwnIn | Scenario::Rule | Scenario::Private => Sharing::Tuple,
    }
}

/// How long after the first group of an instance has come, or the owner before has gone, private connections that the log does not
/// know are taken up in mid-stream (W4). Shorter than what a change ends is held, which is never taken up so.
const ADOPTS_NS: u64 = 60_000_000_000;

/// Orphan grace and holds as headers carry them (F6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Forces {
    pub(crate) orphan_grace_ms: u32,
    pub(crate) hold_ms: [u32; HOLD_CLASSES],
}

impl Forces {
    /// What the configuration comes to under F6: each hold is at least grace + V + 1 s, else the grace gives way, down to
    /// none; below that the hold is raised. Those without a configured length last exactly so long (D26).
    pub(crate) fn of(params: &Params) -> Self {
        let margin = u64::from(params.vote_timeout_ms) + SAFETY_MS;
        let shortest = params.hold_ms.iter().copied().min().unwrap_or(0);
        let room = u64::from(shortest).saturating_sub(margin);
        let orphan_grace_ms = u32::try_from(room).unwrap_or(u32::MAX).min(params.orphan_grace_ms);
        let floor = u32::try_from(u64::from(orphan_grace_ms) + margin).unwrap_or(u32::MAX);
        let mut hold_ms = [floor; HOLD_CLASSES];
        for (hold, configured) in hold_ms[..HOLDS_CONFIGURED].iter_mut().zip(params.hold_ms) {
            *hold = configured.max(floor);
        }
        Self { orphan_grace_ms, hold_ms }
    }
}

/// What a leader knows of its own term.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub(crate) term: Term,
    pub(crate) since_ns: u64,
    own_applied: bool,
    /// As last told to the flow groups.
    pub(crate) serving: Option<Result<(), NotServing>>,
    /// When serving began: holds and idle timeouts count from there at the earliest (F6, I48).
    pub(crate) takeover_ns: Option<u64>,
    pub(crate) proposed_ended: [LogIndex; HOLD_CLASSES],
    pub(crate) proposed_forces: Option<Forces>,
    /// Something has to know what is in force, though the table may be empty.
    pub(crate) wants_forces: bool,
    pub(crate) holds_due_ns: Option<u64>,
    pub(crate) sweep: Sweep,
    pub(crate) judge: Option<u32>,
    /// The security groups under which all flows were judged.
    pub(crate) groups: Option<Arc<Attachments>>,
    pub(crate) report_ns: u64,
    /// Until then private connections are taken up in mid-stream (W4).
    pub(crate) adopts_until_ns: u64,
    pub(crate) announcement: Option<Announcement>,
}

impl Leadership {
    /// Every flow is to be judged anew.
    pub(crate) fn judge_all(&mut self) {
        (self.judge, self.groups) = (Some(0), None);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) position: u32,
    pub(crate) at_ns: u64,
    /// The table is too large for steps of the usual length.
    pub(crate) behind: bool,
}

/// A shard's replica and role.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) epoch: u32,
    pub(crate) replica: Replica,
    pub(crate) leadership: Option<Leadership>,
    pub(crate) overlay: Overlay,
    /// What came in by rules and is not proved (W3).
    pub(crate) half_open: HalfOpen,
    pub(crate) stream: Stream,
    pub(crate) orders: Map<BackendId, LeaseOrder>,
    /// Backends of `rates` and `orders` that may be gone since a snapshot was loaded, and were not looked at yet.
    pub(crate) unlooked: Vec<BackendId>,
    /// Frontends that left the shard, of which the table may still keep something.
    pub(crate) gone: VecDeque<FrontendId>,
    pub(crate) rates: Rates,
    pub(crate) drains: Drains,
    /// What rules have decided here.
    pub(crate) hits: Hits,
    /// Who found no port here.
    pub(crate) shortages: Shortages,
    /// The newest end of a lease that this node held, for the grace of the last committed header (F6, L4).
    pub(crate) lease_end_ns: u64,
    pub(crate) applied_dirty: bool,
}

/// All that this node knows of a shard, replica or not.
#[derive(Debug, Default)]
pub(crate) struct ShardEntry {
    /// Its public addresses by the loaded snapshot, in order.
    addresses: Arc<[(Ipv4Addr, FrontendId)]>,
    pub(crate) owner: Option<(Term, Option<NodeId>)>,
    pub(crate) last_owned_ns: Option<u64>,
    pub(crate) replica: Option<Box<Shard>>,
}

impl ShardEntry {
    /// A newer snapshot is in force. Costs nothing if the shard has the addresses that it had.
    pub(crate) fn own(&mut self, now_ns: u64, shard: ShardId, snapshot: &Snapshot) {
        let addresses = snapshot.shards.get(&shard).map(|config| Arc::clone(&config.addresses)).unwrap_or_default();
        if Arc::ptr_eq(&addresses, &self.addresses) {
            return;
        }
        let before = std::mem::replace(&mut self.addresses, addresses);
        let Some(replica) = &mut self.replica else { return };
        let left = |one: &&(Ipv4Addr, FrontendId)| self.addresses.binary_search(one).is_err();
        replica.gone.extend(before.iter().filter(left).map(|(_, id)| *id));
        let new = |one: &&(Ipv4Addr, FrontendId)| before.binary_search(one).is_err();
        let added: Vec<Ipv4Addr> = self.addresses.iter().filter(new).map(|(ip, _)| *ip).collect();
        let grace_ms = replica.replica.meta.grace_peak_ms;
        if let Some(announcement) = replica.leadership.as_mut().and_then(|lead| lead.announcement.as_mut()) {
            announcement.add(now_ns, grace_ms, added);
        }
    }

    /// What of the shard's addresses is to be announced now, if it serves, and whether a reply has come to its vMAC.
    pub(crate) fn announce_step(&mut self, now_ns: u64) -> Option<(Step, Confirmed)> {
        let lead = self.replica.as_mut()?.leadership.as_mut()?;
        let announcement = lead.announcement.as_mut()?;
        Some((announcement.step(now_ns, &self.addresses)?, announcement.confirmed))
    }

    /// Its frontend of this address.
    #[inline]
    pub(crate) fn frontend_at(&self, ip: Ipv4Addr) -> Option<FrontendId> {
        let place = self.addresses.binary_search_by_key(&ip, |(ip, _)| *ip).ok()?;
        Some(self.addresses[place].1)
    }
}

impl Shard {
    pub(crate) fn new(seed: u64, epoch: u32, index: LogIndex, loads: bool) -> Self {
        Self {
            epoch,
            replica: Replica::new(seed, index, loads),
            leadership: None,
            overlay: Overlay::default(),
            half_open: HalfOpen::default(),
            stream: Stream::default(),
            orders: Map::default(),
            unlooked: Vec::new(),
            gone: VecDeque::new(),
            rates: Rates::default(),
            drains: Drains::default(),
            hits: Hits::default(),
            shortages: Shortages::default(),
            lease_end_ns: 0,
            applied_dirty: true,
        }
    }

    pub(crate) fn counts(&self) -> ApplyCounts {
        self.replica.counts
    }

    pub(crate) fn lead(&mut self, now_ns: u64, term: Term) {
        self.stream.begin();
        self.half_open = HalfOpen::default();
        self.leadership = Some(Leadership {
            term,
            since_ns: now_ns,
            own_applied: false,
            serving: None,
            takeover_ns: None,
            proposed_ended: self.replica.meta.holds_ended,
            proposed_forces: None,
            wants_forces: false,
            holds_due_ns: None,
            sweep: Sweep { position: 0, at_ns: now_ns, behind: false },
            judge: None,
            groups: None,
            report_ns: now_ns,
            adopts_until_ns: now_ns.saturating_add(ADOPTS_NS),
            announcement: None,
        });
    }

    /// An entry of `term` was applied; with `header` if it was a worker's. Returns how long it took if it was this one's.
    pub(crate) fn applied(&mut self, now_ns: u64, term: Term, header: Option<&EntryHeader>) -> Option<u64> {
        self.applied_dirty = true;
        let lead = self.leadership.as_mut().filter(|lead| lead.term == term)?;
        lead.own_applied = true;
        self.stream.applied(now_ns, header?)
    }

    /// Forgets what was proposed (F1, F8). Returns the packets to drop.
    pub(crate) fn drop_overlay(&mut self) -> Vec<(BackendId, overlay::Parked)> {
        let (packets, closing) = self.overlay.clear();
        self.drains.examine_again();
        for slot in closing {
            self.replica.table.record_mut(slot).mark = Mark::None;
        }
        for order in self.orders.values_mut() {
            order.rewind();
        }
        if let Some(lead) = &mut self.leadership {
            lead.proposed_ended = self.replica.meta.holds_ended;
            lead.proposed_forces = None;
            lead.judge_all();
        }
        packets
    }

    /// The term in which this node serves, if the lease runs at this moment.
    pub(crate) fn serves(&self, now_ns: u64, me: Incarnation, word: crate::ids::LeaseWord) -> Option<Term> {
        let lead = self.leadership.as_ref()?;
        (lead.serving == Some(Ok(())) && word.lease_runs_for(me, lead.term, now_ns)).then_some(lead.term)
    }

    /// Whether this node leads and holds the lease, serving or not (M1).
    pub(crate) fn holds_lease(&self, now_ns: u64, me: Incarnation, word: crate::ids::LeaseWord) -> bool {
        self.leadership.as_ref().is_some_and(|lead| word.lease_runs_for(me, lead.term, now_ns))
    }

    /// F7. Returns the state if it changed since it was last told.
    pub(crate) fn judge_serving(
        &mut self,
        now_ns: u64,
        me: Incarnation,
        word: crate::ids::LeaseWord,
        snapshot: Option<&Snapshot>,
        links_carry: bool,
    ) -> Option<(Term, Result<(), NotServing>)> {
        let (control_index, whole) = (self.replica.meta.control_index, self.replica.is_whole());
        let lead = self.leadership.as_mut()?;
        let loaded = snapshot.is_some_and(|s| s.control_index >= control_index);
        let state = if !lead.own_applied || !whole {
            Err(NotServing::OwnTermNotApplied)
        } else if !loaded {
            Err(NotServing::ControlBehind)
        } else if !word.lease_runs_for(me, lead.term, now_ns) {
            Err(NotServing::NoLease)
        } else if links_carry {
            Ok(())
        } else {
            Err(NotServing::LinkDown)
        };
        if lead.serving == Some(state) {
            return None;
        }
        lead.serving = Some(state);
        let term = lead.term;
        if state.is_ok() {
            self.begin_serving(now_ns, snapshot);
        }
        Some((term, state))
    }

    fn begin_serving(&mut self, now_ns: u64, snapshot: Option<&Snapshot>) {
        let vote_ms = snapshot.map_or(0, |s| s.params.vote_timeout_ms);
        let Some(lead) = &mut self.leadership else { return };
        if lead.takeover_ns.is_none() {
            lead.takeover_ns = Some(now_ns);
            let wait = self.replica.grace_wait_ns(now_ns, vote_ms, SAFETY_MS);
            self.replica.frees_after_ns = self.replica.frees_after_ns.max(wait);
        }
        lead.judge_all();
        lead.sweep.at_ns = now_ns;
        lead.announcement = Some(Announcement::begin(now_ns, self.replica.meta.grace_peak_ms));
    }

    /// A newer snapshot is in force: flows are judged again, and orders of changed leases are made anew when needed.
    pub(crate) fn snapshot_loaded(
        &mut self,
        now_ns: u64,
        home: ShardId,
        snapshot: &Snapshot,
        (opened, judged): (News, News),
    ) {
        let none = Arc::default();
        let draining = snapshot.shards.get(&home).map_or(&none, |s| &s.draining);
        self.drains.note(now_ns, draining);
        if !self.replica.fenced.is_empty() && snapshot.control_index >= self.replica.meta.control_index {
            let draining: BTreeSet<_> = draining.iter().map(|d| (d.block, d.reclaim_index)).collect();
            self.replica.fenced.retain(|key| draining.contains(key));
        }
        // What is not looked at before the next load is looked at after it.
        if self.unlooked.is_empty() {
            self.unlooked.extend(self.rates.backends().chain(self.orders.keys().copied()));
        }
        if let Some(lead) = &mut self.leadership {
            // What was judged under the groups before stands only if all was, and if the ports were open to the same.
            if lead.judge.is_some() || opened == News::Yes {
                lead.groups = None;
            }
            lead.judge = Some(0);
            if judged == News::Yes {
                lead.adopts_until_ns = now_ns.saturating_add(ADOPTS_NS);
            }
        }
    }

    /// The inside end of an inbound packet that has no mapping of its own, if the port belongs to an inside endpoint whose
    /// rule lets it pass (R3, R6). It changes nothing: the answer opens the mapping (I19).
    pub(crate) fn endpoint_of(&self, snapshot: &Snapshot, key: &PublicKey) -> Option<InsideKey> {
        let claims = self.replica.table.claims();
        let inside = claims.endpoint_of(key)?;
        let id = snapshot.backend_by_ip.get(&(inside.vnet, inside.endpoint.addr.ipv4()?))?;
        let backend = snapshot.backends.get(id)?;
        let passes = match backend.filtering {
            Filtering::Tuple => false,
            Filtering::Address => claims.reaches(key),
            Filtering::Open => true,
        };
        // What answers would leave by an address of its own.
        let leased = backend.ways.own.is_none() && in_lease(&backend.lease, key.frontend, key.port);
        // An echo reply has no port that could be another one.
        (passes && leased && key.proto != Proto::Icmp && backend.sharing == Sharing::Endpoint).then_some(inside)
    }

    /// The public end under which the remote of `flow` reaches its inside end, if the rule lets it pass without a mapping of
    /// its own.
    pub(crate) fn public_of(&self, snapshot: &Snapshot, flow: &FlowKey) -> Option<(FrontendId, u16)> {
        let (frontend, port) = self.replica.table.claims().port_of(flow.proto, flow.inside)?;
        let key = PublicKey { proto: flow.proto, frontend, port, remote: flow.remote };
        (self.endpoint_of(snapshot, &key)? == flow.inside).then_some((frontend, port))
    }

    /// The record of a mapping that a packet passes by, without what was known of its connection in an earlier term.
    pub(crate) fn watched(&mut self, slot: Slot) -> &mut Record {
        let record = self.replica.table.record_mut(slot);
        if let Some(lead) = &self.leadership {
            record.tcp = record.tcp.known_in(lead.term);
        }
        record
    }

    /// Keeps what the mapping claims in step with its backend's rule.
    pub(crate) fn claim(&mut self, slot: Slot, snapshot: &Snapshot) {
        let record = self.replica.table.record(slot);
        let sharing = snapshot.backends.get(&record.backend).map_or(Sharing::Tuple, |b| b.sharing);
        self.replica.table.claim(slot, sharing_of(record.scenario(), sharing));
    }

    /// Whether a client may still hold a connection, or wait for an answer, that an owner before this one let in and did not
    /// commit (W3): long enough for what retransmits.
    pub(crate) fn may_adopt(&self, now_ns: u64) -> bool {
        let takeover = self.leadership.as_ref().and_then(|lead| lead.takeover_ns);
        takeover.is_some_and(|at| now_ns < at.saturating_add(ADOPTION_NS))
    }

    /// The next batch to propose in this term.
    pub(crate) fn next_batch(
        &mut self,
        now_ns: u64,
        snapshot: &Snapshot,
        encoder: &mut Encoder,
    ) -> Option<(Term, u32, u64, bytes::Bytes)> {
        let lead = self.leadership.as_mut()?;
        let forces = Forces::of(&snapshot.params);
        let term = lead.term;
        let ended = lead.proposed_ended;
        let (stream, sequence, entry) = self.stream.next(now_ns, term, encoder, |judged| EntryHeader {
            term,
            stream: 0,
            sequence: 0,
            control_index: judged.unwrap_or(snapshot.control_index),
            holds_ended: ended,
            orphan_grace_ms: forces.orphan_grace_ms,
            hold_ms: forces.hold_ms,
            records: 0,
        })?;
        lead.proposed_forces = Some(forces);
        lead.holds_due_ns = None;
        Some((term, stream, sequence, entry))
    }

    /// When `handle_timers` should look at this shard again.
    pub(crate) fn next_timer_ns(&self, timed_at_ns: u64) -> Option<u64> {
        const SOON: u64 = MS;
        const STEP: u64 = 10 * MS;
        let mut next = self.overlay.next_deadline_ns();
        let mut at = |t: u64| next = Some(next.map_or(t, |n| n.min(t)));
        if self.replica.scan.is_some() {
            at(timed_at_ns + SOON);
        }
        if let Some(lead) = &self.leadership {
            // The lease word changes without an event.
            at(timed_at_ns + if lead.serving == Some(Ok(())) { STEP } else { SOON });
            if lead.judge.is_some() {
                at(timed_at_ns + SOON);
            }
            if lead.sweep.behind {
                at(timed_at_ns + 2 * SOON);
            }
            if let Some(announcement) = &lead.announcement {
                at(announcement.next_ns());
            }
            if let Some(due) = self.stream.barrier_due_ns() {
                at(due);
            }
        }
        next
    }

    /// Whether this node leads in exactly that term.
    pub(crate) fn is_leading_in(&self, term: Term) -> bool {
        self.leadership.as_ref().is_some_and(|l| l.term == term)
    }

    /// Whether a backend may open one more flow: below its limit, and with no more flows than the table has room left.
    pub(crate) fn admits(&self, now_ns: u64, params: &Params, backend: BackendId) -> Result<(), DropReason> {
        self.has_room(params, backend)?;
        if self.rates.is_empty(now_ns, params, backend) { Err(DropReason::RateLimit) } else { Ok(()) }
    }

    /// The same for a flow that a remote begins: how many come in a second is not the backend's doing.
    pub(crate) fn has_room(&self, params: &Params, backend: BackendId) -> Result<(), DropReason> {
        let (table, overlay) = (&self.replica.table, &self.overlay);
        let all = u64::from(table.live()) + u64::from(table.held()) + overlay.len() as u64;
        let own = u64::from(table.flows_of(backend)) + u64::from(overlay.opens_of(backend));
        let room = u64::from(params.flows_per_shard_max).saturating_sub(all);
        if room == 0 {
            Err(DropReason::TableFull)
        } else if own >= room.min(params.flows_per_backend_max.into()) {
            // What is left of the table is for those who have less of it (I40): however few or many fill it, a part stays
            // free for everybody else, without a share that is fixed in advance and unused.
            Err(DropReason::FlowLimit)
        } else {
            Ok(())
        }
    }

    /// A flow opens, or opens again: that one is never refused, but what it costs is missing for newcomers.
    pub(crate) fn charge(&mut self, now_ns: u64, params: &Params, backend: BackendId) {
        self.rates.take(now_ns, params, backend);
    }
}
