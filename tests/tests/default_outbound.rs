//! The way out of an instance that has nothing else, over real packets: what the internet sees of it, beside instances that
//! have a pool or an address of their own, and what becomes of its flows when it joins a pool, when it leaves it and when
//! the owner dies. Needs root.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use qnat_ends::End;
use qnat_lab::Host;
use qnat_reference::packet::{ETH, UDP, addresses, be16, examine, ipv4, udp};
use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, in_host, json, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::{self, Changes, file_of};
use qnat_tests::{checks, shared};
use serde_json::Value;

const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// b2's own address.
const OWN: &str = "203.0.113.50";
const FRONTENDS: [&str; 3] = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
const PATIENCE: Duration = Duration::from_secs(30);
/// What is waited for a connection, or for a word on one: longer than a takeover.
const SOON: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    shared::run_by(
        base,
        checks![
            a_member_of_a_linked_pool_leaves_under_its_frontend_by_a_port_of_its_grant,
            a_member_of_a_pool_that_no_rule_links_leaves_under_an_address_that_nobody_configured,
            an_availability_set_shares_an_address_that_nothing_changes_and_a_killed_owner_loses_none,
            a_standalone_instance_joins_a_pool_and_leaves_it_and_its_flows_keep_what_they_had,
            what_comes_in_by_a_rule_is_answered_from_its_frontend_while_the_instance_leaves_by_its_own_address,
            a_hundred_flows_of_an_instance_leave_under_one_of_three_frontends,
            nslookup_tells_each_instance_the_address_that_it_leaves_by,
            a_subnet_without_default_outbound_access_drops_first_packets_and_explain_says_why,
            a_standalone_instance_that_has_used_up_its_ports_is_told_of_and_so_is_the_end_of_that,
        ],
    )
}

/// b1 in pool1 of three frontends; b2 with an address of its own, in a pool that a rule leads to; b3 and b4 with nothing,
/// in one availability set. Holds are short.
fn base() -> String {
    let rule = "[[load_balancer.pool]]\nname = \"web\"\n[[load_balancer.pool]]\nname = \"spare\"\n\
                [[load_balancer.load_balancing_rule]]\nname = \"http\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                frontend_port = 80\npool = \"web\"\nbackend_port = 8080\n";
    let more = format!(
        "[[public_ip]]\nname = \"own\"\naddress = \"{OWN}\"\n[[availability_set]]\nname = \"as1\"\n\
         [default_outbound]\naddresses = [\"203.0.113.240/29\"]\n\
         [settings]\norphan_grace_ms = 1000\nhold_ms = [3000, 3000, 3000, 3000, 3000]\n"
    );
    let text = Changes { rule, more: &more, ..Changes::default() }.text();
    let text = with(&text, "b2", "pool = \"lb1/pool1\"\n", "pool = \"lb1/web\"\npublic_ip = \"own\"\n");
    ["b3", "b4"].into_iter().fold(text, |text, instance| {
        let text = with(&text, instance, "pool = \"lb1/pool1\"\n", "");
        with(&text, instance, "[[instance.ip", "availability_set = \"as1\"\n[[instance.ip")
    })
}

/// The text with other lines of an instance.
fn with(text: &str, instance: &str, from: &str, to: &str) -> String {
    let at = text.find(&format!("name = \"{instance}\"\n")).expect("the instance");
    let (before, after) = text.split_at(at);
    assert!(after.contains(from), "{after}");
    format!("{before}{}", after.replacen(from, to, 1))
}

fn is_system(address: &str) -> bool {
    let ip: Ipv4Addr = address.parse().expect("an address");
    (0xcb00_71f0..=0xcb00_71f7).contains(&ip.to_bits())
}

fn inside_of(instance: &str) -> String {
    instance.replace('b', "10.0.1.")
}

fn backend(number: u32) -> Host {
    Host::Backend(number)
}

