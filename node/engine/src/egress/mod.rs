//! The one way out: the links and their neighbours, frames that wait, what the gateway itself says, and the books about every
//! frame (I51). Of the shards it asks what this node may do; it never looks into a mapping but to quote it.
//!
//! Here: where a frame goes next, and the queue that `poll_frame` empties. `arp` finds neighbours and keeps what waits for
//! them, `fragmenting` minds what a link takes, `notices` and `reset` tell the ends, `sounding` asks whether frames pass.

mod arp;
pub mod claims;
pub mod delivered;
mod fragmenting;
pub(crate) mod held;
pub(crate) mod lapsed;
mod limits;
pub mod links;
mod notices;
mod reset;
mod sounding;
pub mod soundings;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use words::Share;

use crate::addresses::own_address;
use crate::context::{At, Exit, Frame, Hop, NextHop, Owner};
use crate::egress::claims::Claims;
use crate::egress::delivered::Delivered;
use crate::egress::held::{Held, Origin, Outgoing, Waiting};
use crate::egress::lapsed::LapsedFrames;
use crate::egress::limits::Limits;
use crate::egress::links::Links;
use crate::egress::soundings::Soundings;
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::{BackendId, Link, Mac, NodeId};
use crate::lease::LeaseWords;
use crate::nat::identification::Identifications;
use crate::neigh::{Lookup, NeighbourCache};
use crate::shard::overlay::Parked;
use crate::snapshot::Snapshot;
use crate::tell::counters::Counters;
use crate::wire::{FrameMeta, set_ethernet};

/// Neighbours of all links that a worker remembers.
const NEIGHBOURS_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(crate) struct Egress {
    pub(crate) node: NodeId,
    /// The first worker of several does what is to be done once for the member.
    pub(crate) share: Share,
    pub(crate) links: Links,
    pub(crate) neighbours: NeighbourCache,
    pub(crate) waiting: BTreeMap<(Link, Ipv4Addr), Waiting>,
    pub(crate) held: Held,
    pub(crate) lapsed: LapsedFrames,
    pub(crate) identifications: Identifications,
    pub(crate) notices: Limits,
    /// How often each backend is told where its gateway is.
    pub(crate) corrections: Limits,
    /// `None`: nobody wants to know.
    pub(crate) soundings: Option<Soundings>,
    pub(crate) claims: Claims,
    pub(crate) delivered: Delivered,
    pub(crate) counters: Counters,
}

impl Egress {
    pub(crate) fn new(node: NodeId, seed: u64, identifications: u64) -> Self {
        Self {
            node,
            share: Share::WHOLE,
            links: Links::default(),
            neighbours: NeighbourCache::new(NEIGHBOURS_MAX, seed),
            waiting: BTreeMap::new(),
            held: Held::default(),
            lapsed: LapsedFrames::default(),
            identifications: Identifications::new(identifications),
            notices: Limits::new(seed),
            corrections: Limits::corrections(seed),
            soundings: None,
            claims: Claims::default(),
            delivered: Delivered::default(),
            counters: Counters::default(),
        }
    }

    /// The largest IP packet that a link takes.
    pub(crate) fn mtu(&self, link: Link) -> Result<u16, DropReason> {
        self.links.mtu(link).ok_or(DropReason::NoLink)
    }

    pub(crate) fn refuse(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    /// Passes a frame on to the node that owns its shard, from this node's own MAC (M1); what a member passed on goes no further.
    /// What goes to another worker of this node keeps the sender's address, which that worker looks at, and never leaves by a
    /// link: see [`Authority::Forward`].
    pub(crate) fn forward(
        &mut self,
        s: &Snapshot,
        link: Link,
        owner: Owner,
        eth_src: Mac,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let node = match owner {
            Owner::Member(node) => node,
            Owner::WorkerOf(shard) => {
                set_ethernet(frame.bytes, eth_src, Mac::of_shard(shard));
                self.counters.forwarded += 1;
                return Ok(Verdict::Transmit { link, authority: Authority::Forward });
            }
        };
        if s.peers.iter().any(|peer| peer.mac_on(link) == Some(eth_src)) {
            return Err(DropReason::NoForward);
        }
        let own = s.me.as_ref().and_then(|me| me.mac_on(link));
        let owner = s.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.mac_on(link));
        let (Some(own), Some(owner)) = (own, owner) else { return Err(DropReason::NoForward) };
        set_ethernet(frame.bytes, own, owner);
        self.counters.forwarded += 1;
        Ok(Verdict::Transmit { link, authority: Authority::Forward })
    }

    /// Sends a translated frame to the next hop `hop`, or has it wait.
    pub(crate) fn send(
        &mut self,
        at: At<'_>,
        exit: Exit,
        hop: Ipv4Addr,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let hop = self.address(at, exit, hop, frame.bytes)?;
        self.conclude(at, exit, hop, frame)
    }

    /// Puts the Ethernet addresses on, as far as they are known.
    pub(crate) fn address(
        &mut self,
        at: At<'_>,
        exit: Exit,
        hop: Ipv4Addr,
        frame: &mut [u8],
    ) -> Result<Hop, DropReason> {
        self.find_hop(at, exit, hop).map(|way| way.put(frame))
    }

