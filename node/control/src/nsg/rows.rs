//! What people and programs see of security groups: `qnat get …`. Groups and rules have the names and the shape of Azure Resource
//! Manager's, so that tools written for those read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use words::Prefix;

use super::defaults;
use super::model::{Access, Addresses, Direction, Model, Protocol, Rule, SecurityGroup, port_words};
use super::ranges;
use super::scope::{End, Members, Scope};
use super::shadow::shadowed;
use super::tag::Tag;
use crate::resource::Desired;
use crate::state::State;

/// `qnat get security-groups`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecurityGroupRow {
    /// Its name.
    pub name: String,
    /// `resource_manager` or `classic`.
    pub model: String,
    /// The rest, as Resource Manager has it.
    pub properties: GroupProperties,
}

/// What a group has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupProperties {
    /// Rules of users, in the order in which they are judged.
    pub security_rules: Vec<RuleRow>,
    /// Rules that every group has.
    pub default_security_rules: Vec<RuleRow>,
    /// What it is attached to: `virtual_network/subnet`.
    pub subnets: Vec<Reference>,
    /// Network interfaces.
    pub network_interfaces: Vec<Reference>,
    /// Instances (classic).
    pub instances: Vec<Reference>,
}

/// Something by its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub id: String,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// The rest.
    pub properties: RuleProperties,
    /// The earlier rule because of which it can never match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadowed_by: Option<String>,
}

/// What a rule says. One value stands in the singular field, several in the plural one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleProperties {
    /// `Tcp`, `Udp` or `*`.
    pub protocol: String,
    /// A port, a range or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port_range: Option<String>,
    /// Several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_port_ranges: Vec<String>,
    /// As the sources'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port_range: Option<String>,
    /// Several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_port_ranges: Vec<String>,
    /// A network, a tag or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address_prefix: Option<String>,
    /// Several networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_address_prefixes: Vec<String>,
    /// A network, a tag or `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_address_prefix: Option<String>,
    /// Several networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_address_prefixes: Vec<String>,
    /// An application security group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_application_security_groups: Vec<Reference>,
    /// An application security group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_application_security_groups: Vec<Reference>,
    /// `Allow` or `Deny`.
    pub access: String,
    /// Lower first.
    pub priority: u16,
    /// `Inbound` or `Outbound`.
    pub direction: String,
}

/// `qnat get nics`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NicRow {
    /// Its name; `instance/ip_configuration` if it is not declared.
    pub nic: String,
    /// Its instance, if an address of one belongs to it.
    pub instance: Option<String>,
    /// `virtual_network/subnet`.
    pub subnet: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its security group, or its instance's in the classic model.
    pub security_group: Option<String>,
    /// That of its subnet.
    pub subnet_security_group: Option<String>,
    /// The application security groups that it is a member of.
    pub application_security_groups: Vec<String>,
}

/// `qnat get application-security-groups`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApplicationGroupRow {
    /// Its name.
    pub application_security_group: String,
    /// The virtual network that its members are in.
    pub virtual_network: Option<String>,
    /// Its members.
    pub nics: Vec<String>,
}

/// `qnat get service-tags`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagRow {
    /// Its name.
    pub tag: String,
    /// How the classic model spells it, if it knows it.
    pub classic: Option<String>,
    /// The virtual network in which it has these prefixes, if they depend on that.
    pub virtual_network: Option<String>,
    /// The version of the platform's file; 0 before there is one.
    pub version: u64,
    /// Its prefixes.
    pub prefixes: Vec<String>,
}

impl RuleProperties {
    /// Those of a rule, as a model spells them.
    #[must_use]
    pub fn of(rule: &Rule, model: Model) -> Self {
        let mut row = Self {
            protocol: match rule.protocol {
                Protocol::Tcp => "Tcp",
                Protocol::Udp => "Udp",
                Protocol::Any => "*",
            }
            .into(),
            access: match rule.access {
                Access::Allow => "Allow",
                Access::Deny => "Deny",
            }
            .into(),
            priority: rule.priority,
            direction: direction_word(rule.direction).into(),
            ..Self::default()
        };
        (row.source_port_range, row.source_port_ranges) = one_or_many(port_words(&rule.source_ports));
        (row.destination_port_range, row.destination_port_ranges) = one_or_many(port_words(&rule.destination_ports));
        if let Addresses::Members(group) = &rule.source {
            row.source_application_security_groups.push(Reference { id: group.clone() });
        } else {
            let words = rule.source.words(model);
            (row.source_address_prefix, row.source_address_prefixes) = one_or_many(words);
        }
        if let Addresses::Members(group) = &rule.destination {
            row.destination_application_security_groups.push(Reference { id: group.clone() });
        } else {
            let words = rule.destination.words(model);
            (row.destination_address_prefix, row.destination_address_prefixes) = one_or_many(words);
        }
        row
    }
}

/// `Inbound` or `Outbound`.
#[must_use]
pub const fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "Inbound",
        Direction::Outbound => "Outbound",
    }
}

fn one_or_many(mut values: Vec<String>) -> (Option<String>, Vec<String>) {
    match values.len() {
        1 => (values.pop(), Vec::new()),
        _ => (None, values),
    }
}

