//! What comes in by load-balancing rules and inbound NAT rules, over real connections: who gets a client, what the instance sees of
//! it, and what is left of it when the owner dies or the pool changes. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use qnat_lab::Host;
use qnat_tests::lab::{INET, Lab, in_host, json, rows, wait_until};
use qnat_tests::resources::{self, Changes};

const F1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// What is waited for a connection, or for a word on one: longer than a takeover, shorter than it takes to give up.
const PATIENCE: Duration = Duration::from_secs(5);
/// What nobody lets in gets no answer for so long.
const SILENCE: Duration = Duration::from_secs(1);

const RULES: &str = "[[load_balancer.load_balancing_rule]]\nname = \"http\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                     frontend_port = 80\npool = \"pool1\"\nbackend_port = 8080\n\
                     [[load_balancer.load_balancing_rule]]\nname = \"dns\"\nfrontend = \"pip1\"\nprotocol = \"udp\"\n\
                     frontend_port = 5000\npool = \"pool1\"\nbackend_port = 5353\ndistribution = \"source-ip\"\n\
                     [[load_balancer.inbound_nat_rule]]\nname = \"b2-alone\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                     frontend_port = 2202\nip_configuration = \"b2/ipconfig1\"\nbackend_port = 22\n";

/// Listens on a port of a backend; each connection hears at once who serves it and whom it sees, then its own lines again.
fn serve(backend: u32, port: u16) {
    let listener = in_host(Host::Backend(backend), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let listener = listener.expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let talk = move || talk(backend, stream);
            let _ends_with_its_connection = thread::Builder::new().stack_size(128 << 10).spawn(talk);
        }
    });
}

fn talk(backend: u32, mut stream: TcpStream) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    writeln!(stream, "b{backend} {client}")?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

/// Answers datagrams with the backend's name and whom it sees.
fn serve_datagrams(backend: u32, port: u16) {
    let socket =
        in_host(Host::Backend(backend), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("a free port");
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _best_effort = socket.send_to(format!("b{backend} {client}").as_bytes(), client);
        }
    });
}

/// A connection of the internet's.
struct Client {
    stream: BufReader<TcpStream>,
    member: String,
}

impl Client {
    /// Connects to a public end; `None`: nobody answers in time.
    fn connect(port: u16) -> Option<Self> {
        Self::within(port, PATIENCE)
    }

