//! Instances that talk to each other through the gateway (S41): on isolated links, where groups judge some of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::Mac;
use engine::record::Proto;
use engine::wire::IpPacket;
use rand::Rng;
use words::level;

use super::addresses::Host;
use super::clients::{Client, Peers};
use super::declared::Declared;
use super::params::MS;
use super::traffic::Tag;
use super::world::World;
use crate::invariants::{Check, i25_new_flows, w4_private};

/// Connections at once, and the ports that they choose from.
const PEERS_MAX: usize = 30;
const PORTS: u16 = 30;
const SERVICE: u16 = 443;
/// Of each turn of the end; so many belong to one.
const CALM_PORT: u16 = 31_000;
const TURN: u16 = 100;
const CALM: usize = 8;

/// One of them.
#[derive(Clone, Copy, Debug)]
enum Which {
    Any(usize),
    Calm(usize),
}

impl World {
    /// Instances talk to each other.
    pub(super) fn peers_send(&mut self) {
        if !self.declared.isolation().is_isolated() {
            return;
        }
        if self.now_ns.is_multiple_of(100 * MS) {
            for at in 0..self.peers.calm.len() {
                if !self.peers.calm[at].answered {
                    self.send_peer(Which::Calm(at));
                }
            }
        }
        if !self.load.random_bool(0.2) {
            return;
        }
        if self.peers.all.len() < PEERS_MAX && self.load.random_bool(0.3) {
            self.begin_peer();
        } else if !self.peers.all.is_empty() {
            let at = self.load.random_range(0..self.peers.all.len());
            self.send_peer(Which::Any(at));
        }
    }

    fn begin_peer(&mut self) {
        let all = self.declared.senders();
        let (from, to) = (self.load.random_range(all.clone()), self.load.random_range(all));
        let proto = if self.load.random_bool(0.6) { Proto::Tcp } else { Proto::Udp };
        let stays = proto == Proto::Tcp && self.load.random_bool(0.2);
        let port = 25_000 + self.load.random_range(0..PORTS) + if stays { PORTS } else { 0 };
        let packets = if stays { u32::MAX } else { self.load.random_range(1..12) };
        let (caller, callee) = (Declared::host(from), Declared::host(to));
        let known = |peer: &Client| (peer.proto, peer.host, peer.port, peer.to.0) == (proto, caller, port, callee.ip);
        if caller == callee || caller.network != callee.network || self.peers.all.iter().any(known) {
            return;
        }
        let peer = self.new_peer((from, to), (proto, port), packets);
        self.peers.all.push(peer);
        self.send_peer(Which::Any(self.peers.all.len() - 1));
    }

    fn new_peer(&mut self, (from, to): (u8, u8), (proto, port): (Proto, u16), packets: u32) -> Client {
        self.entering.next += 1;
        let number = self.entering.next;
        let (caller, callee) = (Declared::host(from), Declared::host(to));
        let judged = self.declared.isolation().is_judged(from) || self.declared.isolation().is_judged(to);
        let ends = ((caller.ip, port), (callee.ip, SERVICE));
        self.judge.peers.begins(number, (proto, caller.network, ends), judged);
        Client::new(number, caller, (proto, port, (callee.ip, SERVICE)), packets)
    }

    fn send_peer(&mut self, which: Which) {
        let Peers { all, calm } = &mut self.peers;
        let (at, list) = match which {
            Which::Any(at) => (at, all),
            Which::Calm(at) => (at, calm),
        };
        let peer = &mut list[at];
        let Some(gateway) = gateway(&self.homes, peer.host, peer.to.0, self.load.random_bool(0.7)) else { return };
        let link = peer.host.link();
        let (tag, frame) = peer.next(self.now_ns, gateway);
        if peer.over {
            list.swap_remove(at);
        }
        self.sent.insert(tag);
        self.switched(link, gateway, frame);
    }

