//! A user's view of a whole cluster: everything goes through the `qnat` binary and the hosts of a lab. Needs root.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{self, INET, Lab, json, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::{Changes, instances};
use serde_json::{Value, json};

fn seen_from_outside(lab: &Lab, host: &str) -> (String, u64) {
    let text = lab.exec(host, &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    let seen: Value = serde_json::from_str(&text).expect("the server answers JSON");
    (seen["address"].as_str().expect("an address").to_owned(), seen["port"].as_u64().expect("a port"))
}

#[test]
fn a_backend_is_seen_under_its_frontend_and_a_port_of_its_lease() {
    let lab = Lab::up();
    for backend in ["b1", "b2", "b3", "b4"] {
        let ports = lab.ports_of(backend);
        let (address, port) = seen_from_outside(&lab, backend);
        assert_eq!(ports["frontend"], address.as_str(), "{backend}");
        let inside_lease = rows(&ports["lease"])
            .any(|range| range["first"].as_u64() <= Some(port) && Some(port) <= range["last"].as_u64());
        assert!(inside_lease, "{backend} uses port {port} outside {}", ports["lease"]);
    }
}

#[test]
fn datagrams_and_pings_come_back() {
    let lab = Lab::up();
    let script = "exec 3<>/dev/udp/203.0.113.10/7; echo hello >&3; timeout 5 head -n 1 <&3";
    assert_eq!(lab.exec("b1", &["bash", "-c", script]).trim(), "hello");
    let said = lab.exec("b2", &["ping", "-c", "3", "-i", "0.2", "-W", "3", INET]);
    assert!(said.contains(" 0% packet loss"), "{said}");
}

#[test]
fn the_internet_never_sees_an_inside_address() {
    let lab = Lab::up();
    let capture = std::env::temp_dir().join(format!("qnat-inet-{}.pcap", std::process::id()));
    let file = capture.to_str().expect("a plain path").to_owned();
    let mut tcpdump = lab.spawn("inet", &["tcpdump", "-Z", "root", "-U", "-n", "-i", "any", "-w", &file]);
    let mut said = BufReader::new(tcpdump.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(said.read_line(&mut line).expect("tcpdump speaks") > 0, "tcpdump ended early");
    }
    let _seen = seen_from_outside(&lab, "b1");
    let _pinged = lab.exec("b2", &["ping", "-c", "1", "-W", "3", INET]);
    // A closed port: the refusal quotes the packet that caused it.
    let closed = "exec 3<>/dev/udp/203.0.113.10/9999; echo x >&3; timeout 0.3 head -c 1 <&3; true";
    let _refused = lab.exec("b3", &["bash", "-c", closed]);
    let count = |filter: &str| {
        let listed = std::process::Command::new("tcpdump").args(["-n", "-r", &file, filter]).output().expect("tcpdump");
        String::from_utf8_lossy(&listed.stdout).lines().count()
    };
    wait_until("the capture to hold the traffic", Duration::from_secs(10), || {
        count("tcp port 80") > 4 && count("icmp[0] == 8") > 0 && count("udp port 9999") > 0
    });
    let leaked = count("net 10.0.0.0/8");
    tcpdump.kill().expect("tcpdump runs");
    tcpdump.wait().expect("tcpdump ends");
    std::fs::remove_file(&capture).expect("the capture is there");
    assert_eq!(leaked, 0, "packets with an inside address outside");
}

/// As many further backends as it takes to halve what each has.
fn a_larger_pool() -> String {
    instances(5..=51)
}

/// Has a backend open flows until more are in the upper half of its ports than in the lower one, 200 at most. Returns how many
/// are in each.
fn fill_until_there_are_more_above(lab: &Lab, backend: &str) -> (usize, usize) {
    let lease = lab.ports_of(backend)["lease"][0].clone();
    let first = lease["first"].as_u64().expect("one block");
    assert_eq!(lease["last"].as_u64(), Some(first + 1023));
    let datagram = "exec 3<>/dev/udp/203.0.113.10/7; echo hello >&3; timeout 5 head -n 1 <&3";
    let mut halves = (0, 0);
    for _ in 0..200 {
        assert_eq!(lab.exec(backend, &["bash", "-c", datagram]).trim(), "hello");
        let ports = lab.udp_ports(&backend.replace('b', "10.0.1."), INET);
        let above = ports.iter().filter(|port| u64::from(**port) >= first + 512).count();
        halves = (ports.len() - above, above);
        if halves.0 > 0 && halves.1 > halves.0 {
            break;
        }
    }
    halves
}

#[test]
fn the_half_of_a_lease_with_fewer_flows_goes_when_the_pool_grows() {
    let lab = Lab::up();
    // Ports are taken in an order that is random by cluster and backend; a tie, and fewer flows above, would let the upper half
    // go. Of four backends one has soon more above, but for one cluster in a hundred thousand.
    let mut taken = 0;
    let found = ["b1", "b2", "b3", "b4"].into_iter().find(|backend| {
        let (below, above) = fill_until_there_are_more_above(&lab, backend);
        taken += below.min(above);
        below > 0 && above > below
    });
    let backend = found.expect("a backend with more flows in the upper half of its ports");
    let range = |end: &str| lab.ports_of(backend)["lease"][0][end].as_u64().expect("one block");
    let (first, last) = (range("first"), range("last"));
    let file = resources(&a_larger_pool());
    let file = file.path().to_str().expect("a plain path");
    for node in 1..=3 {
        let plan = json(&["apply", "--dry-run", "-o", "json", "-f", file, "--node", &format!("n{node}")]);
        assert_eq!(plan["flows_taken"].as_u64(), u64::try_from(taken).ok(), "as n{node} sees it");
    }
    let refused = run(&["apply", "-f", file]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("ports that {taken} live flows are on")) && said.contains("--yes"), "{said}");
    let done = ok(&["apply", "--yes", "-f", file]);
    assert!(done.contains(&format!("{taken} live flows are on the ports that go back")), "{done}");
    wait_until("the lease to be the half with more flows", Duration::from_secs(10), || {
        (range("first"), range("last")) == (first + 512, last)
    });
}

