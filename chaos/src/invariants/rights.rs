//! A second reference beside `committed`: by control index, by which right each backend left and what it had for that, and what
//! led to it, as far as states of the control log were seen. By a second and simpler reading of the declared configuration than
//! `control`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use control::allocation::{Backend, Declared, Drain, Purpose};
use control::inbound::model::{InboundRule, RuleProtocol, Target};
use control::resource::Desired;
use control::state::State;
use engine::ids::{BackendId, ControlIndex, FrontendId, PortBlock, VnetId};
use engine::record::{Addr, Endpoint, InsideKey, Proto, PublicKey, Scenario};
use engine::snapshot::OnReclaim;

/// What a backend is declared to leave by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// Ports of a pool (S3); a new flow leaves by an address of its own, if it has one too.
    Pool,
    /// An address of its own (S2).
    Own,
    /// An address that the system chose (S4).
    Default,
    /// Nothing.
    Nothing,
}

/// What a backend had.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Whether the configuration wanted it.
    pub declared: bool,
    /// Where it was.
    pub place: (VnetId, Ipv4Addr),
    /// Whether a security group judged it.
    pub grouped: bool,
    /// By what it was to leave.
    pub way: Way,
    /// The address that was its own.
    pub own: Option<FrontendId>,
    /// Ports of its grant.
    pub lease: Vec<PortBlock>,
}

impl Holding {
    /// Whether it leaves by another right later, and how that is counted.
    #[must_use]
    pub fn moved(&self, later: &Self) -> Option<&'static str> {
        if self.way != later.way {
            return Some(match (self.way, later.way) {
                (Way::Pool, Way::Default) => "moves from the pool to the system's addresses",
                (Way::Default, Way::Pool) => "moves from the system's addresses to the pool",
                (Way::Default, Way::Own) => "moves from the system's addresses to an own one alone",
                (Way::Own, Way::Default) => "moves from an own address alone to the system's",
                (Way::Pool, Way::Own) | (Way::Own, Way::Pool) => "moves between the pool and an own address alone",
                _ => "moves to or from no way out",
            });
        }
        (self.own != later.own).then_some("own addresses given or taken under another right")
    }
}

/// What rules led to, by port of a frontend.
type Leads = BTreeMap<(FrontendId, Proto, u16), Led>;

/// What a rule led to.
#[derive(Clone, Debug)]
struct Led {
    /// The address that its packets kept, if it floated (D17); else they had the backend's.
    floats: Option<Ipv4Addr>,
    port: u16,
    members: BTreeSet<BackendId>,
}

/// One state of the control log, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Known {
    /// What each frontend was for.
    pub frontends: BTreeMap<FrontendId, Purpose>,
    /// What each backend had.
    pub backends: BTreeMap<BackendId, Holding>,
    /// Where rules led: from a port of a frontend to backends.
    leads: Leads,
    /// What was on its way back.
    pub drains: BTreeMap<PortBlock, Drain>,
    /// Blocks of those whose backend was not to have ports of a pool, or had none of it, when they began to drain: no rule says
    /// what becomes of their flows.
    unruled: BTreeSet<PortBlock>,
}

impl Known {
    fn of(state: &State, before: Option<&Self>) -> Self {
        let allocation = state.allocation();
        let holding = |b: &Backend| Holding {
            declared: b.declared == Declared::Yes,
            place: (b.vnet, b.ip),
            grouped: is_grouped(state.desired(), b),
            way: way_of(state.desired(), b),
            own: b.own,
            lease: b.lease.clone(),
        };
        let mut known = Self {
            frontends: allocation.frontends.iter().map(|(id, frontend)| (*id, frontend.purpose)).collect(),
            backends: allocation.backends.iter().map(|(id, backend)| (*id, holding(backend))).collect(),
            leads: leads(state),
            drains: allocation.drains.clone(),
            unruled: BTreeSet::new(),
        };
        let unruled = |(block, drain): (&PortBlock, &Drain)| {
            let rest = before.and_then(|before| Some((before, before.draining(block.frontend, block.start)?)));
            match rest.filter(|(_, (_, of))| of.backend == drain.backend) {
                Some((before, (whole, _))) => before.unruled.contains(whole),
                None => {
                    let shared = known.frontends.get(&block.frontend) == Some(&Purpose::Shared);
                    !shared || known.backends.get(&drain.backend).is_none_or(|b| b.way != Way::Pool)
                }
            }
        };
        known.unruled =
            known.drains.iter().filter(|drain| unruled(*drain)).map(|(block, _)| *block).collect::<BTreeSet<_>>();
        known
    }

    /// The draining block that a port is in.
    #[must_use]
    pub fn draining(&self, frontend: FrontendId, port: u16) -> Option<(&PortBlock, &Drain)> {
        let from = PortBlock { frontend, start: 0, len: 0 };
        let to = PortBlock { frontend, start: port, len: u16::MAX };
        self.drains.range(from..=to).next_back().filter(|(block, _)| block.contains(port))
    }

