//! What leads inwards, as workers have it: which port of a frontend leads to whom by a rule, which member of a pool gets a client,
//! and whose alone an address is.
//!
//! Pure; a value of the snapshot, so any member of the cluster chooses alike (W3). Made by `control::inbound`, asked by `judge`
//! for packets without a mapping, and by `shard::standing` whether a mapping may stand.

use std::sync::Arc;

use hashbrown::HashSet;
use words::SplitMix;

use crate::backend::TcpReset;
use crate::ids::{BackendId, FrontendId};
use crate::map::{Keyed, Map};
use crate::probes::HealthSource;
use crate::record::{Proto, PublicKey};

/// All rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    by_public: Map<(FrontendId, Proto, u16), Arc<Rule>>,
    /// By the port of the backend that they lead to; 0: to every one. Without those that float: an answer says by which it came.
    by_inside: Map<(Proto, u16), Vec<Arc<Rule>>>,
    /// Frontends with a rule that floats.
    floating: HashSet<FrontendId, Keyed>,
    /// Addresses that are one backend's own: all that comes there is for it (S23).
    own: Map<FrontendId, BackendId>,
    /// Some rule waits for its port, or a member for its way to the rule's shard.
    pub waiting: bool,
}

/// A port of a frontend, or all of them, and whom it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As people call it: `load_balancer/rule`.
    pub name: Arc<str>,
    /// The frontend.
    pub frontend: FrontendId,
    /// The protocol.
    pub proto: Proto,
    /// Its port there; 0: every one.
    pub port: u16,
    /// The port of the backend; 0: the same.
    pub backend_port: u16,
    /// Whether packets keep their destination, the frontend's address, and answers come from it (D17); the ports are the same then.
    pub floats: bool,
    /// Who may get its flows, ascending.
    pub members: Arc<[BackendId]>,
    /// Whose probe says who of them may get new ones (S22).
    pub health: HealthSource,
    /// Those of whom the operator says it, whatever a probe does; ascending.
    pub admin: Arc<[(BackendId, AdminState)]>,
    /// Which of a client's flows go to the same member.
    pub distribution: Distribution,
    /// Idle timeout of its flows (S13).
    pub idle_timeout_ms: u32,
    /// Resets to both sides when a connection goes idle.
    pub tcp_reset_on_idle: TcpReset,
}

/// What an operator says of a member of a pool, before any probe. It ends no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// It gets new flows.
    Up,
    /// It gets none: it drains.
    Down,
}

/// By what of a client its member is chosen (D15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Distribution {
    /// Address, port and protocol, and the same of the frontend.
    #[default]
    Connection,
    /// Address, protocol and frontend.
    SourceAndProtocol,
    /// Address and frontend.
    Source,
}

/// What leads inwards from a public end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inward<'a> {
    /// A rule.
    Rule(&'a Rule),
    /// The address is this backend's own, or will be once nobody else has anything there: `Backend::has` says that.
    Own(BackendId),
}

impl Rules {
    /// All that comes to an address is for one backend, to whatever port.
    pub fn put_own(&mut self, frontend: FrontendId, backend: BackendId) {
        self.own.insert(frontend, backend);
    }

    /// Adds a rule.
    pub fn put(&mut self, rule: Rule) {
        let rule = Arc::new(rule);
        if rule.floats {
            self.floating.insert(rule.frontend);
        } else {
            self.by_inside.entry((rule.proto, rule.backend_port)).or_default().push(Arc::clone(&rule));
        }
        self.by_public.insert((rule.frontend, rule.proto, rule.port), rule);
    }

