//! What a dump says of a packet is what the members said at that moment. Needs root.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, ok, rows, run};
use qnat_tests::resources::Changes;
use serde_json::Value;

const QUESTIONS: usize = 200;
const OTHER_REMOTE: &str = "203.0.113.11";

/// Groups, inbound rules to a pool and to one instance, an own address, and a second network that is peered.
fn declared() -> String {
    let rules = "[[load_balancer.load_balancing_rule]]\nname = \"http\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                 frontend_port = 80\npool = \"pool1\"\nbackend_port = 8080\n\
                 [[load_balancer.inbound_nat_rule]]\nname = \"ssh\"\nfrontend = \"pip1\"\nfrontend_port = 2202\n\
                 ip_configuration = \"b2/ipconfig1\"\nbackend_port = 22\n";
    let rule = |name: &str, priority: u16, direction: &str, access: &str, rest: &str| {
        format!(
            "[[security_group.rule]]\nname = \"{name}\"\npriority = {priority}\ndirection = \"{direction}\"\n\
             access = \"{access}\"\n{rest}\n"
        )
    };
    let more = "[[public_ip]]\nname = \"own\"\naddress = \"203.0.113.60\"\n\
                [[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"g\"\n\
                [[security_group]]\nname = \"g\"\n"
        .to_owned()
        + &rule("no-443", 100, "outbound", "deny", "protocol = \"tcp\"\ndestination_ports = 443")
        + &rule("no-other", 200, "outbound", "deny", &format!("protocol = \"udp\"\ndestination = \"{OTHER_REMOTE}\""))
        + &rule("web", 100, "inbound", "allow", "protocol = \"tcp\"\ndestination_ports = [22, 8080]");
    let text = Changes { rule: rules, more: &more, ..Changes::default() }.text();
    let with = |text: String, backend: u32, line: &str| {
        let own = format!("private_ip = \"10.0.1.{backend}\"\n");
        assert!(text.contains(&own), "{text}");
        text.replace(&own, &format!("{own}{line}\n"))
    };
    with(with(text, 4, "public_ip = \"own\""), 1, "nic = \"nic1\"")
}

