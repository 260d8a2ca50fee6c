//! Who may open a mapping, and which packets may go on by one: judged here, and the groups once more when a parked packet leaves
//! (`outbound::release_parked`). Pure.
//!
//! Asked for first packets and for what is not plain (`outbound`, `inbound`, `errors`, `hairpin`). An established mapping's
//! packets ask nobody (`established`); whether a mapping may stand is said by `shard::standing`.

use std::net::Ipv4Addr;

use crate::addresses::{InsideEnd, endpoint, is_at, led_to};
use crate::consent::{groups_admit, groups_allow, groups_permit, note_stranger};
use crate::context::At;
use crate::event::{Authority, DropReason};
use crate::flow::{FlowKey, Record, Slot};
use crate::ids::{BackendId, VnetId};
use crate::record::{HoldClass, InsideKey, Manner, Open, Proto, PublicKey, Scenario};
use crate::rules::{AdminState, Inward, Rule};
use crate::shard::Shard;
use crate::shard::half_open::{Half, flow_of};
use crate::shard::standing::{ending, groups_let, leads, leads_to, led_by};
use crate::snapshot::{Backend, Snapshot, Without};
use crate::wire::{IcmpKind, IpPacket, TcpFields, TcpFlags};

/// What a packet is to its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It may open one: a SYN, a datagram, an echo request.
    First,
    /// It answers a SYN.
    Answer,
    /// It ends a connection: FIN or RST.
    Last,
    /// None of these.
    Other,
}

impl Role {
    pub(crate) fn of(p: &IpPacket) -> Self {
        let Some(tcp) = &p.tcp else {
            let opens = p.icmp.is_none_or(|kind| kind == IcmpKind::EchoRequest);
            return if opens { Self::First } else { Self::Other };
        };
        match (tcp.flags.contains(TcpFlags::SYN), tcp.flags.contains(TcpFlags::ACK)) {
            (true, false) => Self::First,
            (true, true) => Self::Answer,
            (false, _) if tcp.flags.intersects(TcpFlags(TcpFlags::FIN.0 | TcpFlags::RST.0)) => Self::Last,
            (false, _) => Self::Other,
        }
    }
}

/// What to do with a packet of a backend.
pub(crate) enum Plan<'a> {
    /// Translate it by this mapping.
    Translate(Slot),
    /// It waits with the first one of a mapping that opens.
    Park,
    /// It answers what came in by a rule, and the handshake is not complete: it leaves as that.
    Answer(Open),
    /// It opens a mapping.
    Open(Proposal<'a>),
    /// It belongs to no flow.
    Stray,
    /// It may not pass.
    Refuse(DropReason),
}

/// What becomes of a packet of a backend that is to be judged here by `authority`; the one answer for packets and for whoever
/// asks what would happen (`explain`).
pub(crate) fn plan<'a>(
    at: At<'_>,
    shard: &Shard,
    authority: Authority,
    backend: (BackendId, &'a Backend),
    flow: &FlowKey,
    role: Role,
) -> Plan<'a> {
    let table = &shard.replica.table;
    let live = table.find_inside(flow).is_some_and(|slot| ending(table.record(slot)).is_none());
    if !live && let Some(plan) = answer(at, shard, authority, backend, flow, role) {
        return plan;
    }
    let found = table.find_inside(flow).map(|slot| (slot, outbound_use(at, shard, slot, role, backend)));
    let opening = shard.overlay.is_opening(flow);
    let again = match (found, authority) {
        (Some((slot, Use::Translate)), _) => return Plan::Translate(slot),
        (Some((_, Use::Refuse(_))), _) if opening => return Plan::Park,
        (Some((_, Use::Refuse(DropReason::NotFirstPacket))), _) => return Plan::Stray,
        (Some((_, Use::Refuse(reason))), _) => return Plan::Refuse(reason),
        (_, Authority::Grace { .. } | Authority::Forward) => return Plan::Refuse(DropReason::NotOwner),
        (_, Authority::Lease { .. }) if opening => return Plan::Park,
        (Some((slot, Use::Reopen)), Authority::Lease { .. }) => Some(table.record(slot).opened()),
        (None | Some((_, Use::Fresh)), Authority::Lease { .. }) => {
            let may = role == Role::First || (role == Role::Answer && answers(shard, flow));
            if !may {
                return Plan::Stray;
            }
            None
        }
    };
    // From a frontend's address a backend only answers (D17).
    if !is_at(backend.1, flow.inside) {
        return Plan::Refuse(DropReason::SpoofedSource);
    }
    // A SYN answers nothing, and nobody can have begun what the endpoint's mapping lets nobody begin.
    let may_answer = (flow.proto != Proto::Tcp || role != Role::First) && shard.public_of(at.snapshot, flow).is_some();
    let allowed = if may_answer { groups_allow } else { groups_permit };
    if !allowed(at.snapshot, backend.0, flow) {
        return Plan::Refuse(DropReason::SecurityRule);
    }
    decide(backend, flow, again).map_or_else(Plan::Refuse, Plan::Open)
}