#[test]
fn a_dry_run_names_the_shard_whose_owner_does_not_count_its_flows() {
    let lab = Lab::up();
    let file = resources(&a_larger_pool());
    let file = file.path().to_str().expect("a plain path");
    let uncounted = |node: &str| {
        let plan = json(&["apply", "--dry-run", "-o", "json", "-f", file, "--node", node]);
        rows(&plan["uncounted_shards"]).filter_map(Value::as_u64).collect::<Vec<_>>()
    };
    let (shard, owner) = (lab.ports_of("b1")["shard"].as_u64().expect("a number"), lab.owner_of("b1"));
    let asked = format!("n{}", owner % 3 + 1);
    assert!(!uncounted(&asked).contains(&shard), "its owner counts");
    ok(&["lab", "partition", &asked, &format!("n{owner}")]);
    assert_eq!(lab.owner_of("b1"), owner, "the others hear it");
    assert!(uncounted(&asked).contains(&shard), "{asked} cannot ask n{owner}");
    let said = ok(&["apply", "--dry-run", "-f", file, "--node", &asked]);
    assert!(said.contains("were not counted: the upper halves of its blocks go"), "{said}");
    ok(&["lab", "heal"]);
    wait_until("the owner to count again", Duration::from_secs(10), || !uncounted(&asked).contains(&shard));
}

fn resources(more: &str) -> tempfile::NamedTempFile {
    Changes { more, ..Changes::default() }.file()
}

fn backends() -> Value {
    lab::json(&["get", "backends", "-o", "json"])
}

#[test]
fn a_bad_file_is_refused_by_name_and_changes_nothing() {
    let _lab = Lab::up();
    let before = backends();
    let bad = resources("[[public_ip]]\nname = \"pip4\"\naddress = \"203.0.113.400\"\n");
    let path = bad.path().to_str().expect("a plain path");
    let output = run(&["apply", "-f", path]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for piece in [path, "address", "203.0.113.400", "IPv4"] {
        assert!(said.contains(piece), "{piece:?} is missing in: {said}");
    }
    assert_eq!(before, backends());
}

#[test]
fn an_empty_input_does_not_take_everything_away() {
    let _lab = Lab::up();
    let before = backends();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "# nothing\n[settings]\nreplicas = 3\n").expect("written");
    let path = file.path().to_str().expect("a plain path");
    // Standard input of a command run here is empty, as behind a pipe whose first command failed.
    for arguments in [&["apply", "-f", "-"][..], &["apply", "-f", "-", "--dry-run"], &["apply", "-f", path]] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("declares no resource") && said.contains("--yes"), "{said}");
    }
    assert_eq!(before, backends());
    let shown = ok(&["apply", "-f", path, "--dry-run", "--yes"]);
    assert!(shown.contains("instance.b1"), "what would go is shown: {shown}");
    assert_eq!(before, backends());
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let _lab = Lab::up();
    let before = backends();
    let wanted = resources(
        "[[instance]]\nname = \"b9\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
         private_ip = \"10.0.1.9\"\nsubnet = \"vnet1/default\"\npool = \"lb1/pool1\"\n",
    );
    let path = wanted.path().to_str().expect("a plain path");
    let shown = ok(&["apply", "-f", path, "--dry-run"]);
    assert!(shown.contains("b9"), "{shown}");
    assert_eq!(before, backends());
    let applied = ok(&["apply", "-f", path]);
    assert!(applied.contains("programmed on 3 of 3 nodes"), "{applied}");
    assert_ne!(before, backends(), "the same file changes something when it is meant");
}

