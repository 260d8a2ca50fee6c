//! Private connectivity over real packets: hosts on isolated ports of the bridge reach each other by the gateway alone. Needs root.

use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, rows, run, wait_until};
use qnat_tests::resources::{self, Changes, file_of};
use qnat_tests::running::Running;
use serde_json::Value;

const B2: &str = "10.0.1.2";
/// Echoes lines on TCP port 7 until it is ended.
const ECHO: &str = "import socketserver\n\
    class Echo(socketserver.StreamRequestHandler):\n\
    \x20def handle(self):\n\
    \x20 for line in self.rfile:\n\
    \x20  self.wfile.write(line)\n\
    socketserver.ThreadingTCPServer.allow_reuse_address = True\n\
    server = socketserver.ThreadingTCPServer(('', 7), Echo)\n\
    print('serves', flush=True)\n\
    server.serve_forever()\n";

/// The lab's resources with isolated hosts; b1 and b2 are behind interfaces of their own, which have these groups.
fn with(groups: &str, of_b1: Option<&str>, of_b2: Option<&str>) -> String {
    let card = |n: u32, group: Option<&str>| {
        let group = group.map_or(String::new(), |name| format!("security_group = \"{name}\"\n"));
        format!("[[nic]]\nname = \"nic{n}\"\nsubnet = \"vnet1/default\"\n{group}")
    };
    let more = card(1, of_b1) + &card(2, of_b2) + groups;
    let mut text = Changes { more: &more, ..Changes::default() }.text();
    for n in [1, 2] {
        let own = format!("private_ip = \"10.0.1.{n}\"\nsubnet = \"vnet1/default\"\n");
        text = text.replace(&own, &format!("private_ip = \"10.0.1.{n}\"\nnic = \"nic{n}\"\n"));
    }
    text.replace("gateway = \"10.0.0.1\"\n", "gateway = \"10.0.0.1\"\nisolated = true\n")
}

fn group(name: &str, direction: &str, access: &str, rest: &str) -> String {
    format!(
        "[[security_group]]\nname = \"{name}\"\n[[security_group.rule]]\nname = \"r\"\npriority = 100\n\
         direction = \"{direction}\"\naccess = \"{access}\"\n{rest}\n"
    )
}

fn pings(lab: &Lab, host: &str, ip: &str) -> bool {
    let said = lab.exec(host, &["bash", "-c", &format!("ping -c 2 -i 0.3 -W 2 {ip} || true")]);
    said.contains(", 0% packet loss")
}

fn connects(lab: &Lab, host: &str, ip: &str, port: u16) -> bool {
    let script = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{ip}/{port}' 2>/dev/null; echo $?");
    lab.exec(host, &["bash", "-c", &script]).trim() == "0"
}

fn private_flows() -> usize {
    let flows = json(&["flows", "-o", "json"]);
    rows(&flows["flows"]).filter(|row| row["scenario"] == "private" && row["state"] == "live").count()
}

fn explain(from: &str, to: &str) -> Value {
    json(&["explain", from, to, "-o", "json"])
}

/// Frames that the kernels of the members passed on by themselves.
fn by_kernel() -> u64 {
    let of = |node: &str| json(&["cache", "--node", node, "-o", "json"])["sent"].as_u64();
    ["n1", "n2", "n3"].into_iter().filter_map(of).sum()
}

/// Talks until the kernel has passed on as much as `frames` in one go; it is counted twice a second.
fn wait_for_kernel(what: &str, frames: u64, mut talk: impl FnMut()) {
    wait_until(what, Duration::from_secs(20), || {
        let before = by_kernel();
        talk();
        std::thread::sleep(Duration::from_millis(600));
        by_kernel() >= before + frames
    });
}

