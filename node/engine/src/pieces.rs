//! The way of fragments through the pipeline. The first one goes the way of all packets; here is what happens around it,
//! and the way of the others. What they are is kept by `fragments`.

use crate::addresses::{check_destination, is_spoofed};
use crate::event::{Authority, DropReason, Verdict};
use crate::fragments::{Fate, Key, Waiting, Way};
use crate::held::{Origin, Outgoing};
use crate::ids::Link;
use crate::judge::{Access, Cx, Hop};
use crate::lease::LeaseWords;
use crate::snapshot::Snapshot;
use crate::wire::{Fragment, FrameMeta, IpPacket, decrement_ttl, may_fragment, rewrite_addresses, set_identification};
use crate::worker::Worker;

impl Worker {
    /// A fragment that is not the first of its datagram.
    pub(crate) fn judge_fragment<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        meta: &FrameMeta,
        f: &Fragment,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        self.accept(cx, link, (f.eth_src, f.eth_dst), f.src)?;
        let s = cx.snapshot;
        let home = match link {
            Link::Inside(vnet) => {
                let id = s.backend_by_ip.get(&(vnet, f.src)).ok_or(DropReason::SpoofedSource)?;
                check_destination(s, vnet, f.dst)?;
                s.backends.get(id).ok_or(DropReason::SpoofedSource)?.home
            }
            Link::Outside => {
                let id = s.frontend_by_ip.get(&f.dst).ok_or(DropReason::NotForUs)?;
                if is_spoofed(s, f.src, f.eth_src) {
                    return Err(DropReason::SpoofedSource);
                }
                s.frontends.get(id).ok_or(DropReason::NotForUs)?.shard
            }
        };
        match self.access(cx, home) {
            Access::Here(_) => {}
            Access::Forward(node) => return self.forward(cx, link, node, f.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        }
        if f.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        let key = Key::of(link, f);
        let result = match self.fragments.note(cx.now_ns, key, &f.piece) {
            Ok(Fate::Known(way)) => self.send_fragment(s, cx.now_ns, &way, f, meta, frame),
            Ok(Fate::Refused(reason)) | Err(reason) => Err(reason),
            Ok(Fate::Open) if self.fragments.has_room(&key, frame.len()) => {
                let frame = self.held.copy(&s.params, frame).ok_or(DropReason::FragmentLimit)?;
                self.fragments.wait(&key, Waiting { frame, meta: *meta, fragment: *f });
                Ok(Verdict::Consumed)
            }
            Ok(Fate::Open) => Err(DropReason::FragmentLimit),
        };
        self.settle_fragments(s, cx.now_ns, Some(key));
        result
    }

    /// Takes note of a packet that is the first fragment of its datagram. A second such is the network's copy.
    pub(crate) fn note_first(&mut self, now_ns: u64, link: Link, p: &IpPacket) -> Result<(), DropReason> {
        let (Some(key), Some(piece)) = (Key::of_first(link, p), &p.fragment) else { return Ok(()) };
        self.fragments.note(now_ns, key, piece).map(|_| ())
    }

    fn send_fragment(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        way: &Way,
        f: &Fragment,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let hop = self.rewrite_fragment(s, now_ns, way, f, frame)?;
        self.conclude(s, now_ns, way.link, way.authority, hop, meta, frame)
    }

    fn rewrite_fragment(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        way: &Way,
        f: &Fragment,
        frame: &mut [u8],
    ) -> Result<Hop, DropReason> {
        // Nobody is told: a notice is about first fragments only.
        let mtu = self.links.mtu(way.link).ok_or(DropReason::NoLink)?;
        if f.total_len > mtu && !may_fragment(frame, f.l3) {
            return Err(DropReason::TooBig);
        }
        rewrite_addresses(frame, f.l3, way.source, way.destination);
        if let Some(id) = way.id {
            set_identification(frame, f.l3, id);
        }
        decrement_ttl(frame, f.l3);
        self.address(s, now_ns, way.link, way.authority, way.hop, frame)
    }

    /// If the fate of a datagram is decided, its waiting fragments leave behind the first, or are dropped.
    pub(crate) fn settle_fragments(&mut self, s: &Snapshot, now_ns: u64, key: Option<Key>) {
        let Some((fate, waiting)) = key.and_then(|key| self.fragments.settle(&key)) else { return };
        for Waiting { mut frame, meta, fragment } in waiting {
            let result = match fate {
                Fate::Known(way) => self.rewrite_fragment(s, now_ns, &way, &fragment, &mut frame).map(|hop| (hop, way)),
                Fate::Refused(reason) => Err(reason),
                Fate::Open => Err(DropReason::FragmentTimeout),
            };
            match result {
                Ok((hop, way)) => self.send_later(now_ns, (way.link, way.authority), hop, meta, frame),
                Err(reason) => self.drop_waiting(frame, reason),
            }
        }
    }

    /// A frame that was kept leaves by the queue that `poll_frame` empties, or waits for its neighbour.
    pub(crate) fn send_later(
        &mut self,
        since_ns: u64,
        (link, authority): (Link, Authority),
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

    /// Fragments whose first one has not come in time.
    pub(crate) fn expire_fragments(&mut self, now_ns: u64) {
        for waiting in self.fragments.expire(now_ns) {
            self.drop_waiting(waiting.frame, DropReason::FragmentTimeout);
        }
    }

    fn drop_waiting(&mut self, frame: Vec<u8>, reason: DropReason) {
        self.held.recycle(frame);
        self.counters.drop_parked(reason);
    }
}
