//! Tables of security groups and of what belongs to them.

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