fn incarnation(lab: &Lab, node: u64) -> u64 {
    let status = lab.status();
    let row = rows(&status["nodes"]).find(|row| row["node"] == node).cloned().unwrap_or_default();
    row["incarnation"].as_u64().unwrap_or(0)
}

/// Kinds of concern that a status names, with what they are about.
fn concerns(status: &Value) -> Vec<(String, Value)> {
    let kind = |row: &Value| (row["what"].as_str().unwrap_or_default().to_owned(), row["subject"].clone());
    rows(&status["concerns"]).map(kind).collect()
}

/// Nothing is wrong, and says so to scripts.
fn all_is_well() {
    let output = run(&["status", "--wait", "--timeout", "60", "-o", "json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["cluster"]["failures_tolerated"], 1, "{status:#}");
}

/// One member answers for all, over the peers' transport, and misses the one that is gone.
fn is_missed_by_the_others(gone: u64) {
    let asked = format!("n{}", gone % 3 + 1);
    let missed = |kind: &str, subject: Value| {
        let output = run(&["status", "--node", &asked, "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.code() == Some(4)
            && status["silent"] == json!([gone])
            && status["cluster"]["failures_tolerated"] == 0
            && concerns(&status).contains(&(kind.to_owned(), subject))
    };
    wait_until("the member to be missed", Duration::from_secs(10), || {
        missed("member_silent", json!({"kind": "member", "node": gone}))
            && missed("failure_tolerance", json!({"kind": "cluster"}))
            && missed("below_redundancy", json!({"kind": "shard", "shard": 1}))
    });
    let shown = run(&["status", "--node", &asked]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("can lose NO member") && !shown.contains("nothing is wrong"), "{shown}");
}

/// Flows, ports and logs are told by whichever member is asked, as the owner knows them.
fn every_member_answers_for_all(lab: &Lab) {
    let ports = lab.ports_of("b1");
    let address = ports["frontend"].as_str().expect("a frontend");
    let port = ports["lease"][0]["first"].as_u64().expect("a lease").to_string();
    for node in ["n1", "n2", "n3"] {
        let flows = json(&["flows", "--node", node, "-o", "json"]);
        assert!(rows(&flows["flows"]).any(|row| row["state"] == "live"), "{node}: {flows:#}");
        let all = json(&["counters", "--all", "--node", node, "-o", "json"]);
        assert_eq!(rows(&all["members"]).map(|row| row["node"].clone()).collect::<Vec<_>>(), [1, 2, 3], "{node}");
        assert!(rows(&all["members"]).all(|row| row["counted"]["outside"]["received"].is_u64()), "{all:#}");
        let who = json(&["who", "--ip", address, "--port", &port, "--node", node, "-o", "json"]);
        assert!(who["silent"] == json!([]) && who["public"] == true && who["holder"].is_object(), "{who:#}");
    }
    let stranger = ok(&["who", "--ip", "192.0.2.1", "--port", "1"]);
    assert!(stranger.contains("no public address of this cluster"), "{stranger}");
}

fn comes_back(arguments: &[&str]) {
    let lab = Lab::up();
    let mut conversation = Conversation::begin(&lab, "b1");
    assert!(conversation.goes_on());
    let node = lab.owner_of("b1");
    let name = format!("n{node}");
    let life = incarnation(&lab, node);
    all_is_well();
    every_member_answers_for_all(&lab);
    ok(&["lab", "kill", &name]);
    wait_until("the connection to go on without its owner", Duration::from_secs(20), || conversation.goes_on());
    is_missed_by_the_others(node);
    ok(&[&["lab", "restart", name.as_str()], arguments].concat());
    wait_until("a new incarnation", Duration::from_secs(30), || incarnation(&lab, node) > life);
    lab.wait_until_whole(Duration::from_secs(60));
    assert_eq!(lab.owned_by(node), 1, "it has its share again");
    wait_until("the connection to go on with its owner", Duration::from_secs(20), || conversation.goes_on());
    all_is_well();
}

/// Members whose processes that keep processors from halting are there.
fn kept_awake() -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let command = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    entries.map(command).filter(|line| line.ends_with("qnat\0spin\0")).count()
}

#[test]
fn a_member_of_a_small_virtual_machine_keeps_it_awake_until_it_ends() {
    let processors = netio::thread::allowed_cpus().expect("ours").len();
    let worth_it = usize::from(netio::awake::is_virtual() && processors <= 8);
    let _lab = Lab::up();
    assert_eq!(kept_awake(), 3 * worth_it);
    ok(&["lab", "kill", "n2"]);
    wait_until("nobody to spin for a dead member", Duration::from_secs(5), || kept_awake() == 2 * worth_it);
}

#[test]
fn a_restarted_member_is_a_new_incarnation_and_gets_its_share_back() {
    comes_back(&[]);
}

#[test]
fn a_member_that_lost_its_disk_joins_again_and_gets_its_share_back() {
    comes_back(&["--wipe"]);
}

#[test]
fn without_majority_connections_last_for_the_grace_and_service_returns_with_the_second_member() {
    let lab = Lab::up();
    let mut conversation = Conversation::begin(&lab, "b1");
    assert!(conversation.goes_on());
    let owner = lab.owner_of("b1");
    let others: Vec<String> = (1..=3).filter(|node| *node != owner).map(|node| format!("n{node}")).collect();
    for other in &others {
        ok(&["lab", "kill", other]);
    }
    let fresh = lab.spawn("b1", &["curl", "-sS", "--max-time", "1", &format!("http://{INET}/")]);
    assert!(conversation.goes_on(), "what is committed goes on within the grace");
    let fresh = fresh.wait_with_output().expect("curl ends");
    assert!(!fresh.status.success(), "a new connection without a majority: {}", String::from_utf8_lossy(&fresh.stdout));
    wait_until("the grace to end", Duration::from_secs(15), || !conversation.goes_on());
    let alone = try_json(&["status", "-o", "json", "--node", &format!("n{owner}")]);
    let status = alone.unwrap_or_else(|| lab.status());
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let helps = |row: &&Value| text(row, "why").contains("majority") && text(row, "remedy").contains("bring");
    assert_eq!(rows(&status["concerns"]).filter(helps).count(), 3, "each shard says why, and what helps: {status:#}");
    assert!(rows(&status["shards"]).all(|row| row["owner"].is_null() && row["redundancy"]["have"] == 1), "{status:#}");
    ok(&["lab", "restart", &others[0]]);
    wait_until("new connections to pass again", Duration::from_secs(90), || {
        run(&["lab", "exec", "b1", "--", "curl", "-sS", "--max-time", "2", &format!("http://{INET}/")]).status.success()
    });
}

#[test]
fn a_lab_that_is_ended_while_it_comes_up_leaves_nothing() {
    let _alone = lab::Alone::wait();
    let up = |wait| {
        let mut command = std::process::Command::new(lab::binary());
        let mut up =
            command.args(["lab", "up", "--detach"]).stderr(std::process::Stdio::null()).spawn().expect("qnat starts");
        std::thread::sleep(Duration::from_millis(wait));
        ok(&["lab", "down"]);
        let _ended = up.wait().expect("it ends");
        // It may have come so late that it was the first.
        ok(&["lab", "down"]);
        assert_nothing_is_left();
    };
    // Before it has built anything, while it does, while it starts members and while it waits for them: one moment alone tells little.
    (1..=16).map(|step| step * 60).for_each(up);
}

#[test]
fn a_lab_that_went_down_leaves_nothing() {
    fn process_ids(value: &Value, found: &mut Vec<u64>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("pid").and_then(Value::as_u64));
                fields.values().for_each(|field| process_ids(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| process_ids(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let _lab = Lab::up();
    let mut ids = Vec::new();
    process_ids(&lab::json(&["lab", "status", "-o", "json"]), &mut ids);
    assert!(ids.len() >= 3, "three members run: {ids:?}");
    ok(&["lab", "down"]);
    // A process that ended but that nobody has waited for yet (init's duty) shows as Z.
    let runs = |id: &&u64| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let left: Vec<&u64> = ids.iter().filter(runs).collect();
    assert!(left.is_empty(), "processes {left:?} still run");
    assert_nothing_is_left();
}

fn assert_nothing_is_left() {
    let names = std::process::Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    assert!(!String::from_utf8_lossy(&names.stdout).contains("qnat-"), "a namespace is left");
    assert!(!std::path::Path::new("/run/qnat-lab").exists(), "the lab's directory is left");
    let ours = format!("{}\0", lab::binary().display());
    let runs = std::fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        command.starts_with(&ours).then_some(command)
    });
    assert_eq!(runs.collect::<Vec<_>>(), [""; 0], "processes still run");
}