    /// A packet of another instance's reaches one, which answers.
    pub(super) fn called(&mut self, host: Host, packet: &IpPacket, tag: &Tag) {
        let Some(gateway) = gateway(&self.homes, host, packet.src, self.load.random_bool(0.7)) else { return };
        let answer = self.entering.servers.heard(self.now_ns, (host, gateway), packet, tag.sender);
        if let Some((tag, frame)) = answer {
            self.sent.insert(tag);
            self.switched(host.link(), gateway, frame);
        }
    }

    /// The answer reaches whoever called.
    pub(super) fn peer_heard(&mut self, packet: &IpPacket, number: u32) {
        let Peers { all, calm } = &mut self.peers;
        for peer in calm.iter_mut().filter(|peer| peer.number == number) {
            peer.heard(packet);
        }
        let Some(at) = all.iter().position(|peer| peer.number == number) else { return };
        *self.outcome.ways.entry("private answers").or_insert(0) += 1;
        let began = all[at].begins();
        all[at].heard(packet);
        if all[at].over && !all[at].stays {
            all.swap_remove(at);
        } else if began && !all[at].begins() && self.load.random_bool(0.8) {
            self.send_peer(Which::Any(at));
        }
    }

    /// Connections that must pass, because nothing is amiss any more: new ones, and those that stayed and that nothing closed.
    pub(super) fn begin_calm_peers(&mut self, turn: u16) {
        let routed = self.newest().level() > level::FIRST;
        if !self.declared.isolation().is_isolated() || !routed {
            return;
        }
        self.peers.calm.iter_mut().for_each(|peer| peer.answered = false);
        let there: Vec<u8> = self.declared.senders().filter(|backend| self.declared.has(*backend)).collect();
        let pairs = there.iter().flat_map(|from| there.iter().map(move |to| (*from, *to)));
        let near = |(from, to): &(u8, u8)| from != to && Declared::host(*from).network == Declared::host(*to).network;
        let pairs: Vec<(u8, u8)> = pairs.filter(near).collect();
        for (pair, port) in pairs.iter().cycle().take(CALM.min(2 * pairs.len())).zip(CALM_PORT + turn * TURN..) {
            let proto = if port % 2 == 0 { Proto::Udp } else { Proto::Tcp };
            let peer = self.new_peer(*pair, (proto, port), u32::MAX);
            self.peers.calm.push(peer);
        }
        let stands = |peer: &&Client| peer.stays && peer.open && self.judge.lives(peer);
        let stayed: Vec<Client> = self.peers.all.iter().filter(stands).cloned().collect();
        for mut peer in stayed {
            self.way("private connections that stayed");
            peer.answered = false;
            self.peers.calm.push(peer);
        }
        self.peers.all.retain(|peer| !peer.stays);
    }

    /// I25 for private connections that began in this turn; those that stood before go on if their mappings live.
    pub(super) fn peers_were_heard(&mut self, turn: u16) -> Check {
        let is_old = |peer: &&Client| peer.port < CALM_PORT + turn * TURN;
        let (old, new): (Vec<&Client>, Vec<&Client>) = self.peers.calm.iter().partition(is_old);
        let unheard: Vec<u32> = new.iter().filter(|peer| !peer.answered).map(|peer| peer.number).collect();
        i25_new_flows::by_number(new.len(), &unheard)?;
        let silent = old.iter().filter(|peer| !peer.answered && self.judge.lives(peer));
        let silent: Vec<u32> = silent.map(|peer| peer.number).collect();
        w4_private::survive(&silent)?;
        self.peers.calm.retain(|peer| peer.answered);
        Ok(())
    }
}

/// Whom a host sends to: it hears the pair's shard when it asks for its neighbour (M3), or takes its own gateway.
fn gateway(homes: &BTreeMap<Host, Mac>, from: Host, to: Ipv4Addr, asks: bool) -> Option<Mac> {
    let lower = Host { ip: if asks { from.ip.min(to) } else { from.ip }, ..from };
    homes.get(&lower).copied()
}
