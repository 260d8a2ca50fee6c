//! Messages of the configuration file: each names line, field, value and remedy.

use super::*;

const GOOD: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"

[[public_ip]]
name = "pip1"
address = "203.0.113.1"
[[public_ip]]
name = "pip2"
address = "203.0.113.2"
reserved_ports = [8080]

[[load_balancer]]
name = "lb1"
frontends = ["pip1", "pip2"]
[[load_balancer.pool]]
name = "web"
[[load_balancer.outbound_rule]]
name = "out"
pool = "web"
idle_timeout_minutes = 10
enable_tcp_reset = true

[[instance]]
name = "b1"
[[instance.ip_configuration]]
name = "ipconfig1"
private_ip = "10.0.1.1"
mac = "52:54:00:12:34:5f"
subnet = "vnet1/default"
pool = "lb1/web"

[outside]
network = "203.0.113.0/24"
next_hop = "203.0.113.254"

[settings]
orphan_grace_ms = 2000
new_flows_per_second_max = 500
short_idle_ports = [53]
mss_max = 1400
icmp_on_refusal = true
"#;

fn errors(text: &str) -> Vec<String> {
    parse("net.toml", text).expect_err("refused").iter().map(ToString::to_string).collect()
}

/// The good file with one piece replaced.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the piece {from:?} is in the file");
    GOOD.replacen(from, to, 1)
}

#[test]
fn a_good_file_is_read_whole() {
    let desired = parse("net.toml", GOOD).expect("good");
    let rule = &desired.load_balancers["lb1"].outbound_rules["out"];
    assert_eq!((rule.idle_timeout_minutes, rule.enable_tcp_reset), (10, true));
    assert_eq!(desired.settings.orphan_grace_ms, 2000);
    assert_eq!(desired.settings.tick_ms, 5);
    assert_eq!((desired.settings.new_flows_per_second_max, desired.settings.flows_per_backend_max), (500, 1 << 20));
    assert_eq!(
        (desired.settings.short_idle_ports.iter().copied().collect::<Vec<_>>(), desired.settings.mss_max),
        (vec![53], 1400)
    );
    assert!(desired.settings.icmp_on_refusal && !crate::resource::Settings::default().icmp_on_refusal);
    assert_eq!(desired.outside.next_hop, Some(std::net::Ipv4Addr::new(203, 0, 113, 254)));
    assert!(desired.public_ips["pip2"].reserved_ports.contains(&8080));
    let ip = &desired.instances["b1"].ip_configurations[0];
    assert_eq!(ip.pool.as_ref().map(ToString::to_string).as_deref(), Some("lb1/web"));
    assert_eq!(ip.mac, Some(engine::ids::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])));
}

#[test]
fn an_unknown_field_is_refused_with_the_one_that_was_meant() {
    assert_eq!(
        errors(&with("idle_timeout_minutes", "idle_timeout_minute")),
        ["net.toml:25: load_balancer.lb1.outbound_rule.out.idle_timeout_minute = 10: is an unknown field; \
          did you mean idle_timeout_minutes?"]
    );
}

#[test]
fn two_networks_may_have_the_same_subnets_and_addresses_and_one_network_may_not() {
    let another = "[[virtual_network]]\nname = \"vnet2\"\n[[virtual_network.subnet]]\nname = \"default\"\n\
                   prefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n[[instance]]\nname = \"b2\"\n\
                   [[instance.ip_configuration]]\nname = \"ipconfig1\"\nprivate_ip = \"10.0.1.1\"\n\
                   subnet = \"vnet2/default\"\npool = \"lb1/web\"\n";
    let desired = parse("net.toml", &format!("{GOOD}\n{another}")).expect("D14");
    assert_eq!((desired.virtual_networks.len(), desired.instances.len()), (2, 2));
    let subnet = "[[virtual_network.subnet]]\nname = \"more\"\nprefix = \"10.0.4.0/24\"\ngateway = \"10.0.4.1\"\n";
    let refused = errors(&format!("{GOOD}\n{another}").replacen("[[public_ip]]", &format!("{subnet}[[public_ip]]"), 1));
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("overlaps 10.0.0.0/16 of virtual_network.vnet1.subnet.default"), "{refused:?}");
}

