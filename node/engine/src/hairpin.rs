//! Hairpinning (R7, R17): what a backend sends to a public address of ours comes back inside, under the sender's own public
//! end, if a mapping at that address lets it in. With endpoint-dependent filtering that takes a mapping of the receiver's
//! towards exactly that end: both have to have begun.
//!
//! Here when this node serves the receiver's shard too. Otherwise the packet goes out to that shard's virtual MAC and comes
//! in there like any other, one hop further.

use std::net::Ipv4Addr;

use crate::addresses::{endpoint, own_address};
use crate::event::{Authority, DropReason};
use crate::ids::{FrontendId, ShardId, Side};
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

    /// The side by which a backend's packet for `dst` leaves: its own, if it is turned back here.
    pub(crate) fn way_out(&self, s: &Snapshot, authority: Authority, dst: Ipv4Addr) -> Side {
        let turned = own_address(s, dst).and_then(|to| self.right_for(authority, to.1));
        if turned.is_some() { Side::Inside } else { Side::Outside }
    }

    /// Who gets a packet that comes from `from`, a public end of ours, to the public address `to`. Takes note of it.
    pub(crate) fn turn(
        &mut self,
        (s, now_ns): (&Snapshot, u64),
        authority: Authority,
        (to, home): (FrontendId, ShardId),
        from: (Ipv4Addr, u16),
        p: &IpPacket,
    ) -> Result<(Ipv4Addr, u16), DropReason> {
        let key = PublicKey { proto: p.proto, frontend: to, port: p.dst_port, remote: endpoint(from.0, from.1) };
        let shard = self.replica_mut(home).ok_or(DropReason::NoMapping)?;
        let slot = shard.replica.table.find_public(&key);
        let receiver = match slot {
            Some(slot) => {
                let record = shard.replica.table.record(slot);
                let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
                inbound_use(record, backend)?
            }
            None => {
                let inside = shard.endpoint_of(s, &key).ok_or(DropReason::NoMapping)?.endpoint;
                (inside.addr.ipv4().ok_or(DropReason::NoMapping)?, inside.port)
            }
        };
        // Nobody reaches himself through a gateway ("land").
        if receiver == (p.src, p.src_port) {
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
    ) -> Result<(Ipv4Addr, u16), DropReason> {
        let remote = endpoint(from.0, from.1);
        let key = PublicKey { proto: e.quote.proto, frontend: to, port: e.quote.src_port, remote };
        let table = &self.replica(home).ok_or(DropReason::NoMapping)?.replica.table;
        let record = table.record(table.find_public(&key).ok_or(DropReason::NoMapping)?);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        inbound_use(record, backend)
    }
}
