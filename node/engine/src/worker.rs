//! The worker: everything that one dataplane thread knows and does, without a thread, clock or socket of its own.
//!
//! `handle_*` takes frames, events of the flow groups and time; `poll_*` yields frames and outputs. The caller keeps this
//! order: in each turn it hands in events, polls frames until there are none, and only then hands in newer frames, so that
//! released packets keep their place before later ones of their flow; then timers, outputs, and frames again. It repeats
//! `may_transmit` right before it sends.
//!
//! ```text
//! frame ─► judge ─► table hit ─────────────────────────────► Transmit
//!                   └─ miss ─► overlay + stream ─► Propose ─► (flow group) ─► Committed ─► poll_frame
//! ```

use std::sync::Arc;

use crate::cache::Cache;
use crate::codec::Format;
use crate::consent::connections_came;
use crate::context::News;
use crate::context::{At, Cx, Frame};
use crate::egress::claims::Claim;
use crate::egress::delivered::Answer;
use crate::egress::links::Standing;
use crate::egress::soundings::{Heard, NextHop, Passing};
use crate::egress::{self, Egress};
use crate::event::{Authority, DropReason, GroupEvent, Verdict, WorkerOutput};
use crate::fast::{FastCounts, FastMode, FastTable};
use crate::group::Group;
use crate::ids::{BackendId, Incarnation, Link, NodeId, ShardId, VnetId};
use crate::judge::Judge;
use crate::judge::ahead::{Ahead, Known};
use crate::judge::fragments::Fragments;
use crate::lease::LeaseWords;
use crate::revision::Revisions;
use crate::shard::apply::Effect;
pub use crate::shard::chunks::Scans;
use crate::shard::duties::JUDGED_PER_TURN;
use crate::shard::shards::Shards;
use crate::shard::shortages::Shortage;
use crate::snapshot::Snapshot;
use crate::tell::counters::Counters;
use crate::tell::sessions::{Session, Sessions};
use crate::tell::status::View;
use crate::tell::telling::Telling;
use crate::wire::FrameMeta;
use words::Share;

/// Own frames that wait to be sent when no shard begins another step of its announcements.
const ANNOUNCED_PER_TURN: usize = 256;
/// Chunks of scans that one round of timers allows, so that traffic goes on.
const CHUNKS_PER_ROUND: u32 = 4;

/// One dataplane worker: an outside interface, and an inside one for each virtual network. Nobody else sees it whole: each
/// room gets the parts that it needs.
#[derive(Debug)]
pub struct Worker {
    snapshot: Option<Arc<Snapshot>>,
    revisions: Revisions,
    cache: Cache,
    shards: Shards,
    egress: Egress,
    datagrams: Fragments,
    telling: Telling,
    ahead: Ahead,
    effects: Vec<Effect>,
    seed: u64,
    /// The newest format that it reads and writes.
    newest: Format,
    /// Something that serving depends on changed then.
    judge_at_ns: u64,
    /// When `handle_timers` ran last: what is due in steps is due one step after it.
    timed_at_ns: u64,
}

impl Worker {
    /// A worker that knows nothing yet: it drops every frame until a snapshot is loaded.
    #[must_use]
    pub fn new(me: Incarnation, node: NodeId, seed: u64) -> Self {
        Self {
            snapshot: None,
            revisions: Revisions::new(),
            cache: Cache::default(),
            shards: Shards::new(me, node),
            egress: Egress::new(node, seed, seed ^ me.0),
            datagrams: Fragments::default(),
            telling: Telling::new(),
            ahead: Ahead::default(),
            effects: Vec::new(),
            seed,
            newest: Format::NEWEST,
            judge_at_ns: u64::MAX,
            timed_at_ns: 0,
        }
    }

    /// Reads no format above this level's, as a build would that knows none (C2). Before anything else.
    pub fn set_level(&mut self, level: u16) {
        self.newest = Format::of_level(level);
    }

