//! The worker: everything that one dataplane thread knows and does, without a thread, clock or socket of its own.
//!
//! `handle_*` takes frames, events of the flow groups and time; `poll_*` yields frames and outputs. The caller keeps this
//! order: in each turn it hands in events, polls frames until there are none, and only then hands in newer frames, so that
//! released packets keep their place before later ones of their flow; then timers, outputs, and frames again. It repeats
//! `may_transmit` right before it sends.
//!
//! ```text
//! frame ─► pipeline ─► table hit ─────────────────────────────► Transmit
//!                      └─ miss ─► overlay + stream ─► Propose ─► (flow group) ─► Committed ─► poll_frame
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::ahead::{Ahead, Known};
use crate::apply::Effect;
use crate::chunks::Chunks;
pub use crate::chunks::Scans;
use crate::claims::{Claim, Claims};
use crate::codec::{Encoder, Format};
use crate::counters::Counters;
use crate::event::{Authority, DropReason, Verdict, WorkerOutput};
use crate::fragments::Fragments;
use crate::held::{Held, Origin, Waiting};
use crate::ids::{Incarnation, Link, NodeId, ShardId, Term, VnetId};
use crate::judge::Cx;
use crate::lease::LeaseWords;
use crate::limits::Limits;
use crate::links::{Links, Standing};
use crate::nat::identification::Identifications;
use crate::neigh::NeighbourCache;
use crate::record::ScanRecord;
use crate::revision::Revisions;
use crate::sessions::Sessions;
use crate::shard::{LAST_OWNER_NS, Shard, ShardEntry};
use crate::shards::Shards;
use crate::snapshot::Snapshot;
use crate::soundings::{News, Soundings};
use crate::wire::FrameMeta;

/// Neighbours of all links that a worker remembers.
const NEIGHBOURS_MAX: usize = 65_536;
/// Own frames that wait to be sent when no shard begins another step of its announcements.
const ANNOUNCED_PER_TURN: usize = 256;
/// Chunks of scans that one round of timers allows, so that traffic goes on.
const CHUNKS_PER_ROUND: u32 = 4;

/// One dataplane worker: an outside interface, and an inside one for each virtual network.
#[derive(Debug)]
pub struct Worker {
    pub(crate) me: Incarnation,
    pub(crate) node: NodeId,
    pub(crate) seed: u64,
    /// Taken out while a frame is judged, so that the judge can borrow both.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Something that serving depends on changed then.
    judge_at_ns: u64,
    /// When `handle_timers` ran last: what is due in steps is due one step after it.
    timed_at_ns: u64,
    pub(crate) links: Links,
    pub(crate) notice_limits: Limits,
    /// How often each backend is told where its gateway is.
    pub(crate) corrections: Limits,
    pub(crate) fragments: Fragments,
    pub(crate) shards: Shards,
    pub(crate) revisions: Revisions,
    pub(crate) neighbours: NeighbourCache,
    pub(crate) waiting: BTreeMap<(Link, Ipv4Addr), Waiting>,
    pub(crate) held: Held,
    pub(crate) identifications: Identifications,
    pub(crate) counters: Counters,
    pub(crate) ahead: Ahead,
    pub(crate) outputs: VecDeque<WorkerOutput>,
    /// `None`: nobody wants to know.
    pub(crate) sessions: Option<Sessions>,
    /// `None`: nobody wants to know.
    pub(crate) soundings: Option<Soundings>,
    pub(crate) claims: Claims,
    /// The newest format that it reads and writes.
    pub(crate) newest: Format,
    encoder: Encoder,
    pub(crate) effects: Vec<Effect>,
    scratch: Vec<ScanRecord>,
    pub(crate) chunks: Chunks,
}

impl Worker {
    /// A worker that knows nothing yet: it drops every frame until a snapshot is loaded.
    #[must_use]
    pub fn new(me: Incarnation, node: NodeId, seed: u64) -> Self {
        Self {
            me,
            node,
            seed,
            snapshot: None,
            judge_at_ns: u64::MAX,
            timed_at_ns: 0,
            links: Links::default(),
            notice_limits: Limits::new(seed),
            corrections: Limits::corrections(seed),
            fragments: Fragments::default(),
            shards: Shards::default(),
            revisions: Revisions::new(),
            neighbours: NeighbourCache::new(NEIGHBOURS_MAX, seed),
            waiting: BTreeMap::new(),
            held: Held::default(),
            identifications: Identifications::new(seed ^ me.0),
            counters: Counters::default(),
            ahead: Ahead::default(),
            outputs: VecDeque::new(),
            sessions: None,
            soundings: None,
            claims: Claims::default(),
            newest: Format::NEWEST,
            encoder: Encoder::new(),
            effects: Vec::new(),
            scratch: Vec::new(),
            chunks: Chunks::new(),
        }
    }