/// The address and port under which the internet's web server sees an instance.
fn seen(lab: &Lab, instance: &str) -> (String, u64) {
    let said = lab.exec(instance, &["curl", "-s", "--max-time", "10", &format!("http://{INET}/")]);
    let said: Value = serde_json::from_str(&said).expect("what the web server says");
    (said["address"].as_str().expect("an address").to_owned(), said["port"].as_u64().expect("a port"))
}

/// The row of an instance in `qnat get backends`.
fn row_of(instance: &str) -> Value {
    let name = format!("{instance}/ipconfig1");
    let all = json(&["get", "backends", "-o", "json"]);
    rows(&all).find(|row| row["name"] == name.as_str()).cloned().expect("a row")
}

/// Waits until the owner of an instance's shard lets its new flows out by this right.
fn wait_for_right(instance: &str, right: &str) {
    wait_until(&format!("{instance} to leave by {right}"), PATIENCE, || {
        let told = try_json(&["explain", &inside_of(instance), &format!("{INET}:9"), "-o", "json"]).unwrap_or_default();
        told["scenario"] == right
    });
}

/// Public ends of an instance's connections to the echo server.
fn ends(lab: &Lab, instance: &str) -> BTreeSet<String> {
    lab.live_mappings(&inside_of(instance), 7).into_iter().collect()
}

/// One more connection of an instance, and its public end.
fn connection(lab: &Lab, instance: &str) -> (Conversation, String) {
    connection_to(lab, instance, INET)
}

/// The same to any address of the internet's.
fn connection_to(lab: &Lab, instance: &str, remote: &str) -> (Conversation, String) {
    let before = ends(lab, instance);
    let mut talk = Conversation::begin_with(lab, instance, remote, 7);
    assert!(talk.goes_on());
    let mut new = BTreeSet::new();
    wait_until("its mapping to be listed", PATIENCE, || {
        new = ends(lab, instance).difference(&before).cloned().collect();
        new.len() == 1
    });
    (talk, new.pop_first().expect("one"))
}

fn address_of(end: &str) -> &str {
    end.rsplit_once(':').expect("address and port").0
}

/// An end of an instance's, and its gateway's Ethernet address.
fn end_of(instance: &str) -> (End, [u8; 6]) {
    let end = End::open(&format!("qnat-{instance}"), "eth0").expect("a raw socket inside");
    end.hello(REMOTE).expect("a way out");
    let gateway = end.neighbour(GATEWAY).expect("the gateway answers");
    (end, gateway)
}

/// Sends a datagram to each of these ends from each of these ports, and returns the public end and the remote end of those
/// that came out.
fn datagrams(instance: &str, to: &[(Ipv4Addr, u16)], from: &[u16]) -> BTreeSet<(String, u16, (Ipv4Addr, u16))> {
    let (end, gateway) = end_of(instance);
    let inet = End::open("qnat-inet", "eth0").expect("a raw socket outside");
    let _silent = (end.silence().expect("nft"), inet.silence().expect("nft"));
    let inside: Ipv4Addr = inside_of(instance).parse().expect("an address");
    let mut found = BTreeSet::new();
    inet.drain().expect("a socket");
    let pairs = to.iter().flat_map(|to| from.iter().map(move |from| (*to, *from)));
    let frames: Vec<Vec<u8>> =
        pairs.map(|((ip, port), from)| ipv4((end.mac, gateway), inside, ip, UDP, &udp(from, port, b"out"))).collect();
    for some in frames.chunks(100) {
        some.iter().for_each(|frame| end.send(frame).expect("sent"));
        for frame in inet.receive(Duration::from_millis(400)).expect("a socket") {
            if frame.len() < ETH + 28 || frame[ETH + 9] != UDP {
                continue;
            }
            let (source, destination) = addresses(&frame);
            let remote = (destination, be16(&frame, ETH + 22));
            if to.contains(&remote) {
                examine(&frame).expect("checksums");
                found.insert((source.to_string(), be16(&frame, ETH + 20), remote));
            }
        }
    }
    found
}

