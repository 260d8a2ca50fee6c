//! Security groups, network interfaces and application security groups in the configuration file: what is taken, and what is
//! refused with field, value, rule and remedy.

mod support;

use qnat_control::command::CommandBody;
use qnat_control::config::parse;
use qnat_control::nsg::answers::{self, FlowProtocol, FlowQuestion};
use qnat_control::nsg::model::{Addresses, Direction, Model, Ports, Protocol};
use qnat_control::nsg::rows;
use qnat_control::nsg::service_tags::ServiceTags;
use qnat_control::nsg::shadow::shadowed;
use qnat_control::nsg::tag::{Region, Tag};
use qnat_control::probing::model::{Probe, ProbeProtocol};
use qnat_control::resource::{Desired, Prefix};
use qnat_control::{plan, view};
use support::Cluster;

/// Two networks, an instance in each, and what a test adds.
const NETWORKS: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"
[[virtual_network]]
name = "vnet2"
[[virtual_network.subnet]]
name = "default"
prefix = "10.1.0.0/16"
gateway = "10.1.0.1"
[[instance]]
name = "b1"
[[instance.ip_configuration]]
name = "ipconfig1"
private_ip = "10.0.1.1"
nic = "NIC1"
[[nic]]
name = "nic1"
subnet = "vnet1/default"
security_group = "NSG1"
application_security_groups = ["webservers"]
[[application_security_group]]
name = "WebServers"
[[security_group]]
name = "nsg1"
"#;