    /// Reads no format above this level's, as a build would that knows none (C2). Before anything else.
    pub fn set_level(&mut self, level: u16) {
        self.newest = Format::of_level(level);
    }

    /// Judges by this snapshot from now on; one with a smaller control index than the loaded one is ignored (F2).
    /// What was gathered so far keeps the index that it was judged under. Returns whether it was loaded; then
    /// `handle_timers` is due at once.
    ///
    /// It looks at no backend but those that are in use: a configuration of 32,768 would hold packets up. For the same reason
    /// the caller keeps the version before for somebody else to free.
    pub fn load_snapshot(&mut self, now_ns: u64, snapshot: Arc<Snapshot>) -> bool {
        if self.snapshot.as_ref().is_some_and(|s| s.control_index > snapshot.control_index) {
            return false;
        }
        self.neighbours.set_version(snapshot.control_index);
        self.revisions.load(self.snapshot.as_deref(), &snapshot);
        self.shards.own(now_ns, &snapshot);
        self.encoder.set_format(snapshot.params.format);
        self.links.load(&snapshot);
        for (id, shard) in self.shards.replicas_mut() {
            shard.snapshot_loaded(now_ns, id, &snapshot);
        }
        self.outputs.push_back(WorkerOutput::SnapshotLoaded { control_index: snapshot.control_index });
        self.snapshot = Some(snapshot);
        self.judge_at_ns = now_ns;
        true
    }

    /// The virtual networks that the inside interfaces carry. Before a snapshot that has them is loaded.
    pub fn set_networks(&mut self, networks: &[VnetId]) {
        if self.links.set_inside(networks) == News::No {
            return;
        }
        if let Some(soundings) = &mut self.soundings {
            soundings.set_links(self.links.all());
        }
        self.revisions.end_all();
    }

    /// Whether a data link works; down until told otherwise. `handle_timers` is due at once: it judges serving (F7). Nothing
    /// is known of an interface without a network.
    pub fn set_link(&mut self, now_ns: u64, link: Link, up: bool) {
        if self.links.set_up(link, up) == News::Yes {
            self.judge_at_ns = now_ns;
        }
    }

    /// The largest IP packet that the interface of a link takes; that of Ethernet until told otherwise.
    pub fn set_mtu(&mut self, link: Link, mtu: u16) {
        self.links.set_mtu(link, mtu);
    }

    /// What the data links do for each shard, if it changed since it was told.
    pub fn poll_standing(&mut self) -> Option<Standing> {
        let soundings = self.soundings.as_ref();
        let passing = |link| soundings.and_then(|s| s.of(link)).map_or_else(Default::default, |heard| heard.passing);
        self.links.tell(passing)
    }

    /// Judges one frame, Ethernet header included, and rewrites it in place if it is to be sent.
    pub fn handle_frame(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        link: Link,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Verdict {
        self.counters.received += 1;
        if let Some(soundings) = &mut self.soundings {
            soundings.heard_anything(link, now_ns);
        }
        let Some(snapshot) = self.snapshot.take() else { return self.refuse(DropReason::NotOwner) };
        let cx = Cx { now_ns, words, snapshot: &snapshot };
        let verdict = self.judge_frame(&cx, link, meta, frame);
        self.snapshot = Some(snapshot);
        verdict
    }

    /// Takes note of a frame that will be handed in soon, as it arrived. Call `fetch` after the last one of a batch.
    pub fn look_ahead(&mut self, link: Link, frame: &[u8]) {
        self.ahead.note(&Known { shards: &self.shards }, link, frame);
    }

    /// Has the mappings of all frames brought into the cache that were looked ahead for since the last call. Returns how
    /// many there probably are.
    pub fn fetch(&mut self) -> usize {
        self.ahead.fetch(&self.shards)
    }

    /// The next entry or report for the flow groups. Call until `None`.
    pub fn poll_output(&mut self, now_ns: u64, words: &impl LeaseWords) -> Option<WorkerOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        for (id, s) in self.shards.replicas_mut() {
            if std::mem::take(&mut s.applied_dirty) && s.replica.is_whole() {
                let (index, control_index) = (s.replica.meta.applied, s.replica.meta.control_index);
                return Some(WorkerOutput::Applied { shard: id, epoch: s.epoch, index, control_index });
            }
            let Some(snapshot) = &self.snapshot else { continue };
            // Nothing new leaves without the lease (L4); it waits in the stream.
            if !s.holds_lease(now_ns, self.me, words.word(id)) {
                continue;
            }
            if let Some((term, stream, sequence, entry)) = s.next_batch(now_ns, snapshot, &mut self.encoder) {
                return Some(WorkerOutput::Propose { shard: id, term, stream, sequence, entry });
            }
        }
        let loaded = self.snapshot.as_ref()?.control_index;
        self.chunks.next(&mut self.shards, loaded, &mut self.encoder, &mut self.scratch)
    }

