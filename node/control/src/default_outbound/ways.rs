//! By what each IP configuration gets ports, as it is declared, and who shares a system address. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use crate::resource::{Desired, IpConfiguration};

/// By what an IP configuration gets ports, as it is declared (S3–S5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum Granting {
    /// A pool that a rule links to frontends.
    Pool,
    /// Nothing else: a system address.
    Default,
    /// It would be a system address, and its subnet does not have them (D11).
    Barred,
    /// Nothing: it has an address of its own, and that has all ports.
    #[default]
    Nothing,
}

/// Who shares a system address (D2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Sharers {
    /// The instances of an availability set.
    Set(String),
    /// An instance that is in none.
    Alone(String),
}

impl Desired {
    /// By what an IP configuration gets ports.
    #[must_use]
    pub fn granting_of(&self, ip: &IpConfiguration) -> Granting {
        let network = self.virtual_networks.get(&ip.virtual_network);
        let may = network.and_then(|n| n.subnets.get(&ip.subnet)).is_none_or(|subnet| subnet.default_outbound_access);
        match &ip.pool {
            // A member of a pool that no rule links has this way out, and never none (S3).
            Some(pool) if self.outbound_of(pool).is_some() => Granting::Pool,
            _ if ip.public_ip.is_some() => Granting::Nothing,
            _ if may => Granting::Default,
            _ => Granting::Barred,
        }
    }

    /// With whom an instance shares a system address.
    #[must_use]
    pub fn sharers_of(&self, instance: &str) -> Sharers {
        let set = self.instances.get(instance).and_then(|instance| instance.availability_set.clone());
        set.map_or_else(|| Sharers::Alone(instance.to_owned()), Sharers::Set)
    }
}

/// How many are in each availability set, and how many of these go out by system addresses; of all instances, counted once.
#[derive(Debug, Default)]
pub(crate) struct SetCensus(BTreeMap<Sharers, Count>);

/// The members of one set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    /// Instances, whatever their way out: they pick the tier.
    pub(crate) instances: usize,
    /// IP configurations that go out by the set's address.
    pub(crate) defaulted: usize,
}

impl SetCensus {
    pub(crate) fn of(desired: &Desired) -> Self {
        let mut counts: BTreeMap<Sharers, Count> = BTreeMap::new();
        // A pool has many members.
        let mut linked: BTreeMap<_, bool> = BTreeMap::new();
        for (name, instance) in &desired.instances {
            let count = counts.entry(desired.sharers_of(name)).or_default();
            count.instances += 1;
            for ip in &instance.ip_configurations {
                let in_linked = ip
                    .pool
                    .as_ref()
                    .is_some_and(|pool| *linked.entry(pool).or_insert_with(|| desired.outbound_of(pool).is_some()));
                count.defaulted += usize::from(!in_linked && desired.granting_of(ip) == Granting::Default);
            }
        }
        Self(counts)
    }

    pub(crate) fn of_sharers(&self, sharers: &Sharers) -> Count {
        self.0.get(sharers).copied().unwrap_or_default()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Sharers, Count)> {
        self.0.iter().map(|(sharers, count)| (sharers, *count))
    }
}

/// Names of availability sets that instances name.
pub(crate) fn named_sets(desired: &Desired) -> BTreeSet<&String> {
    desired.instances.values().filter_map(|instance| instance.availability_set.as_ref()).collect()
}
