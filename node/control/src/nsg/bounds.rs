//! How much there may be of security groups and what belongs to them (S44). `limits` derives lengths from these.

/// Most security groups of a cluster.
pub const SECURITY_GROUPS_MAX: usize = 1_000;
/// Most rules of a group, its six default ones aside.
pub const RULES_PER_GROUP_MAX: usize = 1_000;
/// Most rules of all groups together.
pub const RULES_MAX: usize = 65_536;
/// Most addresses and prefixes in a field of a rule.
pub const RULE_PREFIXES_MAX: usize = 1_000;
/// Most ports and ranges of ports in a field of a rule.
pub const RULE_PORTS_MAX: usize = 250;
/// Most addresses, prefixes, ports and ranges in all rules together.
pub const RULE_VALUES_MAX: usize = 262_144;
/// Most network interfaces.
pub const NICS_MAX: usize = 32_768;
/// Most application security groups.
pub const APPLICATION_GROUPS_MAX: usize = 1_000;
/// Most application security groups that a network interface is a member of.
pub const GROUPS_PER_NIC_MAX: usize = 20;
/// Most members of an application security group.
pub const MEMBERS_PER_GROUP_MAX: usize = 4_096;
/// Most memberships of all network interfaces together.
pub const MEMBERSHIPS_MAX: usize = 65_536;
/// Most peerings of a virtual network.
pub const PEERINGS_MAX: usize = 32;
/// Most on-premises prefixes of a virtual network.
pub const ON_PREMISES_MAX: usize = 32;
/// Most prefixes of all service tags together.
pub const TAG_PREFIXES_MAX: usize = 16_384;

// In its network and in another one a group may have this many ranges; the packet path has room for the rules of one direction.
const _: () = assert!(RULES_PER_GROUP_MAX + 3 <= engine::nsg::RULES_MAX);