fn good(more: &str) -> Desired {
    parse("net.toml", &format!("{NETWORKS}{more}")).unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[track_caller]
fn refused(more: &str, wanted: &str) {
    let errors = parse("net.toml", &format!("{NETWORKS}{more}")).expect_err("refused");
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(all.iter().any(|error| error.contains(wanted)), "{wanted:?} is not in {all:#?}");
}

/// A rule of the group nsg1 with these fields besides.
fn rule(name: &str, priority: u16, fields: &str) -> String {
    format!(
        "[[security_group.rule]]\nname = \"{name}\"\npriority = {priority}\ndirection = \"inbound\"\naccess = \"allow\"\n{fields}\n"
    )
}

/// The same where the test says the direction too.
fn any_rule(fields: &str) -> String {
    format!("[[security_group.rule]]\n{fields}\n")
}

#[test]
fn references_find_names_in_any_case_and_an_address_is_where_its_interface_is() {
    let desired =
        good(&rule("web", 100, "source = \"INTERNET\"\ndestination = \"WEBSERVERS\"\ndestination_ports = [80]"));
    let ip = &desired.instances["b1"].ip_configurations[0];
    assert_eq!(
        (ip.nic.as_deref(), ip.virtual_network.as_str(), ip.subnet.as_str()),
        (Some("nic1"), "vnet1", "default")
    );
    assert_eq!(desired.nics["nic1"].security_group.as_deref(), Some("nsg1"));
    assert!(desired.nics["nic1"].application_security_groups.contains("WebServers"));
    let web = &desired.security_groups["nsg1"].rules["web"];
    assert_eq!(
        (&web.source, &web.destination),
        (&Addresses::Tag(Tag::Internet), &Addresses::Members("WebServers".into()))
    );
    assert_eq!((web.protocol, web.direction), (Protocol::Any, Direction::Inbound));
    assert_eq!(web.destination_ports, [Ports { first: 80, last: 80 }]);
}

#[test]
fn names_that_differ_in_case_alone_are_one_name() {
    refused(
        "[[nic]]\nname = \"Nic1\"\nsubnet = \"vnet1/default\"\n",
        "nic.nic1.name = nic1: differs from Nic1 in case alone",
    );
    let twice = rule("web", 100, "") + &rule("WEB", 101, "");
    refused(&twice, "security_group.nsg1.rule.web.name = web: differs from WEB in case alone");
    refused("[[security_group]]\nname = \"NSG1\"\n", "differs from NSG1 in case alone");
    refused(
        "[[application_security_group]]\nname = \"internet\"\n",
        "is what rules call something else: a service tag, or any",
    );
}

#[test]
fn a_rule_takes_priorities_from_100_to_4096_each_once_in_a_direction() {
    good(&(rule("first", 100, "") + &rule("last", 4_096, "")));
    for priority in [0, 99, 4_097, 65_000] {
        let wanted = format!("security_group.nsg1.rule.a.priority = {priority}: is out of range; use 100 to 4096");
        refused(&rule("a", priority, ""), &wanted);
    }
    let outbound = any_rule("name = \"b\"\npriority = 200\ndirection = \"Outbound\"\naccess = \"Deny\"");
    let both = good(&(rule("a", 200, "") + &outbound));
    assert_eq!(both.security_groups["nsg1"].rules.len(), 2, "priorities are of a direction");
    refused(&(rule("a", 200, "") + &rule("b", 200, "")), "rule.b.priority = 200: is already the priority of rule a");
    refused(&any_rule("name = \"a\"\ndirection = \"inbound\"\naccess = \"allow\""), "rule.a.priority: is missing");
    refused(
        &any_rule("name = \"a\"\npriority = 100\naccess = \"allow\""),
        "rule.a.direction: is missing; add direction",
    );
    refused(
        &any_rule("name = \"a\"\npriority = 100\ndirection = \"both\"\naccess = \"allow\""),
        "= both: is not a known choice",
    );
}

#[test]
fn default_rules_are_nobodys_to_change_or_take_away() {
    refused(
        &rule("denyallinbound", 100, ""),
        "is the name of the default rule DenyAllInbound, which nobody changes or takes away",
    );
    refused(&rule("AllowInternetOutBound", 100, ""), "any that users write comes before the default ones");
}

#[test]
fn a_protocol_is_tcp_udp_or_any_and_icmp_alone_is_refused_with_what_includes_it() {
    for (text, protocol) in
        [("tcp", Protocol::Tcp), ("UDP", Protocol::Udp), ("any", Protocol::Any), ("*", Protocol::Any)]
    {
        let desired = good(&rule("a", 100, &format!("protocol = \"{text}\"")));
        assert_eq!(desired.security_groups["nsg1"].rules["a"].protocol, protocol);
    }
    refused(&rule("a", 100, "protocol = \"icmp\""), "rule.a.protocol = icmp: cannot stand alone");
    refused(&rule("a", 100, "protocol = \"icmp\""), "any, which includes ICMP; write \"any\"");
    refused(&rule("a", 100, "protocol = \"gre\""), "rule.a.protocol = gre: is not a known choice");
}

#[test]
fn a_field_takes_several_addresses_and_ports_but_one_tag_or_group_alone() {
    let fields =
        "source = [\"192.0.2.1\", \"192.0.2.7\", \"198.51.100.0/24\"]\ndestination_ports = [80, 443, \"10000-10005\"]";
    let desired = good(&rule("a", 100, fields));
    let a = &desired.security_groups["nsg1"].rules["a"];
    let words = a.source.words(Model::ResourceManager);
    assert_eq!(words, ["192.0.2.1/32", "192.0.2.7/32", "198.51.100.0/24"]);
    assert_eq!(a.destination_ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80", "443", "10000-10005"]);
    let desired = good(&rule("a", 100, "source = \"0.0.0.0/0\"\nsource_ports = \"0-65535\"\ndestination = \"*\""));
    let a = &desired.security_groups["nsg1"].rules["a"];
    assert_eq!((&a.source, &a.destination, a.source_ports.len()), (&Addresses::Any, &Addresses::Any, 0), "any");
    for list in ["[\"Internet\", \"Storage\"]", "[\"WebServers\", \"Internet\"]", "[\"10.0.0.1\", \"Internet\"]"] {
        refused(&rule("a", 100, &format!("source = {list}")), "a tag, a group or \"any\" only alone");
    }
    refused(
        &rule("a", 100, "source = \"10.0.0.1/24\""),
        "rule.a.source = 10.0.0.1/24: has host bits set; write 10.0.0.0/24",
    );
    for ports in ["\"80-\"", "\"90-80\"", "\"http\"", "65536", "[80, \"any\"]"] {
        refused(&rule("a", 100, &format!("destination_ports = {ports}")), "rule.a.destination_ports");
    }
    refused(&rule("a", 100, "source = []"), "rule.a.source");
}

#[test]
fn tags_are_those_of_the_platform_and_a_service_without_one_for_all_regions_wants_its_region() {
    for tag in ["Internet", "storage", "Storage.EastUS", "Sql.WestUS2", "AzureTrafficManager", "VIRTUAL_NETWORK"] {
        good(&rule("a", 100, &format!("source = \"{tag}\"")));
    }
    refused(&rule("a", 100, "source = \"Sql\""), "rule.a.source = Sql: has a tag in each region only; name the region");
    refused(
        &rule("a", 100, "source = \"Storage.Mars\""),
        "= Storage.Mars: is no service tag; use one of: VirtualNetwork",
    );
    refused(
        &rule("a", 100, "source = \"Mine\""),
        "rule.a.source = Mine: is no address, network, service tag or application",
    );
    refused(&rule("a", 100, "source = \"Mine\""), "users make no tags");
}

/// A group of the classic model with a rule of these fields, attached to the subnet of vnet2.
fn classic(fields: &str) -> String {
    format!("[[security_group]]\nname = \"old\"\nmodel = \"classic\"\n{}", rule("a", 100, fields))
}

#[test]
fn a_classic_group_takes_one_value_in_a_field_and_its_own_tags() {
    let desired = good(&classic("source = \"INTERNET\"\ndestination_ports = \"80-90\""));
    let a = &desired.security_groups["old"].rules["a"];
    assert_eq!(a.source.words(Model::Classic), ["INTERNET"]);
    refused(&classic("source = [\"192.0.2.1\", \"192.0.2.2\"]"), "old.rule.a.source = [2 items]: has several values");
    refused(&classic("destination_ports = [80, 443]"), "old.rule.a.destination_ports = [2 items]: has several values");
    refused(&classic("source = \"Storage\""), "rule.a.source = Storage: is a tag of the model resource_manager only");
    refused(
        &classic("source = \"WebServers\""),
        "is an application security group, which the classic model does not know",
    );
}

#[test]
fn each_model_attaches_to_what_it_knows() {
    let vm = |group: &str| {
        format!(
            "[[instance]]\nname = \"b2\"\nsecurity_group = \"{group}\"\n[[instance.ip_configuration]]\nname = \"c\"\n\
             private_ip = \"10.1.1.1\"\nsubnet = \"vnet2/default\"\n{}",
            classic("")
        )
    };
    assert_eq!(good(&vm("OLD")).instances["b2"].security_group.as_deref(), Some("old"));
    refused(
        &vm("nsg1"),
        "instance.b2.security_group = nsg1: is of the model resource_manager, which attaches to subnets and",
    );
    refused(
        &vm("none"),
        "instance.b2.security_group = none: is no security_group; declare it, or use one of: nsg1, old",
    );
    let card = "[[nic]]\nname = \"nic2\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"old\"\n";
    refused(&format!("{card}{}", classic("")), "nic.nic2.security_group = old: is of the classic model");
    let both =
        format!("{}\n{}", NETWORKS.replace("name = \"b1\"", "name = \"b1\"\nsecurity_group = \"old\""), classic(""));
    let errors = parse("net.toml", &both).expect_err("refused");
    assert!(
        errors[0]
            .to_string()
            .contains("instance.b1.security_group = old: stands in the place of the security_group that nic.nic1 has")
    );
    let subnet = NETWORKS.replace("gateway = \"10.1.0.1\"", "gateway = \"10.1.0.1\"\nsecurity_group = \"Old\"");
    let desired = parse("net.toml", &format!("{subnet}\n{}", classic(""))).expect("a subnet takes either");
    assert_eq!(desired.virtual_networks["vnet2"].subnets["default"].security_group.as_deref(), Some("old"));
}

#[test]
fn an_interface_is_of_one_instance_and_where_its_addresses_are() {
    let other = |fields: &str| {
        format!(
            "[[instance]]\nname = \"b2\"\n[[instance.ip_configuration]]\nname = \"c\"\nprivate_ip = \"10.0.1.2\"\n{fields}\n"
        )
    };
    refused(
        &other("nic = \"nic1\""),
        "instance.b2.ip_configuration.c.nic = nic1: is already an interface of instance.b1",
    );
    refused(
        &other("nic = \"nic9\"\nsubnet = \"vnet1/default\""),
        "c.nic = nic9: is no nic; declare it, or use one of: nic1",
    );
    refused(&other("nic = \"nic9\""), "instance.b2.ip_configuration.c.subnet: is missing");
    let elsewhere = "[[nic]]\nname = \"nic2\"\nsubnet = \"vnet2/default\"\n";
    refused(&(other("nic = \"nic2\"\nsubnet = \"vnet1/default\"") + elsewhere), "c.nic = nic2: is in vnet2/default");
    refused("[[nic]]\nname = \"nic2\"\nsubnet = \"vnet1/none\"\n", "nic.nic2.subnet = vnet1/none: does not exist");
    let own = good(&other("subnet = \"vnet1/default\""));
    assert_eq!(own.instances["b2"].ip_configurations[0].nic, None, "one of its own");
}

#[test]
fn members_of_an_application_group_are_in_one_network_and_so_are_both_groups_of_a_rule() {
    let card = |group: &str| {
        format!("[[nic]]\nname = \"nic2\"\nsubnet = \"vnet2/default\"\napplication_security_groups = [\"{group}\"]\n")
    };
    refused(
        &card("WebServers"),
        "nic.nic2.application_security_groups = WebServers: has its members in vnet1, as nic.nic1",
    );
    refused(&card("none"), "= none: is no application_security_group; declare it, or use one of: WebServers");
    let db = "[[application_security_group]]\nname = \"db\"\n".to_owned() + &card("db");
    let between = db.clone() + "[[security_group]]\nname = \"between\"\n";
    let wanted =
        "between.rule.a.destination = db: has its members in vnet2, those of the source WebServers are in vnet1";
    refused(&(between + &rule("a", 100, "source = \"WebServers\"\ndestination = \"db\"")), wanted);
    good(&(db + "[[security_group]]\nname = \"within\"\n" + &rule("a", 100, "source = \"db\"\ndestination = \"db\"")));
}

#[test]
fn peered_networks_are_disjoint_and_on_premises_space_is_outside_of_the_network() {
    let with = |network: &str| parse("net.toml", &NETWORKS.replacen("name = \"vnet1\"", network, 1));
    let desired = with("name = \"vnet1\"\npeerings = [\"vnet2\"]\non_premises = [\"192.168.0.0/16\"]").expect("good");
    assert_eq!(desired.connected("vnet1").count(), 0, "the other one does not name it");
    let both = NETWORKS.replacen("name = \"vnet1\"", "name = \"vnet1\"\npeerings = \"vnet2\"", 1);
    let both = both.replacen("name = \"vnet2\"", "name = \"vnet2\"\npeerings = \"vnet1\"", 1);
    let desired = parse("net.toml", &both).expect("good");
    assert_eq!(desired.connected("vnet1").map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["vnet2"]);
    let said = |network: &str| with(network).expect_err("refused").iter().map(ToString::to_string).collect::<String>();
    assert!(said("name = \"vnet1\"\npeerings = \"vnet9\"").contains("peerings = vnet9: is no virtual_network"));
    assert!(said("name = \"vnet1\"\npeerings = \"vnet1\"").contains("peerings = vnet1: is this network itself"));
    assert!(
        said("name = \"vnet1\"\non_premises = \"10.0.0.0/8\"")
            .contains("on_premises = 10.0.0.0/8: overlaps 10.0.0.0/16")
    );
    let same = both.replace("10.1.", "10.0.");
    let errors = parse("net.toml", &same).expect_err("refused");
    assert!(errors[0].to_string().contains("has addresses in 10.0.0.0/16 too: they would be ambiguous"), "{errors:?}");
}

#[test]
fn a_rule_that_can_never_match_is_told_with_the_one_before_it() {
    let rules = [
        rule("all", 200, "protocol = \"tcp\"\nsource = \"192.0.2.0/24\"\ndestination_ports = \"80-90\""),
        rule(
            "narrower",
            201,
            "protocol = \"tcp\"\nsource = [\"192.0.2.1\", \"192.0.2.128/25\"]\ndestination_ports = [80, \"85-90\"]",
        ),
        rule("before", 199, "protocol = \"tcp\"\nsource = \"192.0.2.1\"\ndestination_ports = 80"),
        rule("wider", 202, "protocol = \"tcp\"\nsource = \"192.0.0.0/16\"\ndestination_ports = 80"),
        rule("more_ports", 203, "protocol = \"tcp\"\nsource = \"192.0.2.1\"\ndestination_ports = [80, 91]"),
        rule("other_protocol", 204, "source = \"192.0.2.1\"\ndestination_ports = 80"),
        rule("storage", 205, "source = \"Storage\""),
        rule("storage_again", 206, "protocol = \"udp\"\nsource = \"Storage\"\ndestination_ports = 1"),
        any_rule(
            "name = \"outbound\"\npriority = 300\ndirection = \"outbound\"\naccess = \"deny\"\nsource = \"Storage\"",
        ),
    ];
    let desired = good(&rules.concat());
    let found = shadowed(&desired.security_groups["nsg1"]);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("narrower", "all"), ("storage_again", "storage")]);
}

