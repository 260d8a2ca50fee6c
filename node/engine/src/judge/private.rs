//! Private traffic: from instance to instance through the gateway, nothing translated (S41). Where a group judges either of them
//! the first packet leaves at once and its mapping behind it, and the flow's next ones wait for that (W4); where none does
//! nothing is kept. Called by `outbound`, `errors` and, for what waited, by `group`.

use crate::consent::note_private;
use crate::context::{Access, At, Back, Exit, Frame};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{FlowKey, Record, Seen, Slot, Translation};
use crate::ids::{ShardId, Side};
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Way};
use crate::judge::opening::First;
use crate::judge::policy::Role;
use crate::lease::LeaseWords;
use crate::private::{Ends, Pair, pair_of};
use crate::record::{FlowRecord, HoldClass, Open, Proto, Scenario};
use crate::revision::Revisions;
use crate::shard::Shard;
use crate::shard::overlay::Parked;
use crate::shard::standing::ending;
use crate::snapshot::{Sharing, Snapshot};
use crate::translation::answers_of;
use crate::wire::{IcmpError, IpPacket, decrement_ttl};

/// Which way a packet goes by its mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Course {
    /// As its first packet went.
    Forth,
    /// As the answers do.
    Back,
}

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// It passes, and nothing is kept of it.
    Pass,
    /// It passes by this mapping.
    Flow(Slot, Course),
    /// It waits for the mapping of this flow, which is on its way.
    Park(FlowKey),
    /// It passes, and this mapping goes into the log.
    Open(Open),
    /// It may not pass.
    Refuse(DropReason),
}

/// What becomes of a packet of `pair.from` to `pair.to`, judged by `authority`; the one answer for packets and for whoever asks.
/// `decided`: who knows which decisions still stand; without it the groups are asked in any case.
pub(crate) fn plan(
    at: At<'_>,
    (shard, decided): (&Shard, Option<&Revisions>),
    authority: Authority,
    pair: &Pair<'_>,
    ends: Ends,
    role: Role,
) -> Plan {
    let s = at.snapshot;
    if !pair.is_judged(s) {
        return Plan::Pass;
    }
    let found = find(shard, pair, ends);
    let lives = found.filter(|(slot, _)| ending(shard.replica.table.record(*slot)).is_none());
    if let Some((slot, course)) = lives {
        let made = shard.replica.table.translation(slot).map_or(0, |translation| translation.made);
        let stands = |of: &Revisions| of.holds(pair.from.id, made) && of.holds(pair.to.id, made);
        let allowed = decided.is_some_and(stands) || may_go_on(s, pair, ends, course);
        return if allowed { Plan::Flow(slot, course) } else { Plan::Refuse(DropReason::SecurityRule) };
    }
    for flow in [pair.flow(ends), pair.back().flow(ends.back())] {
        if shard.overlay.is_opening(&flow) {
            return Plan::Park(flow);
        }
    }
    if let Some((slot, course)) = found.filter(|_| role != Role::First) {
        let record = shard.replica.table.record(slot);
        let ended_itself = matches!(ending(record), Some(HoldClass::Fin | HoldClass::Rst | HoldClass::Service));
        // What a change has ended goes on only if whoever began it may again (D19).
        return match (may_go_on(s, pair, ends, course), authority) {
            (false, _) => Plan::Refuse(DropReason::SecurityRule),
            // The last packets of a connection (D6).
            (true, _) if ended_itself || role == Role::Last => Plan::Pass,
            (true, Authority::Lease { .. }) => Plan::Open(record.opened()),
            (true, Authority::Grace { .. } | Authority::Forward) => Plan::Refuse(DropReason::NotOwner),
        };
    }
    let Authority::Lease { .. } = authority else { return Plan::Refuse(DropReason::NotOwner) };
    // A connection may be older than the groups, or its owner died before the log had it.
    let adopts = shard.leadership.as_ref().is_some_and(|lead| at.now_ns < lead.adopts_until_ns);
    let (forth, back) = (|| pair.may_begin(s, ends), || pair.back().may_begin(s, ends.back()));
    match role {
        Role::First if forth() => Plan::Open(pair.open(ends)),
        Role::Other if adopts && ends.proto != Proto::Icmp && forth() => Plan::Open(pair.open(ends)),
        Role::Answer | Role::Other if adopts && back() => Plan::Open(pair.back().open(ends.back())),
        Role::Last if adopts && (forth() || back()) => Plan::Pass,
        Role::First | Role::Answer | Role::Other | Role::Last => Plan::Refuse(DropReason::SecurityRule),
    }
}

