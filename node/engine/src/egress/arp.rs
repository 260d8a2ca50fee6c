//! ARP: who is answered (M1, M3), what is learned and believed (I43), and packets that wait for a neighbour.
//!
//! A takeover is announced (M2): once serving begins, frames from the shard's vMAC on both sides make the switches relearn its
//! port; neighbour caches need no change. Outside a gratuitous ARP per frontend, many of them in steps; on each inside network a frame that no host reads (IEEE 802,
//! local experimental EtherType): a gratuitous ARP for the gateway address would capture other shards' backends, and a probe
//! would claim the address that it asks for (RFC 5227). Until a reply has come to the vMAC, a neighbour on each side is asked
//! for one.
//!
//! Nobody is answered or asked without the lease. Every node learns from what it sees, so a takeover finds warm caches.
//! Questions come from an address of ours, inside the gateway's: one from 0.0.0.0 would be a probe, by which a host that is
//! about to take the address would give it up (RFC 5227 2.1.1).

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use crate::addresses::{own_address, subnet_of};
use crate::context::HELD_MAX_NS;
use crate::context::{At, Cx, Exit};
use crate::egress::Egress;
use crate::egress::held::{Outgoing, Waiting};
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::{Link, Mac, ShardId, VnetId};
use crate::lease::LeaseWords;
use crate::neigh::{Lookup, MayAsk, Source};
use crate::private::answered_for;
use crate::shard::announcement::{ArpFrame, Confirmed, Place, Step, announcement};
use crate::shard::shards::Shards;
use crate::snapshot::{Backend, Snapshot};
use crate::wire::{ArpOp, ArpPacket, build_arp, set_ethernet};

/// Packets that wait for one neighbour.
const WAITING_PER_NEIGHBOUR_MAX: usize = 64;
/// Neighbours that are waited for.
const WAITED_NEIGHBOURS_MAX: usize = 1024;
/// How often waiting packets ask again.
const RETRY_NS: u64 = 50_000_000;