    /// One of several workers of a member: it is told of no replica outside its share. What comes to it for such a shard of
    /// this member's it hands to that shard's worker, as it would to another member. Before anything else.
    pub const fn set_share(&mut self, share: Share) {
        (self.shards.share, self.egress.share) = (share, share);
        self.egress.held.share_with(share.workers() - 1);
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
        self.egress.neighbours.set_version(snapshot.control_index);
        let judged = connections_came(self.snapshot.as_deref(), &snapshot);
        let opened = self.revisions.load(self.snapshot.as_deref(), &snapshot);
        if self.snapshot.as_ref().is_some_and(|before| before.params.orphan_grace_ms != snapshot.params.orphan_grace_ms)
        {
            self.cache.upset();
        }
        self.shards.own(now_ns, &snapshot);
        self.telling.encoder.set_format(snapshot.params.format);
        self.egress.links.load(&snapshot);
        for (id, shard) in self.shards.replicas_mut() {
            shard.snapshot_loaded(now_ns, id, &snapshot, (opened, judged));
        }
        self.telling.outputs.push_back(WorkerOutput::SnapshotLoaded { control_index: snapshot.control_index });
        self.snapshot = Some(snapshot);
        self.judge_at_ns = now_ns;
        self.tell_fast();
        true
    }

    /// The virtual networks that the inside interfaces carry. Before a snapshot that has them is loaded.
    pub fn set_networks(&mut self, networks: &[VnetId]) {
        if self.egress.links.set_inside(networks) == News::No {
            return;
        }
        if let Some(soundings) = &mut self.egress.soundings {
            soundings.set_links(self.egress.links.all());
        }
        self.revisions.end_all();
        self.tell_fast();
    }

    /// Whether a data link works; down until told otherwise. `handle_timers` is due at once: it judges serving (F7). Nothing
    /// is known of an interface without a network.
    pub fn set_link(&mut self, now_ns: u64, link: Link, up: bool) {
        if self.egress.links.set_up(link, up) == News::Yes {
            self.judge_at_ns = now_ns;
        }
    }

    /// The largest IP packet that the interface of a link takes; that of Ethernet until told otherwise.
    pub fn set_mtu(&mut self, link: Link, mtu: u16) {
        if self.egress.links.set_mtu(link, mtu) == News::Yes {
            self.cache.upset();
            self.tell_fast();
        }
    }

    /// Whether more packets wait than it gets through in some milliseconds: who is flooded gives way then.
    pub const fn set_behind(&mut self, behind: bool) {
        self.shards.behind = behind;
    }

    /// What the data links do for each shard, if it changed since it was told.
    pub fn poll_standing(&mut self) -> Option<Standing> {
        let soundings = self.egress.soundings.as_ref();
        let passing = |link| soundings.and_then(|s| s.of(link)).map_or_else(Default::default, |heard| heard.passing);
        self.egress.links.tell(passing)
    }

    /// The kernel carries packets of mappings from now on; this is the worker's part of that. Before anything else.
    pub fn set_fast(&mut self, table: Box<dyn FastTable>, mode: FastMode) {
        self.cache.begin(table, mode);
    }

    /// Which mappings are handed over to it.
    pub fn set_fast_mode(&mut self, mode: FastMode) {
        self.cache.set_mode(mode);
        self.tell_fast();
    }

    /// Hands mappings over to the fast path, and looks through what it carries, in bounded steps. Once a turn, before frames are
    /// handed in: those of a mapping that were handed in before it was handed over have left by then, as far as they ever
    /// will (I56).
    pub fn handle_fast(&mut self, now_ns: u64, words: &impl LeaseWords) {
        if !self.cache.is_there() {
            return;
        }
        self.cache.clear(now_ns);
        let Some(snapshot) = self.snapshot.as_deref() else { return };
        let cx = Cx { now_ns, words, snapshot };
        let Self { shards, egress, datagrams, revisions, cache, .. } = self;
        let mut judge = Judge { cx, shards, egress, datagrams, revisions, cache };
        judge.look_through();
        if judge.cache.is_clear() {
            judge.install_wanted();
        }
    }

