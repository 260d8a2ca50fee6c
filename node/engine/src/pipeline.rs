//! Hot path. A frame becomes a verdict: who may translate it, by which mapping, and where it goes.
//!
//! No allocation on a table hit. What cannot be translated is dropped with a reason; nothing leaves untranslated (R28)
//! except what is forwarded whole to the owner, from this node's own MAC (M1).

use std::net::Ipv4Addr;

use words::time::MS;

use crate::addresses::own_address;
use crate::event::{Authority, DropReason, Verdict};
use crate::fragments::{Fate, Key};
use crate::held::{Origin, Outgoing};
use crate::ids::{Link, Mac, NodeId, ShardId};
use crate::judge::{Access, Cx, Hop, NextHop};
use crate::lease::LeaseWords;
use crate::neigh::Lookup;
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, IpPacket, Parsed, parse, set_ethernet};
use crate::worker::Worker;

impl Worker {
    pub(crate) fn judge_frame<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Verdict {
        let result = match parse(frame, meta) {
            Ok(Parsed::Arp(p)) => return self.handle_arp(cx, link, &p),
            Ok(Parsed::Sounding(s)) => {
                return self.handle_sounding(cx, link, &s).unwrap_or_else(|reason| self.refuse(reason));
            }
            Ok(Parsed::Ip(p)) => self.judge_packet(cx, link, meta, &p, frame),
            Ok(Parsed::Fragment(f)) => self.judge_fragment(cx, link, meta, &f, frame),
            Ok(Parsed::Error(e)) => self.judge_error(cx, link, meta, &e, frame),
            Err(reason) => Err(reason),
        };
        match result {
            Ok(verdict) => {
                match verdict {
                    Verdict::Transmit { .. } => self.counters.transmitted += 1,
                    Verdict::Consumed => self.counters.parked += 1,
                    Verdict::Drop(reason) => self.counters.drop(reason),
                }
                verdict
            }
            Err(reason) => self.refuse(reason),
        }
    }

