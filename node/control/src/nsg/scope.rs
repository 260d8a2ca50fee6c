//! What the words of a rule mean in one virtual network: two tags depend on it, and so do the addresses of members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::nsg::Range;
use words::Prefix;

use super::model::Addresses;
use super::ranges::{joined, minus, of_prefixes};
use super::service_tags::{METADATA_ADDRESS, PLATFORM_ADDRESS, ServiceTags};
use super::tag::Tag;
use crate::resource::Desired;

/// Space that no network of the internet has: this host, private space (RFC 1918, RFC 6598), links, groups and what is reserved.
const NOT_PUBLIC: [([u8; 4], u8); 8] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 168, 0, 0], 16),
    ([224, 0, 0, 0], 3),
];

/// Which side of a rule an address stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Who sends.
    Source,
    /// Whom it is for.
    Destination,
}

/// One virtual network's meaning of rules.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'a> {
    tags: &'a ServiceTags,
    members: &'a Members<'a>,
    /// Its own name and those of the networks that it is connected to: members elsewhere cannot be meant, who may have the same
    /// addresses.
    reached: BTreeSet<&'a str>,
    network: Vec<Range>,
    /// The same with the platform's own addresses, which answer in every network.
    network_and_platform: Vec<Range>,
    internet: Vec<Range>,
}

/// The members of application security groups: the network that all of a group's are in, and their addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members<'a>(BTreeMap<&'a str, (&'a str, Vec<Range>)>);

impl<'a> Members<'a> {
    pub(crate) fn of(desired: &'a Desired) -> Self {
        let mut all: BTreeMap<&str, (&str, Vec<Range>)> = BTreeMap::new();
        for ip in desired.instances.values().flat_map(|instance| &instance.ip_configurations) {
            let Some(nic) = ip.nic.as_ref().and_then(|nic| desired.nics.get(nic)) else { continue };
            for group in &nic.application_security_groups {
                let (_, addresses) = all.entry(group).or_insert((&nic.virtual_network, Vec::new()));
                addresses.push(Range::one(ip.private_ip.to_bits()));
            }
        }
        all.values_mut().for_each(|(_, addresses)| *addresses = joined(std::mem::take(addresses)));
        Self(all)
    }
}

impl<'a> Scope<'a> {
    pub(crate) fn of(desired: &'a Desired, network: &'a str, tags: &'a ServiceTags, members: &'a Members<'a>) -> Self {
        let peers: Vec<_> = desired.connected(network).collect();
        let own = desired.virtual_networks.get(network);
        let on_premises = own.into_iter().flat_map(|own| own.on_premises.iter().copied());
        let spaces = own.into_iter().chain(peers.iter().map(|(_, peer)| *peer)).flat_map(|network| network.space());
        let ranges = of_prefixes(spaces.chain(on_premises));
        let platform = [PLATFORM_ADDRESS, METADATA_ADDRESS].map(|address| Range::one(address.to_bits()));
        let network_and_platform = joined(ranges.iter().chain(&platform).copied().collect());
        let not_public = of_prefixes(NOT_PUBLIC.map(|(network, len)| Prefix { network: Ipv4Addr::from(network), len }));
        // Who declares a private network as the outside one means it.
        let outside = of_prefixes([desired.outside.network]);
        let public = minus(&[Range { first: 0, last: u32::MAX }], &minus(&not_public, &outside));
        Self {
            tags,
            members,
            reached: peers.into_iter().map(|(name, _)| name.as_str()).chain([network]).collect(),
            internet: minus(&public, &network_and_platform),
            network: ranges,
            network_and_platform,
        }
    }

    /// The addresses of a tag.
    pub(crate) fn of_tag(&self, tag: Tag, end: End) -> Vec<Range> {
        match (tag, end) {
            // The platform's own addresses are reached as the network is. What comes from them is a probe, not a neighbour.
            (Tag::VirtualNetwork, End::Source) => self.network.clone(),
            (Tag::VirtualNetwork, End::Destination) => self.network_and_platform.clone(),
            (Tag::Internet, _) => self.internet.clone(),
            (
                Tag::AzureLoadBalancer | Tag::AzureTrafficManager | Tag::Storage | Tag::StorageIn(_) | Tag::SqlIn(_),
                _,
            ) => of_prefixes(self.tags.of(tag)),
        }
    }

    /// The addresses of a field; `None`: any. An empty list is nobody.
    pub(crate) fn resolve(&self, addresses: &Addresses, end: End) -> Option<Vec<Range>> {
        Some(match addresses {
            Addresses::Any => return None,
            Addresses::Prefixes(prefixes) => of_prefixes(prefixes.iter().copied()),
            Addresses::Tag(tag) => self.of_tag(*tag, end),
            Addresses::Members(group) => match self.members.0.get(group.as_str()) {
                Some((network, addresses)) if self.reached.contains(network) => addresses.clone(),
                Some(_) | None => Vec::new(),
            },
        })
    }
}
