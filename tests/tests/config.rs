//! The running configuration as a file: what `qnat get config` says is what runs, and `qnat apply` takes it back unchanged. Needs
//! root.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, binary, json, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::{self, Changes, file_of};
use qnat_tests::{checks, shared};
use serde_json::Value;
use tempfile::NamedTempFile;

fn main() -> ExitCode {
    shared::run(checks![
        // First: whoever leaves its shard waits until its flows there have ended, and their holds, which are longer than the test waits.
        each_example_is_applied_is_what_runs_then_and_does_what_it_says,
        the_running_configuration_is_a_file_that_apply_takes_back_unchanged,
        groups_inbound_rules_own_addresses_and_several_networks_come_back_as_they_were,
        an_address_in_the_place_of_another_is_used_at_once_and_connections_stay_on_the_old_one,
        two_that_apply_at_once_both_do,
        an_apply_that_ends_flows_is_refused_with_their_number_unless_somebody_says_yes,
        an_apply_that_removes_more_than_it_adds_wants_a_yes,
        a_terminal_is_asked_and_its_yes_is_for_what_it_was_shown,
    ])
}

/// What a member says runs.
fn config_at(node: u32) -> String {
    ok(&["get", "config", "--node", &format!("n{node}")])
}

/// Without what it says of itself.
fn body(config: &str) -> String {
    config.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// That a file is what runs.
fn changes_nothing(file: &str) {
    let file = file_of(file);
    let path = file.path().to_str().expect("a plain path");
    let said = ok(&["apply", "--dry-run", "-f", path]);
    assert!(said.ends_with("nothing would change\n"), "{said}");
    let plan = json(&["apply", "--dry-run", "-o", "json", "-f", path]);
    assert_eq!(rows(&plan["changes"]).count(), 0, "{plan:#}");
    assert!(plan["flows_cut"].is_null() && plan["flows_taken"].is_null(), "{plan:#}");
}

fn the_running_configuration_is_a_file_that_apply_takes_back_unchanged(lab: &Lab) {
    let mut talk = Conversation::begin(lab, "b1");
    assert!(talk.goes_on());
    let file = config_at(1);
    changes_nothing(&file);
    let told = json(&["get", "config", "-o", "json", "--node", "n1"]);
    assert_eq!((told["file"].as_str(), told["node"].as_u64()), (Some(file.as_str()), Some(1)));
    resources::apply(&file);
    assert!(talk.goes_on(), "what runs already ends nothing");
    for node in 1..=3 {
        assert_eq!(body(&config_at(node)), body(&file), "as n{node} has it");
    }
    // Changed by one word it changes one thing.
    assert!(file.contains("idle_timeout_minutes = 4\n"), "{file}");
    let changed = file_of(&file.replace("idle_timeout_minutes = 4\n", "idle_timeout_minutes = 5\n"));
    let plan = json(&["apply", "--dry-run", "-o", "json", "-f", changed.path().to_str().expect("a plain path")]);
    let changes: Vec<_> = rows(&plan["changes"]).map(|row| row["resource"].as_str().unwrap_or_default()).collect();
    assert_eq!(changes, ["load_balancer.lb1"], "{plan:#}");
}

/// All kinds of resources that there are, and settings other than the usual ones.
fn all_kinds() -> String {
    let rules = "idle_timeout_minutes = 7\nenable_tcp_reset = true\non_reclaim = \"drain\"\nfrontends = [\"pip3\", \"pip1\", \"pip2\"]\n\
                 [[load_balancer.pool]]\nname = \"pool2\"\n\
                 [[load_balancer.load_balancing_rule]]\nname = \"http\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                 frontend_port = 80\npool = \"pool2\"\nbackend_port = 8080\ndistribution = \"source-ip\"\n\
                 [[load_balancer.inbound_nat_rule]]\nname = \"ssh\"\nfrontend = \"pip1\"\nfrontend_port = 2202\n\
                 ip_configuration = \"far/a\"\nbackend_port = 22\n";
    let more = "[[public_ip]]\nname = \"own\"\naddress = \"203.0.113.60\"\n\
                [[public_ip]]\nname = \"spare\"\naddress = \"203.0.113.61\"\nreserved_ports = [2049, 8080]\n\
                [[virtual_network]]\nname = \"vnet2\"\naddress_space = [\"10.64.0.0/15\"]\npeerings = [\"vnet1\"]\n\
                on_premises = \"192.168.7.0/24\"\n\
                [[virtual_network.subnet]]\nname = \"private\"\nprefix = \"10.64.1.0/24\"\ngateway = \"10.64.1.254\"\nisolated = true\n\
                security_group = \"nsg\"\n\
                [[instance]]\nname = \"far\"\n[[instance.ip_configuration]]\nname = \"a\"\nprivate_ip = \"10.64.1.4\"\n\
                subnet = \"vnet2/private\"\nmac = \"52:54:00:00:00:07\"\n\
                [[instance.ip_configuration]]\nname = \"b\"\nprivate_ip = \"10.64.1.5\"\nnic = \"Card\"\n\
                [[nic]]\nname = \"card\"\nsubnet = \"vnet2/private\"\nsecurity_group = \"NSG\"\n\
                application_security_groups = [\"web\"]\n\
                [[application_security_group]]\nname = \"web\"\n\
                [[security_group]]\nname = \"nsg\"\n\
                [[security_group.rule]]\nname = \"in\"\npriority = 100\ndirection = \"inbound\"\naccess = \"allow\"\nprotocol = \"tcp\"\n\
                source = \"INTERNET\"\ndestination = \"web\"\ndestination_ports = [80, \"8000-8080\"]\n\
                [[security_group.rule]]\nname = \"out\"\npriority = 200\ndirection = \"outbound\"\naccess = \"deny\"\n\
                destination = [\"198.51.100.0/24\", \"192.0.2.7\"]\nsource_ports = \"1024-65535\"\n\
                [settings]\nreplicas = 3\nmss_max = 1360\nshort_idle_ports = [53]\nicmp_on_refusal = true\n";
    let text = Changes { rule: rules, more, ..Changes::default() }.text();
    let of_b4 = "private_ip = \"10.0.1.4\"\n";
    assert!(text.contains(of_b4), "{text}");
    text.replace(of_b4, &format!("{of_b4}public_ip = \"own\"\n"))
}

fn groups_inbound_rules_own_addresses_and_several_networks_come_back_as_they_were(lab: &Lab) {
    resources::apply(&all_kinds());
    let file = config_at(2);
    for piece in [
        "frontends = [\"pip3\", \"pip1\", \"pip2\"]",
        "on_reclaim = \"drain\"",
        "distribution = \"source-ip\"",
        "ip_configuration = \"far/a\"",
        "public_ip = \"own\"",
        "reserved_ports = [2049, 8080]",
        "isolated = true",
        "nic = \"card\"",
        "source = \"Internet\"",
        "destination = [\"198.51.100.0/24\", \"192.0.2.7/32\"]",
        "destination_ports = [80, \"8000-8080\"]",
        "mss_max = 1360",
    ] {
        assert!(file.contains(piece), "{piece} is not in\n{file}");
    }
    changes_nothing(&file);
    changes_nothing(&all_kinds());
    // After all of it was gone it comes back by its own file, whoever owns what then.
    resources::apply(&Changes::default().text());
    assert_ne!(body(&config_at(2)), body(&file));
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    resources::apply(&file);
    let another = if killed == 1 { 2 } else { 1 };
    assert_eq!(body(&config_at(another)), body(&file));
    lab.restart_the_dead();
    let of_killed = || try_json(&["get", "config", "-o", "json", "--node", &format!("n{killed}")]);
    wait_until("the restarted member to have it", Duration::from_secs(30), || {
        of_killed().and_then(|told| Some(body(told["file"].as_str()?) == body(&file))) == Some(true)
    });
    changes_nothing(&file);
}

const B1: &str = "10.0.1.1";
const FLOWS: u16 = 60;

/// The public address under which a host is seen.
fn seen(lab: &Lab, host: &str) -> Option<String> {
    let ask = format!("curl -s --max-time 1 http://{INET}/ || true");
    let said: Value = serde_json::from_str(&lab.exec(host, &["sh", "-c", &ask])).ok()?;
    said["address"].as_str().map(ToOwned::to_owned)
}

fn each_example_is_applied_is_what_runs_then_and_does_what_it_says(lab: &Lab) {
    // In an order in which nobody who has flows has to leave its shard.
    const FILES: [&str; 3] = ["servers.toml", "three-ways-out.toml", "outbound.toml"];
    let there = std::fs::read_dir("../examples").expect("the examples").map(|entry| entry.expect("a file").file_name());
    assert_eq!(there.collect::<BTreeSet<_>>(), FILES.map(Into::into).into(), "each has its place");
    for file in FILES {
        let text = std::fs::read_to_string(format!("../examples/{file}")).expect("text");
        let at = |says: &str| text.contains(says);
        resources::apply(&text);
        changes_nothing(&text);
        let ways: &[(&str, &str)] = if at("public_ip = \"own\"") {
            &[("b1", "203.0.113.50"), ("b2", "203.0.113.1"), ("b3", "203.0.113.24"), ("b4", "203.0.113.24")]
        } else {
            &[("b1", "203.0.113."), ("b2", "203.0.113.")]
        };
        for (host, way) in ways {
            let leaves = || seen(lab, host).is_some_and(|address| address.starts_with(way));
            wait_until(&format!("{host} to leave by {way} under {file}"), Duration::from_secs(30), leaves);
        }
    }
}

/// The lab's resources with a group of b1's that takes nothing to these ports.
fn forbidding(ports: &str) -> String {
    let more = format!(
        "[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"g\"\n[[security_group]]\nname = \"g\"\n\
         [[security_group.rule]]\nname = \"no\"\npriority = 100\ndirection = \"outbound\"\naccess = \"deny\"\n\
         destination_ports = \"{ports}\"\n"
    );
    let text = Changes { more: &more, ..Changes::default() }.text();
    let own = format!("private_ip = \"{B1}\"\nsubnet = \"vnet1/default\"\n");
    assert!(text.contains(&own), "{text}");
    text.replace(&own, &format!("private_ip = \"{B1}\"\nnic = \"nic1\"\n"))
}

/// Sends datagrams of b1's to as many ports of the internet's, from 9000 on.
fn open_flows(lab: &Lab) {
    let script = "import socket, sys\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('', 20000))\n\
                  for port in range(int(sys.argv[2])):\n \
                  s.sendto(b'x', (sys.argv[1], 9000 + port))\n";
    let _sent = lab.exec("b1", &["python3", "-c", script, INET, &FLOWS.to_string()]);
    wait_until("the flows to open", Duration::from_secs(10), || live() == usize::from(FLOWS));
}

/// How many of them live.
fn live() -> usize {
    let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
    let is = |row: &&serde_json::Value| row["state"] == "live" && row["inside"] == format!("{B1}:20000").as_str();
    rows(&flows["flows"]).filter(is).count()
}

/// What an apply of this says that is refused.
fn refusal(text: &str) -> String {
    let before = body(&config_at(1));
    let file = file_of(text);
    let output = run(&["apply", "-f", file.path().to_str().expect("a plain path")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing was changed") && said.contains("qnat apply -f FILE --yes"), "{said}");
    assert_eq!(before, body(&config_at(1)));
    said
}

fn an_address_in_the_place_of_another_is_used_at_once_and_connections_stay_on_the_old_one(lab: &Lab) {
    let rule = "on_reclaim = \"drain\"\n";
    resources::apply(&Changes { rule, ..Changes::default() }.text());
    let mut talk = Conversation::begin(lab, "b1");
    assert!(talk.goes_on());
    let old = seen(lab, "b1").expect("it leaves");
    let new = "203.0.113.99";
    let text = Changes { rule, ..Changes::default() }.text();
    let declared = format!("address = \"{old}\"\n");
    assert!(text.contains(&declared), "{text}");
    resources::apply(&text.replace(&declared, &format!("address = \"{new}\"\n")));
    assert_eq!(seen(lab, "b1").as_deref(), Some(new), "at the first attempt");
    let connection = lab.live_mappings(B1, 7);
    assert!(connection.len() == 1 && connection[0].starts_with(&format!("{old}:")), "{connection:?}");
    assert!(talk.goes_on());
}

/// One of them finds that its plan is of a configuration that is gone, and makes another.
fn two_that_apply_at_once_both_do(_: &Lab) {
    let of =
        |minutes: u32| Changes { rule: &format!("idle_timeout_minutes = {minutes}\n"), ..Changes::default() }.file();
    let files = [("n1", of(5)), ("n2", of(6))];
    let committed = |(node, file): &(&str, NamedTempFile)| {
        let path = file.path().to_str().expect("a plain path");
        json(&["apply", "--yes", "-o", "json", "--node", node, "-f", path])["committed"].as_u64()
    };
    for _ in 0..10 {
        let both = thread::scope(|scope| {
            let applies = files.each_ref().map(|file| scope.spawn(|| committed(file)));
            applies.map(|apply| apply.join().expect("carried out"))
        });
        assert!(both[0].is_some() && both[1].is_some() && both[0] != both[1], "{both:?}");
    }
    resources::apply(&Changes::default().text());
}

fn an_apply_that_ends_flows_is_refused_with_their_number_unless_somebody_says_yes(lab: &Lab) {
    open_flows(lab);
    // A third of them.
    let text = forbidding("9000-9019");
    let file = file_of(&text);
    let path = file.path().to_str().expect("a plain path");
    let shown = ok(&["apply", "--dry-run", "-f", path]);
    assert!(shown.contains("applied, it wants --yes: it ends 20 live flows"), "{shown}");
    assert!(refusal(&text).contains("it ends 20 live flows"));
    assert_eq!(live(), usize::from(FLOWS), "nothing was done");
    let done = json(&["apply", "--yes", "-o", "json", "-f", path]);
    assert_eq!(done["flows_cut"]["flows"].as_u64(), Some(20), "{done:#}");
    assert_eq!(live(), usize::from(FLOWS) - 20);
    // What ends nobody's flow wants no yes.
    let less = file_of(&forbidding("9000-9010"));
    ok(&["apply", "-f", less.path().to_str().expect("a plain path")]);
    resources::apply(&forbidding("9000-9999"));
    assert_eq!(live(), 0);
}

fn an_apply_that_removes_more_than_it_adds_wants_a_yes(_: &Lab) {
    let one_more = |name: &str| format!("[[public_ip]]\nname = \"{name}\"\naddress = \"203.0.113.77\"\n");
    let with = |more: &str| Changes { more, ..Changes::default() }.text();
    resources::apply(&with(&one_more("spare")));
    let said = refusal(&with(""));
    assert!(said.contains("removes more resources than it adds, 1 and 0: public_ip.spare"), "{said}");
    // As many come as go.
    let renamed = file_of(&with(&one_more("other")));
    ok(&["apply", "-f", renamed.path().to_str().expect("a plain path")]);
    let gone = file_of(&with(""));
    ok(&["apply", "--yes", "-f", gone.path().to_str().expect("a plain path")]);
    assert!(!config_at(1).contains("203.0.113.77"));
}

/// An apply with a terminal before it.
struct Terminal {
    child: Child,
    said: String,
}

impl Terminal {
    /// Waits until it asks.
    fn apply(path: &str) -> Self {
        let command = format!("{} apply -f {path}", binary().display());
        let mut script = Command::new("script");
        let script = script.args(["-q", "-e", "-c", &command, "/dev/null"]);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
        let (mut said, mut octet) = (Vec::new(), [0]);
        let out = child.stdout.as_mut().expect("piped");
        while !said.ends_with(b"[y/N] ") {
            let read = out.read(&mut octet).expect("a pipe");
            assert!(read == 1, "it did not ask: {}", String::from_utf8_lossy(&said));
            said.push(octet[0]);
        }
        Self { child, said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// What it ends with, and what it said after this line.
    fn answer(mut self, line: &str) -> (Option<i32>, String) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{line}").expect("it reads");
        let mut rest = String::new();
        self.child.stdout.as_mut().expect("piped").read_to_string(&mut rest).expect("a pipe");
        (self.child.wait().expect("a child of ours").code(), rest)
    }
}

fn a_terminal_is_asked_and_its_yes_is_for_what_it_was_shown(lab: &Lab) {
    open_flows(lab);
    let file = file_of(&forbidding("9000-9009"));
    let path = file.path().to_str().expect("a plain path");
    let before = body(&config_at(1));
    let asked = Terminal::apply(path);
    assert!(asked.said.contains("it ends 10 live flows"), "{}", asked.said);
    let (code, said) = asked.answer("n");
    assert!(code == Some(1) && said.contains("nothing was changed"), "{code:?} {said}");
    assert_eq!((body(&config_at(1)), live()), (before, usize::from(FLOWS)));
    // Somebody else changes something meanwhile: the yes was to something else.
    let asked = Terminal::apply(path);
    let other = Changes { more: "[[public_ip]]\nname = \"pip77\"\naddress = \"203.0.113.77\"\n", ..Changes::default() };
    ok(&["apply", "-f", other.file().path().to_str().expect("a plain path")]);
    let (code, said) = asked.answer("y");
    assert!(code == Some(1) && said.contains("have changed since it was shown"), "{code:?} {said}");
    assert_eq!(live(), usize::from(FLOWS));
    let (code, said) = Terminal::apply(path).answer("y");
    assert!(code == Some(0) && said.contains("10 live flows ended"), "{code:?} {said}");
    assert_eq!(live(), usize::from(FLOWS) - 10);
    // Nothing at all is asked about too.
    let empty = file_of("# nothing\n");
    let (code, _) = Terminal::apply(empty.path().to_str().expect("a plain path")).answer("");
    assert_eq!(code, Some(1));
    assert_eq!(live(), usize::from(FLOWS) - 10);
}
