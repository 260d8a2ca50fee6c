//! A translator written for obviousness: a list of flows, searched from end to end, no index, no order of ports, no batch.
//! It knows UDP, TCP and ICMP echo, and errors about them. Where the specification leaves a choice (which free port) or a
//! margin (when an idle flow is noticed), it accepts what the engine did if that is allowed, and then holds it to it.

use std::net::Ipv4Addr;

use engine::ids::{Link, Side, VnetId};
use engine::snapshot::{Filtering, Sharing};

use crate::allowance::{Notices, Rate};
use crate::bed::{BEGIN_NS, Left};
use crate::connection::Segment;
use crate::datagrams::Datagrams;
use crate::expect::{Judged, Outcome, expect, notice, public_port};
use crate::flow::{Cost, Flow};
use crate::half::Half;
use crate::packet::{ICMP, TCP};
use crate::ports::{self, Shown};
use crate::sent::{Packet, to_backend, to_upstream};
use crate::world::{BACKENDS, PUBLIC, Rule, World, link_of, network_of, place_of};

/// What one member knows that the other does not.
#[derive(Debug)]
pub(crate) struct Local {
    rates: Vec<Rate>,
    pub(crate) notices: Notices,
    pub(crate) datagrams: Datagrams,
}

/// The naive translator.
#[derive(Debug)]
pub struct Model {
    pub(crate) world: World,
    pub(crate) flows: Vec<Flow>,
    shown: Shown,
    /// What the owner alone knows: what remotes have begun with the backend that has an address of its own, and since when it is
    /// the owner.
    pub(crate) halves: Vec<Half>,
    pub(crate) owner_since_ns: u64,
    /// Of the owner, and of the other member.
    local: [Local; 2],
}

/// A mapping: protocol, backend and its port, remote, public port.
pub type Row = (u8, (usize, u16), (Ipv4Addr, u16), u16);

/// Who may get an inbound packet.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    /// Its mapping's place.
    flow: Option<usize>,
    /// Endpoints that it may reach, one of them for sure.
    ends: Vec<(usize, u16)>,
    surely: bool,
}

impl Receivers {
    pub(crate) fn reach(&self, end: (usize, u16)) -> bool {
        self.ends.contains(&end)
    }

    pub(crate) fn surely(&self) -> bool {
        self.surely
    }
}