/// Whether a backend asks in vain for an echo: a public address answers none (R7), unless it is one backend's own.
pub(crate) fn is_vain(s: &Snapshot, dst: Ipv4Addr, icmp: Option<IcmpKind>) -> bool {
    let ours = || s.frontend_by_ip.get(&dst).is_some_and(|id| !s.rules.is_own(*id));
    icmp == Some(IcmpKind::EchoRequest) && ours()
}

/// What to do with a packet whose mapping was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Translate by it.
    Translate,
    /// The flow goes on: open the same mapping again (F3, D6).
    Reopen,
    /// A new flow on the same tuple: choose a port anew.
    Fresh,
    /// Neither.
    Refuse(DropReason),
}

/// The mapping that a first packet may have.
pub(crate) struct Proposal<'a> {
    pub(crate) backend: (BackendId, &'a Backend),
    pub(crate) scenario: Scenario,
    pub(crate) end: End,
}

/// Its public end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// As it was held.
    Again(PublicKey),
    /// That by which the flow came in.
    Came(PublicKey),
    /// A port of the backend's grant that is free towards the remote.
    Granted,
    /// The inside port at an address that is the backend's own.
    Kept(PublicKey),
}

impl<'a> Proposal<'a> {
    /// A mapping that a remote began.
    pub(crate) const fn of_inward(backend: &'a Backend, open: &Open) -> Self {
        Self { backend: (open.backend, backend), scenario: open.scenario, end: End::Came(open.public) }
    }

    /// Whether its backend begins the flow.
    pub(crate) const fn is_begun_here(&self) -> bool {
        !matches!(self.end, End::Came(_))
    }
}

/// Under which right a backend's first packet leaves, and by which end; `again`: what it leaves by is held for it.
fn decide<'a>(
    backend: (BackendId, &'a Backend),
    flow: &FlowKey,
    again: Option<Open>,
) -> Result<Proposal<'a>, DropReason> {
    let (scenario, end) = match (again, backend.1.ways.own) {
        (Some(held), _) => (held.scenario, End::Again(held.public)),
        (None, Some(frontend)) => {
            let (proto, port, remote) = (flow.proto, flow.inside.endpoint.port, flow.remote);
            (Scenario::OwnOut, End::Kept(PublicKey { proto, frontend, port, remote }))
        }
        (None, None) if flow.proto.is_by_address() => return Err(DropReason::NoOwnAddress),
        (None, None) if backend.1.lease.is_empty() => return Err(without(backend.1)),
        (None, None) => (backend.1.ways.granted, End::Granted),
    };
    Ok(Proposal { backend, scenario, end })
}

/// Why a backend's first packets have no way out.
const fn without(backend: &Backend) -> DropReason {
    match backend.ways.without {
        Without::NoPath => DropReason::NoOutboundPath,
        Without::Barred => DropReason::DefaultOutboundOff,
    }
}

/// The mapping of a packet from a remote. Behind a shared address one that fell silent is none any more (S13), though its port is
/// held: what comes then is no late packet.
pub(crate) fn mapping_of(shard: &Shard, key: &PublicKey) -> Option<Slot> {
    let table = &shard.replica.table;
    let is_over = |record| is_silent(record) && matches!(record.scenario(), Scenario::Pool | Scenario::Default);
    table.find_public(key).filter(|slot| !is_over(table.record(*slot)))
}

/// Whether it ended otherwise than with its connection: it fell silent, or was taken back.
fn is_silent(record: &Record) -> bool {
    !matches!(ending(record), None | Some(HoldClass::Fin | HoldClass::Rst | HoldClass::Service))
}

/// The inside end of an inbound packet's mapping, if it may pass. A mapping that was taken back passes nothing (D5); one
/// that ended with its connection, late packets (D6).
pub(crate) fn inbound_use(s: &Snapshot, record: &Record, backend: &Backend) -> Result<InsideEnd, DropReason> {
    if !groups_let(s, record) {
        return Err(DropReason::SecurityRule);
    }
    if record.scenario() == Scenario::Rule && !leads_to(s, record) {
        return Err(DropReason::NoMapping);
    }
    let passes = !is_silent(record) || backend.has(record.scenario(), record.frontend, record.public_port);
    let there = record.scenario() == Scenario::Rule || is_at(backend, record.inside_key());
    let end = InsideEnd::of(record.inside_key(), backend).ok_or(DropReason::NoMapping)?;
    if passes && there { Ok(end) } else { Err(DropReason::NoMapping) }
}

