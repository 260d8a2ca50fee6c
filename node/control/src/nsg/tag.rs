//! Service tags (S32): names for groups of prefixes that users neither make nor change. What a tag means is said by
//! `service_tags` and, for those that depend on a network, by `scope`.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Serialize, Serializer};

use super::deployment::Model;

/// A service tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Tag {
    /// The network's own space, peered networks and on-premises space.
    VirtualNetwork,
    /// Where health probes come from.
    AzureLoadBalancer,
    /// What the public internet reaches outside of that.
    Internet,
    /// The traffic manager's probes.
    AzureTrafficManager,
    /// The storage service of all regions.
    Storage,
    /// That of one.
    StorageIn(Region),
    /// The database service of one region.
    SqlIn(Region),
}

/// A region that has tags of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Region {
    /// Australia East.
    AustraliaEast,
    /// Australia Southeast.
    AustraliaSoutheast,
    /// East US.
    EastUs,
    /// UK South.
    UkSouth,
    /// West Central US.
    WestCentralUs,
    /// West US.
    WestUs,
    /// West US 2.
    WestUs2,
}

impl Region {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::AustraliaEast, "AustraliaEast"),
        (Self::AustraliaSoutheast, "AustraliaSoutheast"),
        (Self::EastUs, "EastUS"),
        (Self::UkSouth, "UKSouth"),
        (Self::WestCentralUs, "WestCentralUS"),
        (Self::WestUs, "WestUS"),
        (Self::WestUs2, "WestUS2"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(region, _)| *region)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(region, _)| *region == self).map_or("", |(_, name)| name)
    }
}

/// Why a name is no tag that a rule may have, though it looks like one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoTag {
    /// `Sql` without a region.
    SqlAlone,
    /// A region that has no tag.
    Region,
    /// It looks like none.
    Unknown,
}

const PLAIN: [(Tag, &str, &str); 5] = [
    (Tag::VirtualNetwork, "VirtualNetwork", "VIRTUAL_NETWORK"),
    (Tag::AzureLoadBalancer, "AzureLoadBalancer", "AZURE_LOADBALANCER"),
    (Tag::Internet, "Internet", "INTERNET"),
    (Tag::AzureTrafficManager, "AzureTrafficManager", "AzureTrafficManager"),
    (Tag::Storage, "Storage", "Storage"),
];

impl Tag {
    /// All that there are, in the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        let regions = |of: fn(Region) -> Self| Region::ALL.iter().map(move |(region, _)| of(*region));
        PLAIN.iter().map(|(tag, ..)| *tag).chain(regions(Self::StorageIn)).chain(regions(Self::SqlIn))
    }

    /// The tag of a name, which is spelled as either model does, in any case.
    pub(crate) fn named(name: &str) -> Result<Self, NoTag> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        if let Some((tag, ..)) = PLAIN.iter().find(|(_, manager, classic)| is(manager) || is(classic)) {
            return Ok(*tag);
        }
        if is("Sql") {
            return Err(NoTag::SqlAlone);
        }
        let (service, region) = name.split_once('.').ok_or(NoTag::Unknown)?;
        let of: fn(Region) -> Self = match service.to_ascii_lowercase().as_str() {
            "storage" => Self::StorageIn,
            "sql" => Self::SqlIn,
            _ => return Err(NoTag::Unknown),
        };
        Region::named(region).map(of).ok_or(NoTag::Region)
    }

    /// Whether a group of the classic model may name it.
    #[must_use]
    pub const fn is_classic(self) -> bool {
        matches!(self, Self::VirtualNetwork | Self::AzureLoadBalancer | Self::Internet)
    }

    /// Whether its prefixes depend on the network in which it is used.
    #[must_use]
    pub const fn is_of_network(self) -> bool {
        matches!(self, Self::VirtualNetwork | Self::Internet)
    }

    /// Its name as a model spells it.
    #[must_use]
    pub fn spelled(self, model: Model) -> String {
        let plain = PLAIN.iter().find(|(tag, ..)| *tag == self).map(|(_, manager, classic)| match model {
            Model::ResourceManager => *manager,
            Model::Classic => *classic,
        });
        match (self, plain) {
            (_, Some(name)) => name.into(),
            (Self::StorageIn(region), None) => format!("Storage.{}", region.name()),
            (Self::SqlIn(region), None) => format!("Sql.{}", region.name()),
            (
                Self::VirtualNetwork
                | Self::AzureLoadBalancer
                | Self::Internet
                | Self::AzureTrafficManager
                | Self::Storage,
                None,
            ) => String::new(),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled(Model::ResourceManager))
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tag_has_its_name_in_either_model_and_any_case() {
        for tag in Tag::all() {
            for model in [Model::ResourceManager, Model::Classic] {
                let name = tag.spelled(model);
                assert_eq!(Tag::named(&name), Ok(tag), "{name}");
                assert_eq!(Tag::named(&name.to_ascii_uppercase()), Ok(tag), "{name}");
            }
        }
        assert_eq!(Tag::all().count(), 19);
        assert_eq!(Tag::named("Sql"), Err(NoTag::SqlAlone));
        assert_eq!(Tag::named("Storage.Nowhere"), Err(NoTag::Region));
        assert_eq!(Tag::named("Mine"), Err(NoTag::Unknown));
        assert_eq!(Tag::Internet.spelled(Model::Classic), "INTERNET");
    }
}