fn a_member_of_a_linked_pool_leaves_under_its_frontend_by_a_port_of_its_grant(lab: &Lab) {
    let row = lab.ports_of("b1");
    let frontend = row["frontend"].as_str().expect("it is bound").to_owned();
    assert!(FRONTENDS.contains(&frontend.as_str()), "{row}");
    assert_eq!(row["way_out"], "pool");
    let granted =
        |port: u64| rows(&row["lease"]).any(|r| (r["first"].as_u64()..=r["last"].as_u64()).contains(&Some(port)));
    let (address, port) = seen(lab, "b1");
    assert!(address == frontend && granted(port), "S3: {address}:{port}, {row}");
    let out = datagrams("b1", &[(REMOTE, 4500)], &[5000]);
    let [(address, port, _)] = &out.iter().collect::<Vec<_>>()[..] else { panic!("S1: {out:?}") };
    assert!(*address == frontend && granted((*port).into()), "{out:?}");
    let answer = in_host(backend(1), || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.set_read_timeout(Some(SOON)).expect("a socket");
        socket.send_to(b"question", (INET, 7)).expect("sent");
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("S1: an answer");
        buffer[..len].to_vec()
    });
    assert_eq!(answer, b"question");
}

fn a_member_of_a_pool_that_no_rule_links_leaves_under_an_address_that_nobody_configured(lab: &Lab) {
    resources::apply(&with(&base(), "b1", "lb1/pool1", "lb1/spare"));
    wait_for_right("b1", "default");
    let (address, _) = seen(lab, "b1");
    assert!(is_system(&address), "S3: {address}");
    let frontends = json(&["get", "frontends", "-o", "json"]);
    let row = rows(&frontends).find(|row| row["address"] == address.as_str()).expect("a row");
    assert!(row["name"].is_null() && row["purpose"] == "system", "nobody named it: {row}");
    let told = ok(&["get", "default-outbound"]);
    assert!(told.contains("b1/ipconfig1") && told.contains("neither chosen nor relied on"), "{told}");
}

fn an_availability_set_shares_an_address_that_nothing_changes_and_a_killed_owner_loses_none(lab: &Lab) {
    let (mut of_3, end_3) = connection(lab, "b3");
    let (mut of_4, end_4) = connection(lab, "b4");
    assert!(is_system(address_of(&end_3)), "S4: {end_3}");
    assert_eq!(address_of(&end_3), address_of(&end_4), "S4: one address");
    assert_ne!(end_3, end_4, "S7: two ports");
    let status = ok(&["status"]);
    assert!(status.contains("b3/ipconfig1") && status.contains("neither chosen nor relied on"), "{status}");
    let told = json(&["get", "default-outbound", "-o", "json"]);
    let set = rows(&told).find(|row| row["availability_set"] == "as1").expect("a row");
    assert_eq!((set["address"].as_str(), rows(&set["backends"]).count()), (Some(address_of(&end_3)), 2), "{set}");
    assert_eq!(set["ports_per_backend"], 1024, "D2: a set of two");
    // Nobody may choose it.
    let chosen = with(&base(), "b3", "subnet = ", "public_ip = \"mine\"\nsubnet = ")
        + &format!("[[public_ip]]\nname = \"mine\"\naddress = \"{}\"\n", address_of(&end_3));
    let file = file_of(&chosen);
    for dry in [&["--dry-run"][..], &[]] {
        let path = file.path().to_str().expect("a plain path");
        let refused = run(&[&["apply", "-f", path], dry].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("public_ip.mine.address") && said.contains("nobody can choose one"), "{said}");
    }
    let named = |row: &&Value| row["name"].is_string();
    let frontends = json(&["get", "frontends", "-o", "json"]);
    assert_eq!(rows(&frontends).filter(named).count(), 4, "D28: pip1 to pip3 and b2's own, as they were declared");
    // The owner dies in the middle, and no setting changes the address: the same again after other changes.
    let killed = lab.kill_owner_of("b3");
    for talk in [&mut of_3, &mut of_4] {
        wait_until(&format!("it to go on without n{killed}"), PATIENCE, || talk.goes_on());
    }
    let (mut again, end) = connection(lab, "b3");
    assert_eq!(address_of(&end), address_of(&end_3), "S4");
    lab.restart_the_dead();
    let text = base() + "[[public_ip]]\nname = \"free\"\naddress = \"203.0.113.60\"\n";
    resources::apply(&text);
    let (_talk, end) = connection(lab, "b4");
    assert_eq!(address_of(&end), address_of(&end_3));
    assert!(of_3.goes_on() && of_4.goes_on() && again.goes_on());
    assert!(ends(lab, "b3").contains(&end_3) && ends(lab, "b4").contains(&end_4), "I25: under what they began with");
}

