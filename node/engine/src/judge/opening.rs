//! First packets: a mapping goes into the stream, and its packets are parked until the log has it (I6). By an address of its own a
//! flow's first packet leaves at once: that nobody else has its public end is in the control log already. All others of the flow
//! wait, both ways, so that nothing is answered or goes on that a successor would not know (W2).
//!
//! `policy` says what a packet may open and under which right; this room has it done. Called by `outbound` and `inbound`.

use crate::context::{At, Frame};
use crate::egress::held::Held;
use crate::event::{DropReason, Verdict};
use crate::flow::FlowKey;
use crate::ids::{FrontendId, Link, ShardId};
use crate::judge::policy::{End, Proposal};
use crate::record::{CommitClass, FlowRecord, Open, PublicKey};
use crate::shard::overlay::Parked;
use crate::shard::picking::is_taken;
use crate::shard::shards::Shards;
use crate::shard::{Shard, sharing_of};
use crate::snapshot::{Backend, Snapshot};
use crate::wire::IpPacket;

/// A packet that opens a flow, and by which link it came.
pub(crate) struct First<'a> {
    pub(crate) from: Link,
    pub(crate) packet: &'a IpPacket,
    pub(crate) frame: &'a Frame<'a>,
}

/// What becomes of a first packet.
pub(crate) enum Opened {
    /// It waits for the commit.
    Parked,
    /// It leaves now, by this public end.
    Leaves(PublicKey),
}

/// What a mapping that opens touches.
pub(crate) struct Opening<'a> {
    pub(crate) at: At<'a>,
    pub(crate) shards: &'a mut Shards,
    pub(crate) held: &'a mut Held,
}

impl Opening<'_> {
    /// Another packet of a mapping that is on its way waits with the first one.
    pub(crate) fn park(&mut self, home: ShardId, flow: &FlowKey, first: &First<'_>) -> Result<Verdict, DropReason> {
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NotOwner)?;
        let backend = shard.overlay.backend(flow).ok_or(DropReason::NotOwner)?;
        let frame =
            self.held.park(&self.at.snapshot.params, backend, first.frame.bytes).ok_or(DropReason::HoldLimit)?;
        let (meta, packet) = (*first.frame.meta, *first.packet);
        shard.overlay.park(flow, Parked { frame, meta, packet, from: first.from, arrived_ns: self.at.now_ns });
        Ok(Verdict::Consumed)
    }

    /// Puts a mapping into the stream, and parks its first packet unless that may leave before.
    pub(crate) fn propose(
        &mut self,
        proposal: &Proposal<'_>,
        flow: &FlowKey,
        first: &First<'_>,
    ) -> Result<Opened, DropReason> {
        let At { now_ns, snapshot: s } = self.at;
        let (id, backend) = proposal.backend;
        let shard = self.shards.replica_mut(backend.home).ok_or(DropReason::NotOwner)?;
        if !shard.stream.is_open() {
            return Err(DropReason::Backpressure);
        }
        // The other end may have begun the same flow since this packet's was chosen.
        opens_once(shard, flow, None)?;
        let public = match proposal.end {
            End::Again(public) => public,
            End::Came(public) => {
                shard.has_room(&s.params, id)?;
                public
            }
            End::Granted => {
                shard.admits(now_ns, &s.params, id)?;
                let key = granted_key(flow);
                let picked = shard.pick_port(&s.params, (id, backend), flow.inside, key);
                if picked.is_none() {
                    shard.fell_short(now_ns, (id, backend), key);
                }
                granted(s, backend, key, picked)?
            }
            End::Kept(public) => {
                shard.admits(now_ns, &s.params, id)?;
                kept(s, shard, backend, public)?
            }
        };
        opens_once(shard, flow, Some(&public))?;
        let scenario = proposal.scenario;
        let leaves = scenario.class() == CommitClass::BehindFirst;
        let frame = match leaves {
            true => None,
            false => Some(self.held.park(&s.params, id, first.frame.bytes).ok_or(DropReason::HoldLimit)?),
        };
        let (from, meta, packet) = (first.from, *first.frame.meta, *first.packet);
        if !scenario.comes_in() {
            shard.charge(now_ns, &s.params, id);
        }
        let open = Open { public, inside: flow.inside, backend: id, scenario };
        shard.overlay.open(&open, sharing_of(scenario, backend.sharing), now_ns);
        match frame {
            Some(frame) => shard.overlay.park(flow, Parked { frame, meta, packet, from, arrived_ns: now_ns }),
            None => shard.overlay.leave(flow, packet),
        }
        shard.stream.push(s.control_index, FlowRecord::Open(open));
        Ok(if leaves { Opened::Leaves(public) } else { Opened::Parked })
    }
}

/// What `propose` would open it by, if the stream takes it and the packet finds room; changes nothing. `None`: by a free port, if
/// there is one; it would take too long to say.
pub(crate) fn public_end(
    at: At<'_>,
    shard: &Shard,
    proposal: &Proposal<'_>,
    flow: &FlowKey,
) -> Result<Option<PublicKey>, DropReason> {
    let (s, (id, backend)) = (at.snapshot, proposal.backend);
    opens_once(shard, flow, None)?;
    match proposal.end {
        End::Again(public) | End::Came(public) => opens_once(shard, flow, Some(&public)).map(|()| Some(public)),
        End::Granted => {
            shard.admits(at.now_ns, &s.params, id)?;
            let key = granted_key(flow);
            let Ok(picked) = shard.peek_port(&s.params, (id, backend), flow.inside, key) else { return Ok(None) };
            granted(s, backend, key, picked).map(Some)
        }
        End::Kept(public) => {
            shard.admits(at.now_ns, &s.params, id)?;
            kept(s, shard, backend, public).map(Some)
        }
    }
}

/// A flow opens once at a time, and a public end is opened for one flow.
fn opens_once(shard: &Shard, flow: &FlowKey, public: Option<&PublicKey>) -> Result<(), DropReason> {
    let taken = shard.overlay.is_opening(flow) || public.is_some_and(|public| shard.overlay.is_reserved(public));
    if taken { Err(DropReason::OpenRefused) } else { Ok(()) }
}

/// What a granted end is for, before there is one.
pub(crate) fn granted_key(flow: &FlowKey) -> PublicKey {
    PublicKey { proto: flow.proto, frontend: FrontendId(0), port: 0, remote: flow.remote }
}

/// The end that was picked, if there was one. A shard is closed (M3); a lease elsewhere would never see its return traffic.
fn granted(
    s: &Snapshot,
    backend: &Backend,
    key: PublicKey,
    picked: Option<(FrontendId, u16)>,
) -> Result<PublicKey, DropReason> {
    let (frontend, port) = picked.ok_or(DropReason::PortsExhausted)?;
    at_home(s, backend, PublicKey { frontend, port, ..key })
}

/// The end at an address of the backend's own. What is left there of somebody else's, as after a disaster (N4), is not
/// opened twice.
fn kept(s: &Snapshot, shard: &Shard, backend: &Backend, public: PublicKey) -> Result<PublicKey, DropReason> {
    if is_taken(&shard.replica.table, &shard.overlay, &public) {
        return Err(DropReason::OpenRefused);
    }
    at_home(s, backend, public)
}

fn at_home(s: &Snapshot, backend: &Backend, public: PublicKey) -> Result<PublicKey, DropReason> {
    let home = s.frontends.get(&public.frontend).is_some_and(|f| f.shard == backend.home);
    if home { Ok(public) } else { Err(DropReason::NoOutboundPath) }
}
