//! The way of fragments. The first one goes the way of all packets; here is what happens around it,
//! and the way of the others. What they are is kept by `fragments`.

use crate::addresses::{check_destination, is_spoofed};
use crate::context::{Access, Frame, Hop};
use crate::event::{DropReason, Verdict};
use crate::ids::Link;
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Waiting, Way};
use crate::lease::LeaseWords;
use crate::private::pair_of;
use crate::wire::{Fragment, decrement_ttl, may_fragment, rewrite_addresses, set_identification};

impl<W: LeaseWords> Judge<'_, W> {
    /// A fragment that is not the first of its datagram.
    pub(crate) fn judge_fragment(
        &mut self,
        link: Link,
        f: &Fragment,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        self.accept(link, (f.eth_src, f.eth_dst), f.src)?;
        let s = self.cx.snapshot;
        let home = match link {
            Link::Inside(vnet) => {
                let id = s.backend_by_ip.get(&(vnet, f.src)).ok_or(DropReason::SpoofedSource)?;
                if let Some(pair) = pair_of(s, (vnet, f.src), f.dst) {
                    pair.home
                } else {
                    check_destination(s, vnet, f.dst)?;
                    s.backends.get(id).ok_or(DropReason::SpoofedSource)?.home
                }
            }
            Link::Outside => {
                let id = s.frontend_by_ip.get(&f.dst).ok_or(DropReason::NotForUs)?;
                if is_spoofed(s, f.src, f.eth_src) {
                    return Err(DropReason::SpoofedSource);
                }
                s.frontends.get(id).ok_or(DropReason::NotForUs)?.shard
            }
        };
        match self.shards.access(&self.cx, home) {
            Access::Here(_) => {}
            Access::Forward(node) => return self.egress.forward(s, link, node, f.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        }
        if f.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        let key = Key::of(link, f);
        let result = match self.datagrams.note(self.cx.now_ns, key, &f.piece) {
            Ok(Fate::Known(way)) => self.send_fragment(&way, f, frame),
            Ok(Fate::Refused(reason)) | Err(reason) => Err(reason),
            Ok(Fate::Open) if self.datagrams.has_room(&key, frame.bytes.len()) => {
                let copy = self.egress.held.copy(&s.params, frame.bytes).ok_or(DropReason::FragmentLimit)?;
                self.datagrams.wait(&key, Waiting { frame: copy, meta: *frame.meta, fragment: *f });
                Ok(Verdict::Consumed)
            }
            Ok(Fate::Open) => Err(DropReason::FragmentLimit),
        };
        self.settle_fragments(Some(key));
        result
    }

    fn send_fragment(&mut self, way: &Way, f: &Fragment, frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
        let hop = self.rewrite_fragment(way, f, frame.bytes)?;
        self.egress.conclude(self.cx.at(), way.exit, hop, frame)
    }

    fn rewrite_fragment(&mut self, way: &Way, f: &Fragment, frame: &mut [u8]) -> Result<Hop, DropReason> {
        // Nobody is told: a notice is about first fragments only.
        if f.total_len > self.egress.mtu(way.exit.link)? && !may_fragment(frame, f.l3) {
            return Err(DropReason::TooBig);
        }
        rewrite_addresses(frame, f.l3, way.source, way.destination);
        if let Some(id) = way.id {
            set_identification(frame, f.l3, id);
        }
        decrement_ttl(frame, f.l3);
        self.egress.address(self.cx.at(), way.exit, way.hop, frame)
    }

    /// If the fate of a datagram is decided, its waiting fragments leave behind the first, or are dropped.
    pub(crate) fn settle_fragments(&mut self, key: Option<Key>) {
        let Some((fate, waiting)) = key.and_then(|key| self.datagrams.settle(&key)) else { return };
        for Waiting { mut frame, meta, fragment } in waiting {
            let result = match fate {
                Fate::Known(way) => self.rewrite_fragment(&way, &fragment, &mut frame).map(|hop| (hop, way)),
                Fate::Refused(reason) => Err(reason),
                Fate::Open => Err(DropReason::FragmentTimeout),
            };
            match result {
                Ok((hop, way)) => self.egress.send_later(self.cx.now_ns, way.exit, hop, meta, frame),
                Err(reason) => self.egress.drop_waiting(frame, reason),
            }
        }
    }
}