    /// The books of the fast path.
    #[must_use]
    pub const fn fast_counts(&self) -> FastCounts {
        self.cache.counts()
    }

    /// What no longer stands is told to the kernel at once (K2): by one store each.
    fn tell_fast(&mut self) {
        let Self { revisions, cache, egress, snapshot, .. } = self;
        let raised = revisions.take_raised();
        let mut all = raised.all | cache.take_upset();
        if !all && raised.of.is_empty() && !egress.neighbours.has_moved() {
            return;
        }
        let mut of = raised.of;
        for (link, ip) in egress.neighbours.moved() {
            let by_ip = |vnet| snapshot.as_ref()?.backend_by_ip.get(&(vnet, ip)).copied();
            match link {
                Link::Inside(vnet) => of.extend(by_ip(vnet)),
                Link::Outside => all = true,
            }
        }
        let now = revisions.advance();
        if all {
            cache.raise_all(now);
        }
        for backend in of {
            revisions.renew(backend);
            cache.raise(backend, now);
        }
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
        self.egress.counters.received += 1;
        if let Some(soundings) = &mut self.egress.soundings {
            soundings.heard_anything(link, now_ns);
        }
        let Some(snapshot) = self.snapshot.as_deref() else { return self.egress.refuse(DropReason::NotOwner) };
        let cx = Cx { now_ns, words, snapshot };
        let Self { shards, egress, datagrams, revisions, cache, .. } = self;
        let mut judge = Judge { cx, shards, egress, datagrams, revisions, cache };
        judge.resume_lapsed();
        let verdict = judge.judge_frame(link, &mut Frame { meta, bytes: frame });
        self.tell_fast();
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

    /// Takes an event of the flow groups. Events of one shard come in order and none is lost.
    pub fn handle_event(&mut self, now_ns: u64, words: &impl LeaseWords, event: GroupEvent) {
        let Self { snapshot, revisions, cache, shards, egress, datagrams, telling, effects, seed, newest, .. } = self;
        let (snapshot, seed, newest) = (snapshot.as_deref(), *seed, *newest);
        Group { now_ns, words, snapshot, revisions, cache, shards, egress, datagrams, telling, effects, seed, newest }
            .handle_event(event);
        self.tell_fast();
    }

    /// The next entry or report for the flow groups. Call until `None`.
    pub fn poll_output(&mut self, now_ns: u64, words: &impl LeaseWords) -> Option<WorkerOutput> {
        self.telling.poll(now_ns, words, &mut self.shards, self.snapshot.as_deref())
    }

    /// Whether scans go on from now on; told before each round of timers by who carries their chunks. A joiner on a slow
    /// link would otherwise have a whole table waiting for it in memory.
    pub fn set_scans(&mut self, scans: Scans) {
        self.telling.chunks.set_scans(scans);
    }

    /// Chunks hold at most so many records from now on; for tests, since what is right for a wire is one chunk for theirs.
    pub fn set_chunk_records(&mut self, records: usize) {
        self.telling.chunks.set_records(records);
    }

    /// Tells of mappings from now on, by `poll_session`.
    pub fn log_sessions(&mut self) {
        self.telling.sessions = Some(Sessions::new());
    }

    /// The next event of a mapping. Call until `None`, after each batch.
    pub fn poll_session(&mut self) -> Option<Session> {
        self.telling.sessions.as_mut()?.pop()
    }

    /// How many events found no room.
    #[must_use]
    pub fn sessions_lost(&self) -> u64 {
        self.telling.sessions.as_ref().map_or(0, Sessions::lost)
    }

    /// The next frame that the worker releases or makes itself; call until `None`. `buf` is replaced by the frame. Its
    /// authority was checked at this moment.
    pub fn poll_frame(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        buf: &mut Vec<u8>,
    ) -> Option<(Link, FrameMeta, Authority)> {
        self.egress.poll(now_ns, words, buf)
    }

    /// Sends a segment of a probe's connection to a backend (S22): `frame` is room for an Ethernet header, and an IPv4
    /// packet from [`crate::probes::SOURCE`]. It leaves by `poll_frame`.
    ///
    /// # Errors
    /// Why it may not: the backend's groups deny it (`SecurityRule`), this worker does not own its shard (`NotOwner`),
    /// and the like.
    pub fn send_probe(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        backend: BackendId,
        frame: &mut [u8],
    ) -> Result<(), DropReason> {
        let snapshot = self.snapshot.as_deref().ok_or(DropReason::NotOwner)?;
        let cx = Cx { now_ns, words, snapshot };
        let Self { shards, egress, datagrams, revisions, cache, .. } = self;
        Judge { cx, shards, egress, datagrams, revisions, cache }.probe(backend, frame)
    }

    /// The next answer to a probe. Call until `None`, after each batch.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        let answer = self.egress.delivered.pop()?;
        self.egress.counters.parked -= 1;
        self.egress.counters.absorbed += 1;
        Some(answer)
    }

