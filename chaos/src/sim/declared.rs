//! The configuration that the operator of a simulated cluster declares, and how he changes it under traffic.

use control::command::{CommandBody, Configure};
use control::resource::Desired;
use engine::snapshot::OnReclaim;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::net::Ipv4Addr;
use words::level;

use super::addresses::{Host, NETWORKS};
use super::inward::{Inward, Lead};
use super::isolation::Isolation;
use super::ways::{Way, Ways};

/// Frontends and backends that send, in most runs and at most.
const FRONTENDS: (usize, usize) = (3, 6);
const BACKENDS: (u8, u8) = (6, 24);
/// Of the random numbers that shards are drawn from.
const SHARDS_STREAM: u64 = 0x5ba2d;
/// And those that rules and links are.
const INWARD_STREAM: u64 = 0x141d5;
const ISOLATION_STREAM: u64 = 0x15014;
/// The first tiers end with so many backends (S11).
const TIERS: [u16; 2] = [50, 100];

/// What is declared.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    frontends: Vec<bool>,
    /// How many shards they may have; often fewer than there are frontends.
    shards_max: u32,
    backends: Vec<bool>,
    /// Instances that only count: as many as now, and after a change; the pool is in another tier with them.
    fillers: (u16, u16),
    on_reclaim: OnReclaim,
    grace_ms: u32,
    hold_ms: u32,
    ways: Ways,
    /// The cluster's level has own addresses and the system's (C2).
    has_level: bool,
    inward: Inward,
    isolation: Isolation,
}

