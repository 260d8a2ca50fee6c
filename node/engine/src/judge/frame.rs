//! Hot path. A frame becomes a verdict: who may translate it, by which mapping, and where it goes.
//!
//! No allocation on a table hit. What cannot be translated is dropped with a reason; nothing leaves untranslated (R28)
//! except what is forwarded whole to the owner, from this node's own MAC (M1).

use std::net::Ipv4Addr;

use crate::context::Frame;
use crate::event::{DropReason, Verdict};
use crate::ids::{Link, Mac};
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key};
use crate::lease::LeaseWords;
use crate::probes::SOURCE;
use crate::wire::{IpPacket, Parsed, parse};

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn judge_frame(&mut self, link: Link, frame: &mut Frame<'_>) -> Verdict {
        // Borrowed, not moved: a copy would wait for what `parse` has just written in smaller pieces.
        let result = match &parse(frame.bytes, frame.meta) {
            Ok(Parsed::Arp(p)) => return self.egress.handle_arp(&self.cx, self.shards, link, p),
            Ok(Parsed::Sounding(s)) => {
                let handled = self.egress.handle_sounding(self.cx.at(), link, s);
                return handled.unwrap_or_else(|reason| self.egress.refuse(reason));
            }
            Ok(Parsed::Ip(p)) => self.judge_packet(link, p, frame),
            Ok(Parsed::Fragment(f)) => self.judge_fragment(link, f, frame),
            Ok(Parsed::Error(e)) => self.judge_error(link, e, frame),
            Err(reason) => Err(*reason),
        };
        match result {
            Ok(verdict) => {
                let counters = &mut self.egress.counters;
                match verdict {
                    Verdict::Transmit { .. } => counters.transmitted += 1,
                    Verdict::Consumed => counters.parked += 1,
                    Verdict::Drop(reason) => counters.drop(reason),
                }
                verdict
            }
            Err(reason) => self.egress.refuse(reason),
        }
    }

    pub(crate) fn judge_packet(
        &mut self,
        link: Link,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        if let Some(result) = self.established(link, p, frame) {
            return result;
        }
        self.accept(link, (p.eth_src, p.eth_dst), p.src)?;
        let result = match link {
            _ if !self.cx.snapshot.params.format.carries(p.proto) => Err(DropReason::ClusterLevel),
            Link::Inside(vnet) if p.dst == SOURCE => self.take_answer(vnet, p, frame),
            Link::Inside(vnet) => self.outbound(vnet, p, frame),
            Link::Outside => self.inbound(p, frame),
        };
        if let Some(key) = Key::of_first(link, p) {
            // What becomes of the first becomes of all; one that waits for its commit decides later, and a copy of it nothing.
            if let Err(reason) = result
                && reason != DropReason::FragmentOverlap
            {
                self.datagrams.decide(&key, Fate::Refused(reason));
            }
            self.settle_fragments(Some(key));
        }
        result
    }

    /// Whether the frame was sent to this node, and not flooded by a switch (M1), and by whom it says (I43).
    pub(crate) fn accept(&mut self, link: Link, (src, dst): (Mac, Mac), ip: Ipv4Addr) -> Result<(), DropReason> {
        let own = self.cx.snapshot.me.as_ref().and_then(|me| me.mac_on(link));
        let for_us = match dst.shard() {
            Some(shard) => self.shards.is_or_was_owner(&self.cx, shard),
            None => own == Some(dst),
        };
        if !for_us || own == Some(src) {
            return Err(DropReason::NotForUs);
        }
        match link {
            Link::Inside(vnet) => self.egress.check_source(&self.cx, self.shards, (vnet, ip), src),
            Link::Outside => Ok(()),
        }
    }
}