    /// Whether a frame of this authority may leave at this moment: the last check before the wire (L4, L5, M1).
    pub fn may_transmit(words: &impl LeaseWords, now_ns: u64, authority: Authority) -> bool {
        egress::may_transmit(words, now_ns, authority)
    }

    /// A frame that was handed out did not leave after all: the lease lapsed, or the device refused it (I51).
    pub fn not_transmitted(&mut self, reason: DropReason) {
        self.egress.counters.transmitted -= 1;
        self.egress.counters.drop(reason);
    }

    /// Everything that time brings, in bounded steps: call when `next_timer_ns` says so; more often does no harm.
    pub fn handle_timers(&mut self, now_ns: u64, words: &impl LeaseWords) {
        self.telling.chunks.grant(CHUNKS_PER_ROUND);
        self.judge_at_ns = u64::MAX;
        self.timed_at_ns = now_ns;
        self.ahead.judge(&self.shards);
        let ids: Vec<ShardId> = self.shards.ids().collect();
        for id in &ids {
            let (snapshot, carry) = (self.snapshot.as_deref(), self.egress.links.carry(*id));
            let news = self.shards.judge_serving(now_ns, words, *id, snapshot, carry);
            self.cache.heard(news.as_ref());
            self.telling.outputs.extend(news);
        }
        for id in &ids {
            while let Some((backend, parked)) = self.shards.replica_mut(*id).and_then(|s| s.overlay.expired(now_ns)) {
                self.egress.drop_parked(backend, parked, DropReason::OpenRefused);
            }
        }
        for waiting in self.datagrams.expire(now_ns) {
            self.egress.drop_waiting(waiting.frame, DropReason::FragmentTimeout);
        }
        self.tell_fast();
        let Some(snapshot) = self.snapshot.clone() else { return };
        let cx = Cx { now_ns, words, snapshot: &snapshot };
        let judging = self.shards.replicas().filter(|(_, s)| s.is_judging()).count();
        let judged = (JUDGED_PER_TURN.0 / (judging as u64).max(1)).max(JUDGED_PER_TURN.1);
        for id in ids {
            if let Some(s) = self.shards.replica_mut(id) {
                s.forget_gone(&snapshot);
            }
            self.owner_timers(&cx, id, judged);
        }
        let Self { shards, egress, datagrams, revisions, cache, .. } = self;
        Judge { cx, shards, egress, datagrams, revisions, cache }.lapsed_timers();
        self.egress.neighbour_timers(&cx, &self.shards);
        self.egress.sounding_timers(cx.at(), self.shards.any_right(&cx));
    }

