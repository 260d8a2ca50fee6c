//! Hot path. Inside to outside: translation by a mapping, or a new mapping and a packet that waits for its commit.
//!
//! Never sends a first packet itself: `release_parked` does, when the log has the mapping (I6). Called by `pipeline`.

use crate::addresses::{InsideEnd, check_destination, flow_of, next_hop, own_address};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{FlowKey, Slot};
use crate::fragments::{Fate, Key, Way};
use crate::held::Parked;
use crate::ids::{BackendId, FrontendId, Link, ShardId, Term, VnetId};
use crate::judge::{Access, Cx, Hop};
use crate::lease::LeaseWords;
use crate::opening::{First, Opening};
use crate::policy::{self, Use, answers_to, opens, outbound_use};
use crate::record::{Open, Proto};
use crate::snapshot::{Backend, Snapshot};
use crate::translation::{finish, put_source};
use crate::wire::{FrameMeta, IpPacket, Notice, rewrite_destination};
use crate::worker::Worker;

impl Worker {
    pub(crate) fn outbound<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        vnet: VnetId,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let (s, link) = (cx.snapshot, Link::Inside(vnet));
        let id = *s.backend_by_ip.get(&(vnet, p.src)).ok_or(DropReason::SpoofedSource)?;
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        let authority = match self.access(cx, backend.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.forward(cx, link, node, p.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        check_destination(s, vnet, p.dst)
            .map_err(|reason| self.refuse_flow(cx, (vnet, backend.home), reason, p, frame))?;
        // Public addresses answer no pings, so there is nothing to open (R7).
        if p.proto == Proto::Icmp && s.frontend_by_ip.contains_key(&p.dst) {
            return Err(DropReason::NoMapping);
        }
        self.note_first(cx.now_ns, link, p)?;
        let mtu = self.mtu_to(s, authority, p.dst)?;
        self.may_go_on(cx, (link, mtu), authority, (p, meta), frame)?;
        if let Err(reason) = next_hop(s, p.dst)
            && !s.frontend_by_ip.contains_key(&p.dst)
        {
            self.notify((s, cx.now_ns), (link, authority), Notice::NetUnreachable, p, frame);
            return Err(reason);
        }
        let flow = flow_of(vnet, p);
        let shard = self.replica_mut(backend.home).ok_or(DropReason::NoForward)?;
        let found = shard.replica.table.find_inside(&flow);
        let verdict = found.map(|slot| (slot, outbound_use(shard, (slot, cx.now_ns), p, id, backend)));
        match (verdict, authority) {
            (Some((slot, Use::Translate)), _) => {
                shard.note_out(s, cx.now_ns, authority, slot, p);
                let record = shard.replica.table.record(slot);
                let public = (record.frontend, record.public_port);
                let sent = self.send_out(s, cx.now_ns, authority, (vnet, public), p, meta, frame);
                self.decide(s, authority, slot);
                sent
            }
            (Some((_, Use::Refuse(reason))), _) => {
                if shard.overlay.is_opening(&flow) {
                    self.opening(cx).park(backend.home, &flow, &First { packet: p, meta, frame })
                } else {
                    debug_assert_eq!(reason, DropReason::NotFirstPacket);
                    Err(self.refuse_stray((s, cx.now_ns), authority, backend, p))
                }
            }
            (_, Authority::Grace { .. } | Authority::Forward) => Err(DropReason::NotOwner),
            (_, Authority::Lease { .. }) if shard.overlay.is_opening(&flow) => {
                self.opening(cx).park(backend.home, &flow, &First { packet: p, meta, frame })
            }
            (Some((slot, Use::Reopen)), Authority::Lease { .. }) => {
                let again = shard.replica.table.record(slot).opened();
                self.attempt(cx, (id, backend), &flow, Some(again), &First { packet: p, meta, frame })
            }
            (None | Some((_, Use::Fresh)), Authority::Lease { .. }) => {
                if !opens(p) && !answers_to(shard, p, flow.inside) {
                    return Err(self.refuse_stray((s, cx.now_ns), authority, backend, p));
                }
                self.attempt(cx, (id, backend), &flow, None, &First { packet: p, meta, frame })
            }
        }
    }

    /// Opens a mapping, `again` one that is held, or counts the failure and tells the backend of it.
    fn attempt<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        backend: (BackendId, &Backend),
        flow: &FlowKey,
        again: Option<Open>,
        first: &First<'_>,
    ) -> Result<Verdict, DropReason> {
        let opened =
            policy::decide(backend, again).and_then(|proposal| self.opening(cx).propose(&proposal, flow, first));
        self.counters.attempted(flow.proto, &opened);
        let of = (backend.1.vnet, backend.1.home);
        opened.map_err(|reason| self.refuse_flow(cx, of, reason, first.packet, first.frame))
    }