impl Egress {
    pub(crate) fn handle_arp<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        shards: &mut Shards,
        link: Link,
        p: &ArpPacket,
    ) -> Verdict {
        self.learn(cx, shards, link, p);
        match p.op {
            ArpOp::Request => self.answer(cx, shards, link, p),
            ArpOp::Reply => confirm(shards, p),
        }
        // All workers of a member hear it; it counts once.
        if self.share.is_first() {
            self.counters.absorbed += 1;
        } else {
            self.counters.received -= 1;
        }
        Verdict::Consumed
    }

    fn learn<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, shards: &Shards, link: Link, p: &ArpPacket) {
        let s = cx.snapshot;
        // Another network's gateway is nobody's address here.
        let here = |of| link == Link::Outside || link == Link::Inside(of);
        let ours = s.frontend_by_ip.contains_key(&p.sender_ip)
            || s.subnets.iter().any(|n| n.gateway == p.sender_ip && here(n.vnet));
        let (believable, may_ask) = match link {
            Link::Inside(vnet) => {
                let backend = backend_at(vnet, s, p.sender_ip);
                let declared = backend.is_some_and(|b| b.mac.is_none_or(|mac| mac == p.sender_mac));
                (declared, backend.map_or(MayAsk::No, |b| may_ask(cx, shards, b)))
            }
            Link::Outside => {
                let next_hop = s.outside.next_hop == Some(p.sender_ip);
                (next_hop || s.outside.prefix.contains(p.sender_ip), MayAsk::Yes)
            }
        };
        // Instances behind a rule that floats have the address too, and may ask for their gateway in its name (D17).
        let shared = link.is_inside() && floating_shard(s, p.sender_ip).is_some();
        if ours && !shared && p.sender_mac.shard().is_none() && self.share.is_first() {
            self.counters.claims += 1;
            self.claims.note(cx.now_ns, link, p.sender_ip, p.sender_mac);
        }
        // A frame whose addresses disagree, or that claims a virtual MAC, is nobody's honest announcement.
        if ours || !believable || p.sender_mac.shard().is_some() || p.sender_mac != p.eth_src {
            return;
        }
        if link == Link::Outside && s.outside.next_hop == Some(p.sender_ip) {
            self.next_hop_heard(cx.now_ns);
        }
        if let Link::Inside(vnet) = link {
            self.agree(cx.at(), (vnet, p.sender_ip));
        }
        if self.neighbours.learn(cx.now_ns, link, p.sender_ip, p.sender_mac, may_ask) {
            self.release_waiting((link, p.sender_ip), p.sender_mac);
        }
    }

    /// Whether a frame that claims to be from an inside address may be (I43). What other members pass on they have looked at.
    pub(crate) fn check_source<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        shards: &Shards,
        (vnet, ip): (VnetId, Ipv4Addr),
        mac: Mac,
    ) -> Result<(), DropReason> {
        let known = self.neighbours.last_known(Link::Inside(vnet), ip) == Some(mac);
        if known { Ok(()) } else { self.doubt_source(cx, shards, (vnet, ip), mac) }
    }

    #[cold]
    fn doubt_source<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        shards: &Shards,
        (vnet, ip): (VnetId, Ipv4Addr),
        mac: Mac,
    ) -> Result<(), DropReason> {
        let (s, now_ns, link) = (cx.snapshot, cx.now_ns, Link::Inside(vnet));
        // Who is no backend is refused elsewhere.
        let Some(backend) = backend_at(vnet, s, ip) else { return Ok(()) };
        self.agree(cx.at(), (vnet, ip));
        let right = shards.right_of(cx, backend.home);
        if s.peers.iter().any(|peer| peer.mac_on(link) == Some(mac)) {
            if let Some(authority) = right {
                self.correct(cx.at(), authority, (vnet, ip));
            }
            return Ok(());
        }
        if let Some(declared) = backend.mac {
            return if declared == mac { Ok(()) } else { Err(DropReason::SpoofedSource) };
        }
        let may_ask = if right.is_some() { MayAsk::Yes } else { MayAsk::No };
        match self.neighbours.source(now_ns, link, ip, mac, may_ask) {
            Source::Own => Ok(()),
            Source::Rival => Err(DropReason::SpoofedSource),
            Source::Unknown => {
                // Nobody knows better; the answer decides about what comes next.
                if let Some(authority) = right
                    && self.neighbours.lookup(now_ns, link, ip) == Lookup::Ask
                {
                    self.ask(cx.at(), Exit { link, authority }, ip, Mac::BROADCAST);
                }
                Ok(())
            }
        }
    }

    /// A backend sends by another shard's virtual MAC, as after a question of that shard's that it overheard: it is told of
    /// its own.
    fn correct(&mut self, at: At<'_>, authority: Authority, (vnet, ip): (VnetId, Ipv4Addr)) {
        let Authority::Lease { shard, .. } = authority else { return };
        let link = Link::Inside(vnet);
        let (mac, subnet) = (self.last_known(at, link, ip), subnet_of(at.snapshot, vnet, ip));
        let (Some(mac), Some(gateway)) = (mac, subnet.map(|n| n.gateway)) else { return };
        if self.corrections.take(at.now_ns, (link, ip)) {
            let vmac = Mac::of_shard(shard);
            let frame = ArpFrame { op: ArpOp::Reply, eth_dst: mac, sender: (vmac, gateway), target: (mac, ip) };
            self.queue_arp(at.now_ns, Exit { link, authority }, vmac, frame);
        }
    }

    fn answer<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, shards: &Shards, link: Link, p: &ArpPacket) {
        let s = cx.snapshot;
        let shard = match link {
            Link::Inside(vnet) => {
                let gateway = s.subnets.iter().find(|n| n.vnet == vnet && n.gateway == p.target_ip);
                // M3: in the name of a host that does not hear the question.
                let neighbour = answered_for(s, vnet, p.sender_ip, p.target_ip);
                neighbour.or_else(|| {
                    gateway.filter(|_| p.sender_ip != p.target_ip).and_then(|subnet| {
                        // Who is no backend (yet), or only looks whether the address is taken (RFC 5227), hears it once: from the
                        // first shard's owner.
                        let stranger = p.sender_ip.is_unspecified() || subnet.prefix.contains(p.sender_ip);
                        let first = first_shard(s, vnet).filter(|_| stranger);
                        let home = backend_at(vnet, s, p.sender_ip).map(|b| b.home);
                        home.or_else(|| floating_shard(s, p.sender_ip)).or(first)
                    })
                })
            }
            Link::Outside => {
                let frontend = s.frontend_by_ip.get(&p.target_ip).and_then(|id| s.frontends.get(id));
                // Our own announcement, or somebody else's claim to our address: no question.
                frontend.filter(|_| p.sender_ip != p.target_ip).map(|f| f.shard)
            }
        };
        let Some(shard) = shard else { return };
        let Some(authority) = shards.right_of(cx, shard) else { return };
        let vmac = Mac::of_shard(shard);
        let frame = ArpFrame {
            op: ArpOp::Reply,
            eth_dst: p.sender_mac,
            sender: (vmac, p.target_ip),
            target: (p.sender_mac, p.sender_ip),
        };
        self.queue_arp(cx.now_ns, Exit { link, authority }, vmac, frame);
    }

    /// Builds an ARP frame into the queue that `poll_frame` empties.
    fn queue_arp(&mut self, now_ns: u64, exit: Exit, eth_src: Mac, a: ArpFrame) {
        let mut bytes = [0u8; 60];
        build_arp(&mut bytes, a.op, eth_src, a.eth_dst, a.sender.0, a.sender.1, a.target.0, a.target.1);
        self.queue_own(now_ns, exit, &bytes);
    }

    /// Asks for a neighbour in a shard's name; in grace nobody is asked (M1).
    pub(crate) fn ask(&mut self, at: At<'_>, exit: Exit, ip: Ipv4Addr, to: Mac) {
        let Authority::Lease { shard, .. } = exit.authority else { return };
        let vmac = Mac::of_shard(shard);
        let own = match exit.link {
            Link::Inside(vnet) => subnet_of(at.snapshot, vnet, ip).map(|n| n.gateway),
            Link::Outside => frontend_ip(at.snapshot, shard),
        };
        let Some(own) = own else { return };
        let frame = ArpFrame { op: ArpOp::Request, eth_dst: to, sender: (vmac, own), target: (Mac::default(), ip) };
        self.queue_arp(at.now_ns, exit, vmac, frame);
    }

    /// Queues one step of the announcements of a shard that serves by `authority`; `confirmed`: a reply has come to its vMAC.
    pub(crate) fn announce(
        &mut self,
        at: At<'_>,
        (shard, authority): (ShardId, Authority),
        step: &Step,
        confirmed: Confirmed,
    ) {
        let (vmac, outside) = (Mac::of_shard(shard), Exit { link: Link::Outside, authority });
        for ip in &step.addresses {
            let frame = ArpFrame {
                op: ArpOp::Request,
                eth_dst: Mac::BROADCAST,
                sender: (vmac, *ip),
                target: (Mac::default(), *ip),
            };
            self.queue_arp(at.now_ns, outside, vmac, frame);
        }
        if step.place == Place::Within {
            return;
        }
        let networks: Vec<VnetId> = self.links.inside().collect();
        for vnet in &networks {
            self.queue_own(at.now_ns, Exit { link: Link::Inside(*vnet), authority }, &announcement(vmac));
        }
        if confirmed == Confirmed::Yes {
            return;
        }
        let firsts = &at.snapshot.first_backends;
        let first = |vnet: VnetId| firsts.get(&(vnet, shard)).map(|(_, ip)| (Link::Inside(vnet), *ip));
        let backends = networks.into_iter().filter_map(first);
        for (link, ip) in backends.chain(at.snapshot.outside.next_hop.map(|ip| (Link::Outside, ip))) {
            if let Some(mac) = self.last_known(at, link, ip) {
                self.ask(at, Exit { link, authority }, ip, mac);
            }
        }
    }

    /// Keeps a rewritten frame until its next hop answers. Returns the verdict for a frame that just came in.
    pub(crate) fn wait_for(&mut self, key: (Link, Ipv4Addr), frame: Outgoing) -> Result<(), DropReason> {
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

    /// `mac` has an address that packets may wait for.
    pub(crate) fn release_waiting(&mut self, key: (Link, Ipv4Addr), mac: Mac) {
        if let Some(waiting) = self.waiting.remove(&key) {
            self.release(waiting, mac);
        }
    }

    fn release(&mut self, waiting: Waiting, mac: Mac) {
        for mut outgoing in waiting.frames {
            let src = source_of(&outgoing.frame);
            set_ethernet(&mut outgoing.frame, src, mac);
            self.held.push(outgoing);
        }
    }

    /// Asks again, gives up, and refreshes stale neighbours that are in use.
    pub(crate) fn neighbour_timers<W: LeaseWords>(&mut self, cx: &Cx<'_, W>, shards: &Shards) {
        let (now_ns, at) = (cx.now_ns, cx.at());
        let due: Vec<(Link, Ipv4Addr)> =
            self.waiting.iter().filter(|(_, w)| w.retry_ns <= now_ns).map(|(k, _)| *k).collect();
        for key in due {
            let Some(mut waiting) = self.waiting.remove(&key) else { continue };
            while waiting.frames.front().is_some_and(|f| f.since_ns.saturating_add(HELD_MAX_NS) <= now_ns) {
                if let Some(old) = waiting.frames.pop_front() {
                    self.give_up(at, shards, old);
                }
            }
            if waiting.frames.is_empty() {
                continue;
            }
            match self.look_up(at, key.0, key.1) {
                Lookup::Known(mac) => self.release(waiting, mac),
                Lookup::Unreachable => {
                    for frame in waiting.frames {
                        self.give_up(at, shards, frame);
                    }
                }
                found @ (Lookup::Ask | Lookup::Wait | Lookup::Outdated) => {
                    if found == Lookup::Ask {
                        let exit = Exit { link: key.0, authority: waiting.authority };
                        self.ask(at, exit, key.1, Mac::BROADCAST);
                    }
                    waiting.retry_ns = now_ns.saturating_add(RETRY_NS);
                    self.waiting.insert(key, waiting);
                }
            }
        }
        while let Some(refresh) = self.neighbours.poll_refresh() {
            let right = match refresh.link {
                Link::Inside(vnet) => {
                    backend_at(vnet, cx.snapshot, refresh.ip).and_then(|b| shards.right_of(cx, b.home))
                }
                Link::Outside => shards.any_right(cx),
            };
            if let Some(authority) = right {
                self.ask(at, Exit { link: refresh.link, authority }, refresh.ip, refresh.mac);
            }
        }
    }

    /// What to do with a packet for the next hop `ip`: a declared card is the only one, and needs no question.
    pub(crate) fn look_up(&mut self, at: At<'_>, link: Link, ip: Ipv4Addr) -> Lookup {
        let found = self.neighbours.lookup(at.now_ns, link, ip);
        match link {
            Link::Inside(vnet) if !matches!(found, Lookup::Known(_)) => self.look_up_declared(at, (vnet, ip), found),
            Link::Inside(_) | Link::Outside => found,
        }
    }

    #[cold]
    fn look_up_declared(&mut self, at: At<'_>, (vnet, ip): (VnetId, Ipv4Addr), found: Lookup) -> Lookup {
        let link = Link::Inside(vnet);
        match (declared_mac(at.snapshot, vnet, ip), found) {
            (Some(mac), _) => {
                self.neighbours.set(at.now_ns, link, ip, mac);
                Lookup::Known(mac)
            }
            (None, Lookup::Outdated) => {
                self.neighbours.confirm(link, ip);
                self.neighbours.lookup(at.now_ns, link, ip)
            }
            (None, found) => found,
        }
    }

    /// Has what is known of an inside address agree with the configuration in force. Loading that tells the cache nothing: it
    /// may declare 32,768 cards.
    fn agree(&mut self, at: At<'_>, (vnet, ip): (VnetId, Ipv4Addr)) {
        let link = Link::Inside(vnet);
        match declared_mac(at.snapshot, vnet, ip) {
            Some(mac) if self.neighbours.last_known(link, ip) != Some(mac) => {
                self.neighbours.set(at.now_ns, link, ip, mac);
            }
            Some(_) => {}
            None => self.neighbours.confirm(link, ip),
        }
    }

    /// Where an address was last known to be.
    fn last_known(&mut self, at: At<'_>, link: Link, ip: Ipv4Addr) -> Option<Mac> {
        if let Link::Inside(vnet) = link {
            self.agree(at, (vnet, ip));
        }
        self.neighbours.last_known(link, ip)
    }

    /// Nobody has answered for the next hop of a packet.
    fn give_up(&mut self, at: At<'_>, shards: &Shards, mut outgoing: Outgoing) {
        self.tell_unreachable(at, shards, &mut outgoing);
        self.drop_waiting(outgoing.frame, DropReason::NoNeighbour);
    }

    /// When the next waiting packet asks again or gives up.
    pub(crate) fn next_neighbour_ns(&self) -> Option<u64> {
        self.waiting.values().map(|w| w.retry_ns).min()
    }
}

