//! Health probes over real connections: who gets new ones, what an instance may do to fail, how long it takes to be
//! noticed, and what is left alone. Needs root.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use qnat_lab::Host;
use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, in_host, json, ok, rows, wait_until};
use qnat_tests::resources::{self, Changes};
use serde_json::Value;

const F1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the probes here, in seconds, and how many failures take an instance down.
const INTERVAL: u64 = 1;
const NUMBER: u32 = 3;
/// What the machine may be late, an entry of the log and a load of the configuration included.
const SLACK: Duration = Duration::from_millis(1_500);
/// By so much the change itself may have come before it is waited for.
const EARLY: Duration = Duration::from_millis(300);

/// `http` asks port 8081, for the rule at port 80; `tcp` asks 8082, where the connections of the rule at port 81 go. Both rules
/// lead to the four backends.
fn resources(more: &str) -> String {
    let rule = format!(
        "[[load_balancer.probe]]\nname = \"http\"\nprotocol = \"http\"\nport = 8081\nrequest_path = \"/healthz\"\n\
         interval_seconds = {INTERVAL}\nnumber_of_probes = {NUMBER}\n\
         [[load_balancer.probe]]\nname = \"tcp\"\nport = 8082\ninterval_seconds = {INTERVAL}\nnumber_of_probes = {NUMBER}\n\
         [[load_balancer.load_balancing_rule]]\nname = \"web\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
         frontend_port = 80\npool = \"pool1\"\nbackend_port = 8080\nprobe = \"http\"\n\
         [[load_balancer.load_balancing_rule]]\nname = \"raw\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
         frontend_port = 81\npool = \"pool1\"\nbackend_port = 8082\nprobe = \"tcp\"\n"
    );
    Changes { rule: &rule, more, ..Changes::default() }.text()
}

/// Only these instances are in the pool.
fn pool_of(text: &str, members: &[u32]) -> String {
    let mut text = text.to_owned();
    for number in (1..=4).filter(|number| !members.contains(number)) {
        let own = format!("private_ip = \"10.0.1.{number}\"\nsubnet = \"vnet1/default\"\n");
        text = text.replace(&format!("{own}pool = \"lb1/pool1\"\n"), &own);
    }
    text
}

/// How an instance answers its probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// As it should.
    Well,
    /// HTTP 500.
    Broken,
    /// Something else than HTTP.
    Wrong,
    /// Nothing, though it is connected.
    Hanging,
}

/// Something that listens at a port of a backend.
struct Server {
    backend: u32,
    port: u16,
    manner: Arc<Mutex<Manner>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Answers requests.
    fn http(backend: u32, port: u16) -> Self {
        let mut server = Self::idle(backend, port);
        server.start();
        server
    }

    fn idle(backend: u32, port: u16) -> Self {
        let (manner, stop) = (Arc::new(Mutex::new(Manner::Well)), Arc::default());
        Self { backend, port, manner, stop, thread: None }
    }

    fn start(&mut self) {
        let (backend, port) = (self.backend, self.port);
        let listener = in_host(Host::Backend(backend), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let (manner, stop) = (Arc::clone(&self.manner), Arc::clone(&self.stop));
        stop.store(false, Ordering::Relaxed);
        self.thread = Some(thread::spawn(move || {
            let mut hung = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let manner = *manner.lock().expect("nobody panics with it");
                        hung.extend(answer(stream, manner));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        }));
    }

    fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("nobody panics with it") = manner;
    }

    /// Nobody listens there any more.
    fn close(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns the connection if it is to hang.
fn answer(mut stream: TcpStream, manner: Manner) -> Option<TcpStream> {
    stream.set_nonblocking(false).expect("a socket");
    if manner == Manner::Hanging {
        return Some(stream);
    }
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let mut request = [0; 512];
    let heard = stream.read(&mut request).unwrap_or(0);
    let asked = request[..heard].starts_with(b"GET /healthz HTTP/1.1\r\n");
    let said: &[u8] = match manner {
        Manner::Well if asked => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        Manner::Well => b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n",
        Manner::Broken => b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n",
        Manner::Wrong | Manner::Hanging => b"220 mail.example ESMTP\r\n",
    };
    let _best_effort = stream.write_all(said);
    None
}

/// Who serves at a port of each of these; each connection hears a name, then its own lines again.
fn serve(backends: &[u32], port: u16) {
    for backend in backends.iter().copied() {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let listener = in_host(Host::Backend(backend), bind).expect("a free port");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || talk(backend, stream));
            }
        });
    }
}