    /// Whether scans go on from now on; told before each round of timers by who carries their chunks. A joiner on a slow
    /// link would otherwise have a whole table waiting for it in memory.
    pub fn set_scans(&mut self, scans: Scans) {
        self.chunks.set_scans(scans);
    }

    /// Chunks hold at most so many records from now on; for tests, since what is right for a wire is one chunk for theirs.
    pub fn set_chunk_records(&mut self, records: usize) {
        self.chunks.set_records(records);
    }

    /// The next frame that the worker releases or makes itself; call until `None`. `buf` is replaced by the frame. Its
    /// authority was checked at this moment.
    pub fn poll_frame(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        buf: &mut Vec<u8>,
    ) -> Option<(Link, FrameMeta, Authority)> {
        while let Some(mut next) = self.held.pop() {
            let fits = self.cut(&mut next);
            match next.origin {
                Origin::Received => self.counters.parked -= 1,
                Origin::Own => self.counters.originated += 1,
            }
            let may = Self::may_transmit(words, now_ns, next.authority).then_some(()).ok_or(DropReason::LeaseLapsed);
            if let Err(reason) = fits.and(may) {
                self.counters.drop(reason);
                self.held.keep(next.frame);
                continue;
            }
            self.counters.transmitted += 1;
            std::mem::swap(buf, &mut next.frame);
            self.held.keep(next.frame);
            return Some((next.link, next.meta, next.authority));
        }
        None
    }

    /// Whether a frame of this authority may leave at this moment: the last check before the wire (L4, L5, M1).
    pub fn may_transmit(words: &impl LeaseWords, now_ns: u64, authority: Authority) -> bool {
        match authority {
            Authority::Lease { shard, term } => words.word(shard).lease_runs(term, now_ns),
            Authority::Grace { shard } => words.word(shard).grace_runs(now_ns),
            Authority::Forward => true,
        }
    }

    /// A frame that was handed out did not leave after all: the lease lapsed, or the device refused it (I51).
    pub fn not_transmitted(&mut self, reason: DropReason) {
        self.counters.transmitted -= 1;
        self.counters.drop(reason);
    }

    /// Everything that time brings, in bounded steps: call when `next_timer_ns` says so; more often does no harm.
    pub fn handle_timers(&mut self, now_ns: u64, words: &impl LeaseWords) {
        self.chunks.grant(CHUNKS_PER_ROUND);
        self.judge_at_ns = u64::MAX;
        self.timed_at_ns = now_ns;
        self.ahead.judge(&self.shards);
        self.judge_serving(now_ns, words);
        let ids: Vec<ShardId> = self.shards.ids().collect();
        for id in &ids {
            while let Some((backend, parked)) = self.replica_mut(*id).and_then(|s| s.overlay.expired(now_ns)) {
                self.drop_parked(backend, parked, DropReason::OpenRefused);
            }
        }
        self.expire_fragments(now_ns);
        let Some(snapshot) = self.snapshot.take() else { return };
        for id in ids {
            if let Some(s) = self.replica_mut(id) {
                s.forget_gone(&snapshot);
            }
            self.owner_timers(now_ns, words, &snapshot, id);
        }
        self.neighbour_timers(now_ns, &snapshot, words);
        self.sounding_timers(now_ns, &snapshot, words);
        self.snapshot = Some(snapshot);
    }

