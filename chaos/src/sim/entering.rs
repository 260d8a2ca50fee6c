//! What comes in by rules and to own addresses: clients that begin and go on, those that stay, floods of SYNs and segments that nobody stands for, and
//! what must pass at the end.

use std::net::Ipv4Addr;

use engine::ids::{FrontendId, Mac, NodeId, ShardId};
use engine::record::{Addr, Endpoint, Proto, PublicKey};
use engine::rules::Inward;
use engine::wire::{IpPacket, TcpFlags};
use rand::Rng;
use words::level;

use super::addresses::Host;
use super::clients::{Client, End, Entering, client};
use super::inward::{self, Lead};
use super::params::MS;
use super::traffic::{Sender, Tag, Transport, frame};
use super::world::World;
use crate::invariants::{Check, i25_new_flows, w3_inwards};

/// Clients at once, their addresses and the ports that they choose from: few, so that they come back soon.
const CLIENTS_MAX: usize = 40;
const ADDRESSES: u8 = 6;
const PORTS: u16 = 30;
/// Those that stay, and those of the end, have others.
const STAYING: usize = 6;
const STAYING_PORT: u16 = 50_000;
/// Of each turn of the end; so many belong to one. Who has no port has an address of the turn's.
const CALM_PORT: u16 = 60_000;
const TURN: u16 = 100;
const TURNS_APART: u16 = 20;
/// Packets of a flood, from as many addresses.
const FLOOD: u8 = 60;
const FLOOD_FROM: u8 = 28;

/// The port of a client that would have this one, if its protocol has any.
const fn port_of(proto: Proto, port: u16) -> u16 {
    if proto.has_ports() { port } else { 0 }
}

impl World {
    /// Clients begin, and go on.
    pub(super) fn clients_send(&mut self) {
        if self.now_ns.is_multiple_of(10 * MS) {
            self.servers_repeat();
            self.calm_clients_send();
        }
        if self.load.random_bool(0.0004) {
            self.flood();
        }
        if !self.load.random_bool(0.2) {
            return;
        }
        let begins = self.load.random_bool(0.3);
        if begins && self.entering.clients.len() < CLIENTS_MAX {
            self.begin_client();
        } else if !self.entering.clients.is_empty() {
            let at = self.load.random_range(0..self.entering.clients.len());
            self.send_client(at);
        }
    }

    fn begin_client(&mut self) {
        let Some(lead) = self.lead() else { return };
        let staying = self.entering.clients.iter().filter(|client| client.stays).count();
        let stays = staying < STAYING && lead.proto == Proto::Tcp && self.load.random_bool(0.3);
        let number = self.entering.next + 1;
        let ip = client(self.load.random_range(0..ADDRESSES));
        let (port, packets) = match stays {
            true => (STAYING_PORT + u16::try_from(number).unwrap_or(0), u32::MAX),
            false => (40_000 + self.load.random_range(0..PORTS), self.load.random_range(1..12)),
        };
        let port = port_of(lead.proto, port);
        let ends = (lead.proto, (ip, port), lead.to);
        if self.entering.clients.iter().any(|client| (client.proto, (client.host.ip, client.port), client.to) == ends) {
            return;
        }
        let client = self.new_client(lead, (ip, port), packets);
        self.entering.clients.push(client);
        self.send_client(self.entering.clients.len() - 1);
    }

    fn new_client(&mut self, lead: Lead, from: End, packets: u32) -> Client {
        self.entering.next += 1;
        let number = self.entering.next;
        self.judge.inwards.begins(number, lead.proto, from, lead.to, lead.floats);
        Client::new(number, Host::outside(from.0), (lead.proto, from.1, lead.to), packets)
    }

    fn send_client(&mut self, at: usize) {
        let Some(gateway) = self.gateway_of(self.entering.clients[at].to.0) else { return };
        let client = &mut self.entering.clients[at];
        let (speaks, number) = (!client.begins(), client.number);
        let (tag, frame) = client.next(self.now_ns, gateway);
        if client.over {
            self.entering.clients.swap_remove(at);
        }
        self.client_sends((number, speaks), gateway, tag, frame);
    }

