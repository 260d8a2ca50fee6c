//! Tables of security groups and of what belongs to them.

use control::nsg::answers::{EffectiveRule, EffectiveRules, IpFlow};
use control::nsg::rows::{ApplicationGroupRow, NicRow, Reference, RuleProperties, RuleRow, SecurityGroupRow, TagRow};
use serde_json::json;

use super::grid::{Column, table};

/// A rule, and the name of the group that it is of.
type Of = (String, RuleRow);

const RULES: &[Column<Of>] = &[
    ("group", |(group, _)| json!(group)),
    ("direction", |(_, rule)| json!(rule.properties.direction)),
    ("priority", |(_, rule)| json!(rule.properties.priority)),
    ("rule", |(_, rule)| json!(rule.name)),
    ("access", |(_, rule)| json!(rule.properties.access)),
    ("protocol", |(_, rule)| json!(rule.properties.protocol)),
    ("source", |(_, rule)| json!(sources(&rule.properties))),
    ("ports", |(_, rule)| json!(all(&rule.properties.source_port_range, &rule.properties.source_port_ranges, &[]))),
    ("destination", |(_, rule)| json!(destinations(&rule.properties))),
    ("ports", |(_, rule)| {
        json!(all(&rule.properties.destination_port_range, &rule.properties.destination_port_ranges, &[]))
    }),
    ("never, because of", |(_, rule)| json!(rule.shadowed_by)),
];
pub(super) const NICS: &[Column<NicRow>] = &[
    ("nic", |row| json!(row.nic)),
    ("instance", |row| json!(row.instance)),
    ("subnet", |row| json!(row.subnet)),
    ("addresses", |row| json!(row.addresses)),
    ("security group", |row| json!(row.security_group)),
    ("subnet's", |row| json!(row.subnet_security_group)),
    ("member of", |row| json!(row.application_security_groups)),
];
pub(super) const APPLICATION_GROUPS: &[Column<ApplicationGroupRow>] = &[
    ("group", |row| json!(row.application_security_group)),
    ("network", |row| json!(row.virtual_network)),
    ("nics", |row| json!(row.nics)),
];
pub(super) const TAGS: &[Column<TagRow>] = &[
    ("tag", |row| json!(row.tag)),
    ("classic", |row| json!(row.classic)),
    ("network", |row| json!(row.virtual_network)),
    ("version", |row| json!(row.version)),
    ("prefixes", |row| json!(row.prefixes)),
];

/// One value or several, and groups by their names.
fn all(one: &Option<String>, many: &[String], groups: &[Reference]) -> Vec<String> {
    one.iter().chain(many).cloned().chain(groups.iter().map(|group| group.id.clone())).collect()
}

fn sources(of: &RuleProperties) -> Vec<String> {
    all(&of.source_address_prefix, &of.source_address_prefixes, &of.source_application_security_groups)
}

fn destinations(of: &RuleProperties) -> Vec<String> {
    all(&of.destination_address_prefix, &of.destination_address_prefixes, &of.destination_application_security_groups)
}

/// All groups, rule by rule in the order in which they are judged, and what each group is attached to.
pub(super) fn security_groups(groups: &[SecurityGroupRow]) -> String {
    if groups.is_empty() {
        return "none\n".to_owned();
    }
    let mut rows: Vec<Of> = Vec::new();
    let mut attached = String::new();
    for group in groups {
        let properties = &group.properties;
        let mut all: Vec<&RuleRow> =
            properties.security_rules.iter().chain(&properties.default_security_rules).collect();
        // Within a direction rules of users come before the default ones by their priority.
        all.sort_by_key(|rule| (rule.properties.direction.clone(), rule.properties.priority));
        rows.extend(all.into_iter().map(|rule| (group.name.clone(), rule.clone())));
        let places = properties.subnets.iter().chain(&properties.network_interfaces).chain(&properties.instances);
        let places: Vec<&str> = places.map(|place| place.id.as_str()).collect();
        let at = if places.is_empty() { "nothing".to_owned() } else { places.join(", ") };
        attached += &format!("{} ({}): attached to {at}\n", group.name, group.model);
    }
    table(&rows, RULES) + "\n" + &attached
}

/// A rule that judges an interface, and the name of its group.
type Effective = (String, EffectiveRule);

const EFFECTIVE: &[Column<Effective>] = &[
    ("group", |(group, _)| json!(group)),
    ("direction", |(_, rule)| json!(rule.properties.direction)),
    ("priority", |(_, rule)| json!(rule.properties.priority)),
    ("rule", |(_, rule)| json!(rule.name)),
    ("access", |(_, rule)| json!(rule.properties.access)),
    ("protocol", |(_, rule)| json!(rule.properties.protocol)),
    ("source", |(_, rule)| json!(sources(&rule.properties))),
    ("which is", |(_, rule)| json!(rule.expanded_source_address_prefix)),
    ("destination", |(_, rule)| json!(destinations(&rule.properties))),
    ("which is", |(_, rule)| json!(rule.expanded_destination_address_prefix)),
    ("ports", |(_, rule)| {
        json!(all(&rule.properties.destination_port_range, &rule.properties.destination_port_ranges, &[]))
    }),
    ("hits", |(_, rule)| json!(rule.hits)),
];

/// The rules of both groups, the subnet's first.
pub(super) fn effective_rules(told: &EffectiveRules) -> String {
    let rows: Vec<Effective> = told
        .value
        .iter()
        .flat_map(|group| {
            let rules = group.effective_security_rules.iter().cloned();
            rules.map(|rule| (group.network_security_group.id.clone(), rule))
        })
        .collect();
    if rows.is_empty() {
        return "no security group judges it: everything is allowed\n".to_owned();
    }
    let mut text = table(&rows, EFFECTIVE);
    if !told.silent.is_empty() {
        let silent: Vec<String> = told.silent.iter().map(|node| format!("n{node}")).collect();
        text += &format!("{} did not answer: hits that they have counted are missing\n", silent.join(", "));
    }
    if let Some(lost) = told.hits_lost {
        text += &format!("{lost} hits found no room and stand with no rule\n");
    }
    text
}

/// The verdict on a packet, and who decided.
pub(super) fn ip_flow(told: &IpFlow) -> String {
    let by = match (&told.network_security_group, told.rule_name.as_str()) {
        (None, _) => "no security group judges it".to_owned(),
        (Some(group), rule) => {
            let priority = told.priority.map_or_else(String::new, |priority| format!(", priority {priority}"));
            let place = told.association.as_deref().unwrap_or("nothing");
            format!("by {rule}{priority}, of security group {group} of the {place}")
        }
    };
    format!("{}: {by}\n", told.access)
}