    /// Where a frame for the next hop `hop` goes; asks for it if nobody knows.
    pub(crate) fn find_hop(&mut self, at: At<'_>, exit: Exit, hop: Ipv4Addr) -> Result<NextHop, DropReason> {
        let (s, link) = (at.snapshot, exit.link);
        if !self.links.has(link) {
            return Err(DropReason::NoLink);
        }
        let src = match exit.authority {
            Authority::Lease { shard, .. } => Mac::of_shard(shard),
            Authority::Grace { .. } | Authority::Forward => {
                s.me.as_ref().and_then(|me| me.mac_on(link)).ok_or(DropReason::NoForward)?
            }
        };
        let found = self.look_up(at, link, hop);
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
                let Authority::Lease { .. } = exit.authority else { return Err(DropReason::NoNeighbour) };
                if found == Lookup::Ask {
                    self.ask(at, exit, hop, Mac::BROADCAST);
                }
                Ok(NextHop { src, dst: Mac::default(), hop: Hop::Wait(hop) })
            }
        }
    }

    pub(crate) fn conclude(
        &mut self,
        at: At<'_>,
        Exit { link, authority }: Exit,
        hop: Hop,
        frame: &Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        if hop == Hop::Ready && !self.is_too_long(link, frame.meta, frame.bytes) && !self.held.has_earlier(frame.bytes)
        {
            return Ok(Verdict::Transmit { link, authority });
        }
        let copy = self.held.copy(&at.snapshot.params, frame.bytes).ok_or(DropReason::HoldLimit)?;
        let meta = *frame.meta;
        let outgoing = Outgoing { frame: copy, meta, link, authority, origin: Origin::Received, since_ns: at.now_ns };
        match hop {
            // It leaves in pieces, or behind an earlier one of its flow (I56), by `poll_frame`.
            Hop::Ready => self.held.push(outgoing),
            Hop::Wait(ip) => self.wait_for((link, ip), outgoing)?,
        }
        Ok(Verdict::Consumed)
    }

    /// A frame that was kept leaves by the queue that `poll_frame` empties, or waits for its neighbour.
    pub(crate) fn send_later(
        &mut self,
        since_ns: u64,
        Exit { link, authority }: Exit,
        hop: Hop,
        meta: FrameMeta,
        frame: Vec<u8>,
    ) {
        let outgoing = Outgoing { frame, meta, link, authority, origin: Origin::Received, since_ns };
        match hop {
            Hop::Ready => self.held.push(outgoing),
            Hop::Wait(ip) => {
                if let Err(reason) = self.wait_for((link, ip), outgoing) {
                    self.counters.drop_parked(reason);
                }
            }
        }
    }

    /// Sends a frame of the worker's own to a neighbour, at once or when that one has answered.
    pub(crate) fn send_own(&mut self, at: At<'_>, exit: Exit, to: Ipv4Addr, bytes: &mut [u8]) {
        let Ok(hop) = self.address(at, exit, to, bytes) else { return };
        match hop {
            Hop::Ready => self.queue_own(at.now_ns, exit, bytes),
            Hop::Wait(_) => {
                // It waits like a frame that came in, and counts like one.
                let Some(frame) = self.held.copy(&at.snapshot.params, bytes) else { return };
                self.counters.originated += 1;
                self.counters.parked += 1;
                self.send_later(at.now_ns, exit, hop, FrameMeta::default(), frame);
            }
        }
    }

    /// Copies a frame of the worker's own into the queue that `poll_frame` empties.
    pub(crate) fn queue_own(&mut self, now_ns: u64, Exit { link, authority }: Exit, bytes: &[u8]) {
        let Some(mut frame) = self.held.own_buffer() else { return };
        frame.extend_from_slice(bytes);
        let meta = FrameMeta::default();
        self.held.push(Outgoing { frame, meta, link, authority, origin: Origin::Own, since_ns: now_ns });
    }

    /// A frame that waited, and was judged once more as another one that came in: it leaves, waits again as a copy, or ends.
    pub(crate) fn settle_turned(
        &mut self,
        since_ns: u64,
        turned: Result<Verdict, DropReason>,
        meta: FrameMeta,
        frame: Vec<u8>,
    ) {
        match turned {
            Ok(Verdict::Transmit { link, authority }) => {
                self.send_later(since_ns, Exit { link, authority }, Hop::Ready, meta, frame);
            }
            Ok(Verdict::Consumed) => self.held.recycle(frame),
            Ok(Verdict::Drop(reason)) | Err(reason) => self.drop_waiting(frame, reason),
        }
    }

    /// A packet that waited for its commit ends here.
    pub(crate) fn drop_parked(&mut self, backend: BackendId, parked: Parked, reason: DropReason) {
        self.held.unpark(backend, &parked.frame);
        self.drop_waiting(parked.frame, reason);
    }

    /// A frame that waited ends here.
    pub(crate) fn drop_waiting(&mut self, frame: Vec<u8>, reason: DropReason) {
        self.held.recycle(frame);
        self.counters.drop_parked(reason);
    }

    /// The next frame of the queue, put into `buf`; its authority was checked at this moment.
    pub(crate) fn poll(
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
            let may = may_transmit(words, now_ns, next.authority).then_some(()).ok_or(DropReason::LeaseLapsed);
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
}

/// Whether a frame of this authority may leave at this moment: the last check before the wire (L4, L5, M1).
pub(crate) fn may_transmit(words: &impl LeaseWords, now_ns: u64, authority: Authority) -> bool {
    match authority {
        Authority::Lease { shard, term } => words.word(shard).lease_runs(term, now_ns),
        Authority::Grace { shard } => words.word(shard).grace_runs(now_ns),
        Authority::Forward => true,
    }
}