    fn client_sends(&mut self, (number, speaks): (u32, bool), gateway: Mac, tag: Tag, frame: Vec<u8>) {
        if speaks {
            self.judge.inwards.speaks(number);
        }
        self.sent.insert(tag);
        self.switched(engine::ids::Link::Outside, gateway, frame);
    }

    /// The virtual MAC behind which an address is.
    fn gateway_of(&self, public: Ipv4Addr) -> Option<Mac> {
        self.frontend_of(public).map(|(_, shard)| Mac::of_shard(shard))
    }

    fn frontend_of(&self, public: Ipv4Addr) -> Option<(FrontendId, ShardId)> {
        let mut all = self.newest().allocation().frontends.iter();
        all.find(|(_, frontend)| frontend.ip == public).map(|(id, frontend)| (*id, frontend.shard))
    }

    /// Many begin who will not go on, or write segments in the middle of connections that are not.
    fn flood(&mut self) {
        let Some(lead) = self.lead() else { return };
        let Some(gateway) = self.gateway_of(lead.to.0) else { return };
        self.count("flood");
        let blind = self.load.random_bool(0.3);
        for n in 0..FLOOD {
            let from = (client(FLOOD_FROM + n), port_of(lead.proto, 1_024 + self.load.random_range(0..60_000)));
            self.entering.next += 1;
            let number = self.entering.next;
            self.judge.inwards.begins(number, lead.proto, from, lead.to, lead.floats);
            let tag =
                Tag { sender: Sender::Client(number), host: Host::outside(from.0), port: from.1, sent_ns: self.now_ns };
            let (sport, dport, seq) = (from.1, lead.to.1, self.load.random());
            let transport = match lead.proto {
                Proto::Tcp => {
                    let flags = if blind { TcpFlags::ACK } else { TcpFlags::SYN };
                    Transport::Tcp { sport, dport, flags, seq, ack: self.load.random() }
                }
                proto @ (Proto::Udp | Proto::Icmp | Proto::Gre | Proto::Esp | Proto::Sctp) => {
                    Transport::datagram(proto, sport, dport)
                }
            };
            let frame = frame((tag.host.mac(), gateway), (from.0, lead.to.0), transport, &tag);
            self.client_sends((number, blind), gateway, tag, frame);
        }
    }

    /// A client's packet reaches a backend, whose server answers.
    pub(super) fn served(&mut self, host: Host, packet: &IpPacket, tag: &Tag) {
        // What is for an address that it has neither by itself nor by a rule that floats a host leaves alone.
        if packet.dst != host.ip && !inward::Inward::is_frontend(packet.dst) {
            return;
        }
        let Some(gateway) = self.homes.get(&host).copied() else { return };
        let answer = self.entering.servers.heard(self.now_ns, (host, gateway), packet, tag.sender);
        if let Some((tag, frame)) = answer {
            self.sent.insert(tag);
            self.switched(host.link(), gateway, frame);
        }
    }

    fn servers_repeat(&mut self) {
        let homes = &self.homes;
        for (host, gateway, (tag, frame)) in self.entering.servers.repeat(self.now_ns, |host| homes.get(host).copied())
        {
            self.sent.insert(tag);
            self.switched(host.link(), gateway, frame);
        }
    }

    /// A server's answer reaches its client, who goes on at once with what it begins.
    pub(super) fn client_heard(&mut self, packet: &IpPacket, number: u32) {
        let Entering { clients, calm, .. } = &mut self.entering;
        let is = |client: &Client| (client.number, client.to) == (number, (packet.src, packet.src_port));
        for client in calm.iter_mut().filter(|client| is(client)) {
            client.heard(packet);
        }
        let Some(at) = clients.iter().position(is) else { return };
        *self.outcome.ways.entry("answers to clients").or_insert(0) += 1;
        let began = clients[at].begins();
        clients[at].heard(packet);
        if clients[at].over && !clients[at].stays {
            clients.swap_remove(at);
        } else if began && !clients[at].begins() && self.load.random_bool(0.8) {
            self.send_client(at);
        }
    }

    /// One that clients may try, if there are any.
    fn lead(&mut self) -> Option<Lead> {
        let leads = self.declared.leads();
        if leads.is_empty() { None } else { Some(leads[self.load.random_range(0..leads.len())]) }
    }