#[test]
fn isolated_hosts_reach_each_other_by_the_gateway_as_both_sides_groups_allow_also_when_the_owner_dies() {
    let lab = Lab::up_as(3, &["--isolated", "--cache", "eager"]);
    let server = lab.start("b2", &["python3", "-c", ECHO]);
    server.wait_for("serves", Duration::from_secs(10));
    assert!(pings(&lab, "b1", B2) && pings(&lab, "b1", INET), "nobody judges");
    let neighbour = lab.exec("b1", &["ip", "neigh", "show", B2]);
    assert!(neighbour.contains("02:51:4e:00:"), "a shard answers in b2's name: {neighbour}");
    // Two requests and two answers.
    wait_for_kernel("pings to pass by the kernel", 4, || assert!(pings(&lab, "b1", B2)));
    assert_eq!(private_flows(), 0, "W4");
    // b1 reaches nobody outside, and b2.
    let groups = group("closed", "outbound", "deny", "destination = \"Internet\"")
        + &group("web", "inbound", "deny", "protocol = \"tcp\"\ndestination_ports = 8");
    resources::apply(&with(&groups, Some("closed"), Some("web")));
    let mut talk = Conversation::begin_with(&lab, "b1", B2, 7);
    wait_for_kernel("the connection to pass by the kernel", 20, || (0..10).for_each(|_| assert!(talk.goes_on())));
    assert!(!pings(&lab, "b1", INET) && pings(&lab, "b1", B2));
    assert!(!connects(&lab, "b1", B2, 8), "b2's own group");
    assert_eq!(explain("10.0.1.1", "10.0.1.2:8")["reason"], "security_rule");
    let said = explain("10.0.1.1", "10.0.1.2:9");
    assert_eq!((&said["verdict"], &said["scenario"]), (&"opens".into(), &"private".into()), "{said:#}");
    assert_eq!(explain("10.0.1.1", "10.0.200.1:9")["reason"], "private_destination");
    assert!(private_flows() > 0);
    assert_eq!(lab.ports_of("b1")["used"].as_u64(), Some(0), "nothing is translated");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    wait_until("the connection to go on", Duration::from_secs(20), || talk.goes_on());
    assert!(pings(&lab, "b1", B2) && !pings(&lab, "b1", INET));
    // A host with nothing but its own address sends all to its gateway, whichever shard's that is.
    lab.restart_the_dead();
    lab.wait_until_whole(Duration::from_secs(60));
    for (host, ip) in [("b3", "10.0.1.3"), ("b4", "10.0.1.4")] {
        let script = format!(
            "ip address flush dev eth0; ip address add {ip}/32 dev eth0; ip route add default via 10.0.0.1 dev eth0 onlink"
        );
        let _set = lab.exec(host, &["bash", "-c", &script]);
    }
    assert!(pings(&lab, "b3", "10.0.1.4") && pings(&lab, "b4", B2) && pings(&lab, "b3", INET));
    // A rule that comes ends what it forbids.
    let closed = group("closed", "outbound", "deny", "");
    let file =
        resources::file_of(&with(&(closed + &group("web", "inbound", "allow", "")), Some("closed"), Some("web")));
    let path = file.path().to_str().expect("a plain path");
    let foretold = json(&["apply", "--dry-run", "-o", "json", "-f", path])["flows_cut"]["flows"].as_u64();
    let done = json(&["apply", "--yes", "-o", "json", "-f", path])["flows_cut"]["flows"].as_u64();
    assert!(foretold.is_some_and(|flows| flows > 0) && foretold == done, "{foretold:?} {done:?}");
    assert!(!talk.goes_on() && !pings(&lab, "b1", B2));
    drop(server);
}

/// b1 behind a group with these rules, and behind port 80 of the first frontend, whose probe asks it alone.
fn behind(rules: &str) -> String {
    let group = format!("[[security_group]]\nname = \"plain\"\n{rules}");
    let web = "[[load_balancer.probe]]\nname = \"alive\"\nport = 7\ninterval_seconds = 1\nnumber_of_probes = 2\n\
               [[load_balancer.load_balancing_rule]]\nname = \"web\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
               frontend_port = 80\npool = \"pool1\"\nbackend_port = 7\nprobe = \"alive\"\n";
    with(&group, Some("plain"), None).replacen("[outside]", &format!("{web}[outside]"), 1)
}

/// What the probe finds of b1.
fn health() -> String {
    let all = json(&["get", "probes", "-o", "json"]);
    let row = rows(&all).find(|row| row["backend"] == "b1/ipconfig1").cloned().unwrap_or_default();
    row["health"].as_str().unwrap_or_default().to_owned()
}

fn default_rules() -> Vec<String> {
    let groups = json(&["get", "security-groups", "-o", "json"]);
    let words = |row: &Value| {
        let of = |field: &str| row["properties"][field].to_string().replace('"', "");
        let fields = ["priority", "direction", "access", "sourceAddressPrefix", "destinationAddressPrefix", "protocol"];
        format!("{} {}", row["name"].as_str().unwrap_or_default(), fields.map(of).join(" "))
    };
    rows(&groups[0]["properties"]["defaultSecurityRules"]).map(words).collect()
}