impl Declared {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let usual = rng.random_bool(0.6);
        let frontends = if usual { FRONTENDS.0 } else { rng.random_range(1..=FRONTENDS.1) };
        let backends = if usual { BACKENDS.0 } else { rng.random_range(2..=BACKENDS.1) };
        let tier = TIERS[usize::from(!usual && rng.random_bool(0.3))] - u16::from(backends);
        let (few, many) = (tier - 4, tier + 11);
        Self {
            frontends: vec![true; frontends],
            shards_max: Self::draw_shards(rng),
            backends: vec![true; usize::from(backends)],
            fillers: if rng.random_bool(0.5) { (few, many) } else { (many, few) },
            on_reclaim: match rng.random_range(0..10) {
                0 | 1 => OnReclaim::Drain,
                2..=4 => OnReclaim::Reset,
                _ => OnReclaim::Expire,
            },
            grace_ms: rng.random_range(0..=1_200),
            hold_ms: rng.random_range(0..=2_500),
            ways: Ways::draw(rng, backends),
            has_level: false,
            inward: Inward::draw(&mut Self::other(rng, INWARD_STREAM), backends),
            isolation: Isolation::draw(&mut Self::other(rng, ISOLATION_STREAM), backends),
        }
    }

    /// A stream of its own: what else is drawn does not depend on it.
    fn other(rng: &ChaCha8Rng, stream: u64) -> ChaCha8Rng {
        let mut own = rng.clone();
        own.set_stream(own.get_stream() ^ stream);
        own
    }

    fn draw_shards(rng: &ChaCha8Rng) -> u32 {
        let mut own = Self::other(rng, SHARDS_STREAM);
        if own.random_bool(0.4) { control::resource::CLUSTER_SHARDS_MAX } else { own.random_range(1..=3) }
    }

    /// One change.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        if !self.ways.is_empty() && rng.random_bool(0.4) {
            return self.ways.change(rng);
        }
        if !self.inward.is_empty() && rng.random_bool(0.3) {
            return self.inward.change(rng);
        }
        if self.isolation.is_isolated() && rng.random_bool(0.2) {
            return self.isolation.change(rng);
        }
        match rng.random_range(0..10) {
            0..=3 => self.change_tier(),
            4 | 5 => {
                let at = rng.random_range(0..self.backends.len());
                self.backends[at] = !self.backends[at];
            }
            6 | 7 => {
                let at = rng.random_range(0..self.frontends.len());
                self.frontends[at] = !self.frontends[at];
                if self.frontends.iter().all(|declared| !declared) {
                    self.frontends[at] = true;
                }
            }
            8 => self.grace_ms = rng.random_range(0..=1_200),
            _ => self.hold_ms = rng.random_range(0..=2_500),
        }
    }

    /// The cluster is at this level: what needs a higher one would be refused.
    pub(super) fn suit(&mut self, level: u16) {
        self.has_level = level >= level::OWN_ADDRESSES.max(level::SYSTEM_ADDRESSES);
    }

    /// What may be refused is left out.
    pub(super) fn give_way(&mut self) {
        self.ways.disown();
        self.inward.give_way();
    }

    /// The pool goes to the other tier: each backend gets ports, or gives some back.
    pub(super) fn change_tier(&mut self) {
        self.fillers = (self.fillers.1, self.fillers.0);
    }

    /// Backends that send, now and then.
    pub(super) fn senders(&self) -> std::ops::RangeInclusive<u8> {
        1..=u8::try_from(self.backends.len()).expect("few")
    }

    /// Whether a backend is declared.
    pub(super) fn has(&self, backend: u8) -> bool {
        self.backends[usize::from(backend - 1)]
    }

    /// Whether backends may leave by anything but the pool's ports.
    pub(super) fn has_ways(&self) -> bool {
        !self.ways().is_empty()
    }

    /// Each backend joins the pool, or leaves it; members of the rules' pool stay in that.
    pub(super) fn move_all(&mut self) {
        self.ways.move_all();
    }

    /// By what a declared backend is to leave, if by anything.
    pub(super) fn way(&self, backend: u8) -> Option<Way> {
        if self.inward.has(backend) {
            return Some(Way::Pool);
        }
        self.ways().of(backend, Self::host(backend).network == NETWORKS[1].1)
    }

    /// Whether the pool that a backend is in, if it is in one, leaves by this address.
    pub(super) fn leaves_by(&self, backend: u8, public: Ipv4Addr) -> bool {
        self.inward.has(backend) == Inward::is_frontend(public)
    }

    /// What leads in, or did, or may.
    pub(super) fn leads(&self) -> Vec<Lead> {
        let mut all: Vec<Lead> = self.inward.leads().collect();
        all.extend(self.ways().leads());
        all
    }

    /// How instances reach each other.
    pub(super) const fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// Those that the cluster's level has.
    fn ways(&self) -> Ways {
        if self.has_level { self.ways.clone() } else { self.ways.pool_alone() }
    }

    /// Whether a block that is taken back closes its flows at once.
    pub(super) fn expires(&self) -> bool {
        self.on_reclaim != OnReclaim::Drain
    }

    /// Whether its ends hear of it.
    pub(super) fn resets(&self) -> bool {
        self.on_reclaim == OnReclaim::Reset
    }

    /// The networks take turns, so that every two backends have one address.
    pub(super) fn host(backend: u8) -> Host {
        let (turn, place) = ((backend - 1) % 2, (backend - 1) / 2);
        Host { network: NETWORKS[usize::from(turn)].1, ip: Ipv4Addr::new(10, 0, 1, place + 1) }
    }

    pub(super) fn command(&self) -> CommandBody {
        CommandBody::Configure(Box::new(Configure { desired: self.desired(), base_hash: None, hints: Vec::new() }))
    }

    pub(super) fn desired(&self) -> Desired {
        control::config::parse("sim", &self.text()).expect("a correct configuration")
    }

    fn text(&self) -> String {
        let mut text = String::from("[outside]\nnetwork = \"203.0.113.0/24\"\n");
        let ways = self.ways();
        for (name, network) in NETWORKS {
            text += &format!(
                "[[virtual_network]]\nname = \"{name}\"\n[[virtual_network.subnet]]\nname = \"d\"\n\
                 prefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n{}{}",
                ways.of_subnet(network == NETWORKS[1].1),
                self.isolation.of_subnet()
            );
        }
        let frontends: Vec<usize> =
            (0..self.frontends.len()).filter(|at| self.frontends[*at]).map(|at| at + 1).collect();
        for n in &frontends {
            text += &format!("[[public_ip]]\nname = \"p{n}\"\naddress = \"203.0.113.{n}\"\n");
        }
        text += &self.isolation.group();
        text += &ways.addresses();
        let names: Vec<String> = frontends.iter().map(|n| format!("\"p{n}\"")).collect();
        let on_reclaim = match self.on_reclaim {
            OnReclaim::Expire => "expire",
            OnReclaim::Drain => "drain",
            OnReclaim::Reset => "reset",
            OnReclaim::Keep => unreachable!("no rule says so"),
        };
        text += &format!(
            "[[load_balancer]]\nname = \"lb\"\nfrontends = [{}]\n[[load_balancer.pool]]\nname = \"w\"\n\
             [[load_balancer.outbound_rule]]\nname = \"o\"\npool = \"w\"\non_reclaim = \"{on_reclaim}\"\n",
            names.join(", ")
        );
        text += &self.inward.text(on_reclaim, |backend| self.has(backend));
        text += &self.instances(&ways);
        text += &format!(
            "[settings]\norphan_grace_ms = {}\nhold_ms = [{h}, {h}, {h}, {h}, {h}]\nrecreate_quarantine_ms = 1500\n\
             shards_max = {}\n",
            self.grace_ms,
            self.shards_max,
            h = self.hold_ms
        );
        text
    }

    fn instances(&self, ways: &Ways) -> String {
        const POOL: &str = "pool = \"lb/w\"\n";
        let active = self.senders().filter(|n| self.has(*n));
        let active = active.map(|n| {
            let leaves_by = if self.inward.has(n) {
                ways.of_member(n, "pool = \"in/x\"\n")
            } else {
                ways.of_ip_configuration(n, POOL)
            };
            let card = self.isolation.card(n, subnet_of(Self::host(n))).1;
            (format!("b{n}"), ways.of_instance(n), Self::host(n), card + &leaves_by)
        });
        let filler = |n: u16| Host { network: NETWORKS[0].1, ip: Ipv4Addr::new(10, 0, 2, n.to_le_bytes()[0]) };
        let fillers = (0..self.fillers.0).map(|n| (format!("f{n}"), String::new(), filler(n), POOL.to_owned()));
        let mut text = String::new();
        for backend in self.senders().filter(|n| self.has(*n)) {
            text += &self.isolation.card(backend, subnet_of(Self::host(backend))).0;
        }
        for (name, set, host, leaves_by) in active.chain(fillers) {
            let (ip, subnet) = (host.ip, subnet_of(host));
            text += &format!(
                "[[instance]]\nname = \"{name}\"\n{set}[[instance.ip_configuration]]\nname = \"i\"\n\
                 private_ip = \"{ip}\"\nsubnet = \"{subnet}\"\n{leaves_by}"
            );
        }
        text
    }
}

/// The name of the subnet in which a backend is.
fn subnet_of(host: Host) -> &'static str {
    if host.network == NETWORKS[0].1 { "v/d" } else { "w/d" }
}
