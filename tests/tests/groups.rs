//! Security groups over real packets, by what is declared: which flows begin, which end, and what is refused. Needs root.

use std::collections::BTreeSet;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, ok, rows, run, wait_until};
use qnat_tests::resources::{self, Changes, file_of};
use serde_json::Value;

/// Where the internet answers besides, for rules that tell addresses apart.
const OTHERS: [&str; 4] = ["203.0.113.20", "203.0.113.21", "203.0.113.70", "203.0.113.90"];
const B1: &str = "10.0.1.1";

/// The lab's resources with b1 behind an interface of its own, which has these groups, as its subnet has `of_subnet`.
fn with(groups: &str, of_card: Option<&str>, of_subnet: Option<&str>) -> String {
    let attached = |name: Option<&str>| name.map_or(String::new(), |name| format!("security_group = \"{name}\"\n"));
    let card = format!("[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\n{}", attached(of_card));
    let text = Changes { more: &format!("{card}{groups}"), ..Changes::default() }.text();
    let own = format!("private_ip = \"{B1}\"\nsubnet = \"vnet1/default\"\n");
    assert!(text.contains(&own), "{text}");
    let text = text.replace(&own, &format!("private_ip = \"{B1}\"\nnic = \"nic1\"\n"));
    text.replace("gateway = \"10.0.0.1\"\n", &format!("gateway = \"10.0.0.1\"\n{}", attached(of_subnet)))
}

fn group(name: &str, rules: &[&str]) -> String {
    let rules = rules.iter().map(|rule| format!("[[security_group.rule]]\n{rule}\n"));
    rules.fold(format!("[[security_group]]\nname = \"{name}\"\n"), |text, rule| text + &rule)
}

fn rule(name: &str, priority: u16, access: &str, rest: &str) -> String {
    format!("name = \"{name}\"\npriority = {priority}\ndirection = \"outbound\"\naccess = \"{access}\"\n{rest}")
}

/// Towards which of these ends a host's SYN gets any answer: a connection, or that nobody listens.
fn reached<'a>(lab: &Lab, host: &str, ends: &[(&'a str, u16)]) -> BTreeSet<(&'a str, u16)> {
    let one = |(ip, port): &(&str, u16)| {
        format!("(timeout 2 bash -c 'exec 3<>/dev/tcp/{ip}/{port}' 2>/dev/null; echo {ip} {port} $?) & ")
    };
    let script: String = ends.iter().map(one).collect();
    let said = lab.exec(host, &["bash", "-c", &format!("{script} wait")]);
    let answered = |end: &&(&str, u16)| {
        let line = said.lines().find(|line| line.starts_with(&format!("{} {} ", end.0, end.1)));
        // 124: the time was up.
        !line.unwrap_or_else(|| panic!("{end:?} is not in {said}")).ends_with(" 124")
    };
    ends.iter().filter(answered).copied().collect()
}

fn set<'a>(ends: &[(&'a str, u16)]) -> BTreeSet<(&'a str, u16)> {
    ends.iter().copied().collect()
}

fn pings(lab: &Lab, host: &str, ip: &str) -> bool {
    let said = lab.exec(host, &["bash", "-c", &format!("ping -c 2 -i 0.3 -W 2 {ip} || true")]);
    said.contains(", 0% packet loss")
}

/// Packets that groups denied, at all members.
fn denied() -> u64 {
    let all = json(&["counters", "--all", "-o", "json"]);
    rows(&all["members"]).filter_map(|row| row["counted"]["drops"]["security_rule"].as_u64()).sum()
}

/// What is said of a SYN of b1's.
fn explain(ip: &str, port: u16) -> Value {
    json(&["explain", B1, &format!("{ip}:{port}"), "-o", "json"])
}