    fn judge_packet<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        if let Some(result) = self.established(cx, link, (p, meta), frame) {
            return result;
        }
        self.accept(cx, link, (p.eth_src, p.eth_dst), p.src)?;
        let result = match link {
            Link::Inside(vnet) => self.outbound(cx, vnet, meta, p, frame),
            Link::Outside => self.inbound(cx, meta, p, frame),
        };
        if let Some(key) = Key::of_first(link, p) {
            // What becomes of the first becomes of all; one that waits for its commit decides later, and a copy of it nothing.
            if let Err(reason) = result
                && reason != DropReason::FragmentOverlap
            {
                self.fragments.decide(&key, Fate::Refused(reason));
            }
            self.settle_fragments(cx.snapshot, cx.now_ns, Some(key));
        }
        result
    }

    /// Whether the frame was sent to this node, and not flooded by a switch (M1), and by whom it says (I43).
    pub(crate) fn accept<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        (src, dst): (Mac, Mac),
        ip: Ipv4Addr,
    ) -> Result<(), DropReason> {
        let own = cx.snapshot.me.as_ref().and_then(|me| me.mac_on(link));
        let for_us = match dst.shard() {
            Some(shard) => self.is_or_was_owner(cx.now_ns, cx.words, shard),
            None => own == Some(dst),
        };
        if !for_us || own == Some(src) {
            return Err(DropReason::NotForUs);
        }
        match link {
            Link::Inside(vnet) => self.check_source(cx, (vnet, ip), src),
            Link::Outside => Ok(()),
        }
    }

    pub(crate) fn access<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId) -> Access {
        let Some(entry) = self.shards.get(shard) else { return Access::Nothing(DropReason::NoForward) };
        let word = cx.words.word(shard);
        if let Some(term) = entry.replica.as_ref().and_then(|r| r.serves(cx.now_ns, self.me, word)) {
            return Access::Here(Authority::Lease { shard, term });
        }
        let led = entry.replica.as_ref().and_then(|r| r.leadership.as_ref()).map(|l| l.term);
        match entry.owner {
            Some((term, Some(node))) if node != self.node && led.is_none_or(|led| led < term) => {
                return Access::Forward(node);
            }
            Some((_, Some(_) | None)) | None => {}
        }
        let Some(replica) = &entry.replica else { return Access::Nothing(DropReason::NoForward) };
        // The grace of the last committed header counts, not the configured one (F6).
        let grace_end = replica.lease_end_ns.saturating_add(u64::from(replica.replica.meta.orphan_grace_ms) * MS);
        let orphan = entry.last_owned_ns.is_some() && word.incarnation == self.me;
        if orphan && cx.now_ns < word.grace_until_ns.min(grace_end) {
            return Access::Here(Authority::Grace { shard });
        }
        Access::Nothing(if led.is_some() { DropReason::NotOwner } else { DropReason::NoForward })
    }

    pub(crate) fn forward<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        node: NodeId,
        eth_src: Mac,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        if s.peers.iter().any(|peer| peer.mac_on(link) == Some(eth_src)) {
            return Err(DropReason::NoForward);
        }
        let own = s.me.as_ref().and_then(|me| me.mac_on(link));
        let owner = s.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.mac_on(link));
        let (Some(own), Some(owner)) = (own, owner) else { return Err(DropReason::NoForward) };
        set_ethernet(frame, own, owner);
        self.counters.forwarded += 1;
        Ok(Verdict::Transmit { link, authority: Authority::Forward })
    }

    /// Puts the Ethernet addresses on, as far as they are known.
    pub(crate) fn address(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        link: Link,
        authority: Authority,
        hop: Ipv4Addr,
        frame: &mut [u8],
    ) -> Result<Hop, DropReason> {
        self.find_hop(s, now_ns, link, authority, hop).map(|way| way.put(frame))
    }

    /// Where a frame for the next hop `hop` goes; asks for it if nobody knows.
    pub(crate) fn find_hop(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        link: Link,
        authority: Authority,
        hop: Ipv4Addr,
    ) -> Result<NextHop, DropReason> {
        if !self.links.has(link) {
            return Err(DropReason::NoLink);
        }
        let src = match authority {
            Authority::Lease { shard, .. } => Mac::of_shard(shard),
            Authority::Grace { .. } | Authority::Forward => {
                s.me.as_ref().and_then(|me| me.mac_on(link)).ok_or(DropReason::NoForward)?
            }
        };
        let found = self.look_up(s, now_ns, link, hop);
        // A public address of ours is never learned: it is where its shard is (R7).
        let own = if let Lookup::Known(_) = found { None } else { own_address(s, hop) };
        match found {
            Lookup::Known(dst) => Ok(NextHop { src, dst, hop: Hop::Ready }),
            _ if link == Link::Outside && own.is_some() => {
                let (_, shard) = own.ok_or(DropReason::NoNeighbour)?;
                Ok(NextHop { src, dst: Mac::of_shard(shard), hop: Hop::Ready })
            }
            Lookup::Unreachable => Err(DropReason::NoNeighbour),
            found @ (Lookup::Ask | Lookup::Wait | Lookup::Outdated) => {
                // In grace nobody may be asked (M1): what is not known already stays unknown.
                let Authority::Lease { .. } = authority else { return Err(DropReason::NoNeighbour) };
                if found == Lookup::Ask {
                    self.ask(now_ns, s, link, authority, hop, Mac::BROADCAST);
                }
                Ok(NextHop { src, dst: Mac::default(), hop: Hop::Wait(hop) })
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    pub(crate) fn conclude(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        link: Link,
        authority: Authority,
        hop: Hop,
        meta: &FrameMeta,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        match hop {
            Hop::Ready if !self.is_too_long(link, meta, frame) && !self.held.has_earlier(frame) => {
                Ok(Verdict::Transmit { link, authority })
            }
            Hop::Ready => {
                // It leaves in pieces, or behind an earlier one of its flow (I56), by `poll_frame`.
                let frame = self.held.copy(&s.params, frame).ok_or(DropReason::HoldLimit)?;
                let meta = *meta;
                self.held.push(Outgoing { frame, meta, link, authority, origin: Origin::Received, since_ns: now_ns });
                Ok(Verdict::Consumed)
            }
            Hop::Wait(ip) => {
                let frame = self.held.copy(&s.params, frame).ok_or(DropReason::HoldLimit)?;
                let meta = *meta;
                let outgoing = Outgoing { frame, meta, link, authority, origin: Origin::Received, since_ns: now_ns };
                self.wait_for((link, ip), outgoing).map(|()| Verdict::Consumed)
            }
        }
    }
}