/// All security groups, each with its default rules.
#[must_use]
pub fn security_groups(state: &State) -> Vec<SecurityGroupRow> {
    let desired = state.desired();
    let mut attached = attachments(desired);
    let row = |(name, group): (&String, &SecurityGroup)| SecurityGroupRow {
        name: name.clone(),
        model: group.model.to_string(),
        properties: GroupProperties {
            security_rules: rule_rows(group),
            default_security_rules: default_rows(group.model),
            ..attached.remove(name.as_str()).unwrap_or_default()
        },
    };
    desired.security_groups.iter().map(row).collect()
}

fn rule_rows(group: &SecurityGroup) -> Vec<RuleRow> {
    let shadowed = shadowed(group);
    let row = |(name, rule): (&String, &Rule)| RuleRow {
        name: name.clone(),
        properties: RuleProperties::of(rule, group.model),
        shadowed_by: shadowed.get(name.as_str()).map(|by| (*by).to_owned()),
    };
    let mut rules: Vec<(&String, &Rule)> = group.rules.iter().collect();
    rules.sort_by_key(|(_, rule)| (rule.direction, rule.priority));
    rules.into_iter().map(row).collect()
}

fn default_rows(model: Model) -> Vec<RuleRow> {
    let row = |default: defaults::DefaultRule| RuleRow {
        name: default.name.into(),
        properties: RuleProperties::of(&default.rule, model),
        shadowed_by: None,
    };
    defaults::all().into_iter().map(row).collect()
}

/// By group, what it is attached to.
fn attachments(desired: &Desired) -> BTreeMap<&str, GroupProperties> {
    let mut all: BTreeMap<&str, GroupProperties> = BTreeMap::new();
    let reference = |id: String| Reference { id };
    for (name, network) in &desired.virtual_networks {
        for (subnet, group) in network.subnets.iter().filter_map(|(s, at)| Some((s, at.security_group.as_ref()?))) {
            all.entry(group).or_default().subnets.push(reference(format!("{name}/{subnet}")));
        }
    }
    for (name, group) in desired.nics.iter().filter_map(|(name, nic)| Some((name, nic.security_group.as_ref()?))) {
        all.entry(group).or_default().network_interfaces.push(reference(name.clone()));
    }
    for (name, group) in desired.instances.iter().filter_map(|(name, i)| Some((name, i.security_group.as_ref()?))) {
        all.entry(group).or_default().instances.push(reference(name.clone()));
    }
    all
}

/// All network interfaces, those that are nowhere declared too.
#[must_use]
pub fn nics(state: &State) -> Vec<NicRow> {
    let desired = state.desired();
    let of_subnet = |network: &str, subnet: &str| -> Option<String> {
        desired.virtual_networks.get(network)?.subnets.get(subnet)?.security_group.clone()
    };
    let row = |nic: String, network: &str, subnet: &str| NicRow {
        nic,
        instance: None,
        subnet: format!("{network}/{subnet}"),
        addresses: Vec::new(),
        security_group: None,
        subnet_security_group: of_subnet(network, subnet),
        application_security_groups: Vec::new(),
    };
    let declared = desired.nics.iter().map(|(name, nic)| {
        let mut row = row(name.clone(), &nic.virtual_network, &nic.subnet);
        row.security_group.clone_from(&nic.security_group);
        row.application_security_groups = nic.application_security_groups.iter().cloned().collect();
        (name.clone(), row)
    });
    let mut rows: BTreeMap<String, NicRow> = declared.collect();
    for (name, instance) in &desired.instances {
        for ip in &instance.ip_configurations {
            let card = ip.nic.clone().unwrap_or_else(|| format!("{name}/{}", ip.name));
            let row = rows.entry(card.clone()).or_insert_with(|| row(card, &ip.virtual_network, &ip.subnet));
            row.instance = Some(name.clone());
            row.addresses.push(ip.private_ip.to_string());
            if instance.security_group.is_some() {
                row.security_group.clone_from(&instance.security_group);
            }
        }
    }
    rows.into_values().collect()
}

/// All application security groups.
#[must_use]
pub fn application_security_groups(state: &State) -> Vec<ApplicationGroupRow> {
    let desired = state.desired();
    let row = |name: &String| ApplicationGroupRow {
        application_security_group: name.clone(),
        virtual_network: None,
        nics: Vec::new(),
    };
    let mut rows: BTreeMap<&str, ApplicationGroupRow> =
        desired.application_security_groups.iter().map(|name| (name.as_str(), row(name))).collect();
    for (name, nic) in &desired.nics {
        for group in &nic.application_security_groups {
            if let Some(row) = rows.get_mut(group.as_str()) {
                row.virtual_network = Some(nic.virtual_network.clone());
                row.nics.push(name.clone());
            }
        }
    }
    rows.into_values().collect()
}

/// All service tags and their prefixes, those that depend on the network for each.
#[must_use]
pub fn service_tags(state: &State) -> Vec<TagRow> {
    let (desired, tags) = (state.desired(), state.service_tags());
    let members = Members::default();
    let mut rows = Vec::new();
    for tag in Tag::all() {
        let row = |virtual_network, prefixes: Vec<Prefix>| TagRow {
            tag: tag.to_string(),
            classic: tag.is_classic().then(|| tag.spelled(Model::Classic)),
            virtual_network,
            version: tags.version,
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
        };
        if !tag.is_of_network() {
            rows.push(row(None, tags.of(tag)));
            continue;
        }
        for name in desired.virtual_networks.keys() {
            let ranges = Scope::of(desired, name, tags, &members).of_tag(tag, End::Destination);
            rows.push(row(Some(name.clone()), ranges::prefixes(&ranges)));
        }
    }
    rows
}