    /// Whether a backend has a public end under a right, to open flows there.
    #[must_use]
    pub fn has(&self, backend: BackendId, scenario: Scenario, public: &PublicKey) -> bool {
        let Some(holding) = self.backends.get(&backend) else { return false };
        let purpose = self.frontends.get(&public.frontend);
        let leased = || holding.lease.iter().any(|b| b.frontend == public.frontend && b.contains(public.port));
        match scenario {
            Scenario::OwnOut | Scenario::OwnIn => holding.own == Some(public.frontend),
            Scenario::Pool => purpose == Some(&Purpose::Shared) && leased(),
            Scenario::Default => purpose == Some(&Purpose::System) && leased(),
            Scenario::Rule | Scenario::Private => false,
        }
    }

    /// Whether a rule led from a public end to a backend, at this inside end.
    #[must_use]
    pub fn leads(&self, public: &PublicKey, (backend, inside): (BackendId, InsideKey)) -> bool {
        let Some(rule) = self.leads.get(&(public.frontend, public.proto, public.port)) else { return false };
        let Some((vnet, own)) = self.backends.get(&backend).map(|holding| holding.place) else { return false };
        let endpoint = Endpoint { addr: Addr::from(rule.floats.unwrap_or(own)), port: rule.port };
        rule.members.contains(&backend) && inside == InsideKey { vnet, endpoint }
    }

    /// Whose own an address was.
    #[must_use]
    pub fn owner_of(&self, frontend: FrontendId) -> Option<(BackendId, &Holding)> {
        self.backends.iter().find(|(_, holding)| holding.own == Some(frontend)).map(|(id, holding)| (*id, holding))
    }

    /// The declared backend at an address.
    #[must_use]
    pub fn at(&self, place: (VnetId, Ipv4Addr)) -> Option<&Holding> {
        self.backends.values().find(|holding| holding.declared && holding.place == place)
    }

    /// Whether the port is on its way back from this backend, and its flows may stay until they close, or for four minutes.
    #[must_use]
    pub fn waits_for(&self, backend: BackendId, public: &PublicKey) -> bool {
        let drain = self.draining(public.frontend, public.port).map(|(_, drain)| drain);
        let stays = |drain: &&Drain| matches!(drain.on_reclaim, OnReclaim::Keep | OnReclaim::Drain);
        drain.filter(stays).is_some_and(|drain| drain.backend == backend)
    }
}

fn way_of(desired: &Desired, backend: &Backend) -> Way {
    let instance = desired.instances.get(&backend.instance);
    let all = instance.map_or(&[][..], |instance| &instance.ip_configurations);
    let Some(ip) = all.iter().find(|ip| ip.name == backend.ip_configuration) else { return Way::Nothing };
    let subnet = desired.virtual_networks.get(&ip.virtual_network).and_then(|network| network.subnets.get(&ip.subnet));
    let may = !desired.default_outbound.addresses.is_empty() && subnet.is_some_and(|s| s.default_outbound_access);
    match (&ip.pool, &ip.public_ip) {
        (Some(_), _) => Way::Pool,
        (None, Some(_)) => Way::Own,
        (None, None) if may => Way::Default,
        (None, None) => Way::Nothing,
    }
}

fn is_grouped(desired: &Desired, backend: &Backend) -> bool {
    let instance = desired.instances.get(&backend.instance);
    let all = instance.map_or(&[][..], |instance| &instance.ip_configurations);
    let Some(ip) = all.iter().find(|ip| ip.name == backend.ip_configuration) else { return false };
    let subnet = desired.virtual_networks.get(&ip.virtual_network).and_then(|network| network.subnets.get(&ip.subnet));
    let nic = ip.nic.as_ref().and_then(|nic| desired.nics.get(nic));
    subnet.is_some_and(|s| s.security_group.is_some()) || nic.is_some_and(|n| n.security_group.is_some())
}