#[test]
fn a_group_without_rules_does_what_its_six_default_ones_say_and_a_users_last_rule_comes_before_them() {
    const FRONTEND: &str = "203.0.113.1";
    let lab = Lab::up_as(3, &["--isolated"]);
    resources::apply(&behind(""));
    assert_eq!(
        default_rules(),
        [
            "AllowVNetInBound 65000 Inbound Allow VirtualNetwork VirtualNetwork *",
            "AllowAzureLoadBalancerInBound 65001 Inbound Allow AzureLoadBalancer * *",
            "DenyAllInbound 65500 Inbound Deny * * *",
            "AllowVnetOutBound 65000 Outbound Allow VirtualNetwork VirtualNetwork *",
            "AllowInternetOutBound 65001 Outbound Allow * Internet *",
            "DenyAllOutBound 65500 Outbound Deny * * *",
        ]
    );
    let patience = Duration::from_secs(20);
    wait_until("the probe to find nobody", patience, || health() == "down");
    let server = lab.start("b1", &["python3", "-c", ECHO]);
    server.wait_for("serves", Duration::from_secs(10));
    wait_until("the probe to be let in", patience, || health() == "up");
    assert!(!connects(&lab, "inet", FRONTEND, 80), "nobody of the internet is");
    let said = explain(&format!("{INET}:40000"), &format!("{FRONTEND}:80"));
    assert!(said["reason"] == "security_rule" && said.to_string().contains("DenyAllInbound"), "{said:#}");
    assert!(connects(&lab, "b2", "10.0.1.1", 7), "the network is");
    assert!(connects(&lab, "b1", INET, 80) && pings(&lab, "b1", B2), "and all may leave");
    // Nobody takes a default rule's place.
    let rule = |name: &str, priority: u16, direction: &str, access: &str| {
        format!(
            "[[security_group.rule]]\nname = \"{name}\"\npriority = {priority}\n\
             direction = \"{direction}\"\naccess = \"{access}\"\n"
        )
    };
    let file = file_of(&behind(&rule("DenyAllInbound", 4096, "inbound", "allow")));
    let refused = run(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("nobody changes or takes away"), "{said}");
    assert!(connects(&lab, "b2", "10.0.1.1", 7), "nothing was changed");
    let last = rule("in", 4096, "inbound", "deny") + &rule("out", 4096, "outbound", "deny");
    resources::apply(&behind(&last));
    assert!(!connects(&lab, "b2", "10.0.1.1", 7) && !connects(&lab, "b1", INET, 80));
    wait_until("the probe to be denied", patience, || health() == "down");
}

/// Sends what it is told, one packet each, built here: `tcp,20001,203.0.113.10,80;…`. The number of a packet is in it.
const SENDER: &str = "import socket, struct, sys, time\n\
    def total(data):\n\
    \x20if len(data) % 2: data += b'\\0'\n\
    \x20s = sum(struct.unpack('!%dH' % (len(data) // 2), data))\n\
    \x20while s >> 16: s = (s & 0xffff) + (s >> 16)\n\
    \x20return ~s & 0xffff\n\
    own, raw = sys.argv[1], socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n\
    for n, line in enumerate(sys.argv[2].split(';')):\n\
    \x20proto, sport, ip, dport = line.split(',')\n\
    \x20ends = socket.inet_aton(own) + socket.inet_aton(ip)\n\
    \x20number, sport, dport = 0x51000000 + n, int(sport), int(dport)\n\
    \x20if proto == 'tcp':\n\
    \x20 kind, make = 6, lambda c: struct.pack('!HHIIBBHHH', sport, dport, number, 0, 80, 2, 1024, c, 0)\n\
    \x20else:\n\
    \x20 kind, make = 17, lambda c: struct.pack('!HHHHI', sport, dport, 12, c, number)\n\
    \x20length = len(make(0))\n\
    \x20body = make(total(ends + struct.pack('!BBH', 0, kind, length) + make(0)))\n\
    \x20raw.sendto(struct.pack('!BBHHHBBH', 69, 0, 20 + length, n + 1, 0x4000, 64, kind, 0) + ends + body, (ip, 0))\n\
    \x20time.sleep(0.002)\n";
/// Says the number of each such packet that comes.
const WATCHER: &str = "import socket, struct\n\
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))\n\
    s.bind(('eth0', 0x800))\n\
    print('ready', flush=True)\n\
    while True:\n\
    \x20data, where = s.recvfrom(2048)\n\
    \x20if where[2] == 4 or len(data) < 32: continue\n\
    \x20at = {6: 24, 17: 28}.get(data[9])\n\
    \x20if at is None or (at == 24 and data[33] != 2): continue\n\
    \x20number = struct.unpack('!I', data[at:at + 4])[0]\n\
    \x20if number >> 24 == 0x51: print('came', number & 0xffffff, flush=True)\n";