    /// Whether nothing leads inwards.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_public.is_empty() && self.own.is_empty()
    }

    /// What leads inwards from a public end, of whatever protocol.
    #[must_use]
    pub fn inward(&self, key: &PublicKey) -> Option<Inward<'_>> {
        let own = || self.own.get(&key.frontend).copied().map(Inward::Own);
        self.of(key).map(Inward::Rule).or_else(own)
    }

    /// Whether an address is one backend's own.
    #[must_use]
    pub fn is_own(&self, frontend: FrontendId) -> bool {
        self.own.contains_key(&frontend)
    }

    /// Whether instances have the address of a frontend too, since a rule leads to it unchanged (D17).
    #[must_use]
    pub fn floats(&self, frontend: FrontendId) -> bool {
        self.floating.contains(&frontend)
    }

    /// All such frontends, in any order.
    pub fn floating(&self) -> impl Iterator<Item = FrontendId> {
        self.floating.iter().copied()
    }

    /// The rule of a public end.
    #[must_use]
    pub fn of(&self, key: &PublicKey) -> Option<&Rule> {
        if self.by_public.is_empty() {
            return None;
        }
        let at = |port| self.by_public.get(&(key.frontend, key.proto, port));
        at(key.port).or_else(|| at(0)).map(Arc::as_ref)
    }

    /// The rule that leads to this port at a backend's own address, and its public port, if exactly one does.
    #[must_use]
    pub fn to(&self, proto: Proto, port: u16, backend: BackendId) -> Option<(&Rule, u16)> {
        let at = |inside| self.by_inside.get(&(proto, inside)).into_iter().flatten();
        let mut all = at(port).chain(at(0)).filter(|rule| rule.has(backend));
        let rule = all.next()?;
        let public = if rule.port == 0 { port } else { rule.port };
        all.next().is_none().then_some((rule.as_ref(), public))
    }
}

impl Rule {
    /// Whether a backend may get its flows.
    #[must_use]
    pub fn has(&self, backend: BackendId) -> bool {
        self.members.binary_search(&backend).is_ok()
    }

    /// What the operator says of a backend.
    #[must_use]
    pub fn admin(&self, backend: BackendId) -> Option<AdminState> {
        let at = self.admin.binary_search_by_key(&backend, |(id, _)| *id).ok()?;
        Some(self.admin[at].1)
    }

    /// The backend's port for a packet to this port of the frontend.
    #[must_use]
    pub const fn inside_port(&self, public: u16) -> u16 {
        if self.backend_port == 0 { public } else { self.backend_port }
    }

