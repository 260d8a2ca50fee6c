//! Tables of security groups and of what belongs to them.

use control::nsg::rows::{RuleProperties, RuleRow, SecurityGroupRow};
use serde_json::{Value, json};

use super::grid::{Column, table};

/// Rules of groups, one by one.
pub(super) const RULES: &[Column] = &[
    ("group", "/group"),
    ("direction", "/direction"),
    ("priority", "/priority"),
    ("rule", "/name"),
    ("access", "/access"),
    ("protocol", "/protocol"),
    ("source", "/source"),
    ("ports", "/source_ports"),
    ("destination", "/destination"),
    ("ports", "/destination_ports"),
    ("never, because of", "/shadowed_by"),
];
pub(super) const NICS: &[Column] = &[
    ("nic", "/nic"),
    ("instance", "/instance"),
    ("subnet", "/subnet"),
    ("addresses", "/addresses"),
    ("security group", "/security_group"),
    ("subnet's", "/subnet_security_group"),
    ("member of", "/application_security_groups"),
];
pub(super) const APPLICATION_GROUPS: &[Column] =
    &[("group", "/application_security_group"), ("network", "/virtual_network"), ("nics", "/nics")];
pub(super) const TAGS: &[Column] = &[
    ("tag", "/tag"),
    ("classic", "/classic"),
    ("network", "/virtual_network"),
    ("version", "/version"),
    ("prefixes", "/prefixes"),
];

/// All groups, rule by rule in the order in which they are judged, and what each group is attached to.
pub(super) fn security_groups(answer: &Value) -> String {
    let Ok(groups) = serde_json::from_value::<Vec<SecurityGroupRow>>(answer.clone()) else {
        return format!("groups of another version:\n{answer}\n");
    };
    if groups.is_empty() {
        return "none\n".to_owned();
    }
    let mut rows = Vec::new();
    let mut attached = String::new();
    for group in &groups {
        let properties = &group.properties;
        let mut all: Vec<&RuleRow> =
            properties.security_rules.iter().chain(&properties.default_security_rules).collect();
        // By direction; within one, rules of users come before the default ones by their priority.
        all.sort_by(|a, b| {
            let key = |row: &RuleRow| (row.properties.direction.clone(), row.properties.priority);
            key(a).cmp(&key(b))
        });
        rows.extend(all.into_iter().map(|rule| rule_cells(&group.name, rule)));
        let places = properties.subnets.iter().chain(&properties.network_interfaces).chain(&properties.instances);
        let places: Vec<&str> = places.map(|place| place.id.as_str()).collect();
        let at = if places.is_empty() { "nothing".to_owned() } else { places.join(", ") };
        attached += &format!("{} ({}): attached to {at}\n", group.name, group.model);
    }
    table(&rows, RULES) + "\n" + &attached
}

fn rule_cells(group: &str, rule: &RuleRow) -> Value {
    let RuleProperties { protocol, access, priority, direction, .. } = &rule.properties;
    let of = &rule.properties;
    let one_or_many = |one: &Option<String>, many: &[String]| one.iter().chain(many).cloned().collect::<Vec<String>>();
    let mut source = one_or_many(&of.source_address_prefix, &of.source_address_prefixes);
    source.extend(of.source_application_security_groups.iter().map(|group| group.id.clone()));
    let mut destination = one_or_many(&of.destination_address_prefix, &of.destination_address_prefixes);
    destination.extend(of.destination_application_security_groups.iter().map(|group| group.id.clone()));
    json!({
        "group": group, "name": rule.name, "direction": direction, "priority": priority, "access": access,
        "protocol": protocol, "source": source, "destination": destination, "shadowed_by": rule.shadowed_by,
        "source_ports": one_or_many(&of.source_port_range, &of.source_port_ranges),
        "destination_ports": one_or_many(&of.destination_port_range, &of.destination_port_ranges),
    })
}
