//! ARP: who is answered (M1, M3), what is learned, and packets that wait for a neighbour.
//!
//! Nobody is answered or asked without the lease. Every node learns from what it sees, so a takeover finds warm caches.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use crate::event::{Authority, DropReason, Verdict};
use crate::held::{HELD_MAX_NS, Origin, Outgoing};
use crate::ids::{Mac, ShardId, Side};
use crate::neigh::Lookup;
use crate::pipeline::Cx;
use crate::shard::LeaseWords;
use crate::snapshot::Snapshot;
use crate::takeover::{ArpFrame, Confirmed};
use crate::wire::{ArpOp, ArpPacket, build_arp, set_ethernet};
use crate::worker::Worker;

/// Packets that wait for one neighbour.
const WAITING_PER_NEIGHBOUR_MAX: usize = 64;
/// Neighbours that are waited for.
const WAITED_NEIGHBOURS_MAX: usize = 1024;
/// How often waiting packets ask again.
const RETRY_NS: u64 = 50_000_000;

/// Packets that wait for one neighbour; the shard asks.
#[derive(Debug)]
pub(crate) struct Waiting {
    authority: Authority,
    frames: VecDeque<Outgoing>,
    retry_ns: u64,
}

impl Worker {
    pub(crate) fn handle_arp<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, side: Side, p: &ArpPacket) -> Verdict {
        self.learn(cx, side, p);
        match p.op {
            ArpOp::Request => self.answer(cx, side, p),
            ArpOp::Reply => self.confirm(p),
        }
        self.counters.absorbed += 1;
        Verdict::Consumed
    }

    /// A reply that came to a vMAC shows that the switches send its frames here (M2).
    fn confirm(&mut self, p: &ArpPacket) {
        if let Some(shard) = p.eth_dst.shard()
            && let Some(lead) = self.replica_mut(shard).and_then(|s| s.leadership.as_mut())
            && let Some(announcement) = &mut lead.announcement
        {
            announcement.confirmed = Confirmed::Yes;
        }
    }

    fn learn<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, side: Side, p: &ArpPacket) {
        let s = cx.snapshot;
        let ours = s.frontend_by_ip.contains_key(&p.sender_ip) || s.subnets.iter().any(|n| n.gateway == p.sender_ip);
        let believable = match side {
            Side::Inside => s.backend_by_ip.contains_key(&(self.vnet, p.sender_ip)),
            Side::Outside => {
                s.outside.next_hop == Some(p.sender_ip) || on_link(s.outside.network, s.outside.prefix_len, p.sender_ip)
            }
        };
        // A frame whose addresses disagree, or that claims a virtual MAC, is nobody's honest announcement.
        if ours || !believable || p.sender_mac.shard().is_some() || p.sender_mac != p.eth_src {
            return;
        }
        self.neighbours.learn(cx.now_ns, side, p.sender_ip, p.sender_mac);
        if let Some(waiting) = self.waiting.remove(&(side, p.sender_ip)) {
            self.release(waiting, p.sender_mac);
        }
    }

    fn answer<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, side: Side, p: &ArpPacket) {
        let s = cx.snapshot;
        let shard = match side {
            Side::Inside => {
                let gateway = s.subnets.iter().any(|n| n.vnet == self.vnet && n.gateway == p.target_ip);
                let asking = s.backend_by_ip.get(&(self.vnet, p.sender_ip)).and_then(|id| s.backends.get(id));
                asking.filter(|_| gateway).map(|b| b.home)
            }
            Side::Outside => {
                let frontend = s.frontend_by_ip.get(&p.target_ip).and_then(|id| s.frontends.get(id));
                // Our own announcement, or somebody else's claim to our address: no question.
                frontend.filter(|_| p.sender_ip != p.target_ip).map(|f| f.shard)
            }
        };
        let Some(shard) = shard else { return };
        let word = cx.words.word(shard);
        let Some(term) = self.replica(shard).and_then(|r| r.serves(cx.now_ns, self.me, word)) else { return };
        let vmac = Mac::of_shard(shard);
        let frame = ArpFrame {
            op: ArpOp::Reply,
            eth_dst: p.sender_mac,
            sender: (vmac, p.target_ip),
            target: (p.sender_mac, p.sender_ip),
        };
        self.queue_arp(cx.now_ns, side, Authority::Lease { shard, term }, vmac, frame);
    }

    /// Builds an ARP frame into the queue that `poll_frame` empties.
    pub(crate) fn queue_arp(&mut self, now_ns: u64, side: Side, authority: Authority, eth_src: Mac, a: ArpFrame) {
        let Some(mut frame) = self.held.own_buffer() else { return };
        let mut bytes = [0u8; 60];
        build_arp(&mut bytes, a.op, eth_src, a.eth_dst, a.sender.0, a.sender.1, a.target.0, a.target.1);
        frame.extend_from_slice(&bytes);
        let meta = crate::wire::FrameMeta::default();
        self.held.push(Outgoing { frame, meta, side, authority, origin: Origin::Own, since_ns: now_ns });
    }

    /// Asks for a neighbour in a shard's name; in grace nobody is asked (M1).
    pub(crate) fn ask(&mut self, now_ns: u64, s: &Snapshot, side: Side, authority: Authority, ip: Ipv4Addr, to: Mac) {
        let Authority::Lease { shard, .. } = authority else { return };
        let vmac = Mac::of_shard(shard);
        let frame = match side {
            Side::Inside => ArpFrame::probe(vmac, to, ip),
            Side::Outside => {
                let Some(own) = frontend_ip(s, shard) else { return };
                ArpFrame { op: ArpOp::Request, eth_dst: to, sender: (vmac, own), target: (Mac::default(), ip) }
            }
        };
        self.queue_arp(now_ns, side, authority, vmac, frame);
    }

    /// Keeps a rewritten frame until its next hop answers. Returns the verdict for a frame that just came in.
    pub(crate) fn wait_for(&mut self, key: (Side, Ipv4Addr), frame: Outgoing) -> Result<(), DropReason> {
        let room = self.waiting.len() < WAITED_NEIGHBOURS_MAX;
        let retry_ns = frame.since_ns.saturating_add(RETRY_NS);
        let result = match self.waiting.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) if room => {
                entry.insert(Waiting { authority: frame.authority, frames: VecDeque::from([frame]), retry_ns });
                return Ok(());
            }
            std::collections::btree_map::Entry::Occupied(mut entry)
                if entry.get().frames.len() < WAITING_PER_NEIGHBOUR_MAX =>
            {
                // Whoever came last has the newest right to ask.
                entry.get_mut().authority = frame.authority;
                entry.get_mut().frames.push_back(frame);
                return Ok(());
            }
            std::collections::btree_map::Entry::Vacant(_) | std::collections::btree_map::Entry::Occupied(_) => {
                Err(DropReason::NoNeighbour)
            }
        };
        self.held.recycle(frame.frame);
        result
    }

    fn release(&mut self, waiting: Waiting, mac: Mac) {
        for mut outgoing in waiting.frames {
            let src = source_of(&outgoing.frame);
            set_ethernet(&mut outgoing.frame, src, mac);
            self.held.push(outgoing);
        }
    }

    /// Asks again, gives up, and refreshes stale neighbours that are in use.
    pub(crate) fn neighbour_timers(&mut self, now_ns: u64, s: &Snapshot, words: &impl LeaseWords) {
        let due: Vec<(Side, Ipv4Addr)> =
            self.waiting.iter().filter(|(_, w)| w.retry_ns <= now_ns).map(|(k, _)| *k).collect();
        for key in due {
            let Some(mut waiting) = self.waiting.remove(&key) else { continue };
            while waiting.frames.front().is_some_and(|f| f.since_ns.saturating_add(HELD_MAX_NS) <= now_ns) {
                if let Some(old) = waiting.frames.pop_front() {
                    self.held.recycle(old.frame);
                    self.counters.drop_parked(DropReason::NoNeighbour);
                }
            }
            if waiting.frames.is_empty() {
                continue;
            }
            match self.neighbours.lookup(now_ns, key.0, key.1) {
                Lookup::Known(mac) => self.release(waiting, mac),
                Lookup::Unreachable => {
                    for frame in waiting.frames {
                        self.held.recycle(frame.frame);
                        self.counters.drop_parked(DropReason::NoNeighbour);
                    }
                }
                found @ (Lookup::Ask | Lookup::Wait) => {
                    if found == Lookup::Ask {
                        self.ask(now_ns, s, key.0, waiting.authority, key.1, Mac::BROADCAST);
                    }
                    waiting.retry_ns = now_ns.saturating_add(RETRY_NS);
                    self.waiting.insert(key, waiting);
                }
            }
        }
        while let Some(refresh) = self.neighbours.poll_refresh() {
            let right = self.any_right(now_ns, words);
            if let Some(authority) = right {
                self.ask(now_ns, s, refresh.side, authority, refresh.ip, refresh.mac);
            }
        }
    }

    /// The right of some shard that serves here: for questions that are not one shard's alone.
    fn any_right(&self, now_ns: u64, words: &impl LeaseWords) -> Option<Authority> {
        self.replicas().find_map(|(shard, r)| {
            let term = r.serves(now_ns, self.me, words.word(shard))?;
            Some(Authority::Lease { shard, term })
        })
    }

    /// When the next waiting packet asks again or gives up.
    pub(crate) fn next_neighbour_ns(&self) -> Option<u64> {
        self.waiting.values().map(|w| w.retry_ns).min()
    }
}

fn source_of(frame: &[u8]) -> Mac {
    Mac(frame[6..12].try_into().expect("a frame that was rewritten has an Ethernet header"))
}

fn frontend_ip(s: &Snapshot, shard: ShardId) -> Option<Ipv4Addr> {
    let first = s.shards.get(&shard)?.frontends.first()?;
    s.frontends.get(first).map(|f| f.ip)
}

/// Whether `ip` lies in the network.
pub(crate) fn on_link(network: Ipv4Addr, prefix_len: u8, ip: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
    u32::from(ip) & mask == u32::from(network) & mask
}