/// A rule leads to nobody while somebody may still send by its port, and not to a member that lives in another shard (W3, M3).
fn leads(state: &State) -> Leads {
    let (desired, allocation) = (state.desired(), state.allocation());
    let granted = |frontend: FrontendId, port: u16| {
        let is_on = |block: &PortBlock| block.frontend == frontend && block.contains(port);
        allocation.drains.keys().any(is_on) || allocation.backends.values().any(|b| b.lease.iter().any(is_on))
    };
    let is_target = |balancer: &str, rule: &InboundRule, b: &Backend| match &rule.target {
        Target::Pool(pool) => b.pool.as_ref().is_some_and(|of| of.load_balancer == balancer && of.pool == *pool),
        Target::IpConfiguration { instance, ip_configuration } => {
            (&b.instance, &b.ip_configuration) == (instance, ip_configuration)
        }
    };
    let mut all = BTreeMap::new();
    for (name, balancer) in &desired.load_balancers {
        for rule in balancer.load_balancing_rules.values().chain(balancer.inbound_nat_rules.values()) {
            let address = desired.public_ips.get(&rule.frontend).map(|public| public.address);
            let there = allocation.frontends.iter().find(|(_, frontend)| Some(frontend.ip) == address);
            let Some((id, frontend)) = there.filter(|(id, _)| !granted(**id, rule.frontend_port)) else { continue };
            let is_here = |b: &Backend| b.declared == Declared::Yes && b.home == Some(frontend.shard);
            let backends = allocation.backends.iter().filter(|(_, b)| is_here(b) && is_target(name, rule, b));
            let members: BTreeSet<BackendId> = backends.map(|(id, _)| *id).collect();
            let proto = if rule.protocol == RuleProtocol::Udp { Proto::Udp } else { Proto::Tcp };
            let floats = rule.floating_ip.then_some(frontend.ip);
            all.insert((*id, proto, rule.frontend_port), Led { floats, port: rule.backend_port, members });
        }
    }
    all
}

/// See the module.
#[derive(Debug, Default)]
pub struct Rights(BTreeMap<ControlIndex, Known>);

impl Rights {
    /// Some node has applied this state. If it is news: the one before that was seen, and this one.
    pub fn note(&mut self, state: &State) -> Option<(Option<&Known>, &Known)> {
        let index = state.index();
        if self.0.contains_key(&index) {
            return None;
        }
        let before = self.0.range(..index).next_back().map(|(_, known)| known);
        let known = Known::of(state, before);
        self.0.insert(index, known);
        let mut newest = self.0.range(..=index).rev().map(|(_, known)| known);
        let known = newest.next()?;
        Some((newest.next(), known))
    }

    /// The state of an index; not each was seen, since a node may apply several entries at once: else the ones around it.
    pub fn around(&self, index: ControlIndex) -> impl Iterator<Item = &Known> {
        let (before, after) = (self.0.range(..=index).next_back(), self.0.range(index..).next());
        before.into_iter().chain(after).map(|(_, known)| known)
    }

    /// Where a backend is, which is where it was as long as it is called so.
    #[must_use]
    pub fn place_of(&self, backend: BackendId) -> Option<(VnetId, Ipv4Addr)> {
        self.0.values().rev().find_map(|known| known.backends.get(&backend)).map(|holding| holding.place)
    }

    /// Whether a rule says what becomes of flows on a block on its way back, as far as is known.
    #[must_use]
    pub fn is_ruled(&self, frontend: FrontendId, port: u16) -> bool {
        let newest = self.0.last_key_value().map(|(_, known)| known);
        let found = newest.and_then(|known| Some((known, known.draining(frontend, port)?)));
        found.is_none_or(|(known, (block, _))| !known.unruled.contains(block))
    }
}

#[cfg(test)]
impl Rights {
    /// These states.
    pub(super) fn of(states: impl IntoIterator<Item = (u64, Known)>) -> Self {
        Self(states.into_iter().map(|(index, known)| (ControlIndex(index), known)).collect())
    }
}

#[cfg(test)]
impl Known {
    /// Frontend 7 is backend 1's own or nobody's, 8 a pool's and 9 the system's. Backend 1 leaves by `way` with these ports, and
    /// of it drains what `drains` says.
    pub(super) fn sample(way: Way, own: bool, lease: Option<PortBlock>, drain: Option<(PortBlock, OnReclaim)>) -> Self {
        let one = BackendId(1);
        let purposes = [(7, Purpose::Own(one)), (8, Purpose::Shared), (9, Purpose::System)];
        let holding = Holding {
            declared: true,
            place: (VnetId(1), Ipv4Addr::new(10, 0, 0, 1)),
            grouped: false,
            way,
            own: own.then_some(FrontendId(7)),
            lease: lease.into_iter().collect(),
        };
        let drain = drain
            .map(|(block, on_reclaim)| (block, Drain { backend: one, reclaim_index: ControlIndex(5), on_reclaim }));
        Self {
            frontends: purposes.into_iter().map(|(id, purpose)| (FrontendId(id), purpose)).collect(),
            backends: BTreeMap::from([(one, holding)]),
            leads: BTreeMap::new(),
            drains: drain.into_iter().collect(),
            unruled: BTreeSet::new(),
        }
    }

    /// And a rule leads from port 80 of frontend 8 to port 8,080 of backend 1, or to where its packets are addressed anyhow.
    pub(super) fn led(mut self, floats: Option<Ipv4Addr>) -> Self {
        let port = if floats.is_some() { 80 } else { 8_080 };
        let led = Led { floats, port, members: BTreeSet::from([BackendId(1)]) };
        self.leads.insert((FrontendId(8), Proto::Tcp, 80), led);
        self
    }
}