/// Mappings of all kinds.
fn open_flows(lab: &Lab) {
    let script = "import socket, sys\n\
                  for n in range(30):\n \
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n \
                  s.bind(('', 20000 + n))\n \
                  s.sendto(b'x', (sys.argv[1], 9000 + n % 5))\n";
    for host in ["b1", "b2", "b3", "b4"] {
        let _sent = lab.exec(host, &["python3", "-c", script, INET]);
        let _closed = lab.exec(host, &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
        let _pinged = lab.exec(host, &["ping", "-c", "1", "-W", "3", INET]);
    }
}

/// Numbers that are the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// A question: source, destination, protocol.
type Asked = [String; 3];

/// Of mappings that are there, either way, and of packets that nobody sent.
fn questions(flows: &Value) -> Vec<Asked> {
    let mut draw = Draw(7);
    let rows: Vec<&Value> = rows(&flows["flows"]).collect();
    let insides = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.7.7"];
    let remotes = [INET, OTHER_REMOTE, "203.0.113.90", "192.168.9.9"];
    let publics = ["203.0.113.1", "203.0.113.2", "203.0.113.60"];
    let ports = [80, 443, 2202, 22, 8080, 9_000, 5_000];
    let one = |draw: &mut Draw| {
        let proto = draw.one(&["tcp", "udp", "icmp"]).to_owned();
        let port = |draw: &mut Draw, base: &str| format!("{base}:{}", draw.one(&ports));
        match draw.below(6) {
            0 | 1 => {
                let row = draw.one(&rows);
                let end = |name: &str| row[name].as_str().expect("an end").to_owned();
                let proto = row["proto"].as_str().expect("a protocol").to_owned();
                if draw.below(2) == 0 {
                    [end("inside"), end("remote"), proto]
                } else {
                    [end("remote"), end("public"), proto]
                }
            }
            2 | 3 => {
                let from = format!("{}:{}", draw.one(&insides), 30_000 + draw.below(20));
                let to = draw.one(&remotes);
                [from, port(draw, to), proto]
            }
            4 => {
                let from = format!("{}:{}", draw.one(&remotes), 40_000 + draw.below(50));
                let to = draw.one(&publics);
                [from, port(draw, to), proto]
            }
            _ => {
                let from = format!("{}:{}", draw.one(&insides), 30_000 + draw.below(20));
                let to = if draw.below(2) == 0 { draw.one(&insides) } else { draw.one(&publics) };
                [from, port(draw, to), proto]
            }
        }
    };
    (0..QUESTIONS).map(|_| one(&mut draw)).collect()
}

fn ask(asked: &Asked, more: &[&str]) -> Value {
    let [source, destination, proto] = asked;
    json(&[&["explain", source, destination, proto, "-o", "json"], more].concat())
}

/// What a member says. One that owns the shard and holds no lease at this very moment says so, which no later question can repeat: it
/// is asked again, for a second.
fn ask_live(asked: &Asked) -> Value {
    let mut told = ask(asked, &["--node", "n1"]);
    for _ in 0..50 {
        if told["verdict"] != "not_served" || told["owner"] != told["node"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        told = ask(asked, &["--node", "n1"]);
    }
    told
}

/// What may differ between the two: a mapping grows older, and only a member knows whether its kernel carries it.
fn comparable(mut told: Value) -> Value {
    if let Some(mapping) = told["mapping"].as_object_mut() {
        mapping.remove("idle_ms");
        mapping.remove("carried");
    }
    told
}

/// Holds the answers against each other; whether all of it was told.
fn agrees(asked: &Asked, live: Value, replayed: Value) -> bool {
    let (mut live, mut replayed) = (comparable(live), comparable(replayed));
    let unknown: Vec<String> =
        rows(&replayed["not_in_dump"]).filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect();
    for name in &unknown {
        let said = live.as_object_mut().expect("an object").remove(name);
        let kept = replayed.as_object_mut().expect("an object").remove(name);
        if let (Some(Value::String(live)), Some(Value::String(kept)), "translated") = (&said, &kept, name.as_str()) {
            assert!(live.starts_with(&format!("{kept}:")), "{asked:?}: {live}, not {kept}");
        }
    }
    replayed.as_object_mut().expect("an object").remove("not_in_dump");
    assert_eq!(live, replayed, "{asked:?}");
    !unknown.iter().any(|name| name == "verdict")
}

fn dump(path: &Path, more: &[&str]) -> String {
    ok(&[&["dump", "--node", "n1", "--to", path.to_str().expect("a plain path")], more].concat())
}

#[test]
fn two_hundred_packets_are_explained_out_of_a_dump_as_the_members_explained_them() {
    let lab = Lab::up_by(&declared());
    let mut talk = Conversation::begin(&lab, "b3");
    assert!(talk.goes_on());
    open_flows(&lab);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.json");
    // Whoever owned a shard before does not any more.
    let killed = lab.kill_owner_of("b2");
    lab.wait_for_successor("b2", killed);
    lab.restart_the_dead();
    lab.wait_until_whole(Duration::from_secs(60));
    open_flows(&lab);
    let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
    assert!(rows(&flows["flows"]).count() > 100, "{flows:#}");
    let said = dump(&path, &[]);
    assert!(said.contains("mappings of") && said.contains("keys and certificates"), "{said}");
    let command = said.lines().find_map(|line| line.split_once(": qnat ")).expect("what it is for").1;
    assert!(command.starts_with("explain "), "{said}");
    ok(&command.split(' ').collect::<Vec<_>>());
    let all = questions(&flows);
    let live: Vec<Value> = all.iter().map(ask_live).collect();
    let from = ["--from", path.to_str().expect("a plain path")];
    let (mut whole, mut verdicts) = (0, std::collections::BTreeMap::<String, usize>::new());
    for (asked, live) in all.iter().zip(live) {
        *verdicts.entry(live["verdict"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        whole += usize::from(agrees(asked, live, ask(asked, &from)));
    }
    println!("{verdicts:?}, {whole} of {QUESTIONS} verdicts told");
    assert!(whole >= QUESTIONS * 19 / 20, "{whole}: what depends on a member that is drawn is rare here");
    for verdict in ["passes", "opens", "dropped"] {
        assert!(verdicts.get(verdict).is_some_and(|count| *count > 10), "{verdicts:?}");
    }
    only_what_was_asked_for(dir.path());
    // Without any member.
    let text = ok(&[&["explain", "10.0.1.1", &format!("{INET}:443")], &from[..]].concat());
    assert!(text.contains("out of ") && text.contains("dropped, security_rule"), "{text}");
    let again = run(&["dump", "--to", path.to_str().expect("a plain path")]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("never written over"), "{again:?}");
    drop(lab);
    let after = ok(&[&["explain", "10.0.1.1", &format!("{INET}:443")], &from[..]].concat());
    assert_eq!(text, after, "the lab is gone");
}

/// A dump of one backend answers for that one, and says so of others; no dump has a key.
fn only_what_was_asked_for(dir: &Path) {
    let path = dir.join("one.json");
    let said = dump(&path, &["--backend", "b3"]);
    assert!(said.contains("mappings that others than b3 began"), "{said}");
    let from = path.to_str().expect("a plain path");
    let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
    let of = |ip: &str| {
        let prefix = format!("{ip}:");
        let row = rows(&flows["flows"]).find(|row| {
            row["state"] == "live" && row["inside"].as_str().is_some_and(|inside| inside.starts_with(&prefix))
        });
        let row = row.expect("a mapping");
        [&row["inside"], &row["remote"], &row["proto"]].map(|field| field.as_str().expect("text").to_owned())
    };
    let told = ask(&of("10.0.1.3"), &["--from", from]);
    assert_eq!(told["verdict"], "passes", "{told:#}");
    let [source, destination, proto] = of("10.0.1.2");
    let other = run(&["explain", "--from", from, &source, &destination, &proto]);
    let why = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(1) && why.contains("b2/ipconfig1's"), "{why}");
    let unknown = run(&["dump", "--to", dir.join("none").to_str().expect("a plain path"), "--backend", "b99"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("qnat get backends"), "{unknown:?}");
    for name in ["one.json", "dump.json"] {
        let text = std::fs::read_to_string(dir.join(name)).expect("written");
        assert!(!text.contains("BEGIN") && !text.contains("PRIVATE"), "{name}");
        assert_eq!(std::fs::metadata(dir.join(name)).expect("written").mode() & 0o777, 0o600, "{name}");
    }
}
