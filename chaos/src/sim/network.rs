//! The networks of a simulated world: between members streams that are usually in order, and a learning switch on each
//! link of the data path.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::flow::frame::Frame;
use engine::event::Authority;
use engine::ids::{Incarnation, Link, Mac, NodeId};
use engine::wire::{ArpPacket, FrameMeta, IpPacket, Parsed, TcpFlags, parse};
use engine::worker::Worker;
use member::frame::{CHANNEL_CONTROL, CHANNEL_JOIN, flow_frame, split_flow_frame};
use raft::eraftpb::MessageType;
use rand::Rng;

use super::addresses::{Host, mac_on};
use super::clients;
use super::flight::{Arrival, Judged, Leaving};
use super::node::Deed;
use super::params::MS;
use super::traffic::{REMOTE, Sender, TTL, Tag, answer, arp_answer, data};
use super::world::{World, newest as newest_of, said};
use crate::invariants::{i08_vmac, i13_i14_clean_frames, i15_i16_untouched};

/// Longest time after which a frame of a former connection may still come.
const GHOST_NS: u64 = 6_000 * MS;

/// Longest time between a verdict and the wire: what a hold leaves above grace and V (F6).
const LATE_NS: u64 = 1_000 * MS;

/// Marks the channels that carry chunks of tables: a space of their own.
pub(super) const BULK: u32 = 1 << 30;

/// About the length of a table here.
const TABLE_OCTETS: f64 = 32_768.0;

impl World {
    fn post(&mut self, to: NodeId, at_ns: u64, life: Option<u64>, arrival: Arrival) {
        self.sequence += 1;
        self.queue.push(Reverse((at_ns, self.sequence, to)));
        self.bodies.insert(self.sequence, (life, arrival));
    }

    fn life(&self, id: NodeId) -> Option<u64> {
        Some(self.lives.get(&id).copied().unwrap_or(0))
    }