#[test]
fn a_card_that_is_none_is_refused() {
    let line = "mac = \"52:54:00:12:34:5f\"";
    let form = "a MAC address";
    for text in ["52:54:00:12:34", "52:54:00:12:34:5f:00", "52:54:00:12:34:+f", "52-54-00-12-34-5f", ""] {
        let refused = errors(&with(line, &format!("mac = \"{text}\"")));
        let shown = if text.is_empty() { "\"\"" } else { text };
        let wanted = format!(
            "net.toml:33: instance.b1.ip_configuration.ipconfig1.mac = {shown}: is not {form}; \
             write {form} such as \"52:54:00:12:34:56\""
        );
        assert_eq!(refused, [wanted]);
    }
    for text in ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "02:51:4e:00:00:01"] {
        let refused = errors(&with(line, &format!("mac = \"{text}\"")));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].contains("is no address of a network card"), "{refused:?}");
    }
}

#[test]
fn several_errors_are_reported_at_once_in_order_of_lines() {
    let text = with("prefix = \"10.0.0.0/16\"", "prefix = \"10.0.0.0\"").replace("10.0.1.1", "ten");
    let text = text.replace("orphan_grace_ms = 2000", "orphan_grace_ms = \"2s\"");
    assert_eq!(
        errors(&text),
        [
            "net.toml:6: virtual_network.vnet1.subnet.default.prefix = 10.0.0.0: is not a network; \
             write a network such as \"10.0.0.0/16\"",
            "net.toml:32: instance.b1.ip_configuration.ipconfig1.private_ip = ten: is not an IPv4 address; \
             write an IPv4 address such as \"10.0.1.1\"",
            "net.toml:42: settings.orphan_grace_ms = \"2s\": is a string; write a whole number that is not negative \
             and fits the field",
        ]
    );
}

#[test]
fn addresses_are_checked_against_their_subnet() {
    let gateway = errors(&with("private_ip = \"10.0.1.1\"", "private_ip = \"10.0.0.1\""));
    assert_eq!(
        gateway,
        ["net.toml:32: instance.b1.ip_configuration.ipconfig1.private_ip = 10.0.0.1: is the gateway of subnet \
          vnet1/default; use another address"]
    );
    let outside = errors(&with("private_ip = \"10.0.1.1\"", "private_ip = \"10.1.0.9\""));
    assert!(outside[0].contains("is no host address of subnet vnet1/default, 10.0.0.0/16"), "{outside:?}");
    let host_bits = errors(&with("10.0.0.0/16", "10.0.0.3/16"));
    assert!(host_bits[0].contains("has host bits set; write 10.0.0.0/16"), "{host_bits:?}");
}

#[test]
fn duplicates_name_where_the_first_one_is() {
    let name = errors(&with("name = \"pip2\"", "name = \"pip1\""));
    assert_eq!(
        name[0],
        "net.toml:13: public_ip.pip1.name = pip1: another public_ip has this name (line 9); \
         names are unique: choose another"
    );
    let address = errors(&with("203.0.113.2\"", "203.0.113.1\""));
    assert!(address[0].contains("net.toml:14: public_ip.pip2.address = 203.0.113.1"), "{address:?}");
    assert!(address[0].contains("already the address of public_ip.pip1"), "{address:?}");
}

