//! What is asked of a simulated cluster: flows of backends, and an operator who changes the configuration under them.

use control::allocation::{Declared as Is, Frontend, Purpose};
use engine::ids::{Link, Mac};
use engine::wire::{IpPacket, Proto};
use rand::Rng;

use super::addresses::Host;
use super::declared::Declared;
use super::params::MS;
use super::traffic::{Flow, Tag};
use super::ways::Way;
use super::world::{FAULTS_UNTIL_NS, World};

/// Flows that go on at once.
const FLOWS_MAX: usize = 150;
/// Ports that backends choose from: few, so that they come back soon.
const PORTS: u16 = 40;
/// How long a pool stays in a tier in calm: what that takes back is closed, and the resets that it costs are late.
const TIER_NS: u64 = 2_500 * MS;

impl World {
    /// Backends open flows and go on with old ones.
    pub(super) fn traffic(&mut self) {
        if self.now_ns.is_multiple_of(10 * MS) {
            self.learn_homes();
            self.continue_calm_flows();
        }
        if !self.load.random_bool(0.3) {
            return;
        }
        if self.flows.len() < FLOWS_MAX && self.load.random_bool(0.3) {
            self.begin_flow();
        } else if !self.flows.is_empty() {
            let at = self.load.random_range(0..self.flows.len());
            self.send_flow(at);
        }
    }

    fn learn_homes(&mut self) {
        let state = self.newest();
        let backends = state.allocation().backends.values();
        let homes: Vec<_> =
            backends.filter_map(|b| Some((Host { network: b.vnet, ip: b.ip }, Mac::of_shard(b.home?)))).collect();
        self.homes.extend(homes);
    }

    fn begin_flow(&mut self) {
        let host = Declared::host(self.load.random_range(self.declared.senders()));
        let proto = match self.load.random_range(0..10) {
            0..=4 => Proto::Tcp,
            5..=7 => Proto::Udp,
            // Only what has an address of its own gets an answer to that.
            8 => Proto::Sctp,
            _ => Proto::Icmp,
        };
        let port = 20_000 + self.load.random_range(0..PORTS);
        let packets = self.load.random_range(1..12);
        let resets = self.load.random_bool(0.1);
        if self.flows.iter().any(|flow| (flow.proto, flow.host, flow.port) == (proto, host, port)) {
            return;
        }
        self.flows.push(Flow::new(proto, host, port, packets, resets));
        self.send_flow(self.flows.len() - 1);
    }

    fn send_flow(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        let Some(gateway) = self.homes.get(&flow.host).copied() else { return };
        let (tag, frame) = flow.next(self.now_ns, gateway);
        let link = flow.host.link();
        self.sent.insert(tag);
        if flow.over {
            self.flows.swap_remove(at);
        }
        self.switched(link, gateway, frame);
    }

    /// A backend gets an answer.
    pub(super) fn heard(&mut self, packet: &IpPacket, tag: &Tag) {
        let is = |flow: &Flow| (flow.proto, flow.host, flow.port) == (packet.proto, tag.host, tag.port);
        for flow in self.calm.iter_mut().filter(|flow| is(flow)) {
            flow.heard(packet);
        }
        if let Some(at) = self.flows.iter().position(is) {
            self.flows[at].heard(packet);
            if self.flows[at].over {
                self.flows.swap_remove(at);
            }
        }
    }

    /// A backend hears that a connection is over.
    pub(super) fn was_reset(&mut self, link: Link, packet: &IpPacket) {
        let end = (Proto::Tcp, link, packet.dst, packet.dst_port);
        self.flows.retain(|flow| (flow.proto, flow.host.link(), flow.host.ip, flow.port) != end);
    }

    /// The pool goes to the other tier and back while nothing is wrong: one of the two takes ports back, and who has to reset
    /// what stands on them has no excuse (D5).
    pub(super) fn change_tiers_in_calm(&mut self) -> Result<(), String> {
        if !self.declared.resets() {
            return Ok(());
        }
        for _ in 0..2 {
            let mut wanted = self.declared.clone();
            wanted.change_tier();
            self.wanted = Some(wanted);
            self.next_change_ns = self.now_ns;
            let until = self.now_ns + TIER_NS;
            while self.now_ns < until {
                self.operate();
                self.step()?;
            }
        }
        Ok(())
    }

    /// Flows that must pass, because nothing is amiss any more.
    pub(super) fn begin_calm_flows(&mut self, count: usize, first_port: u16) {
        let declared =
            self.declared.senders().filter(|backend| self.declared.has(*backend) && self.must_pass(*backend));
        let declared: Vec<u8> = declared.collect();
        for (backend, port) in declared.into_iter().cycle().zip(first_port..).take(count) {
            let proto = [Proto::Icmp, Proto::Tcp, Proto::Udp][usize::from(port) % 3];
            self.calm.push(Flow::new(proto, Declared::host(backend), port, u32::MAX, false));
        }
    }