    fn owner_timers(&mut self, now_ns: u64, words: &impl LeaseWords, snapshot: &Snapshot, id: ShardId) {
        let me = self.me;
        let Some(entry) = self.shards.get_mut(id) else { return };
        let Some(s) = &mut entry.replica else { return };
        let Some(term) = s.serves(now_ns, me, words.word(id)) else { return };
        entry.last_owned_ns = Some(now_ns);
        s.lease_end_ns = s.lease_end_ns.max(words.word(id).lease_until_ns);
        s.watch_drains(now_ns, id, snapshot);
        s.judge_flows(snapshot);
        s.sweep_idle(now_ns, snapshot);
        s.end_holds(now_ns, snapshot);
        s.fence(now_ns, snapshot);
        let epoch = s.epoch;
        for (block, reclaim_index) in s.fences_to_report(now_ns, id, snapshot) {
            self.outputs.push_back(WorkerOutput::Fenced { shard: id, epoch, block, reclaim_index });
        }
        // What a turn announces is bounded; the others' steps stay due.
        if self.held.own_waiting() < ANNOUNCED_PER_TURN
            && let Some(step) = entry.announce_step(now_ns)
        {
            self.announce(now_ns, snapshot, (id, term), &step);
        }
    }

    /// When `handle_timers` has something to do next, perhaps in the past; `u64::MAX` if nothing is due.
    #[must_use]
    pub fn next_timer_ns(&self) -> u64 {
        let shards = self.replicas().filter_map(|(_, s)| s.next_timer_ns(self.timed_at_ns)).min();
        let neighbours = self.next_neighbour_ns();
        shards
            .into_iter()
            .chain(neighbours)
            .chain(self.fragments.next_ns())
            .chain(self.soundings.as_ref().map(|s| s.next_ns))
            .min()
            .unwrap_or(u64::MAX)
            .min(self.judge_at_ns)
    }

    fn judge_serving(&mut self, now_ns: u64, words: &impl LeaseWords) {
        let ids: Vec<ShardId> = self.shards.ids().collect();
        for id in ids {
            self.judge_serving_of(now_ns, words, id);
        }
    }

    pub(crate) fn judge_serving_of(&mut self, now_ns: u64, words: &impl LeaseWords, id: ShardId) {
        let Some(entry) = self.shards.get_mut(id) else { return };
        let Some(s) = &mut entry.replica else { return };
        let word = words.word(id);
        let was = s.leadership.as_ref().is_some_and(|l| l.serving == Some(Ok(())));
        let changed = s.judge_serving(now_ns, self.me, word, self.snapshot.as_deref(), self.links.carry(id));
        if was || changed.is_some_and(|(_, state)| state.is_ok()) {
            entry.last_owned_ns = Some(now_ns);
        }
        if let Some((term, state)) = changed {
            self.outputs.push_back(WorkerOutput::Serving { shard: id, term, state });
        }
    }

    /// Who else claimed addresses of the cluster lately.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        self.claims.all()
    }

    /// Counters of this worker.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frames dropped so far, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|r| (*r, self.counters.dropped(*r)))
    }

    /// Bytes of received frames that are held now, and whether frames wait to be polled.
    #[must_use]
    pub fn held_bytes(&self) -> (u64, bool) {
        (self.held.bytes(), self.held.is_ready())
    }

    pub(crate) fn refuse(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    pub(crate) fn entry(&mut self, shard: ShardId) -> &mut ShardEntry {
        self.shards.entry(shard)
    }

    pub(crate) fn replica(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.replica(shard)
    }

    pub(crate) fn replica_mut(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.shards.replica_mut(shard)
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.shards.replicas()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    pub(crate) fn owner_of(&self, shard: ShardId) -> Option<(Term, Option<NodeId>)> {
        self.shards.get(shard)?.owner
    }

    pub(crate) fn address_of(&self, frontend: crate::ids::FrontendId) -> Option<Ipv4Addr> {
        self.snapshot()?.frontends.get(&frontend).map(|f| f.ip)
    }

    /// Whether this node owns the shard or was its last owner a short while ago (M1).
    pub(crate) fn is_or_was_owner(&self, now_ns: u64, words: &impl LeaseWords, shard: ShardId) -> bool {
        let Some(entry) = self.shards.get(shard) else { return false };
        if entry.last_owned_ns.is_some_and(|at| now_ns < at.saturating_add(LAST_OWNER_NS)) {
            return true;
        }
        let term = entry.replica.as_ref().and_then(|s| s.leadership.as_ref()).map(|l| l.term);
        term.is_some_and(|term| words.word(shard).lease_runs_for(self.me, term, now_ns))
    }
}