/// What `qnat apply` says against a configuration.
fn refusal(text: &str) -> String {
    let file = file_of(text);
    let output = run(&["apply", "--dry-run", "-f", file.path().to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(1), "refused: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_interface_that_may_not_reach_the_internet_leaves_nothing_there_and_its_connections_end_also_when_its_owner_dies()
{
    let lab = Lab::up();
    let mut talks = ["b1", "b2"].map(|host| Conversation::begin(&lab, host));
    assert!(talks.iter_mut().all(Conversation::goes_on));
    let flows = json(&["flows", "-o", "json"]);
    let flow = rows(&flows["flows"])
        .find(|row| row["proto"] == "tcp" && row["inside"].as_str().is_some_and(|end| end.starts_with(B1)));
    let flow = flow.expect("b1's connection");
    let inside = flow["inside"].as_str().expect("an end");
    let said = json(&["explain", inside, &format!("{INET}:7"), "-o", "json"]);
    assert_eq!((&said["verdict"], &said["translated"]), (&"passes".into(), &flow["public"]), "{said:#}");
    let back = json(&["explain", &format!("{INET}:7"), flow["public"].as_str().expect("an end"), "-o", "json"]);
    assert_eq!((&back["verdict"], &back["translated"]), (&"passes".into(), &flow["inside"]), "{back:#}");
    let no_internet = group("closed", &[&rule("internet", 100, "deny", "destination = \"Internet\"")]);
    resources::apply(&with(&no_internet, Some("closed"), None));
    assert!(!talks[0].goes_on(), "the next packet asks");
    assert!(talks[1].goes_on(), "b2 has no group");
    wait_until("the mapping to close", Duration::from_secs(5), || lab.live_mappings(B1, 7).is_empty());
    let nothing_leaves = || {
        let before = denied();
        assert!(reached(&lab, "b1", &[(INET, 80), (INET, 7)]).is_empty());
        assert!(!pings(&lab, "b1", INET));
        assert!(denied() > before);
        assert!(lab.live_mappings(B1, 80).is_empty() && lab.live_mappings(B1, 7).is_empty());
        assert_eq!(lab.ports_of("b1")["used"].as_u64(), Some(0), "S43");
        assert!(pings(&lab, "b1", "10.0.1.2"), "the network goes on");
        let said = explain(INET, 80);
        let rule = &said["networkSecurityGroupResult"]["evaluatedNetworkSecurityGroups"][0]["matchedRule"];
        assert_eq!((&said["reason"], &rule["ruleName"]), (&"security_rule".into(), &"UserRule_internet".into()));
        assert_eq!(said["node"].as_u64(), Some(lab.owner_of("b1")), "the owner says so: {said:#}");
    };
    nothing_leaves();
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    nothing_leaves();
    wait_until("b2's connection to go on", Duration::from_secs(20), || talks[1].goes_on());
    resources::apply(&with(&no_internet, None, None));
    assert_eq!(reached(&lab, "b1", &[(INET, 80)]), set(&[(INET, 80)]), "allowed again");
}

/// Sends a datagram from each of these ports of b1's to another of the internet's.
fn open_flows(lab: &Lab, sources: std::ops::Range<u16>) {
    let script = "import socket, sys\n\
                  for port in range(int(sys.argv[1]), int(sys.argv[2])):\n \
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n \
                  s.bind(('', port))\n \
                  s.sendto(b'x', (sys.argv[3], 7 + port % 2))\n";
    let _sent = lab.exec("b1", &["python3", "-c", script, &sources.start.to_string(), &sources.end.to_string(), INET]);
}

/// What `qnat apply` answers.
fn applied(text: &str, options: &[&str]) -> Value {
    let file = file_of(text);
    json(&[&["apply", "--yes", "-o", "json", "-f", file.path().to_str().expect("a plain path")], options].concat())
}

#[test]
fn an_apply_says_how_many_flows_it_ends_before_and_after_and_it_is_so() {
    let lab = Lab::up();
    open_flows(&lab, 20_000..20_200);
    let of_b1 = || {
        let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
        let live = |row: &&Value| {
            row["state"] == "live" && row["inside"].as_str().is_some_and(|end| end.starts_with("10.0.1.1:"))
        };
        rows(&flows["flows"]).filter(live).count()
    };
    wait_until("the flows to open", Duration::from_secs(10), || of_b1() == 200);
    let text =
        with(&group("g", &[&rule("even", 100, "deny", "protocol = \"udp\"\ndestination_ports = 7")]), Some("g"), None);
    let foretold = applied(&text, &["--dry-run"]);
    assert_eq!(foretold["flows_cut"]["flows"].as_u64(), Some(100), "{foretold:#}");
    let listed: Vec<&Value> = rows(&foretold["flows_cut"]["listed"]).collect();
    let forbidden = |row: &&Value| row["remote"] == format!("{INET}:7").as_str() && row["proto"] == "udp";
    assert!(!listed.is_empty() && listed.iter().all(forbidden), "{foretold:#}");
    assert_eq!(of_b1(), 200, "a dry run ends nothing");
    let done = applied(&text, &[]);
    let cut = &done["flows_cut"];
    assert_eq!((cut["flows"].as_u64(), rows(&cut["uncounted_shards"]).count()), (Some(100), 0), "{done:#}");
    assert_eq!(of_b1(), 100, "those that it said, and no others");
    let effective = json(&["effective-rules", "nic1", "-o", "json"]);
    let all: Vec<&Value> = rows(&effective["value"]).flat_map(|group| rows(&group["effectiveSecurityRules"])).collect();
    let hits = |name: &str| all.iter().find(|rule| rule["name"] == name).and_then(|rule| rule["hits"].as_u64());
    assert_eq!(hits("securityRules/even"), Some(100), "{effective:#}");
    assert_eq!(hits("defaultSecurityRules/AllowInternetOutBound"), Some(100), "the others were asked about too");
    let shards = lab.status();
    let told: u64 = rows(&shards["shards"]).filter_map(|row| row["cut"].as_u64()).sum();
    assert_eq!(told, 100, "{shards:#}");
    wait_until("an event", Duration::from_secs(5), || {
        let events = json(&["events", "-o", "json"]);
        rows(&events["events"]).any(|row| {
            row["event"] == "flows_cut" && row["text"].as_str().is_some_and(|text| text.contains("ended 100 flows"))
        })
    });
    assert_eq!(applied(&text, &["--dry-run"])["flows_cut"], Value::Null, "it changes nothing");
    let owner = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", owner);
    let all = with(&group("g", &[&rule("all", 100, "deny", "")]), Some("g"), None);
    let foretold = applied(&all, &["--dry-run"])["flows_cut"]["flows"].as_u64();
    assert_eq!((foretold, applied(&all, &[])["flows_cut"]["flows"].as_u64()), (Some(100), Some(100)), "by a successor");
    assert_eq!(of_b1(), 0);
}

#[test]
fn rules_take_what_they_say_and_nothing_else() {
    let lab = Lab::up();
    add_addresses(&lab);
    both_groups(&lab);
    protocols_and_priorities(&lab);
    several_values(&lab);
    service_tags(&lab);
}

fn add_addresses(lab: &Lab) {
    for ip in OTHERS {
        let _added = lab.exec("inet", &["ip", "address", "add", &format!("{ip}/32"), "dev", "eth0"]);
    }
}

fn tcp(port: u16) -> String {
    format!("protocol = \"tcp\"\ndestination_ports = {port}")
}

/// The interface's group, and the subnet's behind it.
fn both_groups(lab: &Lab) {
    let both = group("card", &[&rule("https", 100, "deny", &tcp(443))])
        + &group("subnet", &[&rule("alt", 100, "deny", &tcp(8443))]);
    resources::apply(&with(&both, Some("card"), Some("subnet")));
    let ends = [(INET, 80), (INET, 443), (INET, 8443)];
    assert_eq!(reached(lab, "b1", &ends), set(&[(INET, 80)]));
    assert_eq!(reached(lab, "b2", &ends), set(&[(INET, 80), (INET, 443)]), "b2 has the subnet's alone");
    for (port, verdict) in [
        (80, ["Allow", "defaultSecurityRules/AllowInternetOutBound"]),
        (443, ["Deny", "securityRules/https"]),
        (8443, ["Deny", "securityRules/alt"]),
    ] {
        let (local, remote) = (format!("{B1}:40000"), format!("{INET}:{port}"));
        let of =
            ["--nic", "nic1", "--direction", "outbound", "--protocol", "tcp", "--local", &local, "--remote", &remote];
        let said = json(&[&["verify", "ip-flow", "-o", "json"], &of[..]].concat());
        assert_eq!([said["access"].as_str(), said["ruleName"].as_str()], verdict.map(Some), "{said:#}");
    }
    let effective = json(&["effective-rules", "nic1", "-o", "json"]).to_string();
    assert!(["card", "subnet", "https", "alt"].iter().all(|name| effective.contains(name)), "{effective}");
}

fn protocols_and_priorities(lab: &Lab) {
    let by_protocol = group(
        "g",
        &[
            &rule("tcp80", 200, "allow", &tcp(80)),
            &rule("any80", 300, "deny", "destination_ports = 80"),
            &rule("ping", 400, "deny", &format!("destination = \"{}\"", OTHERS[0])),
        ],
    );
    resources::apply(&with(&by_protocol, Some("g"), None));
    protocols_are_told_apart(lab);
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    protocols_are_told_apart(lab);
    lab.restart_the_dead();
    lab.wait_until_whole(Duration::from_secs(60));
}

/// By these rules.
fn protocols_are_told_apart(lab: &Lab) {
    assert_eq!(reached(lab, "b1", &[(INET, 80), (OTHERS[0], 81)]), set(&[(INET, 80)]));
    let datagram =
        |port: u16| format!("for n in 1 2 3; do echo x > /dev/udp/{INET}/{port}; sleep 0.2; done 2>/dev/null; true");
    let _sent = lab.exec("b1", &["bash", "-c", &(datagram(80) + ";" + &datagram(7))]);
    let flows = json(&["flows", "-o", "json"]);
    let to = |port: &str| {
        let remote = format!("{INET}:{port}");
        rows(&flows["flows"]).any(|row| row["proto"] == "udp" && row["remote"] == remote.as_str())
    };
    assert!(to("7") && !to("80"), "{flows:#}");
    assert!(pings(lab, "b1", INET) && !pings(lab, "b1", OTHERS[0]), "only a rule for any takes ICMP");
}

/// Several values in each field.
fn several_values(lab: &Lab) {
    let [a, b, in_net, apart] = OTHERS;
    let augmented = format!(
        "protocol = \"tcp\"\ndestination = [\"{a}\", \"{b}\", \"203.0.113.64/28\"]\n\
         destination_ports = [80, 443, \"10000-10005\"]"
    );
    let several =
        group("g", &[&rule("these", 200, "allow", &augmented), &rule("rest", 300, "deny", "protocol = \"tcp\"")]);
    resources::apply(&with(&several, Some("g"), None));
    let ports = [80, 443, 10_000, 10_005, 81, 9_999, 10_006];
    let ends: Vec<(&str, u16)> = [a, b, in_net, apart].iter().flat_map(|ip| ports.map(|port| (*ip, port))).collect();
    let wanted =
        ends.iter().filter(|(ip, port)| *ip != apart && ![81, 9_999, 10_006].contains(port)).copied().collect();
    let said = |(ip, port): &&(&str, u16)| {
        let said = explain(ip, *port);
        assert!(["opens", "dropped"].contains(&said["verdict"].as_str().expect("a verdict")), "{said:#}");
        said["verdict"] == "opens"
    };
    let foretold: BTreeSet<_> = ends.iter().filter(said).copied().collect();
    assert_eq!(reached(lab, "b1", &ends), wanted);
    assert_eq!(foretold, wanted, "what is said is what happens");
}

/// The platform's file says what tags are, and a new one takes effect whole.
fn service_tags(lab: &Lab) {
    let [a, b, ..] = OTHERS;
    let storage = |version: u32, ip: &str| {
        format!("version = {version}\n[[service_tag]]\nname = \"Storage.EastUS\"\nprefixes = [\"{ip}/32\"]\n")
    };
    let tags = |version, ip| {
        let file = file_of(&storage(version, ip));
        ok(&["service-tags", "-f", file.path().to_str().expect("a plain path")]);
    };
    tags(1, a);
    let by_tag = group(
        "g",
        &[
            &rule("storage", 200, "allow", "destination = \"Storage.EastUS\""),
            &rule("internet", 300, "deny", "destination = \"Internet\""),
        ],
    );
    resources::apply(&with(&by_tag, Some("g"), None));
    assert_eq!(reached(lab, "b1", &[(a, 80), (b, 80)]), set(&[(a, 80)]), "its own public space is the internet too");
    tags(2, b);
    wait_until("the new prefixes", Duration::from_secs(10), || {
        reached(lab, "b1", &[(a, 80), (b, 80)]) == set(&[(b, 80)])
    });
    several_tags(lab);
}

/// A service's tag has the prefixes of all its regions, one with a region those alone, and the platform's own are the internet too.
fn several_tags(lab: &Lab) {
    let [east, west, database, apart] = OTHERS;
    let tags = [("Storage.EastUS", east), ("Storage.WestUS", west), ("Sql.EastUS", database)];
    let tags = tags.map(|(name, ip)| format!("[[service_tag]]\nname = \"{name}\"\nprefixes = [\"{ip}/32\"]\n"));
    let file = file_of(&format!("version = 3\n{}", tags.concat()));
    ok(&["service-tags", "-f", file.path().to_str().expect("a plain path")]);
    let to = |tag: &str| format!("destination = \"{tag}\"");
    let storage = rule("storage", 200, "allow", &to("Storage"));
    let sql = rule("sql", 210, "allow", &to("Sql.EastUS"));
    let internet = rule("internet", 300, "deny", &to("Internet"));
    let ends = [east, west, database, apart].map(|ip| (ip, 80));
    resources::apply(&with(&group("g", &[&storage, &sql, &internet]), Some("g"), None));
    wait_until("the new prefixes", Duration::from_secs(10), || reached(lab, "b1", &ends) == set(&ends[..3]));
    resources::apply(&with(&group("g", &[&sql, &internet]), Some("g"), None));
    assert_eq!(reached(lab, "b1", &ends), set(&ends[2..3]));
}

#[test]
fn a_group_that_breaks_a_rule_of_groups_is_refused_by_its_field() {
    let _lab = Lab::up_with(1);
    let of = |rules: &[&str]| with(&group("g", rules), Some("g"), None);
    let tcp = "protocol = \"tcp\"";
    for (text, says) in [
        (of(&[&rule("a", 99, "allow", tcp)]), ["priority", "100 to 4096"]),
        (of(&[&rule("a", 4097, "allow", tcp)]), ["priority", "100 to 4096"]),
        (of(&[&rule("a", 200, "allow", tcp), &rule("A", 300, "allow", tcp)]), ["name", "A"]),
        (of(&[&rule("a", 200, "allow", tcp), &rule("b", 200, "deny", tcp)]), ["priority", "already"]),
        (of(&[&rule("a", 200, "allow", "protocol = \"icmp\"")]), ["protocol", "icmp"]),
        (of(&[&rule("a", 200, "allow", "destination = [\"Internet\", \"VirtualNetwork\"]")]), ["destination", "tag"]),
        (of(&[&rule("a", 200, "allow", "destination = \"Sql\"")]), ["destination", "Sql"]),
        (of(&[&rule("a", 200, "allow", "destination = \"MyService\"")]), ["destination", "users make no tags"]),
    ] {
        let said = refusal(&text);
        assert!(says.iter().all(|word| said.contains(word)), "{says:?}: {said}");
    }
    let classic = |rest: &str| {
        let text = group("old", &[&rule("a", 200, "allow", rest)]);
        with(&text.replace("name = \"old\"", "name = \"old\"\nmodel = \"classic\""), None, Some("old"))
    };
    let file = file_of(&classic("destination = \"INTERNET\""));
    ok(&["apply", "--dry-run", "-f", file.path().to_str().expect("a plain path")]);
    for (rest, says) in [
        ("destination = \"Storage\"", "resource_manager"),
        ("destination_ports = [80, 443]", "classic model takes one"),
    ] {
        let said = refusal(&classic(rest));
        assert!(said.contains(says), "{says}: {said}");
    }
}