    /// Whether a backend's new flows have to pass in calm: it has something to leave by, or nothing that it might have to wait for.
    fn must_pass(&self, backend: u8) -> bool {
        let Host { network, ip } = Declared::host(backend);
        let allocation = self.newest().allocation();
        let Some(way) = self.declared.way(backend) else { return false };
        // Where flows may stay on a block that is taken back, somebody may have to wait for it.
        let expires = self.declared.expires();
        let Some((id, b)) = allocation.backends.iter().find(|(_, b)| (b.vnet, b.ip) == (network, ip)) else {
            return expires;
        };
        if !b.lease.is_empty() || b.own.is_some() {
            return true;
        }
        // Flows that it keeps tie it to its shard, and there may be nothing of the kind that it is to leave by now (M3).
        let tied = allocation.drains.values().any(|drain| drain.backend == *id);
        let near = |f: &&Frontend| f.declared == Is::Yes && Some(f.shard) == b.home;
        let there = |purpose| allocation.frontends.values().filter(near).any(|f| f.purpose == purpose);
        let pools = |f: &Frontend| f.purpose == Purpose::Shared && self.declared.leaves_by(backend, f.ip);
        expires
            && match way {
                // So does an own address that somebody else's flows are left on, where the backend is to be (M3).
                Way::Pool => !tied && b.public.is_none() || allocation.frontends.values().filter(near).any(pools),
                Way::Default => !tied || there(Purpose::System),
                // Somebody else's flows may be left there, or it retires elsewhere first.
                Way::Own => {
                    let own = allocation.frontends.iter().find(|(_, f)| near(f) && f.purpose == Purpose::Own(*id));
                    own.is_some_and(|(own, _)| {
                        allocation.drains.iter().all(|(block, d)| block.frontend != *own || d.backend == *id)
                    })
                }
            }
    }

    /// Unanswered ones are repeated, as a client does.
    fn continue_calm_flows(&mut self) {
        if !self.now_ns.is_multiple_of(100 * MS) {
            return;
        }
        for at in 0..self.calm.len() {
            let flow = &mut self.calm[at];
            let Some(gateway) = self.homes.get(&flow.host).copied().filter(|_| !flow.answered) else { continue };
            let link = flow.host.link();
            let (tag, frame) = flow.next(self.now_ns, gateway);
            self.sent.insert(tag);
            self.switched(link, gateway, frame);
        }
    }

    /// Declares again what was declared last, if another configuration is in force: one that was declared before, and was on
    /// its way with a member that had been cut off, may have come after it. Says so then.
    pub(super) fn declare_again(&mut self) -> Option<String> {
        if self.newest().desired() == &self.declared.desired() {
            return None;
        }
        if control::plan::diff(self.newest(), &self.declared.desired()).refused.is_some() {
            self.declared.give_way();
        }
        self.orders(self.declared.command());
        Some("an older configuration is in force".to_owned())
    }

    /// The operator declares what he wants, until the log has it.
    pub(super) fn operate(&mut self) {
        if self.now_ns < self.next_change_ns {
            return;
        }
        if let Some(mut wanted) = self.wanted.take() {
            wanted.suit(self.newest().level());
            if !self.nodes.values().any(|node| node.control.leading()) {
                self.wanted = Some(wanted);
                return;
            }
            // An address may be refused for where its backend is at the moment (M3): the operator leaves it then.
            if control::plan::diff(self.newest(), &wanted.desired()).refused.is_some() {
                self.count("reconfiguration refused");
                return;
            }
            let (command, now_ns) = (wanted.command(), self.now_ns);
            if let Some(leader) = self.nodes.values_mut().find(|node| node.control.leading()) {
                leader.submit(now_ns, command);
                self.declared = wanted;
            }
        } else if self.params.reconfigures && self.now_ns < FAULTS_UNTIL_NS - 1_000 * MS {
            let mut wanted = self.declared.clone();
            wanted.change(&mut self.load);
            self.wanted = Some(wanted);
            self.count("reconfiguration");
        }
        // Some changes follow close on each other, when what the last one gave is hardly in use.
        let pause = if self.load.random_bool(0.3) { 20..150 } else { 300..2_500 };
        let pause = self.load.random_range(pause) * MS;
        self.next_change_ns = self.now_ns + if self.wanted.is_some() { 0 } else { pause };
    }
}