#[test]
fn a_group_lists_its_rules_and_its_six_default_ones() {
    let mut cluster = Cluster::founded(1);
    let text = rule("b", 300, "source = \"WebServers\"\ndestination_ports = [80, \"90-91\"]")
        + &rule("a", 400, "source = \"WebServers\"\ndestination_ports = 80");
    assert!(cluster.configure(&good(&(text + &classic("source = \"Internet\"")))).is_applied());
    let groups = rows::security_groups(&cluster.state);
    let shown = serde_json::to_value(&groups).expect("plain data");
    let rules = &shown[0]["properties"]["securityRules"];
    assert_eq!(
        rules[0],
        serde_json::json!({
            "name": "b",
            "properties": {
                "protocol": "*", "sourcePortRange": "*", "destinationPortRanges": ["80", "90-91"], "destinationAddressPrefix": "*",
                "sourceApplicationSecurityGroups": [{"id": "WebServers"}], "access": "Allow", "priority": 300, "direction": "Inbound",
            },
        })
    );
    assert_eq!((&rules[1]["name"], &rules[1]["shadowedBy"]), (&"a".into(), &"b".into()));
    assert_eq!(shown[0]["properties"]["networkInterfaces"], serde_json::json!([{"id": "nic1"}]));
    let defaults = |at: usize| -> Vec<String> {
        let rules = groups[at].properties.default_security_rules.iter();
        let words = |rule: &rows::RuleRow| {
            let of = &rule.properties;
            let ends = [&of.source_address_prefix, &of.destination_address_prefix].map(|end| end.clone().expect("one"));
            format!("{} {} {} {}", rule.name, of.priority, of.access, ends.join(" "))
        };
        rules.map(words).collect()
    };
    let wanted = |network: &str, balancer: &str, internet: &str| {
        [
            format!("AllowVNetInBound 65000 Allow {network} {network}"),
            format!("AllowAzureLoadBalancerInBound 65001 Allow {balancer} *"),
            "DenyAllInbound 65500 Deny * *".to_owned(),
            format!("AllowVnetOutBound 65000 Allow {network} {network}"),
            format!("AllowInternetOutBound 65001 Allow * {internet}"),
            "DenyAllOutBound 65500 Deny * *".to_owned(),
        ]
    };
    assert_eq!(defaults(0), wanted("VirtualNetwork", "AzureLoadBalancer", "Internet"));
    assert_eq!(defaults(1), wanted("VIRTUAL_NETWORK", "AZURE_LOADBALANCER", "INTERNET"));
    let nics = rows::nics(&cluster.state);
    assert_eq!((nics.len(), nics[0].nic.as_str(), nics[0].instance.as_deref()), (1, "nic1", Some("b1")));
    assert_eq!(rows::application_security_groups(&cluster.state)[0].nics, ["nic1"]);
}