/// Draws of one run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40).expect("24 bits") % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// A group with rules both ways.
    fn group(&mut self, name: &str) -> String {
        let mut text = format!("[[security_group]]\nname = \"{name}\"\n");
        for n in 0..10 {
            let direction = self.one(&["outbound", "inbound"]);
            let far = if direction == "outbound" { "destination" } else { "source" };
            let end = self.one(&[
                "",
                "\"Internet\"",
                "\"VirtualNetwork\"",
                "\"203.0.113.10\"",
                "\"203.0.113.0/28\"",
                "[\"203.0.113.20\", \"10.0.1.2\", \"10.0.1.1\"]",
                "\"10.0.1.0/30\"",
            ]);
            let end = if end.is_empty() { String::new() } else { format!("{far} = {end}\n") };
            let ports = self.one(&[
                "",
                "destination_ports = 80\n",
                "destination_ports = \"80-443\"\n",
                "destination_ports = [53, 8443]\n",
            ]);
            let protocol = self.one(&["", "protocol = \"tcp\"\n", "protocol = \"udp\"\n"]);
            let access = self.one(&["allow", "deny"]);
            text += &format!(
                "[[security_group.rule]]\nname = \"r{n}\"\npriority = {}\ndirection = \"{direction}\"\naccess = \"{access}\"\n{end}{ports}{protocol}",
                100 + n
            );
        }
        text
    }

    /// A packet of b1's.
    fn packet(&mut self, n: usize) -> [String; 4] {
        let ends = [INET, "203.0.113.20", "203.0.113.70", B2, "10.0.1.3", B2, "10.0.200.1", "192.168.7.7"];
        let ports = ["80", "443", "53", "8443", "9000", "200"];
        [self.one(&["tcp", "udp"]).into(), (20_000 + n).to_string(), self.one(&ends).into(), self.one(&ports).into()]
    }
}

/// Whether it is said of each packet that it leaves.
fn foretold(packets: &[[String; 4]]) -> Vec<bool> {
    let say = |[proto, from, ip, port]: &[String; 4]| {
        let (mut leaves, ends) = (None, [format!("10.0.1.1:{from}"), format!("{ip}:{port}")]);
        wait_until("somebody to serve", Duration::from_secs(10), || {
            let said = json(&["explain", &ends[0], &ends[1], proto, "-o", "json"]);
            leaves = match said["verdict"].as_str() {
                Some("opens" | "opens_if_free" | "passes") => Some(true),
                Some("dropped") => Some(false),
                Some("waits" | "not_served") => None,
                other => panic!("{other:?}: {said:#}"),
            };
            leaves.is_some()
        });
        leaves.expect("waited for")
    };
    let quarter = packets.len().div_ceil(4);
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            packets.chunks(quarter).map(|part| scope.spawn(|| part.iter().map(say).collect::<Vec<bool>>())).collect();
        parts.into_iter().flat_map(|part| part.join().expect("no question fails")).collect()
    })
}

/// What other hosts say that they got of these packets of b1's.
fn heard(lab: &Lab, packets: &[[String; 4]]) -> String {
    let watchers = ["inet", "b2", "b3"].map(|host| lab.start(host, &["python3", "-c", WATCHER]));
    watchers.iter().for_each(|watcher| watcher.wait_for("ready", Duration::from_secs(10)));
    let told: Vec<String> = packets.iter().map(|packet| packet.join(",")).collect();
    let _sent = lab.exec("b1", &["python3", "-c", SENDER, "10.0.1.1", &told.join(";")]);
    std::thread::sleep(Duration::from_secs(2));
    watchers.iter().map(Running::said).collect()
}

#[test]
fn what_is_said_of_a_thousand_random_packets_under_random_groups_is_what_the_wire_does_with_each() {
    let lab = Lab::up_as(3, &["--isolated"]);
    for ip in ["203.0.113.20", "203.0.113.70"] {
        let _added = lab.exec("inet", &["ip", "address", "add", &format!("{ip}/32"), "dev", "eth0"]);
    }
    let seed = std::env::var("QNAT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_170_321);
    let mut draw = Draw(seed);
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..4 {
        let groups = draw.group("card1") + &draw.group("card2") + &draw.group("all");
        let text = with(&groups, Some("card1"), Some("card2"));
        resources::apply(&text.replace("isolated = true\n", "isolated = true\nsecurity_group = \"all\"\n"));
        let packets: Vec<[String; 4]> = (0..250).map(|n| draw.packet(250 * round + n)).collect();
        // A machine that stands still may elect another owner: what is on its way meanwhile may be lost.
        let calm = (0..5).find_map(|_| {
            let term = lab.term_of("b1");
            let (said, heard) = (foretold(&packets), heard(&lab, &packets));
            (lab.term_of("b1") == term).then_some((said, heard))
        });
        let (said, heard) = calm.expect("an owner that stays for some seconds");
        for (n, (packet, said)) in packets.iter().zip(said).enumerate() {
            let came = heard.lines().any(|line| line == format!("came {n}"));
            assert_eq!(said, came, "seed {seed}, round {round}: {packet:?} under {groups}");
            *(if came { &mut passed } else { &mut dropped }) += 1;
        }
    }
    assert!(passed >= 100 && dropped >= 100, "{passed} passed, {dropped} did not: the groups are too tame");
    println!("{passed} passed, {dropped} did not");
}