    pub(super) fn deliver(&mut self) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        while let Some(Reverse((at, sequence, to))) = self.queue.peek().copied() {
            if at > self.now_ns {
                break;
            }
            self.queue.pop();
            let Some((life, arrival)) = self.bodies.remove(&sequence) else { continue };
            if life.is_some() && life != self.life(to) {
                continue;
            }
            let cut = matches!(&arrival, Arrival::Peer { from, channel, .. } if self.healing.is_cut((*from, to), *channel, self.now_ns));
            let now_ns = self.now_ns;
            if cut || !self.nodes.contains_key(&to) {
                continue;
            }
            if let Arrival::Peer { from, bytes, .. } = &arrival {
                let registry = newest_of(&self.nodes).registry();
                if let Some((_, frame)) = raft_frame(bytes).filter(|(life, _)| registry.node_of(*life) == Some(*from)) {
                    self.judge.promises.arrived(&frame);
                }
            }
            let Some(node) = self.nodes.get_mut(&to) else { continue };
            match arrival {
                Arrival::Peer { from, channel, bytes } => node.peer(now_ns, from, channel, bytes),
                Arrival::Frame { link, frame } => node.frame(now_ns, link, frame),
                Arrival::Leaving(leaving) => self.leave(to, &leaving)?,
            }
            touched.insert(to);
        }
        for id in touched {
            self.settle(id)?;
        }
        Ok(())
    }

    /// Lets a node do what it can now.
    pub(super) fn settle(&mut self, id: NodeId) -> Result<(), String> {
        let now_ns = self.now_ns;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let deeds = node.run(now_ns);
        self.judge.applied(node.control.state()).map_err(said)?;
        // A configuration is what it is also while nothing leaves, and what was promised under it holds after it.
        if deeds.iter().any(|deed| matches!(deed, Deed::Event(_))) {
            self.judge.configurations(node, now_ns);
        }
        for deed in deeds {
            match deed {
                Deed::Map(view) => self.judge.map(&view),
                Deed::Send { to, channel, bytes } => self.send(id, to, channel, bytes),
                Deed::Frame { link, authority, frame } => {
                    // Some frames are judged now and handed to the wire later, perhaps after a pause (L5).
                    let late = match self.network.random_range(0..1_000) {
                        0..20 => self.network.random_range(0..20 * MS),
                        20..24 => self.network.random_range(0..LATE_NS),
                        _ => 0,
                    };
                    let mut leaving = Leaving { link, authority, frame, judged: Judged::Now };
                    if late == 0 {
                        self.leave(id, &leaving)?;
                    } else {
                        self.look_at(id, &leaving)?;
                        leaving.judged = Judged::Before;
                        self.post(id, now_ns + late, self.life(id), Arrival::Leaving(leaving));
                    }
                }
                Deed::Event(event) => {
                    let node = &self.nodes[&id];
                    let life = node.control.incarnation().unwrap_or(Incarnation(0));
                    let states = self.nodes.values().map(|node| node.control.state());
                    let newest = states.max_by_key(|state| state.index()).expect("this node lives");
                    self.judge.event(now_ns, (id, life), newest, &event).map_err(said)?;
                    if self.declared.resets() {
                        let words = &self.nodes[&id].words;
                        let judge = &mut self.judge;
                        judge.resets.event((self.now_ns, id), words, &event, (newest, &judge.rights));
                    }
                }
                Deed::Stopped => self.healing.has_stopped(id),
                Deed::Full(queue) => *self.outcome.full.entry(queue).or_insert(0) += 1,
                Deed::Died => {
                    self.ended(id, "ended by its disk");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Notes what the reference of leases has to know, and now and then answers in another node's name as well (N1).
    fn overhear(&mut self, from: NodeId, to: NodeId, channel: u32, bytes: &Bytes) {
        let Some((_, frame)) = raft_frame(bytes) else { return };
        self.judge.promises.sent(&frame, self.now_ns);
        let Frame::Raft { mut key, mut message } = frame else { return };
        let answers =
            matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgAppendResponse);
        if !answers || !self.network.random_bool(self.params.rare.lies) {
            return;
        }
        let others: Vec<NodeId> = self.ids().filter(|id| *id != from && *id != to).collect();
        let other = others[self.network.random_range(0..others.len())];
        let Some(life) = self.newest().registry().newest(other) else { return };
        key.from = life;
        message.from = life.0;
        let bytes = flow_frame(life, &Frame::Raft { key, message }.encode());
        self.post(to, self.now_ns + MS, self.life(to), Arrival::Peer { from, channel, bytes });
    }

    fn send(&mut self, from: NodeId, to: NodeId, channel: u32, bytes: Bytes) {
        if !matches!(channel, CHANNEL_CONTROL | CHANNEL_JOIN) {
            self.overhear(from, to, channel, &bytes);
        }
        // In how many chunks a table goes must not decide whether it ever arrives: all of them are lost with one connection.
        let octets = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let share = if channel & BULK == 0 { 1.0 } else { (f64::from(octets) / TABLE_OCTETS).min(1.0) };
        if self.healing.is_cut((from, to), channel, self.now_ns) || self.network.random_bool(self.params.lost * share) {
            return;
        }
        let mut delay = self.network.random_range(50_000..self.params.delay_ns);
        delay += self.healing.slowed_ns(from, to, self.now_ns);
        // A lost datagram costs its stream a retransmission.
        if self.network.random_bool(self.params.late) {
            delay += 8 * MS;
        }
        if self.network.random_bool(self.params.doubled) {
            // Over another connection, perhaps to another life.
            let ghost = self.now_ns + delay + self.network.random_range(0..GHOST_NS);
            let at = if self.network.random_bool(0.5) {
                ghost
            } else {
                self.now_ns + delay + self.network.random_range(0..20 * MS)
            };
            self.post(to, at, None, Arrival::Peer { from, channel, bytes: bytes.clone() });
        }
        if self.network.random_bool(self.params.overtaken * share) {
            let at = self.now_ns + delay + self.network.random_range(0..60 * MS);
            self.post(to, at, self.life(to), Arrival::Peer { from, channel, bytes });
            return;
        }
        let at = self.streams.entry((from, to, channel)).or_insert(0);
        *at = (*at).max(self.now_ns + delay);
        let at = *at;
        self.post(to, at, self.life(to), Arrival::Peer { from, channel, bytes });
    }

    /// A frame passes the last check (L5), the switch and its receiver.
    fn leave(&mut self, id: NodeId, leaving: &Leaving) -> Result<(), String> {
        let Leaving { link, authority, ref frame, judged } = *leaving;
        let node = &self.nodes[&id];
        let local_ns = node.local(self.now_ns).ns;
        if !node.links_up || node.swallowed || !Worker::may_transmit(&node.words, local_ns, authority) {
            return Ok(());
        }
        let src = Mac(frame[6..12].try_into().expect("an Ethernet header"));
        let dst = Mac(frame[..6].try_into().expect("an Ethernet header"));
        if let Some(shard) = src.shard() {
            self.judge.vmac(shard, node, local_ns).map_err(said)?;
            self.judge.promised(shard, node, authority, self.now_ns).map_err(said)?;
        }
        self.switch.insert((link, src), id);
        if let Ok(Parsed::Arp(arp)) = parse(frame, &FrameMeta::default()) {
            self.asked(link, &arp);
            return Ok(());
        }
        if matches!(authority, Authority::Forward) {
            let members: Vec<Mac> = self.ids().map(|id| mac_on(link, id)).collect();
            i08_vmac::forwarded(id, mac_on(link, id), &members, (src, dst)).map_err(said)?;
            self.switched(link, dst, frame.clone());
            return Ok(());
        }
        let Some(packet) = i13_i14_clean_frames::read(frame).map_err(said)? else { return Ok(()) };
        if is_own_reset(&packet) {
            self.outcome.resets += 1;
            self.judge.resets.left(id, link, &packet);
            if !self.declared.resets() || !matches!(authority, Authority::Lease { .. }) {
                return Err(format!("D5: nobody asked for a reset, {authority:?}"));
            }
            if link.is_inside() {
                self.was_reset(link, &packet);
            }
            return Ok(());
        }
        let Some(tag) = Tag::of(frame, &packet) else { return Ok(()) };
        let said_by_host = self.sent.contains(&tag) && data(frame, &packet) == Some(&tag.encode()[..]);
        i15_i16_untouched::data(said_by_host, frame).map_err(said)?;
        i15_i16_untouched::hops(TTL, packet.ttl).map_err(said)?;
        let mixed = u64::from(u32::from(packet.src)) << 16 ^ u64::from(packet.src_port) << 48 ^ u64::from(tag.port);
        self.outcome.trace = (self.outcome.trace ^ mixed ^ self.now_ns).wrapping_mul(0x0100_0000_01b3);
        // In the grace somebody else may give ports away meanwhile (F6).
        if judged == Judged::Now || matches!(authority, Authority::Grace { .. }) {
            self.look_at(id, leaving)?;
        }
        if let (Link::Outside, Authority::Lease { shard, term }, Some(tcp), Sender::Backend) =
            (link, authority, packet.tcp, tag.sender)
            && judged == Judged::Now
        {
            let inside = (tag.host.link(), (tag.host.ip, tag.port));
            self.judge.resets.passed((id, shard, term), inside, &packet, tcp.flags);
        }
        self.outcome.emitted += u64::from(link == Link::Outside);
        match (link, tag.sender) {
            (Link::Outside, Sender::Backend) => {
                if let Some(answer) = answer(&packet, &tag, src) {
                    self.judge.inwards.is_answered(&packet);
                    self.switched(Link::Outside, src, answer);
                }
            }
            (Link::Outside, Sender::Server(number) | Sender::Client(number)) => self.client_heard(&packet, number),
            (Link::Outside, Sender::Caller(_) | Sender::Callee(_)) => {}
            (Link::Inside(_), Sender::Client(_)) => self.served(Host::of(packet.eth_dst), &packet, &tag),
            (Link::Inside(network), Sender::Caller(_)) => self.called(Host { network, ip: packet.dst }, &packet, &tag),
            (Link::Inside(_), Sender::Callee(number)) => self.peer_heard(&packet, number),
            (Link::Inside(_), Sender::Backend | Sender::Server(_)) => self.heard(&packet, &tag),
        }
        Ok(())
    }

    /// Somebody asks for an address: whoever has it on that link answers.
    fn asked(&mut self, link: Link, arp: &ArpPacket) {
        let answer = match link {
            Link::Outside if arp.target_ip == REMOTE.0 => arp_answer(arp, REMOTE.0, REMOTE.1),
            Link::Outside if arp.target_ip >= clients::client(0) => {
                arp_answer(arp, arp.target_ip, Host::outside(arp.target_ip).mac())
            }
            Link::Outside => None,
            Link::Inside(network) => arp_answer(arp, arp.target_ip, Host { network, ip: arp.target_ip }.mac()),
        };
        if let Some(answer) = answer {
            self.switched(link, arp.sender_mac, answer);
        }
    }

    /// The invariants of a translated packet, at this moment.
    fn look_at(&mut self, id: NodeId, leaving: &Leaving) -> Result<(), String> {
        let Leaving { link, authority, ref frame, .. } = *leaving;
        let node = &self.nodes[&id];
        let at = (node, node.local(self.now_ns).ns);
        if matches!(authority, Authority::Forward) || !Worker::may_transmit(&node.words, at.1, authority) {
            return Ok(());
        }
        let Some(packet) = i13_i14_clean_frames::read(frame).map_err(said)? else { return Ok(()) };
        let Some(tag) = Tag::of(frame, &packet).filter(|_| !is_own_reset(&packet)) else { return Ok(()) };
        self.judge.translated(at, newest_of(&self.nodes), (link, authority), &packet, &tag).map_err(said)
    }

    /// The switch: to the learned port, else to everybody.
    pub(super) fn switched(&mut self, link: Link, mac: Mac, frame: Vec<u8>) {
        let mut at = self.now_ns + self.network.random_range(20_000..100_000);
        if self.network.random_bool(self.params.data_overtaken) {
            at += self.network.random_range(0..2 * MS);
        }
        let again = self.network.random_bool(self.params.data_doubled);
        let again = again.then(|| at + self.network.random_range(0..50 * MS));
        let known = self.switch.get(&(link, mac)).copied();
        let own = self.ids().find(|id| mac == mac_on(link, *id));
        let to: Vec<NodeId> = own.or(known).map_or_else(|| self.ids().collect(), |id| vec![id]);
        for id in to {
            for at in [Some(at), again].into_iter().flatten() {
                self.post(id, at, self.life(id), Arrival::Frame { link, frame: frame.clone() });
            }
        }
    }
}

/// A raft message of a flow group, and the life that claims to send it.
fn raft_frame(bytes: &Bytes) -> Option<(Incarnation, Frame)> {
    let (life, frame) = split_flow_frame(bytes)?;
    let frame = Frame::decode(&frame).ok()?;
    matches!(frame, Frame::Raft { .. }).then_some((life, frame))
}

/// Whether a member made the packet itself, to end a connection whose port is taken back: hosts' resets carry a tag.
fn is_own_reset(packet: &IpPacket) -> bool {
    packet.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::RST) && tcp.payload_len == 0)
}
