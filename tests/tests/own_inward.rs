//! What comes in to a public address that is one instance's own, over real connections: all ports, datagrams and pings, what a
//! group keeps away, and what is left of it when the owner dies and when the address is taken. Needs root.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use qnat_lab::Host;
use qnat_tests::lab::{INET, Lab, in_host, json, rows, run, try_json, wait_until};
use qnat_tests::resources::{self, Changes};
use qnat_tests::running::Running;
use serde_json::Value;

const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// Longer than a takeover, shorter than it takes to give up.
const PATIENCE: Duration = Duration::from_secs(5);
/// What nobody lets in gets no answer for so long.
const SILENCE: Duration = Duration::from_millis(700);

/// The lab's resources; b1 in no pool, with an address of its own if `given`, and with a group if there are `rules`.
fn with(given: bool, rules: Option<&str>) -> String {
    let mut more = format!(
        "[[public_ip]]\nname = \"own\"\naddress = \"{OWN}\"\n[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\n"
    );
    if let Some(rules) = rules {
        more += &format!("security_group = \"card\"\n[[security_group]]\nname = \"card\"\n{rules}");
    }
    let text = Changes { more: &more, ..Changes::default() }.text();
    let lines = |ip: u32| format!("private_ip = \"10.0.1.{ip}\"\nsubnet = \"vnet1/default\"\npool = \"lb1/pool1\"\n");
    assert!(text.contains(&lines(1)), "{text}");
    let own = if given { "public_ip = \"own\"\n" } else { "" };
    text.replace(&lines(1), &format!("private_ip = \"10.0.1.1\"\nnic = \"nic1\"\n{own}"))
}

/// Answers on a port of b1: connections hear whom it sees, then their own octets again.
fn serve(port: u16) {
    let listener = in_host(Host::Backend(1), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let _ends_with_its_connection = thread::Builder::new().stack_size(128 << 10).spawn(move || talk(stream));
        }
    });
}

fn talk(mut stream: TcpStream) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    write!(stream, "{client:<24}")?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn serve_datagrams(port: u16) {
    let socket = in_host(Host::Backend(1), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("a free port");
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _best_effort = socket.send_to(client.to_string().as_bytes(), client);
        }
    });
}

