//! What an instance sends from a frontend's address, because a rule that floats leads to it (D17): answers to flows that are there,
//! and complaints about their packets. Nothing begins here.
//!
//! The address says nothing of who sends, since every member of a pool may have it: a frame is believed if it comes from the card of
//! the very backend whose flow it belongs to. Whatever else comes from inside with a public address of ours is spoofed, as
//! everywhere. Called by `outbound` and `errors`; `explain` asks whose a flow is.

use crate::addresses::{check_destination, endpoint, floating_end, flow_of};
use crate::context::{Access, At, Frame, Owner};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::FlowKey;
use crate::ids::{BackendId, Link, Mac, VnetId};
use crate::judge::Judge;
use crate::judge::policy::{Role, chosen};
use crate::lease::LeaseWords;
use crate::record::{InsideKey, PublicKey};
use crate::shard::Shard;
use crate::snapshot::Backend;
use crate::wire::{IcmpError, IpPacket};

/// Who judges what a backend sends from a frontend's address.
enum Judged<'a> {
    Here(Authority, (BackendId, &'a Backend)),
    There(Owner),
}

impl<'a, W: LeaseWords> Judge<'a, W> {
    /// A packet from inside whose source is no backend's own address.
    pub(crate) fn floating(
        &mut self,
        vnet: VnetId,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        match self.floating_sender(&flow_of(vnet, p), Role::of(p), p.eth_src)? {
            Judged::Here(authority, backend) => self.leave(authority, backend, p, frame),
            Judged::There(owner) => self.egress.forward(self.cx.snapshot, Link::Inside(vnet), owner, p.eth_src, frame),
        }
    }

    /// An error from there: about a packet that came to that address.
    pub(crate) fn floating_error(
        &mut self,
        vnet: VnetId,
        e: &IcmpError,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, quote) = (self.cx.snapshot, &e.quote);
        let inside = InsideKey { vnet, endpoint: endpoint(e.src, quote.dst_port) };
        let flow = FlowKey { proto: quote.proto, inside, remote: endpoint(quote.src, quote.src_port) };
        let judged = self.floating_sender(&flow, Role::Other, e.eth_src)?;
        check_destination(s, vnet, e.dst)?;
        if quote.dst != e.src {
            return Err(DropReason::IcmpQuote);
        }
        match judged {
            Judged::Here(authority, backend) => self.complain(authority, backend, e, frame),
            Judged::There(owner) => self.egress.forward(s, Link::Inside(vnet), owner, e.eth_src, frame),
        }
    }

    /// Whose the flow is, if its backend's card sent the frame. A member that owns the shard no more knows the flows of its log
    /// still; of others it says nothing.
    fn floating_sender(&mut self, flow: &FlowKey, role: Role, card: Mac) -> Result<Judged<'a>, DropReason> {
        let (s, spoofed) = (self.cx.snapshot, DropReason::SpoofedSource);
        let (key, home) = floating_end(s, flow.proto, flow.inside.endpoint, flow.remote).ok_or(spoofed)?;
        let access = self.shards.access(&self.cx, home);
        match access {
            Access::Nothing(reason) => return Err(reason),
            // That one is told by whom the frame was sent, and looks itself.
            Access::Forward(owner @ Owner::WorkerOf(_)) => return Ok(Judged::There(owner)),
            Access::Here(_) | Access::Forward(Owner::Member(_)) => {}
        }
        let shard = self.shards.replica(home).ok_or(spoofed)?;
        let id = whose(self.cx.at(), shard, &key, flow, role).ok_or(spoofed)?;
        let backend = s.backends.get(&id).filter(|backend| backend.vnet == flow.inside.vnet).ok_or(spoofed)?;
        self.egress.check_source(&self.cx, self.shards, (backend.vnet, backend.ip), card)?;
        match access {
            Access::Here(authority) => Ok(Judged::Here(authority, (id, backend))),
            Access::Forward(owner) => Ok(Judged::There(owner)),
            Access::Nothing(reason) => Err(reason),
        }
    }
}

/// The backend of a flow that is there: committed, on its way into the log, begun by the remote, or let in by an owner before.
pub(crate) fn whose(at: At<'_>, shard: &Shard, key: &PublicKey, flow: &FlowKey, role: Role) -> Option<BackendId> {
    let table = &shard.replica.table;
    let stands = table.find_public(key).map(|slot| table.record(slot).opened());
    let half = || shard.half_open.of(key, at.now_ns).map(|half| half.open);
    let before = || {
        let may_be = role == Role::Answer && shard.may_adopt(at.now_ns);
        if may_be { chosen(at.snapshot, shard, key).ok() } else { None }
    };
    let open = stands.or_else(half).or_else(before).filter(|open| open.inside == flow.inside);
    open.map(|open| open.backend).or_else(|| shard.overlay.backend(flow))
}