fn a_standalone_instance_joins_a_pool_and_leaves_it_and_its_flows_keep_what_they_had(lab: &Lab) {
    let (mut alone, first) = connection(lab, "b3");
    assert!(is_system(address_of(&first)), "{first}");
    let joined = with(&base(), "b3", "subnet = ", "pool = \"lb1/pool1\"\nsubnet = ");
    let file = file_of(&joined);
    let plan = ok(&["apply", "--dry-run", "-f", file.path().to_str().expect("a plain path")]);
    assert!(plan.contains("new flows by its pool instead of a system address"), "{plan}");
    resources::apply(&joined);
    wait_for_right("b3", "pool");
    let (mut pooled, second) = connection(lab, "b3");
    assert!(FRONTENDS.contains(&address_of(&second)), "S5: {second}");
    assert!(alone.goes_on());
    let killed = lab.kill_owner_of("b3");
    for talk in [&mut alone, &mut pooled] {
        wait_until(&format!("both to go on without n{killed}"), PATIENCE, || talk.goes_on());
    }
    lab.restart_the_dead();
    resources::apply(&base());
    wait_for_right("b3", "default");
    let (mut again, third) = connection(lab, "b3");
    assert_eq!(address_of(&third), address_of(&first), "S4: its set's address again");
    assert!([&mut alone, &mut pooled, &mut again].into_iter().all(Conversation::goes_on), "D12");
    let all = ends(lab, "b3");
    assert!([&first, &second, &third].into_iter().all(|end| all.contains(end)), "D12: {all:?}");
    assert_eq!(row_of("b3")["way_out"], "default");
}

/// Answers each connection to a port of an instance with whom it sees, and its lines again.
fn serve(number: u32, port: u16) {
    let listener = in_host(backend(number), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || talk(stream));
        }
    });
}

fn talk(mut stream: TcpStream) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    writeln!(stream, "{client}")?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn what_comes_in_by_a_rule_is_answered_from_its_frontend_while_the_instance_leaves_by_its_own_address(lab: &Lab) {
    serve(2, 8080);
    wait_for_right("b2", "own address");
    // A connected socket takes segments of the frontend's port alone.
    let connect =
        || in_host(Host::Inet, || TcpStream::connect_timeout(&SocketAddr::from(([203, 0, 113, 1], 80)), SOON));
    let stream = connect().expect("S21: by the rule");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    let own = stream.local_addr().expect("connected").to_string();
    let mut stream = BufReader::new(stream);
    let mut lines = || {
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        let heard = line.trim().to_owned();
        stream.get_mut().write_all(b"on\n").expect("it goes on");
        heard
    };
    assert_eq!(lines(), own, "S24: it sees the client");
    let (mut out, end) = connection_to(lab, "b2", &REMOTE.to_string());
    assert_eq!(address_of(&end), OWN, "S19, S2");
    assert_eq!(seen(lab, "b2").0, OWN);
    assert_eq!(lines(), "on");
    assert!(out.goes_on());
    assert_eq!(lines(), "on", "both at once");
    let killed = lab.kill_owner_of("b2");
    lab.wait_for_successor("b2", killed);
    assert_eq!(lines(), "on", "also under a successor");
    wait_until(&format!("it to go on without n{killed}"), PATIENCE, || out.goes_on());
    assert!(ends(lab, "b2").contains(&end), "by the end that it had");
    assert!(connect().is_ok(), "S21: a new one, too");
    assert_eq!(seen(lab, "b2").0, OWN);
    lab.restart_the_dead();
}

