//! What leads in (S21, D17): a pool with load-balancing rules and inbound NAT rules to its members, which the operator declares
//! and removes, and whose members come and go.

use std::fmt::Write;
use std::net::Ipv4Addr;

use engine::record::Proto;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The frontends of these rules; all rules lead to one pool, so both lie in one shard (M3).
const FRONTENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 16), Ipv4Addr::new(203, 0, 113, 17)];
/// Members at first.
const MEMBERS_MAX: u8 = 5;

/// A public end that clients try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub(super) proto: Proto,
    pub(super) to: (Ipv4Addr, u16),
    /// Packets keep that address as their destination, and answers come from it (D17).
    pub(super) floats: bool,
}

/// A port of a frontend, and where it leads.
#[derive(Clone, Copy, Debug)]
struct Rule {
    lead: Lead,
    backend_port: u16,
    /// The only one that it leads to; else the pool.
    only: Option<u8>,
    declared: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Inward {
    /// By backend; none in runs without rules.
    members: Vec<bool>,
    rules: Vec<Rule>,
    distribution: &'static str,
}

impl Inward {
    pub(super) fn draw(rng: &mut ChaCha8Rng, backends: u8) -> Self {
        if rng.random_bool(0.4) {
            return Self::default();
        }
        let mut members = vec![false; usize::from(backends)];
        let many = rng.random_range(1..=MEMBERS_MAX.min(backends));
        for _ in 0..many {
            members[rng.random_range(0..usize::from(backends))] = true;
        }
        let rule = |proto, at: usize, port, backend_port, only| {
            let lead = Lead { proto, to: (FRONTENDS[at], port), floats: false };
            Rule { lead, backend_port, only, declared: true }
        };
        let floating = |proto, at: usize, port, only| {
            let lead = Lead { proto, to: (FRONTENDS[at], port), floats: true };
            Rule { lead, backend_port: port, only, declared: true }
        };
        // The second of these has a port that may be granted before the rule has it.
        let mut rules = vec![
            rule(Proto::Tcp, 0, 80, 8_080, None),
            rule(Proto::Tcp, 1, 2_000, 2_000, None),
            rule(Proto::Udp, 0, 90, 9_090, None),
        ];
        for backend in 1..=backends.min(4) {
            let proto = if backend % 2 == 0 { Proto::Udp } else { Proto::Tcp };
            rules.push(rule(proto, usize::from(backend % 2), 3_000 + u16::from(backend), 22, Some(backend)));
        }
        // Both frontends float to one port, to which another one of the first leads anyhow.
        rules.push(floating(Proto::Tcp, 0, 8_080, None));
        rules.push(floating(Proto::Tcp, 1, 8_080, None));
        rules.push(floating(Proto::Udp, 1, 9_090, None));
        rules.push(floating(Proto::Tcp, 1, 3_100, Some(1)));
        // The first two stay from the beginning, so that both frontends begin in one shard.
        for rule in rules.iter_mut().skip(2) {
            rule.declared = rng.random_bool(0.7);
        }
        let distribution = ["5-tuple", "source-ip", "source-ip-protocol"][rng.random_range(0..3)];
        Self { members, rules, distribution }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// One change: a member comes or goes, or a rule.
    pub(super) fn change(&mut self, rng: &mut ChaCha8Rng) {
        if rng.random_bool(0.5) {
            let at = rng.random_range(0..self.members.len());
            self.members[at] = !self.members[at];
        } else {
            let at = rng.random_range(0..self.rules.len());
            self.rules[at].declared = !self.rules[at].declared;
        }
    }

    /// No rule is declared.
    pub(super) fn give_way(&mut self) {
        self.rules.iter_mut().for_each(|rule| rule.declared = false);
    }

    /// Whether an address is one of these rules' frontends.
    pub(super) fn is_frontend(public: Ipv4Addr) -> bool {
        FRONTENDS.contains(&public)
    }

    /// Whether a backend is in the pool of these rules, and so in no other.
    pub(super) fn has(&self, backend: u8) -> bool {
        self.members.get(usize::from(backend - 1)).copied().unwrap_or(false)
    }

    /// What rules lead from; some of them may lead nowhere at a moment.
    pub(super) fn leads(&self) -> impl Iterator<Item = Lead> + '_ {
        self.rules.iter().map(|rule| rule.lead)
    }

    /// Addresses, pool and rules; `there`: whether a backend is declared.
    pub(super) fn text(&self, on_reclaim: &str, there: impl Fn(u8) -> bool) -> String {
        let mut text = String::new();
        if self.is_empty() {
            return text;
        }
        for (ip, n) in FRONTENDS.iter().zip(1..) {
            text += &format!("[[public_ip]]\nname = \"q{n}\"\naddress = \"{ip}\"\n");
        }
        text +=
            "[[load_balancer]]\nname = \"in\"\nfrontends = [\"q1\", \"q2\"]\n[[load_balancer.pool]]\nname = \"x\"\n";
        text +=
            &format!("[[load_balancer.outbound_rule]]\nname = \"ox\"\npool = \"x\"\non_reclaim = \"{on_reclaim}\"\n");
        let leads = |rule: &&Rule| rule.declared && rule.only.is_none_or(|only| self.has(only) && there(only));
        for (rule, n) in self.rules.iter().zip(0..).filter(|(rule, _)| leads(rule)) {
            let Rule { lead: Lead { proto, to: (ip, port), floats }, backend_port, only, .. } = rule;
            let frontend = if *ip == FRONTENDS[0] { "q1" } else { "q2" };
            let (table, whom) = match only {
                Some(backend) => ("inbound_nat_rule", format!("ip_configuration = \"b{backend}/i\"\n")),
                None => ("load_balancing_rule", format!("pool = \"x\"\ndistribution = \"{}\"\n", self.distribution)),
            };
            let protocol = proto.label();
            write!(
                text,
                "[[load_balancer.{table}]]\nname = \"r{n}\"\nfrontend = \"{frontend}\"\nprotocol = \"{protocol}\"\n\
                 frontend_port = {port}\nbackend_port = {backend_port}\nfloating_ip = {floats}\n{whom}"
            )
            .expect("memory takes all");
        }
        text
    }
}
