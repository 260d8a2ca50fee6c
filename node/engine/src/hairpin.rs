//! Hairpinning (R7, R17): what a backend sends to a public address of ours comes back inside, under the sender's own public
//! end, if a mapping at that address lets it in. With endpoint-dependent filtering that takes a mapping of the receiver's
//! towards exactly that end: both have to have begun.
//!
//! Here when this node serves the receiver's shard too. Otherwise the packet goes out to that shard's virtual MAC and comes
//! in there like any other, one hop further.

use std::net::Ipv4Addr;

use crate::addresses::{InsideEnd, endpoint, own_address};
use crate::event::{Authority, DropReason};
use crate::ids::{FrontendId, Link, ShardId};
use crate::policy::inbound_use;
use crate::record::PublicKey;
use crate::snapshot::Snapshot;
use crate::wire::{IcmpError, IpPacket};
use crate::worker::Worker;

impl Worker {
    /// The right by which a packet of `authority`'s shard is translated for `target` here, if this node may.
    pub(crate) fn right_for(&self, authority: Authority, target: ShardId) -> Option<Authority> {
        match authority {
            Authority::Lease { shard, .. } | Authority::Grace { shard } if shard == target => Some(authority),
            // Whether the lease still runs is looked at as the frame leaves.
            Authority::Lease { .. } => {
                let lead = self.replica(target)?.leadership.as_ref()?;
                (lead.serving == Some(Ok(()))).then_some(Authority::Lease { shard: target, term: lead.term })
            }
            Authority::Grace { .. } | Authority::Forward => None,
        }
    }

    /// What passes on the way of a backend's packet for `dst`. If it is turned back here, its receiver may be in any network
    /// of inside: which, only its mapping tells.
    pub(crate) fn mtu_to(&self, s: &Snapshot, authority: Authority, dst: Ipv4Addr) -> Result<u16, DropReason> {
        let turned = own_address(s, dst).and_then(|to| self.right_for(authority, to.1));
        match turned {
            Some(_) => Ok(self.links.mtu_inside()),
            None => self.links.mtu(Link::Outside).ok_or(DropReason::NoLink),
        }
    }

    /// Who gets a packet of `sender`, by `from`, a public end of ours, to the public address `to`. Takes note of it.
    pub(crate) fn turn(
        &mut self,
        (s, now_ns): (&Snapshot, u64),
        authority: Authority,
        (to, home): (FrontendId, ShardId),
        (sender, from): (InsideEnd, (Ipv4Addr, u16)),
        p: &IpPacket,
    ) -> Result<InsideEnd, DropReason> {
        let key = PublicKey { proto: p.proto, frontend: to, port: p.dst_port, remote: endpoint(from.0, from.1) };
        let shard = self.replica_mut(home).ok_or(DropReason::NoMapping)?;
        let slot = shard.replica.table.find_public(&key);
        let receiver = match slot {
            Some(slot) => {
                let record = shard.replica.table.record(slot);
                let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
                inbound_use(record, backend)?
            }
            None => shard.endpoint_of(s, &key).and_then(InsideEnd::of).ok_or(DropReason::NoMapping)?,
        };
        // Nobody reaches himself through a gateway ("land").
        if receiver == sender {
            return Err(DropReason::NoMapping);
        }
        if let Some(slot) = slot {
            shard.note_in(s, now_ns, authority, slot, p);
        }
        Ok(receiver)
    }

    /// Who gets an error that comes from `from`, a public end of ours, to the public address `to`.
    pub(crate) fn turn_error(
        &self,
        s: &Snapshot,
        (to, home): (FrontendId, ShardId),
        from: (Ipv4Addr, u16),
        e: &IcmpError,
    ) -> Result<InsideEnd, DropReason> {
        let remote = endpoint(from.0, from.1);
        let key = PublicKey { proto: e.quote.proto, frontend: to, port: e.quote.src_port, remote };
        let table = &self.replica(home).ok_or(DropReason::NoMapping)?.replica.table;
        let record = table.record(table.find_public(&key).ok_or(DropReason::NoMapping)?);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        inbound_use(record, backend)
    }
}
