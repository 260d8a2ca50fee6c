//! Announcing a takeover (M2): once serving begins, frames from the shard's vMAC on both sides make the switches relearn
//! its port; neighbour caches need no change. Outside a gratuitous ARP per frontend; inside a frame that no host reads (IEEE
//! 802, local experimental EtherType): a gratuitous ARP for the gateway address would capture other shards' backends, and a
//! probe would claim the address that it asks for (RFC 5227). Until a reply has come to the vMAC, a neighbour on each side is
//! asked for one.

use crate::announcement::{ArpFrame, Confirmed, announcement};
use crate::event::Authority;
use crate::ids::{Mac, ShardId, Side, Term};
use crate::snapshot::Snapshot;
use crate::wire::ArpOp;
use crate::worker::Worker;

impl Worker {
    /// Queues one round of announcements of a shard that serves in `term`.
    pub(crate) fn announce(&mut self, now_ns: u64, snapshot: &Snapshot, shard: ShardId, term: Term) {
        let vmac = Mac::of_shard(shard);
        let authority = Authority::Lease { shard, term };
        let Some(config) = snapshot.shards.get(&shard) else { return };
        for frontend in &config.frontends {
            if let Some(frontend) = snapshot.frontends.get(frontend) {
                let frame = ArpFrame {
                    op: ArpOp::Request,
                    eth_dst: Mac::BROADCAST,
                    sender: (vmac, frontend.ip),
                    target: (Mac::default(), frontend.ip),
                };
                self.queue_arp(now_ns, Side::Outside, authority, vmac, frame);
            }
        }
        self.queue_own(now_ns, Side::Inside, authority, &announcement(vmac));
        let lead = self.replica(shard).and_then(|s| s.leadership.as_ref());
        if lead.and_then(|l| l.announcement).is_some_and(|a| a.confirmed == Confirmed::Yes) {
            return;
        }
        let backend = snapshot.first_backends.get(&(self.vnet, shard)).map(|(_, ip)| (Side::Inside, *ip));
        for (side, ip) in backend.into_iter().chain(snapshot.outside.next_hop.map(|ip| (Side::Outside, ip))) {
            if let Some(mac) = self.last_known(snapshot, now_ns, side, ip) {
                self.ask(now_ns, snapshot, side, authority, ip, mac);
            }
        }
    }
}