/// The mapping that a packet belongs to: the one that its sender began, else its receiver's; one that lives, if there is one.
pub(crate) fn find(shard: &Shard, pair: &Pair<'_>, ends: Ends) -> Option<(Slot, Course)> {
    let table = &shard.replica.table;
    let of = |flow: FlowKey, course| {
        let slot = table.find_inside(&flow)?;
        (table.record(slot).scenario() == Scenario::Private).then_some((slot, course))
    };
    let forth = of(pair.flow(ends), Course::Forth);
    let lives = |(slot, _): &(Slot, Course)| ending(table.record(*slot)).is_none();
    if forth.is_some_and(|found| lives(&found)) {
        return forth;
    }
    of(pair.back().flow(ends.back()), Course::Back).filter(|back| lives(back) || forth.is_none()).or(forth)
}

/// Whether the groups let that one go on who began.
fn may_go_on(s: &Snapshot, pair: &Pair<'_>, ends: Ends, course: Course) -> bool {
    match course {
        Course::Forth => pair.may_begin(s, ends),
        Course::Back => pair.back().may_begin(s, ends.back()),
    }
}

const fn ends_of(p: &IpPacket) -> Ends {
    Ends { proto: p.proto, from_port: p.src_port, to_port: p.dst_port }
}

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn private(
        &mut self,
        pair: &Pair<'_>,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, at, link) = (self.cx.snapshot, self.cx.at(), pair.from.link());
        let authority = match self.shards.access(&self.cx, pair.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, link, node, p.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        may_in_grace(authority, pair)?;
        self.datagrams.note_first(at.now_ns, link, p)?;
        if is_for_kernel(authority, pair, p) {
            // Whoever owns the pair may not ask for an instance that is at home in another shard (M4).
            let place = self.egress.neighbours.place(link, p.src);
            self.egress.neighbours.heard(at.now_ns, place, (link, p.src), p.eth_src);
        }
        let back = Back { exit: Exit { link, authority }, sender: p.src };
        let mtu = self.egress.mtu(pair.to.link())?;
        self.egress.may_go_on(at, back, mtu, p, frame)?;
        let ends = ends_of(p);
        let shard = self.shards.replica_mut(pair.home).ok_or(DropReason::NoForward)?;
        let plan = plan(at, (shard, Some(self.revisions)), authority, pair, ends, Role::of(p));
        if matches!(plan, Plan::Open(_) | Plan::Refuse(DropReason::SecurityRule)) {
            note_both(s, shard, pair, ends);
        }
        match plan {
            Plan::Pass if is_for_kernel(authority, pair, p) => {
                self.cache.note_pair(pair.home, pair.from.id, pair.to.id)
            }
            Plan::Pass => {}
            Plan::Flow(slot, course) => self.note_private(authority, (pair, slot, course), p),
            Plan::Park(flow) => return self.opening().park(pair.home, &flow, &First { packet: p, frame, from: link }),
            Plan::Open(open) => begin(at, shard, open)?,
            Plan::Refuse(DropReason::NotOwner) => return self.await_lease(pair.home, link, p, frame),
            Plan::Refuse(reason) => return Err(self.egress.refuse_flow(at, back, reason, p, frame)),
        }
        let exit = Exit { link: pair.to.link(), authority };
        let way = self.egress.find_hop(at, exit, pair.to.backend.ip)?;
        self.pass_on(pair, exit, p, frame.bytes);
        let hop = way.put(frame.bytes);
        self.egress.conclude(at, exit, hop, frame)
    }

    /// The mapping of a packet that waited is committed.
    pub(crate) fn release_private(&mut self, authority: Authority, home: ShardId, slot: Slot, parked: Parked) {
        let Parked { frame: mut bytes, meta, packet: p, .. } = parked;
        let (at, s) = (self.cx.at(), self.cx.snapshot);
        let Some(shard) = self.shards.replica(home) else {
            return self.egress.drop_waiting(bytes, DropReason::TermLost);
        };
        let record = *shard.replica.table.record(slot);
        let Some((pair, course)) = pair_of_parked(s, &record, &p) else {
            return self.egress.drop_waiting(bytes, DropReason::PrivateDestination);
        };
        if !may_go_on(s, &pair, ends_of(&p), course) {
            return self.egress.drop_waiting(bytes, DropReason::SecurityRule);
        }
        self.note_private(authority, (&pair, slot, course), &p);
        let exit = Exit { link: pair.to.link(), authority };
        match self.egress.find_hop(at, exit, pair.to.backend.ip) {
            Ok(way) => {
                self.pass_on(&pair, exit, &p, &mut bytes);
                let hop = way.put(&mut bytes);
                self.egress.send_later(at.now_ns, exit, hop, meta, bytes);
            }
            Err(reason) => self.egress.drop_waiting(bytes, reason),
        }
        self.settle_fragments(Key::of_first(pair.from.link(), &p));
    }

    /// What a packet undergoes that passes: a hop is taken off, and the other fragments of its datagram follow it.
    fn pass_on(&mut self, pair: &Pair<'_>, exit: Exit, p: &IpPacket, frame: &mut [u8]) {
        decrement_ttl(frame, p.l3);
        if let Some(key) = Key::of_first(pair.from.link(), p) {
            let way = Way { source: None, destination: None, id: None, hop: pair.to.backend.ip, exit };
            self.datagrams.decide(&key, Fate::Known(way));
        }
    }

    /// A packet passes by its mapping. Datagrams keep it alive either way: nobody here is a stranger.
    fn note_private(&mut self, authority: Authority, (pair, slot, course): (&Pair<'_>, Slot, Course), p: &IpPacket) {
        let at = self.cx.at();
        let Some(shard) = self.shards.replica_mut(pair.home) else { return };
        match course {
            Course::Forth => shard.note_out(self.cache, at, authority, slot, p),
            Course::Back => {
                shard.note_in(self.cache, at, authority, slot, p);
                if p.tcp.is_none() {
                    shard.replica.table.record_mut(slot).last_seen = Seen::at(at.now_ns);
                }
            }
        }
        let table = &mut shard.replica.table;
        let (made, lives) = (self.revisions.now(), table.record(slot).is_live());
        let before = table.translation(slot).copied().unwrap_or(Translation::NONE);
        if before.made != made {
            let answers = answers_of(table.record(slot), at.snapshot);
            table.translate(slot, Translation { made, answers, ..before });
        }
        if lives && is_for_kernel(authority, pair, p) {
            let side = if course == Course::Forth { Side::Inside } else { Side::Outside };
            self.cache.note(pair.home, slot, table.translation_mut(slot), side);
        }
    }

    /// An instance complains about a packet of another one's (S41): it passes if that packet may have come, and goes where it
    /// came from.
    pub(crate) fn private_error(
        &mut self,
        pair: &Pair<'_>,
        e: &IcmpError,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, at, link) = (self.cx.snapshot, self.cx.at(), pair.from.link());
        let authority = match self.shards.access(&self.cx, pair.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, link, node, e.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        may_in_grace(authority, pair)?;
        if pair.is_judged(s) {
            let ends = Ends { proto: e.quote.proto, from_port: e.quote.dst_port, to_port: e.quote.src_port };
            let shard = self.shards.replica(pair.home).ok_or(DropReason::NoForward)?;
            let flows = [pair.flow(ends), pair.back().flow(ends.back())];
            let known = match find(shard, pair, ends) {
                Some((_, course)) => may_go_on(s, pair, ends, course),
                None => flows.iter().any(|flow| shard.overlay.is_opening(flow)),
            };
            if !known {
                return Err(DropReason::NoMapping);
            }
        }
        let exit = Exit { link: pair.to.link(), authority };
        let way = self.egress.find_hop(at, exit, pair.to.backend.ip)?;
        decrement_ttl(frame.bytes, e.l3);
        let hop = way.put(frame.bytes);
        self.egress.conclude(at, exit, hop, frame)
    }
}

/// Whether the kernel could have passed it on: it came to the pair's shard, whose lease is ours, and not by another member.
fn is_for_kernel(authority: Authority, pair: &Pair<'_>, p: &IpPacket) -> bool {
    matches!(authority, Authority::Lease { .. }) && p.eth_dst.shard() == Some(pair.home) && p.fragment.is_none()
}

/// In grace only what the kernel's guard can tell too: whose a pair is within one network.
fn may_in_grace(authority: Authority, pair: &Pair<'_>) -> Result<(), DropReason> {
    match authority {
        Authority::Grace { .. } if pair.crosses() => Err(DropReason::NotOwner),
        Authority::Grace { .. } | Authority::Lease { .. } | Authority::Forward => Ok(()),
    }
}

/// Puts a mapping into the stream; its first packet leaves at once, since no two can have one end (W4).
fn begin(at: At<'_>, shard: &mut Shard, open: Open) -> Result<(), DropReason> {
    let At { now_ns, snapshot: s } = at;
    if !shard.stream.is_open() {
        return Err(DropReason::Backpressure);
    }
    shard.admits(now_ns, &s.params, open.backend)?;
    shard.charge(now_ns, &s.params, open.backend);
    shard.overlay.open(&open, Sharing::Tuple, now_ns);
    shard.stream.push(s.control_index, FlowRecord::Open(open));
    Ok(())
}

/// Counts which rules decide, of either side.
fn note_both(s: &Snapshot, shard: &mut Shard, pair: &Pair<'_>, ends: Ends) {
    let (forth, back) = (pair.flow(ends), pair.back().flow(ends.back()));
    note_private(&mut shard.hits, s, (pair.from.id, &forth), (pair.to.id, &back));
}

/// Between whom a packet that waited passes, by its mapping.
fn pair_of_parked<'a>(s: &'a Snapshot, record: &Record, p: &IpPacket) -> Option<(Pair<'a>, Course)> {
    let (inside, remote) = (record.inside.addr.ipv4()?, record.remote.addr.ipv4()?);
    let pair = pair_of(s, (record.vnet, inside), remote)?;
    let forth = p.src == inside && p.dst == remote;
    Some(if forth { (pair, Course::Forth) } else { (pair.back(), Course::Back) })
}