/// A reply that came to a vMAC shows that the switches send its frames here (M2).
fn confirm(shards: &mut Shards, p: &ArpPacket) {
    if let Some(shard) = p.eth_dst.shard()
        && let Some(lead) = shards.replica_mut(shard).and_then(|s| s.leadership.as_mut())
        && let Some(announcement) = &mut lead.announcement
    {
        announcement.confirmed = Confirmed::Yes;
    }
}

/// Whether this node may ask a backend about itself: in the name of its home shard alone, since the question tells it where
/// its gateway is.
fn may_ask<W: LeaseWords>(cx: &Cx<'_, W>, shards: &Shards, backend: &Backend) -> MayAsk {
    if shards.right_of(cx, backend.home).is_some() { MayAsk::Yes } else { MayAsk::No }
}

fn source_of(frame: &[u8]) -> Mac {
    Mac(frame[6..12].try_into().expect("a frame that was rewritten has an Ethernet header"))
}

fn frontend_ip(s: &Snapshot, shard: ShardId) -> Option<Ipv4Addr> {
    s.shards.get(&shard)?.addresses.first().map(|(ip, _)| *ip)
}

/// The shard of a public address that instances have too.
fn floating_shard(s: &Snapshot, ip: Ipv4Addr) -> Option<ShardId> {
    own_address(s, ip).filter(|(frontend, _)| s.rules.floats(*frontend)).map(|(_, shard)| shard)
}

fn backend_at(vnet: VnetId, s: &Snapshot, ip: Ipv4Addr) -> Option<&Backend> {
    s.backend_by_ip.get(&(vnet, ip)).and_then(|id| s.backends.get(id))
}

/// The first shard that has backends in the virtual network.
fn first_shard(s: &Snapshot, vnet: VnetId) -> Option<ShardId> {
    let ((of, shard), _) = s.first_backends.range((vnet, ShardId(0))..).next()?;
    (*of == vnet).then_some(*shard)
}

/// The card that the configuration says a backend has.
fn declared_mac(s: &Snapshot, vnet: VnetId, ip: Ipv4Addr) -> Option<Mac> {
    backend_at(vnet, s, ip)?.mac
}