fn a_hundred_flows_of_an_instance_leave_under_one_of_three_frontends(lab: &Lab) {
    let inet: Ipv4Addr = INET.parse().expect("an address");
    let remotes: Vec<(Ipv4Addr, u16)> = (0..50).flat_map(|n| [(inet, 6000 + n), (REMOTE, 6000 + n)]).collect();
    let out = datagrams("b1", &remotes, &[5100]);
    let reached: BTreeSet<(Ipv4Addr, u16)> = out.iter().map(|(_, _, remote)| *remote).collect();
    assert_eq!(reached.len(), 100, "all leave");
    let under: BTreeSet<&str> = out.iter().map(|(address, ..)| address.as_str()).collect();
    let frontend = lab.ports_of("b1")["frontend"].clone();
    assert_eq!(under.len(), 1, "S6: {under:?}");
    assert!(under.iter().all(|address| FRONTENDS.contains(address) && frontend == *address), "{under:?}");
}

/// Answers queries for `myip.opendns.com` with the address that they come from, as the resolver of that name does.
fn resolver() {
    let socket = in_host(Host::Inet, || UdpSocket::bind((INET, 53))).expect("port 53 of the internet");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, SocketAddr::V4(client))) = socket.recv_from(&mut query) {
            let asked = &query[..len];
            let Some(end) = asked[12..].iter().position(|octet| *octet == 0).map(|at| at + 12 + 5) else { continue };
            let is_address = asked[end - 4..end] == [0, 1, 0, 1];
            let mut answer = asked[..end].to_vec();
            (answer[2], answer[3]) = (0x84 | (asked[2] & 1), 0);
            answer[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(client.ip().octets());
            }
            let _best_effort = socket.send_to(&answer, client);
        }
    });
}