#[test]
fn references_that_lead_nowhere_list_what_exists() {
    let pool = errors(&with("pool = \"lb1/web\"", "pool = \"lb1/wbe\""));
    assert_eq!(
        pool,
        ["net.toml:35: instance.b1.ip_configuration.ipconfig1.pool = lb1/wbe: is no pool; use one of: lb1/web"]
    );
    let rule = errors(&with("pool = \"web\"", "pool = \"wen\""));
    assert!(
        rule[0]
            .contains("outbound_rule.out.pool = wen: is no pool of this load balancer; declare it, or use one of: web")
    );
    let without = errors(&with("pool = \"web\"\n", ""));
    assert!(without[0].contains("outbound_rule.out.pool: is missing; add pool"), "{without:?}");
    let frontend = errors(&with("\"pip1\", \"pip2\"]", "\"pip1\", \"pip3\"]"));
    assert!(frontend[0].contains("load_balancer.lb1.frontends = pip3: is no public_ip"), "{frontend:?}");
}

#[test]
fn two_load_balancers_may_not_want_one_backend_or_one_frontend() {
    let backend = errors(&with("pool = \"lb1/web\"", "pool = [\"lb1/web\", \"lb2/web\"]"));
    assert!(backend[0].contains("several pools want the same backend"), "{backend:?}");
    let two = format!("{GOOD}\n[[load_balancer]]\nname = \"lb2\"\nfrontends = [\"pip1\"]\n");
    let frontend = errors(&two);
    assert!(frontend[0].contains("load_balancer.lb2.frontends = pip1: is already a frontend of load_balancer.lb1"));
}

#[test]
fn public_addresses_inside_a_private_range_are_refused() {
    let inside = errors(&with("203.0.113.2\"", "10.0.7.7\""));
    assert!(inside[0].contains("lies inside the private range 10.0.0.0/16 of vnet1/default"), "{inside:?}");
    let hop = errors(&with("203.0.113.2\"", "203.0.113.254\""));
    assert!(hop[0].contains("is outside.next_hop"), "{hop:?}");
}

#[test]
fn values_out_of_range_say_the_range() {
    let idle = errors(&with("idle_timeout_minutes = 10", "idle_timeout_minutes = 3"));
    assert!(idle[0].ends_with("idle_timeout_minutes = 3: is out of range; use 4 to 100 minutes"), "{idle:?}");
    let vote = errors(&with("orphan_grace_ms = 2000", "vote_ticks = 5"));
    assert!(vote[0].contains("settings.vote_ticks = 5: is out of range; use 6 to 1000"), "{vote:?}");
}

#[test]
fn a_pool_of_more_than_a_thousand_instances_is_refused() {
    let mut text = String::from(GOOD);
    for n in 0..1000u32 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0200 + n);
        text.push_str(&format!(
            "[[instance]]\nname = \"x{n}\"\n[[instance.ip_configuration]]\nname = \"i\"\nprivate_ip = \"{ip}\"\n\
             subnet = \"vnet1/default\"\npool = \"lb1/web\"\n"
        ));
    }
    let all = errors(&text);
    assert_eq!(
        all,
        [
            "net.toml:20: load_balancer.lb1.pool.web = web: has 1001 instances, more than 1000; split it into several pools"
        ]
    );
}

#[test]
fn broken_syntax_names_its_line() {
    let all = errors("[outside]\nnetwork = \n");
    assert_eq!(all.len(), 1);
    assert!(all[0].starts_with("net.toml:2: syntax"), "{all:?}");
}

#[test]
fn an_empty_file_is_an_empty_configuration() {
    assert_eq!(parse("e", "").expect("empty"), Desired::default());
}

#[test]
fn the_profile_of_a_rule_is_one_of_those_that_exist() {
    use crate::resource::Profile;
    let profile = |text: &str| {
        let desired = parse("net.toml", text).expect("good");
        desired.load_balancers["lb1"].outbound_rules["out"].profile
    };
    assert_eq!(profile(GOOD), Profile::Azure);
    assert_eq!(profile(&with("enable_tcp_reset", "profile = \"rfc\"\nenable_tcp_reset")), Profile::Rfc);
    let unknown = errors(&with("enable_tcp_reset", "profile = \"cisco\"\nenable_tcp_reset"));
    assert!(
        unknown[0].contains("out.profile = cisco: is not a known choice; write \"azure\" or \"rfc\""),
        "{unknown:?}"
    );
}

