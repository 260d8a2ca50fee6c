//! Who may open a mapping, and which packets may go on by one: judged here, and the groups once more when a parked packet leaves
//! (`outbound::release_parked`). Pure.
//!
//! Asked for first packets and for what is not plain (`outbound`, `inbound`, `errors`, `hairpin`). An established mapping's
//! packets ask nobody (`established`); whether a mapping may stand is said by `shard::standing`.

use crate::addresses::InsideEnd;
use crate::context::At;
use crate::event::{Authority, DropReason};
use crate::flow::{FlowKey, Record, Slot};
use crate::ids::BackendId;
use crate::ports::in_lease;
use crate::record::{HoldClass, Open, Proto, PublicKey, Scenario};
use crate::shard::Shard;
use crate::shard::standing::{ending, groups_admit, groups_allow, groups_permit, note_stranger};
use crate::snapshot::{Backend, Snapshot};
use crate::wire::{IcmpKind, IpPacket, TcpFlags};

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
            let opens = p.icmp.map_or(p.proto == Proto::Udp, |kind| kind == IcmpKind::EchoRequest);
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
    // A SYN answers nothing, and nobody can have begun what the endpoint's mapping lets nobody begin.
    let may_answer = (flow.proto != Proto::Tcp || role != Role::First) && shard.public_of(at.snapshot, flow).is_some();
    let allowed = if may_answer { groups_allow } else { groups_permit };
    if !allowed(at.snapshot, backend.0, flow) {
        return Plan::Refuse(DropReason::SecurityRule);
    }
    decide(backend, again).map_or_else(Plan::Refuse, Plan::Open)
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
    /// A port of the backend's grant that is free towards the remote.
    Granted,
}

/// Under which right a backend's first packet leaves, and by which end; `again`: what it leaves by is held for it.
fn decide(backend: (BackendId, &Backend), again: Option<Open>) -> Result<Proposal<'_>, DropReason> {
    if backend.1.lease.is_empty() {
        return Err(DropReason::NoOutboundPath);
    }
    let (scenario, end) = match again {
        Some(held) => (held.scenario, End::Again(held.public)),
        None => (Scenario::Pool, End::Granted),
    };
    Ok(Proposal { backend, scenario, end })
}

/// The inside end of an inbound packet's mapping, if it may pass. A mapping that was taken back passes nothing (D5); one
/// that ended by itself, late packets (D6).
pub(crate) fn inbound_use(s: &Snapshot, record: &Record, backend: &Backend) -> Result<InsideEnd, DropReason> {
    if !groups_allow(s, record.backend, &record.flow()) {
        return Err(DropReason::SecurityRule);
    }
    let passes = match ending(record) {
        None | Some(HoldClass::Fin | HoldClass::Rst | HoldClass::Service) => true,
        Some(HoldClass::IdleDatagram | HoldClass::IdleDatagramRfc | HoldClass::IdleStream) => {
            in_lease(&backend.lease, record.frontend, record.public_port)
        }
    };
    let own = |end: &InsideEnd| (end.vnet, end.ip) == (backend.vnet, backend.ip);
    let end = InsideEnd::of(record.inside_key()).filter(own).ok_or(DropReason::NoMapping)?;
    if passes { Ok(end) } else { Err(DropReason::NoMapping) }
}

/// The inside end that an inbound packet reaches without a mapping of its own, if the groups let its sender begin a flow
/// (S24, S26): they see the instance's own address and port.
pub(crate) fn stranger_use(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Result<InsideEnd, DropReason> {
    let (id, end, flow) = stranger(s, shard, key).ok_or(DropReason::NoMapping)?;
    if groups_admit(s, id, &flow) { Ok(end) } else { Err(DropReason::SecurityRule) }
}

/// Counts what the groups decide about such a packet.
pub(crate) fn note_stranger_hits(s: &Snapshot, shard: &mut Shard, key: &PublicKey) {
    if !s.security.is_empty()
        && let Some((id, _, flow)) = stranger(s, shard, key)
    {
        note_stranger(&mut shard.hits, s, id, &flow);
    }
}

/// Whom it would reach, and as which flow.
fn stranger(s: &Snapshot, shard: &Shard, key: &PublicKey) -> Option<(BackendId, InsideEnd, FlowKey)> {
    let inside = shard.endpoint_of(s, key)?;
    let end = InsideEnd::of(inside)?;
    let id = *s.backend_by_ip.get(&(end.vnet, end.ip))?;
    Some((id, end, FlowKey { proto: key.proto, inside, remote: key.remote }))
}

/// Whether a SYN may have come in by its endpoint's mapping alone, so that its answer opens one (R6).
fn answers(shard: &Shard, flow: &FlowKey) -> bool {
    shard.replica.table.claims().port_of(flow.proto, flow.inside).is_some()
}

/// What a packet of a backend may do by the mapping that was found for it.
fn outbound_use(at: At<'_>, shard: &Shard, slot: Slot, role: Role, (id, backend): (BackendId, &Backend)) -> Use {
    let record = shard.replica.table.record(slot);
    if !groups_allow(at.snapshot, id, &record.flow()) {
        return Use::Refuse(DropReason::SecurityRule);
    }
    let Some(class) = ending(record) else {
        // An address that went to another backend: the old one's flows are about to close.
        return if record.backend == id { Use::Translate } else { Use::Refuse(DropReason::NotFirstPacket) };
    };
    let leased = record.backend == id && in_lease(&backend.lease, record.frontend, record.public_port);
    let ended_itself = matches!(class, HoldClass::Fin | HoldClass::Rst | HoldClass::Service);
    if role == Role::First {
        return if leased { Use::Reopen } else { Use::Fresh };
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