    /// Clients that must be served, because nothing is amiss any more: by each end that leads somewhere, and those that stayed.
    pub(super) fn begin_calm_clients(&mut self, turn: u16) {
        self.entering.calm.iter_mut().for_each(|client| client.answered = false);
        self.entering.last_before_turn = self.entering.next;
        let rules = control::compile::snapshot(self.newest(), NodeId(1)).rules.clone();
        let leads = self.declared.leads();
        for (lead, port) in leads.iter().cycle().take(2 * leads.len()).zip(CALM_PORT + turn * TURN..) {
            let from = match port_of(lead.proto, port) {
                0 => (client(ADDRESSES + u8::try_from(turn % TURNS_APART).expect("few")), 0),
                port => (client(0), port),
            };
            let Some((_, key)) = self.public_key((lead.proto, from, lead.to)) else { continue };
            // What an older member's log has no word for opens nothing.
            let has_word = !lead.proto.is_by_address() || self.newest().level() >= level::BY_ADDRESS;
            let backends = &self.newest().allocation().backends;
            let somewhere = match rules.inward(&key) {
                Some(Inward::Rule(rule)) => !rule.members.is_empty(),
                Some(Inward::Own(backend)) => backends.get(&backend).is_some_and(|b| b.own == Some(key.frontend)),
                None => false,
            };
            if somewhere && has_word {
                let client = self.new_client(*lead, from, u32::MAX);
                self.entering.calm.push(client);
                self.way("clients at the end");
            }
        }
        let stays = |client: &&Client| client.stays && client.open;
        let stayed: Vec<Client> = self.entering.clients.iter().filter(stays).cloned().collect();
        for mut client in stayed {
            self.way("clients that stayed");
            client.answered = false;
            self.entering.calm.push(client);
        }
        self.entering.clients.retain(|client| !client.stays);
    }

    fn public_key(&self, (proto, from, to): (Proto, End, End)) -> Option<(ShardId, PublicKey)> {
        let (frontend, shard) = self.frontend_of(to.0)?;
        let remote = Endpoint { addr: Addr::from(from.0), port: from.1 };
        Some((shard, PublicKey { proto, frontend, port: to.1, remote }))
    }

    fn calm_clients_send(&mut self) {
        // Each once in a tenth of a second, by turns: no queue is to be filled by those that come together.
        let turn = self.now_ns / (10 * MS) % 10;
        for at in 0..self.entering.calm.len() {
            let Some(gateway) = self.gateway_of(self.entering.calm[at].to.0) else { continue };
            let client = &mut self.entering.calm[at];
            if client.answered || u64::from(client.number) % 10 != turn {
                continue;
            }
            let (speaks, number) = (!client.begins(), client.number);
            let (tag, frame) = client.next(self.now_ns, gateway);
            self.client_sends((number, speaks), gateway, tag, frame);
        }
    }

    /// I25 for those that began in this turn; those that stood before go on if nothing has closed them. Who is not answered, or
    /// whose connection was closed, is asked about no more.
    pub(super) fn clients_were_served(&mut self) -> Check {
        let last_before = self.entering.last_before_turn;
        let is_old = |client: &&Client| client.number <= last_before;
        let (old, new): (Vec<&Client>, Vec<&Client>) = self.entering.calm.iter().partition(is_old);
        let unheard: Vec<u32> = new.iter().filter(|client| !client.answered).map(|client| client.number).collect();
        i25_new_flows::by_number(new.len(), &unheard)?;
        let silent = old.iter().filter(|client| !client.answered && self.stands(client));
        let silent: Vec<u32> = silent.map(|client| client.number).collect();
        w3_inwards::survive(&silent)?;
        self.entering.calm.retain(|client| client.answered);
        Ok(())
    }

    /// Whether nothing has closed a connection since its backend got something of it.
    fn stands(&self, client: &Client) -> bool {
        let Some((shard, key)) = self.public_key((client.proto, (client.host.ip, client.port), client.to)) else {
            return false;
        };
        self.judge.still_stands(shard, &key, client.number)
    }
}