fn talk(backend: u32, mut stream: TcpStream) -> std::io::Result<()> {
    writeln!(stream, "b{backend}")?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

/// A connection of the internet's.
struct Client {
    stream: BufReader<TcpStream>,
    member: String,
}

impl Client {
    fn within(port: u16, patience: Duration) -> Option<Self> {
        let to = SocketAddr::from((F1, port));
        let stream = in_host(Host::Inet, || TcpStream::connect_timeout(&to, patience)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut stream = BufReader::new(stream);
        let mut member = String::new();
        stream.read_line(&mut member).ok()?;
        Some(Self { member: member.trim().to_owned(), stream })
    }

    fn connect() -> Self {
        Self::within(80, PATIENCE).expect("a connection")
    }

    /// One on this member.
    fn on(member: &str) -> Self {
        (0..200).map(|_| Self::connect()).find(|client| client.member == member).expect("one of many")
    }

    fn goes_on(&mut self) -> bool {
        let mut line = String::new();
        let said = self.stream.get_mut().write_all(b"on\n").is_ok();
        said && self.stream.read_line(&mut line).is_ok() && line == "on\n"
    }
}

/// Who gets so many new connections.
fn members(count: usize) -> BTreeSet<String> {
    (0..count).map(|_| Client::connect().member).collect()
}

/// What is committed of a backend by a probe.
fn health(probe: &str, backend: u32) -> (String, String) {
    let backend = format!("b{backend}/ipconfig1");
    let all = json(&["get", "probes", "-o", "json"]);
    let is = |row: &&Value| row["probe"] == probe && row["backend"] == backend.as_str();
    let row = rows(&all).find(is).expect("it is listed");
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    (text("health"), text("why"))
}

/// Waits until it is so, and until every member judges by it; how long that took.
fn becomes(probe: &str, backend: u32, wanted: &str) -> Duration {
    let begun = Instant::now();
    wait_until(&format!("b{backend} to be {wanted} by {probe}"), Duration::from_secs(20), || {
        health(probe, backend).0 == wanted
    });
    begun.elapsed()
}

fn all_up(probe: &str, backends: &[u32]) {
    for backend in backends {
        becomes(probe, *backend, "up");
    }
}

fn no_route_back(lab: &Lab, backend: u32, what: &str) {
    let route = ["ip", "route", what, "blackhole", "168.63.129.16/32"];
    let _nothing = lab.exec(&format!("b{backend}"), &route);
}

#[test]
fn each_way_to_fail_takes_an_instance_down_in_its_time_and_one_success_brings_it_back() {
    let lab = Lab::up_by(&resources(""));
    serve(&[1, 2, 3, 4], 8080);
    let mut servers: Vec<Server> = (1..=4).map(|backend| Server::http(backend, 8081)).collect();
    all_up("lb1/http", &[1, 2, 3, 4]);
    assert_eq!(members(100).len(), 4);
    let interval = Duration::from_secs(INTERVAL);
    // So many failures begin to be due after up to an interval, and the last of them may take one.
    let (soonest, latest) = (interval * (NUMBER - 1), interval * (NUMBER + 1) + SLACK);
    let fails = |way: &str, why: &str, lab: &Lab, servers: &mut [Server], hang: bool| {
        let down = becomes("lb1/http", 1, "down");
        println!("{way}: down after {down:?}, {NUMBER} failures each {INTERVAL} s");
        assert_eq!(health("lb1/http", 1).1, why, "{way}");
        let soonest = if hang { soonest + interval } else { soonest };
        assert!((soonest - EARLY..latest).contains(&down), "{way}: {down:?}");
        assert!(!members(40).contains("b1"), "{way}");
        for backend in 2..=4 {
            assert_eq!(health("lb1/http", backend).0, "up", "{way}: nobody waits for who hangs");
        }
        match way {
            "silent" => no_route_back(lab, 1, "del"),
            "refused" => servers[0].start(),
            _ => servers[0].behave(Manner::Well),
        }
        let up = becomes("lb1/http", 1, "up");
        println!("{way}: up after {up:?}");
        assert!(up < interval + SLACK, "{way}: {up:?}");
        assert!(members(100).contains("b1"), "{way}");
    };
    for (way, manner, why) in [
        ("HTTP 500", Manner::Broken, "it answers HTTP 500"),
        ("no HTTP", Manner::Wrong, "its answer is not HTTP"),
        ("hanging", Manner::Hanging, "no answer in time"),
    ] {
        servers[0].behave(manner);
        fails(way, why, &lab, &mut servers, manner == Manner::Hanging);
    }
    servers[0].close();
    fails("refused", "it refuses the connection", &lab, &mut servers, false);
    no_route_back(&lab, 1, "add");
    fails("silent", "no answer in time", &lab, &mut servers, true);
}

#[test]
fn a_probe_by_tcp_asks_for_a_connection_and_where_all_fail_nobody_is_let_in() {
    let lab = Lab::up_by(&pool_of(&resources(""), &[1, 2]));
    serve(&[1, 2], 8080);
    // What answers 8082 says nothing: to be connected is all.
    let mut raw: Vec<Server> = (1..=2).map(|backend| Server::http(backend, 8082)).collect();
    let _http: Vec<Server> = (1..=2).map(|backend| Server::http(backend, 8081)).collect();
    all_up("lb1/tcp", &[1, 2]);
    all_up("lb1/http", &[1, 2]);
    raw[0].close();
    println!("refused: down after {:?}", becomes("lb1/tcp", 1, "down"));
    assert_eq!(health("lb1/tcp", 1).1, "it refuses the connection");
    assert_eq!(health("lb1/http", 1).0, "up", "each probe speaks for the rules that name it");
    let mut kept = Client::on("b2");
    no_route_back(&lab, 2, "add");
    println!("silent: down after {:?}", becomes("lb1/tcp", 2, "down"));
    assert_eq!(health("lb1/tcp", 2).1, "no answer in time");

    let to = SocketAddr::from((F1, 81));
    let dropped = || {
        let counted = json(&["counters", "--all", "-o", "json"]);
        let of = |member: &Value| member["counted"]["drops"]["no_backend"].as_u64().unwrap_or(0);
        rows(&counted["members"]).map(of).sum::<u64>()
    };
    let before = dropped();
    let refused = in_host(Host::Inet, || TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    assert!(refused.is_err(), "no member is up");
    wait_until("the drops to be counted by their reason", PATIENCE, || dropped() > before);
    let status = lab.status();
    let concern = rows(&status["concerns"]).find(|row| row["what"] == "no_healthy_backends").expect("it is told");
    assert_eq!(concern["severity"], "critical");
    assert_eq!(concern["subject"]["name"], "lb1/pool1");
    let events = ok(&["events", "--limit", "50"]);
    assert!(events.contains("no member passes probe lb1/tcp"), "{events}");
    let explained = ok(&["explain", &format!("{INET}:40000"), &format!("{F1}:81")]);
    assert!(explained.contains("no_backend"), "{explained}");
    assert!(kept.goes_on(), "D16");

    raw[0].start();
    no_route_back(&lab, 2, "del");
    all_up("lb1/tcp", &[1, 2]);
    let again = in_host(Host::Inet, || TcpStream::connect_timeout(&to, PATIENCE));
    assert!(again.is_ok(), "{again:?}");
    wait_until("the concern to end", PATIENCE, || {
        !rows(&lab.status()["concerns"]).any(|row| row["what"] == "no_healthy_backends")
    });
}

#[test]
fn an_instance_that_fails_its_probe_opens_outbound_flows_all_the_same() {
    let lab = Lab::up_by(&pool_of(&resources(""), &[1]));
    becomes("lb1/http", 1, "down");
    assert_eq!(health("lb1/http", 1).1, "it refuses the connection", "nothing listens there");
    let opens = || {
        let said = lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
        assert!(said.contains("\"address\":\"203.0.113.1\""), "{said}");
    };
    opens();
    let ports = lab.ports_of("b1");
    assert_eq!(ports["allocated"], 1024);
    let mut talk = Conversation::begin(&lab, "b1");
    assert!(talk.goes_on());
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    wait_until("its flow to go on", PATIENCE * 4, || talk.goes_on());
    opens();
    assert_eq!(health("lb1/http", 1).0, "down", "also for the successor");
}

/// b1 behind a card whose group lets the internet in, and denies probes or not.
fn behind_a_group(denies: bool) -> String {
    let mut more = String::from(
        "[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"card\"\n\
         [[security_group]]\nname = \"card\"\n[[security_group.rule]]\nname = \"web\"\npriority = 100\n\
         direction = \"inbound\"\naccess = \"allow\"\nprotocol = \"tcp\"\nsource = \"Internet\"\ndestination_ports = 8080\n",
    );
    if denies {
        more += "[[security_group.rule]]\nname = \"no-probes\"\npriority = 200\ndirection = \"inbound\"\n\
                 access = \"deny\"\nsource = \"AzureLoadBalancer\"\n";
    }
    let text = pool_of(&resources(&more), &[1, 2]);
    let own = "private_ip = \"10.0.1.1\"\nsubnet = \"vnet1/default\"\n";
    text.replace(own, "private_ip = \"10.0.1.1\"\nnic = \"nic1\"\n")
}

#[test]
fn a_group_that_denies_the_probe_takes_its_instance_out_of_new_connections_also_when_the_owner_dies() {
    let lab = Lab::up_by(&behind_a_group(false));
    serve(&[1, 2], 8080);
    let _answering: Vec<Server> = (1..=2).map(|backend| Server::http(backend, 8081)).collect();
    all_up("lb1/http", &[1, 2]);
    let (mut one, mut two) = (Client::on("b1"), Client::on("b2"));

    let file = resources::file_of(&behind_a_group(true));
    let warned = json(&["apply", "-o", "json", "-f", file.path().to_str().expect("a plain path")]);
    let warnings = warned["warnings"].to_string();
    assert!(warnings.contains("AzureLoadBalancer") && warnings.contains("no-probes"), "{warnings}");
    println!("denied: down after {:?}", becomes("lb1/http", 1, "down"));
    assert_eq!(health("lb1/http", 1).1, "a security group denies AzureLoadBalancer");
    assert_eq!(members(50), BTreeSet::from(["b2".to_owned()]));
    assert!(one.goes_on() && two.goes_on(), "the old ones stay (D16)");
    let goes_out = || lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
    assert!(goes_out().contains("203.0.113.1"), "and outwards nothing changed (S3)");
    let explained = ok(&["explain", &format!("{INET}:40000"), &format!("{F1}:80")]);
    let why = "not to         b1/ipconfig1: a security group denies AzureLoadBalancer";
    assert!(explained.contains("backend        b2/ipconfig1") && explained.contains(why), "{explained}");

    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    assert_eq!(members(50), BTreeSet::from(["b2".to_owned()]), "its successor knows it at once");
    assert!(one.goes_on() && two.goes_on());
    assert_eq!(health("lb1/http", 1).0, "down");

    resources::apply(&behind_a_group(false));
    println!("allowed: up after {:?}", becomes("lb1/http", 1, "up"));
    assert_eq!(members(100).len(), 2, "it has its share again");
    assert!(one.goes_on() && two.goes_on());
    assert!(goes_out().contains("203.0.113.1"));
    lab.restart_the_dead();
}

/// The rule at port 80 has no probe; b1 and b2, alone in the pool, have one of their own, at port 8081. Port 82 is b1's alone.
fn with_machines() -> String {
    let nat = "[[load_balancer.inbound_nat_rule]]\nname = \"one\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
               frontend_port = 82\nip_configuration = \"b1/ipconfig1\"\nbackend_port = 8083\n";
    let text = pool_of(&resources(""), &[1, 2]);
    let without = text.replace("backend_port = 8080\nprobe = \"http\"\n", &format!("backend_port = 8080\n{nat}"));
    assert_ne!(without, text);
    (1..=2).fold(without, |text, number| {
        let head = format!("[[instance]]\nname = \"b{number}\"\n");
        let own = format!(
            "[instance.probe]\nprotocol = \"http\"\nport = 8081\nrequest_path = \"/healthz\"\n\
             interval_seconds = {INTERVAL}\nnumber_of_probes = {NUMBER}\n"
        );
        text.replace(&head, &(head.clone() + &own))
    })
}

#[test]
fn a_machine_that_fails_its_own_probe_gets_nothing_new_by_a_rule_without_one_also_when_the_owner_dies() {
    let lab = Lab::up_by(&with_machines());
    serve(&[1, 2], 8080);
    serve(&[1, 2], 8082);
    serve(&[1], 8083);
    let servers: Vec<Server> = (1..=2).map(|backend| Server::http(backend, 8081)).collect();
    becomes("instance b1", 1, "up");
    becomes("instance b2", 2, "up");
    all_up("lb1/tcp", &[1, 2]);
    assert_eq!(members(100).len(), 2);
    let mut kept = Client::on("b1");

    servers[0].behave(Manner::Broken);
    println!("a machine's HTTP 500: down after {:?}", becomes("instance b1", 1, "down"));
    assert_eq!(health("instance b1", 1).1, "it answers HTTP 500");
    assert_eq!(members(50), BTreeSet::from(["b2".to_owned()]));
    let at = |port: u16, count: usize| -> BTreeSet<String> {
        (0..count).map(|_| Client::within(port, PATIENCE).expect("a connection").member).collect()
    };
    assert_eq!(at(81, 100).len(), 2, "a rule with a probe goes by that alone");
    assert_eq!(at(82, 1), BTreeSet::from(["b1".to_owned()]), "nobody stands in for one instance");
    let goes_out = || lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
    assert!(goes_out().contains("203.0.113.1"), "outwards nothing changed (S3)");
    assert!(kept.goes_on(), "D16");
    let concerned = |what: &str| -> Option<Value> {
        let concerns = lab.status()["concerns"].clone();
        rows(&concerns).find(|row| row["what"] == what).cloned()
    };
    let concern = concerned("instance_down").expect("it is told");
    assert_eq!((concern["severity"].as_str(), concern["subject"]["name"].as_str()), (Some("warning"), Some("b1")));
    let explained = ok(&["explain", &format!("{INET}:40000"), &format!("{F1}:80")]);
    let why = "not to         b1/ipconfig1: it answers HTTP 500 (probe instance b1)";
    assert!(explained.contains("backend        b2/ipconfig1") && explained.contains(why), "{explained}");

    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    assert_eq!(members(50), BTreeSet::from(["b2".to_owned()]), "its successor knows it at once");
    assert_eq!(health("instance b1", 1).0, "down");
    assert!(kept.goes_on());

    servers[0].behave(Manner::Well);
    println!("a machine's 200: up after {:?}", becomes("instance b1", 1, "up"));
    assert_eq!(members(100).len(), 2, "it has its share again");
    servers.iter().for_each(|server| server.behave(Manner::Hanging));
    becomes("instance b1", 1, "down");
    becomes("instance b2", 2, "down");
    let to = SocketAddr::from((F1, 80));
    let refused = in_host(Host::Inet, || TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    assert!(refused.is_err(), "no machine is up");
    let concern = concerned("no_healthy_backends").expect("it is told");
    assert_eq!(concern["subject"]["name"], "lb1/pool1");
    let explained = ok(&["explain", &format!("{INET}:40000"), &format!("{F1}:80")]);
    assert!(explained.contains("no_backend") && explained.contains("(probe instance b2)"), "{explained}");
    assert!(kept.goes_on());
    servers.iter().for_each(|server| server.behave(Manner::Well));
    becomes("instance b2", 2, "up");
    wait_until("the concerns to end", PATIENCE * 2, || {
        concerned("no_healthy_backends").is_none() && concerned("instance_down").is_none()
    });
    lab.restart_the_dead();
}