impl Model {
    /// No flows yet.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let local = || Local {
            rates: vec![Rate::new(world.rate_max); BACKENDS.len()],
            notices: Notices::default(),
            datagrams: Datagrams::default(),
        };
        let (flows, halves, owner_since_ns) = (Vec::new(), Vec::new(), BEGIN_NS);
        Self { world: *world, flows, shown: Shown::default(), halves, owner_since_ns, local: [local(), local()] }
    }

    pub(crate) fn rule(&self, backend: usize) -> Rule {
        self.world.rules[backend]
    }

    pub(crate) fn rate(&mut self, backend: usize) -> &mut Rate {
        &mut self.local[0].rates[backend]
    }

    pub(crate) fn local(&mut self) -> &mut Local {
        &mut self.local[0]
    }

    /// Forgets what has certainly ended.
    pub fn forget(&mut self, now_ns: u64) {
        self.flows.retain(|flow| !flow.life.is_gone(now_ns));
    }

    /// The other member owns the shard: mappings stay, and what the owner alone knew is what that one knew (I10, I11).
    pub fn take_over(&mut self, now_ns: u64) {
        self.forget(now_ns);
        for flow in &mut self.flows {
            flow.taken_over(now_ns, &self.world.rules[flow.inside.0]);
        }
        self.halves.clear();
        self.owner_since_ns = now_ns;
        self.local[0].datagrams.lose();
        self.local.swap(0, 1);
    }

    /// A packet between the ends of one of the flows that there are, picked by `nth`, as `p` is otherwise: from its backend,
    /// or to it.
    #[must_use]
    pub fn of_flow(&self, side: Side, nth: usize, p: &Packet) -> Option<Packet> {
        let all: Vec<&Flow> = self.flows.iter().filter(|flow| flow.proto == p.proto).collect();
        let flow = all.get(nth % all.len().max(1))?;
        let (backend, inside) = flow.inside;
        let near = if side == Side::Inside { inside } else { flow.port };
        let (public, (remote, service)) = (flow.public, flow.remote);
        let asker = if p.proto == ICMP { flow.begun } else { Side::Inside };
        Some(Packet { backend, near, public, remote, service, asker, ..*p })
    }

    /// A packet to the public end of one of the flows that there are, picked by `nth`.
    #[must_use]
    pub fn to_public(&self, nth: usize, p: &Packet) -> Option<Packet> {
        let is_there = |flow: &&Flow| (flow.proto, flow.public) == (p.proto, PUBLIC);
        let all: Vec<&Flow> = self.flows.iter().filter(is_there).collect();
        let flow = all.get(nth % all.len().max(1))?;
        Some(Packet { remote: PUBLIC, service: flow.port, ..*p })
    }

    /// Judges what the engine did with a packet of a backend that came by a network which has no backend of its address:
    /// whoever sent it is not the one that it claims to be (D14, S1).
    ///
    /// # Errors
    /// If something left.
    pub fn judge_astray(&mut self, now_ns: u64, left: &[Left]) -> Judged {
        self.forget(now_ns);
        if left.is_empty() {
            Ok(Outcome::Astray)
        } else {
            Err("a packet passed under the name of another network".into())
        }
    }

    /// The other network, if it has no backend of the address of the one at `place`.
    #[must_use]
    pub fn stranger_in(place: usize) -> Option<VnetId> {
        let others = crate::world::NETWORKS.into_iter().filter(|network| *network != network_of(place));
        others.into_iter().find(|network| place_of(*network, BACKENDS[place]).is_none())
    }

    /// Judges what the engine did with a packet of a backend, and takes note of it. `table`: the port that its mapping has,
    /// as the engine says; looked at only if nothing left that could show it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub(crate) fn judge_out(
        &mut self,
        now_ns: u64,
        p: &Packet,
        table: impl Fn() -> Option<u16>,
        left: &[Left],
    ) -> Judged {
        self.forget(now_ns);
        let turned = p.remote == PUBLIC;
        if turned && p.proto == ICMP {
            return if left.is_empty() { Ok(Outcome::Refused) } else { Err("a public address answered".into()) };
        }
        let mtu = self.world.mtu[usize::from(!turned)];
        if let Some(notice) = notice(p, Side::Inside, mtu) {
            self.local().notices.judge(now_ns, (p.link(Side::Inside), BACKENDS[p.backend]), !left.is_empty())?;
            return notice.judge(left);
        }
        if self.is_own(Side::Inside, p) {
            return self.judge_own_out(now_ns, p, left);
        }
        let known = self.flows.iter().position(|flow| flow.is_of(p) && flow.inside == (p.backend, p.near));
        let port = match left.first() {
            Some(first) => Some(public_port(first)?),
            None if turned => table(),
            None => None,
        };
        let Some(port) = port else { return self.nothing_left(now_ns, p, known) };
        let late =
            known.is_some_and(|place| self.flows[place].port == port && self.flows[place].refuses_late(now_ns, p));
        if late && !left.is_empty() {
            return Err(format!("a late packet passed by port {port}, which others may have within 16 s"));
        }
        if left.is_empty() && known.is_some_and(|place| self.flows[place].may_refuse_late(now_ns, p)) {
            // Refused, or translated and turned away.
            let rule = self.rule(p.backend);
            known.into_iter().for_each(|place| self.flows[place].doubt(now_ns, &rule));
            self.local[0].rates[p.backend].pay(now_ns, Cost::Perhaps);
            return Ok(Outcome::Refused);
        }
        let opened = self.translated_by(now_ns, p, known, port)?;
        if turned {
            return self.judge_turned(now_ns, p, port, left);
        }
        let ends = ((PUBLIC, port), (p.remote, p.service));
        let wanted = p.translated(true, to_upstream(), ends, self.world.mss_max);
        expect(left, Link::Outside, &wanted, mtu, !p.whole || p.first.is_some())?;
        Ok(if opened { Outcome::Opened } else { Outcome::Out })
    }

    fn nothing_left(&mut self, now_ns: u64, p: &Packet, known: Option<usize>) -> Judged {
        if let Some(place) = known {
            if self.flows[place].may_refuse_late(now_ns, p) {
                return Ok(Outcome::Refused);
            }
            if self.flows[place].is_kept(now_ns) {
                return Err("a packet of a mapping that is there was dropped".into());
            }
            self.flows.remove(place);
        }
        if !self.opens(now_ns, p).0 {
            return Ok(Outcome::Refused);
        }
        let own = |flow: &&Flow| flow.inside.0 == p.backend;
        let there = self.flows.iter().filter(own).filter(|flow| flow.is_kept(now_ns)).count();
        let perhaps = self.flows.iter().filter(own).count();
        let max = usize::try_from(self.world.flows_max).expect("64 bits");
        if there >= max {
            return Ok(Outcome::OverQuota);
        }
        let (surely, _) = self.local[0].rates[p.backend].allows(now_ns);
        if perhaps >= max || !surely {
            return Ok(Outcome::OverRate);
        }
        let (free, _) = ports::choice(&self.world, &self.flows, now_ns, p);
        if free.is_empty() { Ok(Outcome::NoPort) } else { Err(format!("dropped, although {free:?} were free")) }
    }

    /// Whether the packet may open a mapping: for sure, and at all.
    fn opens(&self, now_ns: u64, p: &Packet) -> (bool, bool) {
        if p.proto != TCP || p.segment.opens() {
            return (true, true);
        }
        // R6: it answers a connection that came in by its endpoint's mapping.
        let answers = p.segment.answers() && self.rule(p.backend).sharing == Sharing::Endpoint;
        let own = |flow: &&Flow| (flow.proto, flow.inside) == (p.proto, (p.backend, p.near));
        let surely = self.flows.iter().filter(own).any(|flow| flow.is_kept(now_ns));
        (answers && surely, answers && self.flows.iter().any(|flow| own(&flow)))
    }

    /// The packet was translated under `port`. Returns whether it opened the mapping.
    fn translated_by(&mut self, now_ns: u64, p: &Packet, known: Option<usize>, port: u16) -> Result<bool, String> {
        let rule = self.rule(p.backend);
        if let Some(place) = known {
            let flow = &mut self.flows[place];
            if flow.port == port {
                let cost = flow.passed_out(now_ns, &rule, p);
                self.local[0].rates[p.backend].pay(now_ns, cost);
                return Ok(false);
            }
            if flow.is_kept(now_ns) {
                return Err(format!("port {port} instead of {}", flow.port));
            }
            self.flows.remove(place);
        }
        if !self.opens(now_ns, p).1 {
            return Err("a packet that opens nothing passed without a mapping".into());
        }
        let there = self.flows.iter().filter(|flow| flow.inside.0 == p.backend && flow.is_kept(now_ns)).count();
        if there >= usize::try_from(self.world.flows_max).expect("64 bits") {
            return Err(format!("one more than {there} flows"));
        }
        if !self.local[0].rates[p.backend].allows(now_ns).1 {
            return Err("a flow opened over the rate".into());
        }
        ports::judge((&self.world, &mut self.shown), &mut self.flows, now_ns, p, port)?;
        self.local[0].rates[p.backend].pay(now_ns, Cost::One);
        self.flows.push(Flow::opened(now_ns, &rule, p, port));
        Ok(true)
    }

    /// Who gets what comes from `from` to a public port (R6).
    pub(crate) fn receivers(&self, now_ns: u64, proto: u8, port: u16, from: (Ipv4Addr, u16)) -> Receivers {
        let mut receivers = Receivers::default();
        let on_port = |flow: &&Flow| (flow.proto, flow.public, flow.port) == (proto, PUBLIC, port);
        let is_its = |flow: &Flow| on_port(&flow) && flow.remote == from && !flow.is_silent(now_ns);
        receivers.flow = self.flows.iter().position(is_its);
        if let Some(place) = receivers.flow {
            receivers.ends.push(self.flows[place].inside);
            receivers.surely = self.flows[place].lets_in(now_ns);
        }
        if proto == ICMP {
            return receivers;
        }
        let there: Vec<&Flow> = self.flows.iter().filter(on_port).collect();
        for flow in there.iter().filter(|flow| flow.life.may_live(now_ns)) {
            let rule = self.rule(flow.inside.0);
            let reached: Vec<&&Flow> = match rule.filtering {
                Filtering::Tuple => Vec::new(),
                Filtering::Address => there.iter().filter(|other| other.remote.0 == from.0).collect(),
                Filtering::Open => vec![flow],
            };
            let surely = flow.life.is_live(now_ns) && reached.iter().any(|other| other.life.is_live(now_ns));
            receivers.surely |= surely;
            if !reached.is_empty() && !receivers.ends.contains(&flow.inside) {
                receivers.ends.push(flow.inside);
            }
        }
        receivers
    }

    /// Judges what the engine did with a packet of a remote, and takes note of it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub(crate) fn judge_in(&mut self, now_ns: u64, p: &Packet, left: &[Left]) -> Judged {
        self.forget(now_ns);
        let from = (p.remote, p.service);
        let receivers = self.receivers(now_ns, p.proto, p.near, from);
        if receivers.ends.is_empty() && left.is_empty() {
            let there = self.flows.iter().any(|flow| (flow.proto, flow.port) == (p.proto, p.near));
            return Ok(if there { Outcome::Filtered } else { Outcome::Refused });
        }
        if receivers.ends.is_empty() {
            return Err("a packet came in without a mapping".into());
        }
        let mtu = self.world.mtu[0];
        if let Some(notice) = notice(p, Side::Outside, mtu) {
            let said = self.local().notices.judge(now_ns, (Link::Outside, p.remote), !left.is_empty());
            if receivers.surely {
                said?;
            }
            return notice.judge(left);
        }
        if left.is_empty() {
            return self.kept_out(now_ns, &receivers);
        }
        let turned_to = self.reached(now_ns, p, &receivers);
        let wanted = |end: &(usize, u16)| {
            let ends = (from, (BACKENDS[end.0], end.1));
            p.translated(false, to_backend(end.0), ends, self.world.mss_max)
        };
        one_of(&receivers.ends, |end| expect(left, link_of(end.0), &wanted(end), mtu, false))?;
        Ok(turned_to)
    }

    /// Nothing came in: whoever it was for has gone, or is held as one that fell silent.
    pub(crate) fn kept_out(&mut self, now_ns: u64, receivers: &Receivers) -> Judged {
        if receivers.surely {
            return Err("an answer to a mapping that is there was dropped".into());
        }
        if let Some(place) = receivers.flow {
            let flow = &mut self.flows[place];
            if flow.may_be_held() {
                flow.life.ended(now_ns);
            } else {
                self.flows.remove(place);
            }
        }
        Ok(Outcome::Refused)
    }

    /// Takes note of a packet that reached a receiver.
    pub(crate) fn reached(&mut self, now_ns: u64, p: &Packet, receivers: &Receivers) -> Outcome {
        match receivers.flow {
            Some(place) => {
                let rule = self.rule(self.flows[place].inside.0);
                self.flows[place].passed_in(now_ns, &rule, p);
                Outcome::In
            }
            None => Outcome::LetIn,
        }
    }

    fn judge_turned(&mut self, now_ns: u64, p: &Packet, port: u16, left: &[Left]) -> Judged {
        // R7: it comes from the sender's public end, as if from outside.
        let receivers = self.receivers(now_ns, p.proto, p.service, (PUBLIC, port));
        let mut ends = receivers.ends.clone();
        ends.retain(|end| *end != (p.backend, p.near));
        if left.is_empty() {
            return if ends.is_empty() { Ok(Outcome::TurnedAway) } else { self.kept_out(now_ns, &receivers) };
        }
        if ends.is_empty() {
            return Err("a packet was turned back to nobody".into());
        }
        let seen = Packet { near: p.service, remote: PUBLIC, service: port, ..*p };
        self.reached(now_ns, &seen, &receivers);
        let wanted = |end: &(usize, u16)| {
            let ends = ((PUBLIC, port), (BACKENDS[end.0], end.1));
            p.translated(true, to_backend(end.0), ends, self.world.mss_max)
        };
        let fresh = !p.whole || p.first.is_some();
        one_of(&ends, |end| expect(left, link_of(end.0), &wanted(end), self.world.mtu[0], fresh))?;
        Ok(Outcome::Turned)
    }

    /// Compares the list with the engine's table: what must be there is, and what is there is known.
    ///
    /// # Errors
    /// What is missing, or too much (I29).
    pub fn judge_table(&mut self, now_ns: u64, table: &[Row]) -> Result<(), String> {
        self.forget(now_ns);
        let row = |flow: &Flow| (flow.proto, flow.inside, flow.remote, flow.port);
        for flow in self.flows.iter().filter(|flow| flow.is_kept(now_ns)) {
            if !table.contains(&row(flow)) {
                return Err(format!("the table lacks {flow:?}"));
            }
        }
        match table.iter().find(|one| !self.flows.iter().any(|flow| row(flow) == **one)) {
            Some(one) => Err(format!("the table still has {one:?}")),
            None => Ok(()),
        }
    }

    /// How many different ports are known to be in use.
    #[must_use]
    pub fn ports_in_use(&self) -> usize {
        self.flows.iter().map(|flow| flow.port).collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// Whether a frame is right for one of several receivers; says what is wrong for the last.
fn one_of<T>(all: &[T], mut right: impl FnMut(&T) -> Result<(), String>) -> Result<(), String> {
    let mut result = Err("nobody to receive it".to_owned());
    for one in all {
        result = right(one);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The TCP packet of the remote of a connection.
#[must_use]
pub fn answer_of(segment: Segment) -> Packet {
    Packet { proto: TCP, mark: 9, segment, ..Packet::default() }
}