#[test]
fn service_tags_change_by_one_entry_of_a_newer_version() {
    let mut cluster = Cluster::running(1);
    let storage = Tag::StorageIn(Region::EastUs);
    let tags = |version, text: &str| {
        let prefix: Prefix = text.parse().expect("a prefix");
        let mut tags = ServiceTags { version, ..ServiceTags::default() };
        tags.prefixes.insert(storage, vec![prefix]);
        CommandBody::SetServiceTags(Box::new(tags))
    };
    cluster.applied(tags(2, "198.51.100.0/24"));
    let shown = |cluster: &Cluster, name: &str| -> Vec<String> {
        let rows = rows::service_tags(&cluster.state);
        rows.into_iter().filter(|row| row.tag == name).flat_map(|row| row.prefixes).collect()
    };
    assert_eq!(shown(&cluster, "Storage.EastUS"), ["198.51.100.0/24"]);
    assert_eq!(shown(&cluster, "Storage"), ["198.51.100.0/24"]);
    assert_eq!(shown(&cluster, "AzureLoadBalancer"), ["168.63.129.16/32"]);
    let wanted = "version 2 of the service tags is not newer than 2, which is there";
    assert_eq!(cluster.refused(tags(2, "192.0.2.0/24")), wanted);
    assert_eq!(cluster.refused(tags(3, "192.0.2.1/24")), "these are no prefixes of service tags");
    let mut own = ServiceTags { version: 9, ..ServiceTags::default() };
    own.prefixes.insert(Tag::Internet, Vec::from(["192.0.2.0/24".parse().expect("a prefix")]));
    assert_eq!(cluster.refused(CommandBody::SetServiceTags(Box::new(own))), "these are no prefixes of service tags");
    assert_eq!(shown(&cluster, "Storage.EastUS"), ["198.51.100.0/24"]);
    cluster.applied(tags(3, "192.0.2.0/24"));
    assert_eq!(shown(&cluster, "Storage.EastUS"), ["192.0.2.0/24"]);
}

