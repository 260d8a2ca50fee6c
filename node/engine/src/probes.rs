//! Health probes as workers have them (S22): which question goes to which backends, what the cluster knows of each, and whose
//! word counts for the members of a rule.
//!
//! Pure; a value of the snapshot, made by `control::inbound` of what is committed, so any member of the cluster chooses
//! alike (W3). Asked by `judge` who may get a new flow; an established one is never ended by it (D16). The driver's prober
//! asks the backends, and reports by the control log what has changed.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::ids::BackendId;
use crate::map::Map;

/// Where probes come from: the platform's address in every virtual network (S22, S35).
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// A probe, by its place among those of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u32);

/// How a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its port takes a connection.
    Tcp,
    /// It answers 200 to GET of this path.
    Http(Arc<str>),
    /// The same by TLS, whose certificate nobody looks at.
    Https(Arc<str>),
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Failing {
    /// A security group denies the source of probes.
    Denied,
    /// The port refused the connection, or ended it before it answered.
    Refused,
    /// No answer in time.
    Silent,
    /// Another status of HTTP than 200.
    Status(u16),
    /// Its answer is not HTTP.
    NotHttp,
    /// No TLS came to be.
    NoTls,
}

impl Failing {
    /// In words, for people.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Denied => "a security group denies AzureLoadBalancer".to_owned(),
            Self::Refused => "it refuses the connection".to_owned(),
            Self::Silent => "no answer in time".to_owned(),
            Self::Status(status) => format!("it answers HTTP {status}"),
            Self::NotHttp => "its answer is not HTTP".to_owned(),
            Self::NoTls => "no TLS with it".to_owned(),
        }
    }

    /// A name for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Status(_) => "status",
            Self::NotHttp => "not_http",
            Self::NoTls => "no_tls",
        }
    }
}

/// What is committed of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Health {
    /// It gets new flows.
    Up,
    /// It gets none.
    Down(Failing),
}

/// A probe and whom it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// As people call it: `load_balancer/probe`, or `instance NAME` for the machine's own.
    pub name: Arc<str>,
    /// How it asks.
    pub ask: Ask,
    /// Which port of the backend.
    pub port: u16,
    /// From one question to the next, and how long an answer may take.
    pub interval_ms: u32,
    /// So many failures in a row are a backend that is down.
    pub threshold: u32,
    /// Whom it asks, ascending, and what is committed of each; `None`: nothing yet.
    pub members: Box<[(BackendId, Option<Health>)]>,
}

impl Probe {
    /// What is committed of a backend.
    #[must_use]
    pub fn health(&self, backend: BackendId) -> Option<Health> {
        let at = self.members.binary_search_by_key(&backend, |(id, _)| *id).ok()?;
        self.members[at].1
    }
}

/// Whose probe says which members of a rule get new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HealthSource {
    /// Nobody's: the rule leads to one instance, for which nobody stands in.
    #[default]
    Nobody,
    /// The rule's own.
    Rule(ProbeId),
    /// That of each member's machine, if it has one.
    Machine,
}

/// A probe, and a backend that it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The probe.
    pub probe: ProbeId,
    /// Whom it asks.
    pub backend: BackendId,
}

/// All probes of a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    /// Each at the place that its id says.
    pub all: Vec<Arc<Probe>>,
    /// Of backends whose machine has a probe of its own: that, which speaks for each address of the machine and asks one.
    pub machines: Arc<Map<BackendId, Asked>>,
}

impl Probes {
    /// One of them.
    #[must_use]
    pub fn get(&self, id: ProbeId) -> Option<&Arc<Probe>> {
        self.all.get(usize::try_from(id.0).ok()?)
    }

    /// Which probe says whether a backend gets new flows, and whom that asks; none: it gets them.
    #[must_use]
    pub fn decisive(&self, source: HealthSource, backend: BackendId) -> Option<Asked> {
        match source {
            HealthSource::Nobody => None,
            HealthSource::Rule(probe) => Some(Asked { probe, backend }),
            HealthSource::Machine => self.machines.get(&backend).copied(),
        }
    }

    /// Whether a backend may get a new flow by a rule. One whose probe has found nothing yet does not (S22).
    #[must_use]
    pub fn is_up(&self, source: HealthSource, backend: BackendId) -> bool {
        let Some(Asked { probe, backend }) = self.decisive(source, backend) else { return true };
        self.get(probe).is_some_and(|probe| probe.health(backend) == Some(Health::Up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(name: &str, members: &[(u32, Option<Health>)]) -> Arc<Probe> {
        let members = members.iter().map(|(id, health)| (BackendId(*id), *health)).collect();
        Arc::new(Probe { name: name.into(), ask: Ask::Tcp, port: 80, interval_ms: 5_000, threshold: 2, members })
    }

    const DOWN: Option<Health> = Some(Health::Down(Failing::Silent));

    #[test]
    fn only_who_is_known_to_be_up_gets_new_flows_where_there_is_a_probe() {
        let all = vec![probe("lb/web", &[(1, Some(Health::Up)), (2, DOWN), (5, None)])];
        let probes = Probes { all, ..Probes::default() };
        let up = |id| probes.is_up(HealthSource::Rule(ProbeId(0)), BackendId(id));
        assert_eq!([1, 2, 5, 6].map(up), [true, false, false, false]);
        assert!(probes.is_up(HealthSource::Nobody, BackendId(2)) && probes.is_up(HealthSource::Machine, BackendId(2)));
        assert!(!probes.is_up(HealthSource::Rule(ProbeId(1)), BackendId(1)));
    }

    #[test]
    fn a_machines_probe_speaks_for_each_of_its_addresses_and_for_no_other_machine() {
        let all = [("lb/web", 1, Some(Health::Up)), ("instance a", 1, DOWN), ("instance b", 3, None)];
        let all = all.map(|(name, id, health)| probe(name, &[(id, health)])).into();
        let of = [(1, 1, 1), (2, 1, 1), (3, 2, 3)];
        let of =
            of.map(|(id, probe, asked)| (BackendId(id), Asked { probe: ProbeId(probe), backend: BackendId(asked) }));
        let probes = Probes { all, machines: Arc::new(of.into_iter().collect()) };
        let up = |id| probes.is_up(HealthSource::Machine, BackendId(id));
        assert_eq!([1, 2, 3, 4].map(up), [false, false, false, true], "the last has no probe");
        assert!(probes.is_up(HealthSource::Rule(ProbeId(0)), BackendId(1)), "a rule with a probe goes by that alone");
        assert!(probes.is_up(HealthSource::Nobody, BackendId(1)));
    }
}