#[test]
fn quotas_and_segment_sizes_out_of_range_are_refused() {
    for (from, to) in [
        ("new_flows_per_second_max = 500", "new_flows_per_second_max = 0"),
        ("mss_max = 1400", "mss_max = 100"),
        ("icmp_on_refusal = true", "icmp_on_refusal = 1"),
        ("short_idle_ports = [53]", "short_idle_ports = [0]"),
        ("short_idle_ports = [53]", "short_idle_ports = [1, 2, 3, 4, 5, 6, 7, 8, 9]"),
    ] {
        let field = to.split(' ').next().expect("a field");
        let found = errors(&with(from, to));
        assert!(found.len() == 1 && found[0].contains(&format!("settings.{field} = ")), "{found:?}");
    }
}

#[test]
fn what_becomes_of_flows_on_reclaimed_ports_is_one_of_three() {
    use crate::resource::OnReclaim;
    let fate = |text: &str| {
        let desired = parse("net.toml", &with("enable_tcp_reset", &format!("{text}\nenable_tcp_reset"))).expect("good");
        desired.load_balancers["lb1"].outbound_rules["out"].on_reclaim
    };
    assert_eq!(fate(""), OnReclaim::Expire);
    assert_eq!(fate("on_reclaim = \"drain\""), OnReclaim::Drain);
    assert_eq!(fate("on_reclaim = \"reset\""), OnReclaim::Reset);
    let found = errors(&with("enable_tcp_reset", "on_reclaim = \"kill\"\nenable_tcp_reset"));
    assert!(found[0].contains("is not a known choice; write \"expire\" or \"drain\" or \"reset\""), "{found:?}");
}

#[test]
fn sharing_and_filtering_belong_to_their_profiles() {
    use crate::resource::{Filtering, Sharing};
    let rule = |text: &str| {
        let desired = parse("net.toml", &with("enable_tcp_reset", &format!("{text}\nenable_tcp_reset"))).expect("good");
        let rule = &desired.load_balancers["lb1"].outbound_rules["out"];
        (rule.sharing, rule.filtering)
    };
    assert_eq!(rule(""), (Sharing::Tuple, Filtering::AddressDependent));
    assert_eq!(rule("sharing = \"2017\"").0, Sharing::Address);
    let open = rule("profile = \"rfc\"\nfiltering = \"endpoint_independent\"");
    assert_eq!(open.1, Filtering::EndpointIndependent);
    for wrong in ["profile = \"rfc\"\nsharing = \"2017\"", "filtering = \"endpoint_independent\""] {
        let found = errors(&with("enable_tcp_reset", &format!("{wrong}\nenable_tcp_reset")));
        assert!(found.len() == 1 && found[0].contains("is for the profile"), "{found:?}");
    }
}

#[test]
fn a_file_without_any_resource_is_refused_unless_that_is_meant() {
    let settings = "[settings]\nreplicas = 3\n[outside]\nnetwork = \"203.0.113.0/24\"\n";
    for empty in ["", "\n", "# all of it is a comment\n", settings] {
        let found = parse_whole("standard input", empty, Emptiness::Refused).expect_err("nothing is declared");
        assert_eq!(found.len(), 1, "{found:?}");
        let said = found[0].to_string();
        assert!(said.starts_with("standard input: file = ") && said.contains("would remove everything"), "{said}");
        assert!(said.contains("--yes"), "{said}");
        assert_eq!(
            parse_whole("standard input", empty, Emptiness::Meant).as_ref(),
            Ok(&parse("", empty).expect("good"))
        );
    }
    for one in ["[[public_ip]]\nname = \"p\"\naddress = \"203.0.113.1\"", "[[virtual_network]]\nname = \"v\""] {
        let declared = parse_whole("net.toml", one, Emptiness::Refused).expect("something is declared");
        assert!(declared.has_resources(), "{one}");
    }
}