    /// Which member gets a client's packet: of those that are `up` the one that weighs most for it, so that a member which comes
    /// or goes moves nobody but those that it has then, or had (D15). It looks at all members.
    pub fn choose(&self, key: [u64; 2], public: &PublicKey, up: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let (port, proto) = match self.distribution {
            Distribution::Connection => ((public.port, public.remote.port), public.proto as u64),
            Distribution::SourceAndProtocol => ((0, 0), public.proto as u64),
            Distribution::Source => ((0, 0), 0),
        };
        let address = u64::from(public.remote.addr.bits()) << 32 | u64::from(public.frontend.0);
        let ports = proto << 32 | u64::from(port.0) << 16 | u64::from(port.1);
        let client = SplitMix::mix(SplitMix::mix(key[0] ^ address) ^ key[1] ^ ports);
        let mut best: Option<(u64, BackendId)> = None;
        for member in self.members.iter().copied() {
            let weight = (SplitMix::mix(client ^ SplitMix::mix(u64::from(member.0))), member);
            if best.is_none_or(|best| best < weight) && up(member) {
                best = Some(weight);
            }
        }
        best.map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::record::{Addr, Endpoint};

    fn rule(members: &[u32], distribution: Distribution) -> Rule {
        Rule {
            name: "lb/web".into(),
            frontend: FrontendId(1),
            proto: Proto::Tcp,
            port: 80,
            backend_port: 8080,
            floats: false,
            members: members.iter().map(|n| BackendId(*n)).collect(),
            health: HealthSource::Nobody,
            admin: Arc::default(),
            distribution,
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
        }
    }

    fn client(n: u32, port: u16) -> PublicKey {
        let remote = Endpoint { addr: Addr::from(Ipv4Addr::from(0xc633_6400 + n)), port };
        PublicKey { proto: Proto::Tcp, frontend: FrontendId(1), port: 80, remote }
    }

    const KEY: [u64; 2] = [3, 5];

    #[test]
    fn a_changed_pool_moves_only_what_it_must() {
        let (four, five) =
            (rule(&[1, 2, 3, 4], Distribution::Connection), rule(&[1, 2, 3, 4, 5], Distribution::Connection));
        let mut of = [0u32; 6];
        for n in 0..10_000 {
            let (key, up) = (client(n % 100, u16::try_from(n / 100).expect("few")), |_| true);
            let (before, after) =
                (four.choose(KEY, &key, up).expect("some"), five.choose(KEY, &key, up).expect("some"));
            assert!(after == before || after == BackendId(5), "moved from {before} to {after}");
            let without = four.choose(KEY, &key, |id| id != BackendId(2)).expect("some");
            assert!(without == before || before == BackendId(2), "moved from {before} to {without}");
            of[usize::try_from(after.0).expect("small")] += 1;
        }
        assert!(of[1..].iter().all(|count| (1_800..2_200).contains(count)), "even shares: {of:?}");
    }

    #[test]
    fn a_distribution_by_source_keeps_a_client_on_one_member() {
        let up = |_| true;
        let members = |distribution| {
            let rule = rule(&[1, 2, 3, 4], distribution);
            let of = |port| rule.choose(KEY, &client(1, port), up).expect("some");
            (1_000..1_100).map(of).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(members(Distribution::Connection), 4);
        assert_eq!(members(Distribution::SourceAndProtocol), 1);
        assert_eq!(members(Distribution::Source), 1);
        let both = |distribution| {
            let rule = rule(&[1, 2, 3, 4], distribution);
            let differs = |n| {
                let (tcp, udp) = (client(n, 5), PublicKey { proto: Proto::Udp, ..client(n, 6) });
                rule.choose(KEY, &tcp, up) != rule.choose(KEY, &udp, up)
            };
            (0..100).any(differs)
        };
        assert!(both(Distribution::SourceAndProtocol), "protocols are told apart");
        assert!(!both(Distribution::Source), "and here they are not");
        assert_eq!(rule(&[1, 2], Distribution::Source).choose(KEY, &client(1, 1), |_| false), None);
    }

    #[test]
    fn an_exact_port_goes_before_all_and_an_answer_finds_its_one_rule() {
        let mut rules = Rules::default();
        rules.put(rule(&[1, 2], Distribution::Connection));
        rules.put(Rule { port: 0, backend_port: 0, frontend: FrontendId(2), ..rule(&[3], Distribution::Connection) });
        assert_eq!(rules.of(&client(1, 1)).map(|rule| rule.port), Some(80));
        assert_eq!(rules.of(&PublicKey { port: 81, ..client(1, 1) }), None);
        let other = PublicKey { frontend: FrontendId(2), port: 81, ..client(1, 1) };
        assert_eq!(rules.of(&other).map(|rule| rule.inside_port(81)), Some(81));
        assert_eq!(rules.to(Proto::Tcp, 8080, BackendId(2)).map(|(_, port)| port), Some(80));
        assert_eq!(
            rules.to(Proto::Tcp, 8080, BackendId(3)).map(|(rule, port)| (rule.frontend, port)),
            Some((FrontendId(2), 8080))
        );
        assert_eq!(rules.to(Proto::Udp, 8080, BackendId(2)), None);
        rules.put(Rule { port: 81, ..rule(&[2], Distribution::Connection) });
        assert_eq!(rules.to(Proto::Tcp, 8080, BackendId(2)), None, "two lead there");
        assert!(rules.to(Proto::Tcp, 8080, BackendId(1)).is_some());
    }

    #[test]
    fn a_rule_that_floats_is_no_other_one_for_what_answers_from_the_backends_own_address() {
        let mut rules = Rules::default();
        rules.put(rule(&[1], Distribution::Connection));
        let floating =
            Rule { port: 8080, floats: true, frontend: FrontendId(2), ..rule(&[1], Distribution::Connection) };
        rules.put(floating);
        assert_eq!(rules.to(Proto::Tcp, 8080, BackendId(1)).map(|(_, port)| port), Some(80));
        assert!(rules.floats(FrontendId(2)) && !rules.floats(FrontendId(1)));
        let other = PublicKey { frontend: FrontendId(2), port: 8080, ..client(1, 1) };
        assert_eq!(rules.of(&other).map(|rule| (rule.floats, rule.inside_port(8080))), Some((true, 8080)));
    }
}
