//! Hairpinning (R7, R17): what a backend sends to a public address of ours comes back inside, under the sender's own public
//! end, if a mapping at that address lets it in. With endpoint-dependent filtering that takes a mapping of the receiver's
//! towards exactly that end: both have to have begun.
//!
//! Here when this node serves the receiver's shard too. Otherwise the packet goes out to that shard's virtual MAC and comes
//! in there like any other, one hop further.

use std::net::Ipv4Addr;

use crate::addresses::{InsideEnd, endpoint, own_address};
use crate::context::Frame;
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::Slot;
use crate::ids::{FrontendId, Link, ShardId};
use crate::judge::Judge;
use crate::judge::policy::{inbound_use, led_use, mapping_of, stranger_use};
use crate::lease::LeaseWords;
use crate::record::PublicKey;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::translation::put_source;
use crate::wire::{IcmpError, IpPacket};

impl<W: LeaseWords> Judge<'_, W> {
    /// What passes on the way of a backend's packet for `dst`. If it is turned back here, its receiver may be in any network
    /// of inside: which, only its mapping tells.
    pub(crate) fn mtu_to(&self, authority: Authority, dst: Ipv4Addr) -> Result<u16, DropReason> {
        let turned = own_address(self.cx.snapshot, dst).and_then(|to| self.shards.right_for(authority, to.1));
        match turned {
            Some(_) => Ok(self.egress.links.mtu_inside()),
            None => self.egress.mtu(Link::Outside),
        }
    }

    /// Who gets a packet of `sender`, by `from`, a public end of ours, to the public address `to`. Takes note of it.
    pub(crate) fn turn(
        &mut self,
        authority: Authority,
        (to, home): (FrontendId, ShardId),
        (sender, from): (InsideEnd, (Ipv4Addr, u16)),
        p: &IpPacket,
    ) -> Result<InsideEnd, DropReason> {
        let s = self.cx.snapshot;
        let key = PublicKey { proto: p.proto, frontend: to, port: p.dst_port, remote: endpoint(from.0, from.1) };
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NoMapping)?;
        let (slot, receiver) = receiver(s, shard, &key, sender)?;
        if let Some(slot) = slot {
            shard.note_in(self.cache, self.cx.at(), authority, slot, p);
        }
        Ok(receiver)
    }

    /// Where a packet by `from`, a public end of ours, goes on that is for the port of a rule of ours, or for an address that is
    /// one backend's own, and judged here: it comes in there as from outside.
    pub(crate) fn led_back(&self, authority: Authority, from: (FrontendId, u16), p: &IpPacket) -> Option<LedBack> {
        let s = self.cx.snapshot;
        let (frontend, home) = own_address(s, p.dst).filter(|_| !s.rules.is_empty())?;
        let public = s.frontends.get(&from.0)?.ip;
        let key = PublicKey { proto: p.proto, frontend, port: p.dst_port, remote: endpoint(public, from.1) };
        s.rules.inward(&key)?;
        let authority = self.shards.right_for(authority, home)?;
        // Those of a flow that is there go by its mapping.
        let goes_on = || self.shards.replica(home).is_some_and(|shard| shard.replica.table.find_public(&key).is_some());
        (p.fragment.is_none() || !goes_on()).then_some(LedBack { authority, home, key })
    }

    /// Sends it there: under the sender's own public end, by the rule's hash, and committed like a client's (W3). Nothing begins in
    /// fragments there.
    pub(crate) fn turn_to_rule(
        &mut self,
        to: &LedBack,
        from: (FrontendId, u16),
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        if p.fragment.is_some() {
            return Err(DropReason::NoMapping);
        }
        let public = self.cx.snapshot.frontends.get(&from.0).ok_or(DropReason::NoOutboundPath)?;
        put_source(&mut self.egress.identifications, frame, p, (public.ip, from.1));
        let turned = IpPacket { src: public.ip, src_port: from.1, ..*p };
        self.arrive(to.authority, (to.home, &to.key), &turned, frame)
    }

    /// Who gets an error that comes from `from`, a public end of ours, to the public address `to`.
    pub(crate) fn turn_error(
        &self,
        (to, home): (FrontendId, ShardId),
        from: (Ipv4Addr, u16),
        e: &IcmpError,
    ) -> Result<InsideEnd, DropReason> {
        let remote = endpoint(from.0, from.1);
        let key = PublicKey { proto: e.quote.proto, frontend: to, port: e.quote.src_port, remote };
        let shard = self.shards.replica(home).ok_or(DropReason::NoMapping)?;
        let record = shard.replica.table.record(mapping_of(shard, &key).ok_or(DropReason::NoMapping)?);
        let s = self.cx.snapshot;
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        inbound_use(s, record, backend)
    }
}

/// A public end with a rule that a backend's packet is for, and by what right it is judged there.
pub(crate) struct LedBack {
    authority: Authority,
    home: ShardId,
    key: PublicKey,
}

/// Who gets a packet of `sender` for the public end of `key`, and by which mapping, if by one of its own.
pub(crate) fn receiver(
    s: &Snapshot,
    shard: &Shard,
    key: &PublicKey,
    sender: InsideEnd,
) -> Result<(Option<Slot>, InsideEnd), DropReason> {
    let slot = mapping_of(shard, key);
    let receiver = match slot {
        Some(slot) => {
            let record = shard.replica.table.record(slot);
            let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
            inbound_use(s, record, backend)?
        }
        None if s.rules.inward(key).is_some() => led_use(s, shard, key)?,
        None => stranger_use(s, shard, key)?,
    };
    // Nobody reaches himself through a gateway ("land").
    if receiver == sender { Err(DropReason::NoMapping) } else { Ok((slot, receiver)) }
}