    fn within(port: u16, patience: Duration) -> Option<Self> {
        let to = SocketAddr::from((F1, port));
        let stream = in_host(Host::Inet, || TcpStream::connect_timeout(&to, patience)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let own = stream.local_addr().expect("connected");
        let mut stream = BufReader::new(stream);
        let mut banner = String::new();
        stream.read_line(&mut banner).ok()?;
        let (member, seen) = banner.trim().split_once(' ')?;
        assert_eq!(seen, own.to_string(), "the client is not hidden");
        Some(Self { member: member.into(), stream })
    }

    /// Whether a line comes back.
    fn goes_on(&mut self) -> bool {
        let mut line = String::new();
        let said = self.stream.get_mut().write_all(b"on\n").is_ok();
        said && self.stream.read_line(&mut line).is_ok() && line == "on\n"
    }
}

fn members(clients: &[Client]) -> BTreeMap<&str, usize> {
    let mut of: BTreeMap<&str, usize> = BTreeMap::new();
    clients.iter().for_each(|client| *of.entry(&client.member).or_default() += 1);
    of
}

/// The lab's resources with rules, and without some backends in the pool.
fn with_rules(out_of_the_pool: &[u32], more: &str) -> String {
    let mut text = Changes { rule: RULES, more, ..Changes::default() }.text();
    for number in out_of_the_pool {
        let own = format!("private_ip = \"10.0.1.{number}\"\nsubnet = \"vnet1/default\"\n");
        assert!(text.contains(&own), "{text}");
        text = text.replace(&format!("{own}pool = \"lb1/pool1\"\n"), &own);
    }
    text
}

#[test]
fn a_thousand_connections_stay_on_their_members_when_the_owner_dies_and_when_the_pool_changes() {
    let lab = Lab::up_by(&with_rules(&[], ""));
    for backend in 1..=4 {
        serve(backend, 8080);
        serve_datagrams(backend, 5353);
    }
    serve(2, 22);
    let mut clients: Vec<Client> = (0..1_000).map(|_| Client::connect(80).expect("a connection")).collect();
    let before: Vec<String> = clients.iter().map(|client| client.member.clone()).collect();
    let shares = members(&clients);
    assert!(shares.len() == 4 && shares.values().all(|share| *share > 150), "{shares:?}");
    assert_eq!(Client::connect(2202).expect("by the NAT rule").member, "b2");

    // Outbound goes on under a port of the grant, and a listener on the port is not asked for it (S3).
    let said = lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
    assert!(said.contains("\"address\":\"203.0.113.1\""), "{said}");
    let asked = in_host(Host::Inet, || {
        let socket = UdpSocket::bind((INET, 0)).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let ask = || {
            socket.send_to(b"?", (F1, 5000)).expect("sent");
            let mut buffer = [0; 256];
            let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!(from, SocketAddr::from((F1, 5000)), "it comes from whom it was asked of");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        let own = socket.local_addr().expect("bound");
        (own, ask(), ask())
    });
    assert!(asked.1.ends_with(&asked.0.to_string()) && asked.1 == asked.2, "{asked:?}");

    // b4 drains: it keeps what it has, and gets nothing new, also by an owner that comes after.
    let own = "private_ip = \"10.0.1.4\"\n";
    resources::apply(&with_rules(&[], "").replace(own, &format!("{own}admin_state = \"down\"\n")));
    let fresh =
        || -> BTreeSet<String> { (0..100).map(|_| Client::connect(80).expect("a connection").member).collect() };
    assert_eq!(fresh(), BTreeSet::from(["b1", "b2", "b3"].map(ToOwned::to_owned)));
    let row = json(&["get", "backends", "-o", "json"]);
    assert!(rows(&row).any(|row| row["name"] == "b4/ipconfig1" && row["admin_state"] == "down"), "{row}");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    let kept = clients.iter_mut().map(Client::goes_on).filter(|kept| *kept).count();
    assert_eq!(kept, 1_000, "all of them");
    assert_eq!(fresh(), BTreeSet::from(["b1", "b2", "b3"].map(ToOwned::to_owned)));
    resources::apply(&with_rules(&[], ""));
    assert_eq!(fresh().len(), 4);

    lab.restart_the_dead();
    resources::apply(&with_rules(&[4], ""));
    let of_4 = before.iter().filter(|member| *member == "b4").count();
    let flows = || {
        let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
        let is_in = |row: &&serde_json::Value| {
            row["public"] == "203.0.113.1:80" && row["state"].as_str().is_some_and(|state| !state.starts_with("held"))
        };
        rows(&flows["flows"]).filter(is_in).filter_map(|row| row["inside"].as_str().map(ToOwned::to_owned)).collect()
    };
    let mut live: Vec<String> = Vec::new();
    wait_until("b4's connections to close", PATIENCE, || {
        live = flows();
        !live.iter().any(|inside| inside.starts_with("10.0.1.4:"))
    });
    for (client, member) in clients.iter_mut().zip(&before).filter(|(_, member)| *member != "b4") {
        assert!(client.goes_on(), "{member} is a member still");
    }
    assert!(live.len() >= 1_000 - of_4, "{} live, {of_4} were b4's", live.len());
    assert!((0..50).all(|_| Client::connect(80).expect("a connection").member != "b4"), "no new ones");
    resources::apply(&with_rules(&[], ""));
    for (client, member) in clients.iter_mut().zip(&before).filter(|(_, member)| *member != "b4") {
        assert!(client.goes_on(), "who comes takes nobody's connections: {member}");
    }
    assert!((0..100).any(|_| Client::connect(80).expect("a connection").member == "b4"), "it has its share again");
}

/// b1 behind an interface of its own: groups of the subnet and of the interface, and the rules of each.
fn behind_groups(subnet: Option<&str>, card: Option<&str>) -> String {
    let attach = |name: &str| format!("security_group = \"{name}\"\n");
    let mut more = String::from("[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\n");
    more += &card.map(|_| attach("card")).unwrap_or_default();
    for (name, rules) in [("card", card), ("subnet", subnet)] {
        more += &rules.map(|rules| format!("[[security_group]]\nname = \"{name}\"\n{rules}")).unwrap_or_default();
    }
    let text = with_rules(&[2, 3, 4], &more);
    let own = "private_ip = \"10.0.1.1\"\nsubnet = \"vnet1/default\"\n";
    let text = text.replace(own, "private_ip = \"10.0.1.1\"\nnic = \"nic1\"\n");
    let gateway = "gateway = \"10.0.0.1\"\n";
    text.replace(gateway, &format!("{gateway}{}", subnet.map(|_| attach("subnet")).unwrap_or_default()))
}

fn rule(direction: &str, access: &str, priority: u16, rest: &str) -> String {
    format!(
        "[[security_group.rule]]\nname = \"r{priority}{direction}\"\npriority = {priority}\n\
         direction = \"{direction}\"\naccess = \"{access}\"\n{rest}"
    )
}

#[test]
fn groups_judge_what_comes_in_by_the_clients_own_end_and_the_instances_own_also_after_the_owner_died() {
    let to = |ip: &str, port: u16| {
        let rest =
            format!("protocol = \"tcp\"\nsource = \"{INET}\"\ndestination = \"{ip}\"\ndestination_ports = {port}\n");
        rule("inbound", "allow", 100, &rest)
    };
    let open = to("10.0.1.1", 8080);
    let lab = Lab::up_by(&behind_groups(None, Some(&open)));
    serve(1, 8080);
    let reaches = || Client::connect(80).is_some();
    let passes = |subnet: Option<&str>, card: Option<&str>| {
        resources::apply(&behind_groups(subnet, card));
        reaches()
    };
    assert!(reaches(), "the client's own address, the instance's own port");
    let mut kept = Client::connect(80).expect("a connection");
    assert!(!passes(None, Some(&to("203.0.113.1", 80))), "not what the client wrote");
    assert!(!kept.goes_on(), "what is forbidden ends");
    // Both have to allow it, where there are two.
    let none = "";
    assert!(!passes(Some(&open), Some(none)));
    assert!(!passes(Some(none), Some(&open)));
    assert!(passes(Some(&open), Some(&open)));
    owner_dies(&lab);
    assert!(reaches());
    for (subnet, card) in [(open.as_str(), none), (none, open.as_str())] {
        resources::apply(&behind_groups(Some(subnet), Some(card)));
        assert!(Client::within(80, SILENCE).is_none(), "nor does a successor let in by one of two");
    }
    assert!(passes(Some(&open), None), "one alone");
    assert!(passes(None, Some(&open)), "and the other one alone");
    assert!(!passes(None, Some(none)), "the six default rules: nothing from the internet");
    either_direction_alone(&lab);
}

fn owner_dies(lab: &Lab) {
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
}

/// A connection of b1's to the internet's web server.
fn goes_out(patience: Duration) -> Option<TcpStream> {
    let to = SocketAddr::from((INET.parse::<Ipv4Addr>().expect("an address"), 80));
    let stream = in_host(Host::Backend(1), || TcpStream::connect_timeout(&to, patience)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    Some(stream)
}

/// Whether the web server answers, and sees the frontend.
fn is_answered(mut stream: TcpStream) -> bool {
    let mut said = String::new();
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: inet\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_to_string(&mut said)).is_ok() && said.contains("\"address\":\"203.0.113.1\"")
}

/// A group that lets begin in one direction alone: what begins gets its answers, also when the owner dies before they come, and
/// nothing begins from the other side.
fn either_direction_alone(lab: &Lab) {
    let whole = || {
        lab.restart_the_dead();
        lab.wait_until_whole(Duration::from_secs(60));
    };
    let nothing_else = rule("outbound", "deny", 200, "") + &rule("inbound", "deny", 200, "");
    let out = rule("outbound", "allow", 100, "protocol = \"tcp\"\ndestination_ports = 80\n") + &nothing_else;
    whole();
    resources::apply(&behind_groups(None, Some(&out)));
    assert!(goes_out(PATIENCE).is_some_and(is_answered), "the answer needs no rule");
    assert!(Client::connect(80).is_none());
    let waits = goes_out(PATIENCE).expect("a connection");
    owner_dies(lab);
    assert!(is_answered(waits), "also by a successor");
    assert!(goes_out(PATIENCE).is_some_and(is_answered));
    assert!(Client::within(80, SILENCE).is_none());
    whole();
    let inward = rule("inbound", "allow", 100, "protocol = \"tcp\"\ndestination_ports = 8080\n") + &nothing_else;
    resources::apply(&behind_groups(None, Some(&inward)));
    let mut kept = Client::connect(80).expect("nor does this one");
    assert!(kept.goes_on());
    assert!(goes_out(SILENCE * 3).is_none());
    owner_dies(lab);
    assert!(kept.goes_on(), "also by a successor");
    assert!(Client::connect(80).is_some_and(|mut client| client.goes_on()));
    assert!(goes_out(SILENCE).is_none());
}