/// The subnet's group denies 8443 outbound, the interface's 443; b1's address is load-balanced.
fn judged() -> Cluster {
    let out = |name: &str, port: u16| {
        any_rule(&format!(
            "name = \"{name}\"\npriority = 100\ndirection = \"outbound\"\naccess = \"deny\"\nprotocol = \"tcp\"\ndestination_ports = {port}"
        ))
    };
    let probes = any_rule(
        "name = \"no_probes\"\npriority = 200\ndirection = \"inbound\"\naccess = \"deny\"\nsource = \"AzureLoadBalancer\"",
    );
    let web = rule("web", 100, "source = \"Storage\"\ndestination = \"WebServers\"");
    let text = NETWORKS.replacen("gateway = \"10.0.0.1\"", "gateway = \"10.0.0.1\"\nsecurity_group = \"net\"", 1);
    let text = text.replacen("nic = \"NIC1\"", "nic = \"NIC1\"\npool = \"lb/p\"", 1);
    let text = text.replacen("name = \"vnet2\"", "name = \"vnet2\"\npeerings = \"vnet1\"", 1);
    let net = format!("[[security_group]]\nname = \"net\"\n{}", out("no_8443", 8443));
    let balancer = "[[public_ip]]\nname = \"pip\"\naddress = \"203.0.113.1\"\n[[load_balancer]]\nname = \"lb\"\nfrontends = [\"pip\"]\n\
                    [[load_balancer.pool]]\nname = \"p\"\n[outside]\nnetwork = \"203.0.113.0/24\"\n";
    let text = format!("{text}{}{web}{probes}{net}{balancer}", out("no_443", 443));
    let desired = parse("net.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let mut cluster = Cluster::running(1);
    assert!(cluster.configure(&desired).is_applied());
    cluster
}

fn asked(nic: &str, direction: Direction, local: &str, remote: &str) -> FlowQuestion {
    let end = |text: &str| text.parse().expect("an address and a port");
    FlowQuestion { nic: nic.into(), direction, protocol: FlowProtocol::Tcp, local: end(local), remote: end(remote) }
}

#[test]
fn a_packet_that_nobody_sent_is_judged_by_both_groups_and_the_deciding_rule_is_named() {
    let cluster = judged();
    let say = |direction, local: &str, remote: &str| {
        let told = answers::ip_flow(&cluster.state, &asked("NIC1", direction, local, remote)).expect("an answer");
        let group = told.network_security_group.expect("a group");
        format!("{} {} {group} {}", told.access, told.rule_name, told.association.expect("a place"))
    };
    let out = |port: u16| say(Direction::Outbound, "10.0.1.1:50000", &format!("198.51.100.1:{port}"));
    assert_eq!(out(443), "Deny securityRules/no_443 nsg1 networkInterface");
    assert_eq!(out(8443), "Deny securityRules/no_8443 net subnet");
    assert_eq!(out(80), "Allow defaultSecurityRules/AllowInternetOutBound net subnet");
    let inwards = say(Direction::Inbound, "10.0.1.1:80", "198.51.100.1:50000");
    assert_eq!(inwards, "Deny defaultSecurityRules/DenyAllInbound net subnet");
    let probe = say(Direction::Inbound, "10.0.1.1:80", "168.63.129.16:50000");
    assert_eq!(probe, "Deny securityRules/no_probes nsg1 networkInterface");
    let told = answers::ip_flow(&cluster.state, &asked("nic1", Direction::Outbound, "10.0.1.1:5", "10.0.1.2:443"));
    let shown = serde_json::to_value(told.expect("an answer")).expect("plain data");
    for (field, value) in [
        ("targetResourceId", "nic1"),
        ("direction", "Outbound"),
        ("protocol", "TCP"),
        ("localIPAddress", "10.0.1.1"),
        ("remoteIPAddress", "10.0.1.2"),
        ("access", "Deny"),
        ("ruleName", "securityRules/no_443"),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let refused = |nic, local| {
        let asked = asked(nic, Direction::Inbound, local, "198.51.100.1:1");
        answers::ip_flow(&cluster.state, &asked).expect_err("refused").to_string()
    };
    assert_eq!(refused("nic9", "10.0.1.1:80"), "nic nic9 does not exist; use one of: qnat get nics");
    assert!(refused("nic1", "10.0.9.9:80").contains("10.0.9.9 is no address of nic nic1, which has 10.0.1.1"));
}

#[test]
fn effective_rules_are_those_of_both_groups_with_what_tags_and_groups_stand_for() {
    let cluster = judged();
    let told = answers::effective_rules(&cluster.state, "nic1").expect("an answer");
    let shown = serde_json::to_value(&told).expect("plain data");
    let groups = shown["value"].as_array().expect("a list");
    assert_eq!((groups.len(), &groups[0]["networkSecurityGroup"]["id"]), (2, &"net".into()));
    assert_eq!(groups[0]["association"]["subnet"]["id"], "vnet1/default");
    assert_eq!(groups[1]["association"]["networkInterface"]["id"], "nic1");
    let rules = groups[1]["effectiveSecurityRules"].as_array().expect("a list");
    let names: Vec<&str> = rules.iter().map(|rule| rule["name"].as_str().expect("a name")).collect();
    let wanted = [
        "securityRules/web",
        "securityRules/no_probes",
        "defaultSecurityRules/AllowVNetInBound",
        "defaultSecurityRules/AllowAzureLoadBalancerInBound",
        "defaultSecurityRules/DenyAllInbound",
        "securityRules/no_443",
        "defaultSecurityRules/AllowVnetOutBound",
        "defaultSecurityRules/AllowInternetOutBound",
        "defaultSecurityRules/DenyAllOutBound",
    ];
    assert_eq!(names, wanted);
    assert_eq!(rules[0]["expandedDestinationAddressPrefix"], serde_json::json!(["10.0.1.1/32"]));
    assert_eq!(rules[1]["expandedSourceAddressPrefix"], serde_json::json!(["168.63.129.16/32"]));
    assert_eq!(rules[2]["expandedSourceAddressPrefix"], serde_json::json!(["10.0.0.0/16"]));
    assert_eq!(rules[2]["priority"], 65_000);
    assert!(answers::effective_rules(&cluster.state, "none").is_err());
}

#[test]
fn a_group_that_breaks_what_instances_need_is_warned_about_in_the_plan_and_in_the_status() {
    let cluster = judged();
    let told: Vec<String> = view::status(&cluster.state).concerns.into_iter().map(|concern| concern.why).collect();
    let plan = plan::diff(&Cluster::running(1).state, cluster.state.desired());
    let planned: Vec<String> = plan.warnings.into_iter().map(|concern| concern.why).collect();
    for wanted in [
        "rule no_probes of security group nsg1 denies AzureLoadBalancer, where health probes come from, to 1 load-balanced or probed \
         addresses, as b1/ipconfig1",
        "rule web of security group nsg1 names Storage, which has no prefixes: it takes nothing",
        "virtual network vnet2 is peered with vnet1, which does not name it: they are not connected",
    ] {
        assert!(told.iter().any(|why| why == wanted), "{wanted:?} is not told: {told:#?}");
        assert!(planned.iter().any(|why| why == wanted), "{wanted:?} is not in the plan: {planned:#?}");
    }
    // Without a member of a pool behind it nobody misses the probes.
    let mut alone = cluster.state.desired().clone();
    alone.instances.get_mut("b1").expect("declared").ip_configurations[0].pool = None;
    let plan = plan::diff(&Cluster::running(1).state, &alone);
    assert!(plan.warnings.iter().all(|concern| !concern.why.contains("AzureLoadBalancer")), "{:?}", plan.warnings);
    // But for those of the instance itself.
    let probe = Probe {
        protocol: ProbeProtocol::Tcp,
        port: 80,
        request_path: String::new(),
        interval_seconds: 15,
        number_of_probes: 2,
    };
    alone.instances.get_mut("b1").expect("declared").probe = Some(probe);
    let plan = plan::diff(&Cluster::running(1).state, &alone);
    assert!(plan.warnings.iter().any(|concern| concern.why.contains("AzureLoadBalancer")), "{:?}", plan.warnings);
}