fn nslookup_tells_each_instance_the_address_that_it_leaves_by(lab: &Lab) {
    resolver();
    let told = |instance: &str| {
        let said = lab.exec(instance, &["nslookup", "myip.opendns.com", INET]);
        let answer = said.split("myip.opendns.com").nth(1).and_then(|rest| rest.split("Address: ").nth(1));
        answer.and_then(|rest| rest.split_whitespace().next()).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let frontend = lab.ports_of("b1")["frontend"].clone();
    assert_eq!(frontend, told("b1"), "S18: by its pool");
    assert_eq!(told("b2"), OWN);
    let (third, fourth) = (told("b3"), told("b4"));
    assert!(is_system(&third), "{third}");
    assert_eq!(third, fourth, "S4");
}

fn a_subnet_without_default_outbound_access_drops_first_packets_and_explain_says_why(lab: &Lab) {
    let (mut kept, end) = connection(lab, "b3");
    let gateway = "gateway = \"10.0.0.1\"\n";
    let off = base().replace(gateway, &format!("{gateway}default_outbound_access = false\n"));
    resources::apply(&off);
    let told = || json(&["explain", "10.0.1.3", &format!("{INET}:9"), "-o", "json"]);
    wait_until("its owner to know", PATIENCE, || told()["reason"] == "default_outbound_off");
    let text = ok(&["explain", "10.0.1.3", &format!("{INET}:9")]);
    assert!(text.contains("default_outbound_off") && text.contains("default_outbound_access = false"), "{text}");
    let inet: Ipv4Addr = INET.parse().expect("an address");
    assert_eq!(datagrams("b3", &[(inet, 4500)], &[5200]), BTreeSet::new(), "D11");
    assert!(kept.goes_on(), "D11: first packets only");
    assert!(ends(lab, "b3").contains(&end));
    assert!(FRONTENDS.contains(&seen(lab, "b1").0.as_str()), "a pool is no default way out");
    assert_eq!(seen(lab, "b2").0, OWN);
    assert_eq!(ok(&["get", "default-outbound"]).trim(), "none");
    // Without system addresses at all the reason is another one.
    let none = base().replace("[default_outbound]\naddresses = [\"203.0.113.240/29\"]\n", "");
    resources::apply(&none);
    wait_until("its owner to know", PATIENCE, || told()["reason"] == "no_outbound_path");
    let text = ok(&["explain", "10.0.1.3", &format!("{INET}:9")]);
    assert!(text.contains("no system addresses") && text.contains("[default_outbound]"), "{text}");
}

fn a_standalone_instance_that_has_used_up_its_ports_is_told_of_and_so_is_the_end_of_that(lab: &Lab) {
    let from: Vec<u16> = (20_000..21_060).collect();
    let out = datagrams("b4", &[(REMOTE, 4600)], &from);
    let ports: BTreeSet<u16> = out.iter().map(|(_, port, _)| *port).collect();
    assert_eq!((out.len(), ports.len()), (1024, 1024), "S12, S7");
    assert!(out.iter().all(|(address, ..)| is_system(address)));
    let (address, remote) = (out.first().expect("some").0.clone(), format!("{REMOTE}:4600"));
    wait_until("it to be told of", PATIENCE, || {
        let concerns = lab.status()["concerns"].clone();
        let is = |row: &&Value| row["what"] == "ports_exhausted" && row["subject"]["name"] == "b4/ipconfig1";
        rows(&concerns).any(|row| {
            let why = row["why"].as_str().unwrap_or_default();
            is(&row)
                && why.contains(&address)
                && why.contains(&remote)
                && row["exhausted"]["frontend"] == address.as_str()
        })
    });
    // What its remedy names says what each remedy takes.
    let said = json(&["explain", "10.0.1.4", &remote, "udp", "-o", "json"]);
    assert_eq!((&said["verdict"], &said["reason"]), (&"dropped".into(), &"ports_exhausted".into()), "{said:#}");
    let is_whole = |row: &Value| ["what", "condition", "price"].iter().all(|field| row[field].as_str() > Some(""));
    assert!(rows(&said["remedies"]).count() == 6 && rows(&said["remedies"]).all(is_whole), "S17: {said:#}");
    let text = ok(&["explain", "10.0.1.4", &remote, "udp"]);
    assert!(text.contains(&format!("none of its 1024 ports of {address} is free towards {remote}")), "{text}");
    assert!(text.contains("reuse connections") && text.contains("price: a public address"), "{text}");
    // Whoever else it asks is reached.
    assert_eq!(datagrams("b4", &[(REMOTE, 4601)], &[20_000]).len(), 1, "S12");
    let alerts = |kind: &str| -> Vec<Value> {
        let events = json(&["events", "-o", "json"]);
        let is = |row: &&Value| row["event"] == kind && row["alert"]["healthEventType"] == "SnatPortExhaustion";
        rows(&events["events"]).filter(is).map(|row| row["alert"].clone()).collect()
    };
    for (kind, name) in [("concern_began", "Resource Limits Hit"), ("concern_ended", "Resource Limits Left")] {
        wait_until(&format!("an alert: {name}"), PATIENCE * 2, || {
            alerts(kind).iter().any(|alert| {
                let told = &alert["properties"];
                let place = &told["eventProperties"];
                alert["resourceId"] == "b4/ipconfig1"
                    && (&told["eventName"], &told["eventDescription"]) == (&name.into(), &"Ports exhausted".into())
                    && place["public ip address"] == address.as_str()
                    && place["destinations"][0] == format!("{remote}/udp").as_str()
            })
        });
    }
}