    fn opening<'a, W: LeaseWords>(&'a mut self, cx: &Cx<'a, W>) -> Opening<'a> {
        Opening { now_ns: cx.now_ns, snapshot: cx.snapshot, shards: &mut self.shards, held: &mut self.held }
    }

    /// The mapping of a parked packet is committed: it leaves by the queue that `poll_frame` empties.
    pub(crate) fn release_parked(&mut self, now_ns: u64, home: ShardId, term: Term, slot: Slot, parked: Parked) {
        let Some(snapshot) = self.snapshot.take() else {
            self.held.recycle(parked.frame);
            self.counters.drop_parked(DropReason::TermLost);
            return;
        };
        let Parked { mut frame, meta, packet, .. } = parked;
        let authority = Authority::Lease { shard: home, term };
        let Some(vnet) = self.replica(home).map(|shard| shard.replica.table.record(slot).vnet) else {
            self.held.recycle(frame);
            self.counters.drop_parked(DropReason::TermLost);
            self.snapshot = Some(snapshot);
            return;
        };
        let key = Key::of_first(Link::Inside(vnet), &packet);
        let result = match self.replica_mut(home) {
            Some(shard) => {
                shard.note_out(&snapshot, now_ns, authority, slot, &packet);
                let record = shard.replica.table.record(slot);
                let public = (record.frontend, record.public_port);
                self.rewrite_out(&snapshot, now_ns, authority, (vnet, public), &packet, &meta, &mut frame)
            }
            None => Err(DropReason::TermLost),
        };
        self.decide(&snapshot, authority, slot);
        match result {
            Ok((to, hop)) => self.send_later(now_ns, to, hop, meta, frame),
            Err(reason) => {
                self.tell_ended(&snapshot, (now_ns, vnet, authority), reason, &packet, &frame);
                self.held.recycle(frame);
                self.counters.drop_parked(reason);
                if let Some(key) = key {
                    self.fragments.decide(&key, Fate::Refused(reason));
                }
            }
        }
        self.settle_fragments(&snapshot, now_ns, key);
        self.snapshot = Some(snapshot);
    }

    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    fn send_out(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        authority: Authority,
        (vnet, public): (VnetId, (FrontendId, u16)),
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        match self.rewrite_out(s, now_ns, authority, (vnet, public), p, meta, frame) {
            Ok(((link, authority), hop)) => self.conclude(s, now_ns, link, authority, hop, meta, frame),
            Err(reason) => {
                self.tell_ended(s, (now_ns, vnet, authority), reason, p, frame);
                Err(reason)
            }
        }
    }

    /// Tells a backend that nobody answers for the next hop of its packet, which `rewrite_out` has not changed (RFC 1812
    /// 4.3.3.1).
    fn tell_ended(
        &mut self,
        s: &Snapshot,
        (now_ns, vnet, authority): (u64, VnetId, Authority),
        reason: DropReason,
        p: &IpPacket,
        frame: &[u8],
    ) {
        if reason == DropReason::NoNeighbour {
            self.notify((s, now_ns), (Link::Inside(vnet), authority), Notice::HostUnreachable, p, frame);
        }
    }

    /// Returns where it goes, by what right, and who takes it: outside, or back inside if it is for an address of ours. What
    /// cannot go is not changed.
    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    fn rewrite_out(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        authority: Authority,
        (vnet, (frontend, port)): (VnetId, (FrontendId, u16)),
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Result<((Link, Authority), Hop), DropReason> {
        let public = s.frontends.get(&frontend).ok_or(DropReason::NoOutboundPath)?;
        let own = own_address(s, p.dst);
        let right = own.and_then(|to| self.right_for(authority, to.1));
        let (to, hop, receiver) = match (own, right) {
            (None, _) => ((Link::Outside, authority), next_hop(s, p.dst)?, None),
            (Some(_), None) => ((Link::Outside, authority), p.dst, None),
            (Some(to), Some(right)) => {
                let sender = InsideEnd { vnet, ip: p.src, port: p.src_port };
                let receiver = self.turn((s, now_ns), right, to, (sender, (public.ip, port)), p)?;
                ((receiver.link(), right), receiver.ip, Some(receiver))
            }
        };
        let way = self.find_hop(s, now_ns, to.0, to.1, hop)?;
        let id = put_source(&mut self.identifications, (frame, meta), p, (public.ip, port));
        if let Some(key) = Key::of_first(Link::Inside(vnet), p) {
            let (source, (link, authority)) = (Some(public.ip), to);
            let destination = receiver.map(|to| to.ip);
            self.fragments.decide(&key, Fate::Known(Way { source, destination, id, link, hop, authority }));
        }
        if let Some(to) = receiver {
            rewrite_destination(frame, meta, p, to.ip, to.port);
        }
        finish(s, (frame, meta), p);
        Ok((to, way.put(frame)))
    }
}