    fn owner_timers<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, id: ShardId, judged: u64) {
        let (me, At { now_ns, snapshot }) = (self.shards.me, cx.at());
        let Some(entry) = self.shards.get_mut(id) else { return };
        let Some(s) = &mut entry.replica else { return };
        let Some(term) = s.serves(now_ns, me, cx.words.word(id)) else { return };
        entry.last_owned_ns = Some(now_ns);
        s.lease_end_ns = s.lease_end_ns.max(cx.words.word(id).lease_until_ns);
        s.watch_drains(now_ns, id, snapshot);
        s.judge_flows(snapshot, judged, &mut self.cache);
        s.sweep_idle(now_ns, snapshot, &mut self.cache);
        s.end_holds(now_ns, snapshot);
        s.fence(now_ns, snapshot);
        let epoch = s.epoch;
        for (block, reclaim_index) in s.fences_to_report(now_ns, id, snapshot) {
            self.telling.outputs.push_back(WorkerOutput::Fenced { shard: id, epoch, block, reclaim_index });
        }
        // What a turn announces is bounded; the others' steps stay due.
        if self.egress.held.own_waiting() < ANNOUNCED_PER_TURN
            && let Some((step, confirmed)) = entry.announce_step(now_ns)
        {
            self.egress.announce(cx.at(), (id, Authority::Lease { shard: id, term }), &step, confirmed);
        }
    }

    /// When `handle_timers` has something to do next, perhaps in the past; `u64::MAX` if nothing is due.
    #[must_use]
    pub fn next_timer_ns(&self) -> u64 {
        let shards = self.shards.replicas().filter_map(|(_, s)| s.next_timer_ns(self.timed_at_ns)).min();
        let neighbours = self.egress.next_neighbour_ns();
        shards
            .into_iter()
            .chain(neighbours)
            .chain(self.egress.lapsed.next_ns(self.timed_at_ns))
            .chain(self.datagrams.next_ns())
            .chain(self.egress.soundings.as_ref().map(|s| s.next_ns))
            .min()
            .unwrap_or(u64::MAX)
            .min(self.judge_at_ns)
    }

    /// Shards, mappings and ports as they are now.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { shards: &self.shards, cache: &self.cache, snapshot: self.snapshot.as_deref() }
    }

    /// From now on the data networks are sounded.
    pub fn sound(&mut self) {
        self.egress.soundings.get_or_insert_default().set_links(self.egress.links.all());
    }

    /// What a data network carries; nothing is known before [`Worker::sound`], nor where there is no interface.
    #[must_use]
    pub fn passing(&self, link: Link) -> Passing {
        self.heard(link).map_or(Passing::Unproved, |heard| heard.passing)
    }

    /// The same with when and by whom.
    #[must_use]
    pub fn heard(&self, link: Link) -> Option<&Heard> {
        self.egress.soundings.as_ref()?.of(link)
    }

    /// The next hop, as long as this node owns a shard and has one configured.
    #[must_use]
    pub fn next_hop(&self) -> Option<NextHop> {
        self.egress.soundings.as_ref().and_then(|soundings| soundings.next_hop)
    }

    /// Who else claimed addresses of the cluster lately.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        self.egress.claims.all()
    }

    /// Who found no port free towards whom lately (S16).
    pub fn shortages(&self) -> impl Iterator<Item = Shortage> {
        self.shards.replicas().flat_map(|(_, shard)| shard.shortages.all())
    }

    /// Counters of this worker.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.egress.counters
    }

    /// Frames dropped so far, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|r| (*r, self.egress.counters.dropped(*r)))
    }

    /// Bytes of received frames that are held now, and whether frames wait to be polled.
    #[must_use]
    pub fn held_bytes(&self) -> (u64, bool) {
        (self.egress.held.bytes(), self.egress.held.is_ready())
    }
}