/// A connection from `host` to a port of the own address, and whom b1 sees.
fn connect(host: Host, port: u16, patience: Duration) -> Option<(TcpStream, SocketAddr)> {
    let mut stream = in_host(host, || TcpStream::connect_timeout(&SocketAddr::from((OWN, port)), patience)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut seen = [0; 24];
    stream.read_exact(&mut seen).ok()?;
    let seen = String::from_utf8_lossy(&seen).trim().parse().expect("an address");
    Some((stream, seen))
}

/// Whether octets come back.
fn goes_on(stream: &mut TcpStream) -> bool {
    let mut back = [0; 2];
    stream.write_all(b"on").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"on"
}

fn asks(socket: &UdpSocket, port: u16) -> Option<String> {
    socket.send_to(b"?", (OWN, port)).expect("sent");
    let mut buffer = [0; 256];
    let (len, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from, SocketAddr::from((OWN, port)), "it comes from whom it was asked of");
    Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn datagram_socket(timeout: Duration) -> UdpSocket {
    let socket = in_host(Host::Inet, || UdpSocket::bind((INET, 0))).expect("a port");
    socket.set_read_timeout(Some(timeout)).expect("a socket");
    socket
}

fn pings(lab: &Lab, host: &str, count: &str) -> bool {
    let script = format!("ping -c {count} -i 0.2 -W 1 {OWN} || true");
    lab.exec(host, &["sh", "-c", &script]).contains(&format!("{count} received"))
}

fn wait_for_own(address: Option<Ipv4Addr>) {
    let address = address.map(|address| address.to_string());
    wait_until("its own address", Duration::from_secs(30), || {
        let all = json(&["get", "backends", "-o", "json"]);
        rows(&all).any(|row| row["name"] == "b1/ipconfig1" && row["public_ip"].as_str() == address.as_deref())
    });
}

/// Waits until its owner lets somebody outside in.
fn wait_until_open() {
    wait_until("its owner to let the internet in", Duration::from_secs(30), || {
        let told = try_json(&["explain", &format!("{INET}:7000"), &format!("{OWN}:22"), "-o", "json"]);
        told.is_some_and(|told| told.to_string().contains("10.0.1.1:22"))
    });
}

/// How many of all ports refuse, and how many accept.
fn sweep() -> (u32, u32) {
    let (refused, open) = (AtomicU32::new(0), AtomicU32::new(0));
    in_host(Host::Inet, || {
        thread::scope(|scope| {
            for part in 0..4u16 {
                let (refused, open) = (&refused, &open);
                scope.spawn(move || {
                    for port in (1..=u16::MAX).filter(|port| port % 4 == part) {
                        let to = SocketAddr::from((OWN, port));
                        match TcpStream::connect_timeout(&to, PATIENCE) {
                            Ok(_) => open.fetch_add(1, Ordering::Relaxed),
                            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                            Err(_) => 0,
                        };
                    }
                });
            }
        });
    });
    (refused.into_inner(), open.into_inner())
}

/// What iperf3 sends both ways, to a server on the instance: 50 Mbit/s each for six seconds.
struct Streams {
    client: Running,
    _server: Running,
}

impl Streams {
    fn begin(lab: &Lab) -> Self {
        let server = lab.start("b1", &["iperf3", "--server", "--one-off", "--forceflush"]);
        server.wait_for("Server listening", PATIENCE);
        let own = OWN.to_string();
        let argv = ["iperf3", "--client", &own, "--bidir", "--time", "6", "--bitrate", "50M", "--json"];
        let client = lab.start("inet", &argv);
        wait_until("both streams", PATIENCE, || {
            let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
            rows(&flows["flows"]).filter(|row| row["public"] == format!("{OWN}:5201").as_str()).count() == 3
        });
        Self { client, _server: server }
    }

    /// No error, and nearly as much as was offered: a stream stands still during a takeover, and makes up for it.
    fn end(self) {
        let (status, text) = self.client.end(Duration::from_secs(30));
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}"));
        assert!(status.success() && report["error"].is_null(), "{status}: {}", report["error"]);
        for sum in ["sum_received", "sum_received_bidir_reverse"] {
            let mbits = report["end"][sum]["bits_per_second"].as_f64().expect("a rate") / 1e6;
            assert!(mbits > 40.0, "{sum}: {mbits:.1} Mbit/s");
        }
    }
}

#[test]
fn the_internet_reaches_an_instance_by_its_own_address_and_a_killed_owner_ends_nothing() {
    let lab = Lab::up_by(&with(true, None));
    wait_for_own(Some(OWN));
    wait_until_open();
    for port in [22, 443, 50_000] {
        serve(port);
    }
    serve_datagrams(53);
    assert_eq!(sweep(), (65_532, 3), "S23: every port is the instance's");

    let mut clients: Vec<TcpStream> = Vec::new();
    for n in 0..300 {
        let (stream, seen) = connect(Host::Inet, [22, 443, 50_000][n % 3], PATIENCE).expect("a connection");
        assert_eq!(seen, stream.local_addr().expect("connected"), "S24: the client is not hidden");
        clients.push(stream);
    }
    let socket = datagram_socket(PATIENCE);
    let own = socket.local_addr().expect("bound").to_string();
    assert_eq!(asks(&socket, 53), Some(own.clone()));
    assert!(pings(&lab, "inet", "5"));
    // A neighbour comes under its own public end; it is as much outside as anybody.
    let (mut neighbour, seen) = connect(Host::Backend(2), 22, PATIENCE).expect("a connection");
    assert!(seen.to_string().starts_with("203.0.113."), "{seen}");
    assert!(pings(&lab, "b2", "5"));
    // The instance's own flows leave as before.
    let said = lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
    assert!(said.contains(&format!("\"address\":\"{OWN}\"")), "{said}");

    let streams = Streams::begin(&lab);
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    let kept = clients.iter_mut().map(goes_on).filter(|kept| *kept).count();
    assert_eq!(kept, 300, "all of them");
    streams.end();
    assert!(goes_on(&mut neighbour));
    assert_eq!(asks(&socket, 53), Some(own));
    assert!(pings(&lab, "inet", "5"));
    assert!(connect(Host::Inet, 22, PATIENCE).is_some(), "and new ones");
    lab.restart_the_dead();

    let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
    let of_own =
        rows(&flows["flows"]).filter(|row| row["scenario"] == "own address, inbound" && row["state"] == "live");
    assert!(of_own.count() >= 302, "300, the neighbour's and a datagram's");

    resources::apply(&with(false, None));
    wait_for_own(None);
    let kept = clients.iter_mut().map(goes_on).filter(|kept| *kept).count();
    assert_eq!(kept, 300, "D12: what is there stays until it closes");
    assert!(connect(Host::Inet, 22, SILENCE).is_none(), "nobody new comes in");
    assert_eq!(asks(&datagram_socket(SILENCE), 53), None);
}

#[test]
fn a_group_says_who_comes_in_to_an_own_address_and_explain_says_so() {
    let rule = |access: &str, priority: u16, protocol: &str, ports: &str| {
        format!(
            "[[security_group.rule]]\nname = \"r{priority}\"\npriority = {priority}\ndirection = \"inbound\"\n\
             access = \"{access}\"\nprotocol = \"{protocol}\"\nsource = \"{INET}\"\n{ports}"
        )
    };
    let open = rule("allow", 100, "tcp", "destination_ports = 22\n");
    let lab = Lab::up_by(&with(true, Some(&open)));
    wait_for_own(Some(OWN));
    wait_until_open();
    [22, 443].into_iter().for_each(serve);
    serve_datagrams(53);
    let (mut kept, _) = connect(Host::Inet, 22, PATIENCE).expect("port 22 is allowed");
    assert!(connect(Host::Inet, 443, SILENCE).is_none(), "S30: the default rules let nothing else in");
    assert_eq!(asks(&datagram_socket(SILENCE), 53), None);
    assert!(!pings(&lab, "inet", "2"));
    let explained = |port: u16| {
        let output = run(&["explain", &format!("{INET}:7000"), &format!("{OWN}:{port}")]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (allowed, denied) = (explained(22), explained(443));
    assert!(allowed.contains(&format!("{INSIDE}:22")) && allowed.contains("r100"), "{allowed}");
    assert!(denied.contains("security_rule") && denied.contains("DenyAllInbound"), "{denied}");

    resources::apply(&with(true, Some(&rule("deny", 100, "*", ""))));
    assert!(!goes_on(&mut kept), "D19: what is forbidden ends");
    resources::apply(&with(true, Some(&rule("allow", 100, "*", ""))));
    assert!(connect(Host::Inet, 443, PATIENCE).is_some());
    assert!(asks(&datagram_socket(PATIENCE), 53).is_some());
    assert!(pings(&lab, "inet", "2"));
}
