//! The way of fragments. The first one goes the way of all packets; here is what happens around it,
//! and the way of the others. What they are is kept by `fragments`.

use crate::addresses::{check_destination, is_spoofed, own_address};
use crate::context::{Access, Frame, Hop, Owner};
use crate::event::{DropReason, Verdict};
use crate::ids::{Link, ShardId};
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Waiting, Way};
use crate::lease::LeaseWords;
use crate::private::pair_of;
use crate::snapshot::Snapshot;
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
        let home = home_of(s, link, f)?;
        // Whose this is says the first one alone, which was looked at (D17): nobody else's does.
        let floats = link.is_inside() && own_address(s, f.src).is_some();
        let known = !floats || self.datagrams.knows(&Key::of(link, f));
        match self.shards.access(&self.cx, home) {
            Access::Forward(Owner::WorkerOf(shard)) => {
                return self.egress.forward(s, link, Owner::WorkerOf(shard), f.eth_src, frame);
            }
            Access::Nothing(reason) => return Err(reason),
            _ if !known => return Err(DropReason::SpoofedSource),
            Access::Here(_) => {}
            Access::Forward(node) => return self.egress.forward(s, link, node, f.eth_src, frame),
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

/// The shard that judges a later fragment, if it may come from where it says.
fn home_of(s: &Snapshot, link: Link, f: &Fragment) -> Result<ShardId, DropReason> {
    let Link::Inside(vnet) = link else {
        let id = s.frontend_by_ip.get(&f.dst).ok_or(DropReason::NotForUs)?;
        if is_spoofed(s, f.src, f.eth_src) {
            return Err(DropReason::SpoofedSource);
        }
        return s.frontends.get(id).map(|frontend| frontend.shard).ok_or(DropReason::NotForUs);
    };
    if let Some(pair) = pair_of(s, (vnet, f.src), f.dst) {
        return Ok(pair.home);
    }
    let home = match s.backend_by_ip.get(&(vnet, f.src)) {
        Some(id) => s.backends.get(id).map(|backend| backend.home),
        None => own_address(s, f.src).filter(|(frontend, _)| s.rules.floats(*frontend)).map(|(_, home)| home),
    };
    let home = home.ok_or(DropReason::SpoofedSource)?;
    check_destination(s, vnet, f.dst).map(|()| home)
}