/// The inside end that an inbound packet reaches without a mapping of its own, if the groups let its sender begin a flow
/// (S24, S26): they see the instance's own address and port.
pub(crate) fn stranger_use(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Result<InsideEnd, DropReason> {
    if key.proto.is_by_address() {
        return Err(DropReason::NoOwnAddress);
    }
    let (id, end, flow) = stranger(s, shard, key).ok_or(DropReason::NoMapping)?;
    if groups_admit(s, id, &flow) { Ok(end) } else { Err(DropReason::SecurityRule) }
}

/// Counts what the groups decide about such a packet.
pub(crate) fn note_stranger_hits(s: &Snapshot, shard: &mut Shard, key: &PublicKey) {
    if s.security.is_empty() {
        return;
    }
    let led = chosen(s, shard, key).ok().map(|open| (open.backend, flow_of(&open)));
    if let Some((id, flow)) = led.or_else(|| stranger(s, shard, key).map(|(id, _, flow)| (id, flow))) {
        note_stranger(&mut shard.hits, s, id, &flow);
    }
}

/// Whom it would reach, and as which flow.
fn stranger(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Option<(BackendId, InsideEnd, FlowKey)> {
    let inside = shard.endpoint_of(s, key)?;
    let id = *s.backend_by_ip.get(&(inside.vnet, inside.endpoint.addr.ipv4()?))?;
    let end = InsideEnd::of(inside, s.backends.get(&id)?)?;
    Some((id, end, FlowKey { proto: key.proto, inside, remote: key.remote }))
}

/// Whether a SYN may have come in by its endpoint's mapping alone, so that its answer opens one (R6).
fn answers(shard: &Shard, flow: &FlowKey) -> bool {
    shard.replica.table.claims().port_of(flow.proto, flow.inside).is_some()
}

/// What a packet of a backend may do by the mapping that was found for it.
fn outbound_use(at: At<'_>, shard: &Shard, slot: Slot, role: Role, (id, backend): (BackendId, &Backend)) -> Use {
    let record = shard.replica.table.record(slot);
    if !groups_let(at.snapshot, record) {
        return Use::Refuse(DropReason::SecurityRule);
    }
    let Some(class) = ending(record) else {
        // An address that went to another backend, or a rule that leads here no more: their flows are about to close.
        let stays = record.backend == id && (record.scenario() != Scenario::Rule || leads_to(at.snapshot, record));
        return if stays { Use::Translate } else { Use::Refuse(DropReason::NotFirstPacket) };
    };
    if record.scenario().comes_in() {
        let leads = record.backend == id && leads_to(at.snapshot, record);
        return match (role, record.scenario()) {
            // Its own port of the same number is this one.
            (Role::First, Scenario::OwnIn) if leads => Use::Reopen,
            (Role::First, _) => Use::Fresh,
            (Role::Answer | Role::Last | Role::Other, _) if leads => Use::Translate,
            (Role::Answer | Role::Last | Role::Other, _) => Use::Refuse(DropReason::NotFirstPacket),
        };
    }
    let leased = record.backend == id && backend.has(record.scenario(), record.frontend, record.public_port);
    let ended_itself = matches!(class, HoldClass::Fin | HoldClass::Rst | HoldClass::Service);
    if role == Role::First {
        return if leased && record.scenario() == backend.way_out() { Use::Reopen } else { Use::Fresh };
    }
    let late = shard.takes_late(record, at.now_ns);
    if ended_itself && record.backend == id {
        return if late { Use::Translate } else { Use::Refuse(DropReason::NotFirstPacket) };
    }
    match (leased, role == Role::Last) {
        (true, true) if late => Use::Translate,
        (true, false) => Use::Reopen,
        (true, true) | (false, _) => Use::Refuse(DropReason::NotFirstPacket),
    }
}

/// What becomes of a packet from outside that no live mapping is for.
pub(crate) enum Entry {
    /// It reaches an open port of a backend's (R6).
    Stranger(InsideEnd),
    /// It passes, and nothing is committed: a handshake that is not complete, a datagram that nobody has answered. Whether that is
    /// known already.
    Half { open: Open, known: bool },
    /// It waits with the one that completed the handshake.
    Park(Open),
    /// It completes the handshake, or seems to be of a connection that an earlier owner let in.
    Open { open: Open, adopted: bool },
}

impl Entry {
    /// Where its receiver is.
    pub(crate) const fn vnet(&self) -> VnetId {
        match self {
            Self::Stranger(to) => to.vnet,
            Self::Half { open, .. } | Self::Park(open) | Self::Open { open, .. } => open.inside.vnet,
        }
    }
}

/// Whether a packet for an ended mapping is judged as if there were none: one that begins anew what remotes begin, or goes on with
/// one that was.
pub(crate) fn begins_anew(at: At<'_>, shard: &Shard, slot: Slot, key: &PublicKey, p: &IpPacket) -> bool {
    let record = shard.replica.table.record(slot);
    if ending(record).is_none() {
        return false;
    }
    let is_first = Role::of(p) == Role::First;
    match record.scenario() {
        Scenario::Rule | Scenario::OwnIn => {
            is_first || shard.half_open.of(key, at.now_ns).is_some() || shard.overlay.is_reserved(key)
        }
        // What the backend began is over: a connection that is begun from the other side is another one.
        Scenario::OwnOut => is_first && p.proto == Proto::Tcp,
        Scenario::Pool | Scenario::Default | Scenario::Private => false,
    }
}

/// What becomes of a packet from outside for a public end without a live mapping (W3).
pub(crate) fn enter(
    at: At<'_>,
    shard: &Shard,
    authority: Authority,
    key: &PublicKey,
    (role, tcp): (Role, Option<TcpFields>),
) -> Result<Entry, DropReason> {
    let s = at.snapshot;
    if s.rules.inward(key).is_none() {
        return stranger_use(s, shard, key).map(Entry::Stranger);
    }
    if !matches!(authority, Authority::Lease { .. }) {
        return Err(DropReason::NotOwner);
    }
    // What its backend has not answered goes to another one, if that one is down now.
    let opens = shard.overlay.is_reserved(key);
    let stays = |half: &Half| leads(s, &half.open) && (opens || half.is_answered() || is_up(s, &half.open));
    let half = shard.half_open.of(key, at.now_ns).filter(stays);
    let open = match half {
        Some(half) => half.open,
        None => chosen(s, shard, key)?,
    };
    if !groups_admit(s, open.backend, &flow_of(&open)) {
        return Err(DropReason::SecurityRule);
    }
    if opens {
        return Ok(Entry::Park(open));
    }
    if began_itself(shard, &open) {
        return Err(DropReason::NoMapping);
    }
    match (role, half) {
        (Role::First, half) => Ok(Entry::Half { open, known: half.is_some() }),
        (Role::Other | Role::Last, Some(half)) if tcp.is_some_and(|tcp| half.is_proved_by(&tcp)) => {
            Ok(Entry::Open { open, adopted: false })
        }
        (Role::Last, Some(_)) => Ok(Entry::Half { open, known: true }),
        (Role::Other, None)
            if tcp.is_some() && shard.may_adopt(at.now_ns) && shard.half_open.may_adopt(key.frontend) =>
        {
            Ok(Entry::Open { open, adopted: true })
        }
        (Role::Answer | Role::Last | Role::Other, _) => Err(DropReason::NoMapping),
    }
}

/// Whether a backend gets new flows by a rule: as the operator says, else as the rule's probe does, or its machine's (S22).
fn gets_new(s: &Snapshot, rule: &Rule, backend: BackendId) -> bool {
    rule.admin(backend).map_or_else(|| s.probes.is_up(rule.health, backend), |state| state == AdminState::Up)
}

/// The same of the backend of an ended flow; nobody probes for an address that is one backend's own.
fn is_up(s: &Snapshot, open: &Open) -> bool {
    s.rules.of(&open.public).is_none_or(|rule| gets_new(s, rule, open.backend))
}

/// The mapping that a client's flow will have: its member by the rule's hash, or whose alone the address is; while an ended one
/// holds the tuple, the same as before, or none.
pub(crate) fn chosen(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Result<Open, DropReason> {
    let inward = s.rules.inward(key).ok_or(DropReason::NoMapping)?;
    let table = &shard.replica.table;
    if let Some(held) = table.find_public(key).map(|slot| table.record(slot).opened()) {
        let same = leads(s, &held) && is_up(s, &held);
        return if same { Ok(held) } else { Err(DropReason::NoMapping) };
    }
    let to = |backend| s.backends.get(&backend).ok_or(DropReason::NoBackend);
    let (scenario, backend, inside) = match inward {
        Inward::Rule(rule) => {
            let member =
                rule.choose(s.params.key, key, |backend| gets_new(s, rule, backend)).ok_or(DropReason::NoBackend)?;
            (Scenario::Rule, member, led_to(s, rule, key, to(member)?).ok_or(DropReason::NoMapping)?)
        }
        Inward::Own(owner) => {
            let backend = to(owner)?;
            (Scenario::OwnIn, owner, InsideKey { vnet: backend.vnet, endpoint: endpoint(backend.ip, key.port) })
        }
    };
    let open = Open { public: *key, inside, backend, scenario };
    if leads(s, &open) && !began_itself(shard, &open) { Ok(open) } else { Err(DropReason::NoMapping) }
}

/// Whether the instance has opened exactly this flow itself: what answers by it would be told apart from nothing.
fn began_itself(shard: &Shard, open: &Open) -> bool {
    let (table, flow) = (&shard.replica.table, flow_of(open));
    let lives = table.find_inside(&flow).is_some_and(|slot| ending(table.record(slot)).is_none());
    lives || shard.overlay.is_opening(&flow)
}

/// The inside end that a remote's first packet reaches by a rule or at an own address, if the groups let it.
pub(crate) fn led_use(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Result<InsideEnd, DropReason> {
    let open = chosen(s, shard, key)?;
    if !groups_admit(s, open.backend, &flow_of(&open)) {
        return Err(DropReason::SecurityRule);
    }
    end_of(s, &open)
}

/// Where a flow that comes in goes.
pub(crate) fn end_of(s: &Snapshot, open: &Open) -> Result<InsideEnd, DropReason> {
    let backend = s.backends.get(&open.backend).ok_or(DropReason::NoMapping)?;
    InsideEnd::of(open.inside, backend).ok_or(DropReason::NoMapping)
}

/// What a remote has begun with a backend and nothing proves yet, if it may still get there.
pub(crate) fn half_of(at: At<'_>, shard: &Shard, id: BackendId, flow: &FlowKey) -> Option<Open> {
    let open = shard.half_open.of_flow(flow, at.now_ns)?.open;
    (open.backend == id && leads(at.snapshot, &open) && groups_admit(at.snapshot, id, flow)).then_some(open)
}

/// What a backend's packet does that answers what a remote began; `None`: it is no such answer.
fn answer<'a>(
    at: At<'_>,
    shard: &Shard,
    authority: Authority,
    (id, backend): (BackendId, &'a Backend),
    flow: &FlowKey,
    role: Role,
) -> Option<Plan<'a>> {
    let s = at.snapshot;
    if s.rules.is_empty() || shard.overlay.is_opening(flow) {
        return None;
    }
    let half = shard.half_open.of_flow(flow, at.now_ns).filter(|half| leads(s, &half.open));
    let open = match half {
        Some(half) => half.open,
        None => let_in_before(at, shard, (id, backend), flow, role)?,
    };
    if !matches!(authority, Authority::Lease { .. }) {
        return Some(Plan::Refuse(DropReason::NotOwner));
    }
    if !groups_admit(s, id, flow) {
        return Some(Plan::Refuse(DropReason::SecurityRule));
    }
    match (flow.proto.manner(), role) {
        (Manner::Datagram, _) | (Manner::Query, Role::Other) => Some(Plan::Open(Proposal::of_inward(backend, &open))),
        (Manner::Stream, Role::Answer | Role::Last) => Some(Plan::Answer(open)),
        (Manner::Stream, Role::Other) => Some(Plan::Stray),
        (Manner::Stream, Role::First) | (Manner::Query, _) => None,
    }
}

/// The mapping of a connection that was let in, though nothing is known of it here: its first packet came to an owner before,
/// and its answer is repeated. Exactly one rule leads to its port, and chooses the backend for this client (W3), or it has an
/// address of its own and no rule does. Not so a datagram: nothing tells it from one that the backend begins, and the client's next
/// one says that it is none.
fn let_in_before(
    at: At<'_>,
    shard: &Shard,
    (id, backend): (BackendId, &Backend),
    flow: &FlowKey,
    role: Role,
) -> Option<Open> {
    if flow.proto != Proto::Tcp || role != Role::Answer || !shard.may_adopt(at.now_ns) {
        return None;
    }
    let s = at.snapshot;
    let ruled = led_by(s, id, flow);
    let own = backend.ways.own.filter(|_| is_at(backend, flow.inside));
    let own = own.map(|frontend| (frontend, flow.inside.endpoint.port));
    let (frontend, port) = match (ruled, own) {
        (Some(only), None) | (None, Some(only)) => only,
        (Some(_), Some(_)) | (None, None) => return None,
    };
    let key = PublicKey { proto: flow.proto, frontend, port, remote: flow.remote };
    let open = chosen(s, shard, &key).ok()?;
    (open.backend == id && open.inside == flow.inside).then_some(open)
}
