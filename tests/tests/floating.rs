//! Rules that float (D17), over real connections: two frontends lead to one port of the same two instances, which have both
//! addresses beside their own; what the clients and the instances see, and what is left when the owner dies. Needs root.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use qnat_lab::Host;
use qnat_tests::lab::{INET, Lab, in_host, json, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::{self, Changes};

const FRONTENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3)];
const PORT: u16 = 80;
const DATAGRAMS: u16 = 5_353;
/// What is waited for a connection, or for a word on one: longer than a takeover, shorter than it takes to give up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections by each frontend.
const CONNECTIONS: usize = 180;
/// So many ports does the client's host have that most serve for a connection by each.
const FEW_PORTS: &str = "20000 20199";
const MANY_PORTS: &str = "20000 60000";

/// The pool lets b1 and b2 out by the first frontend; both others float to them.
fn resources() -> String {
    let rule = |name: &str, frontend: &str, protocol: &str, port: u16| {
        format!(
            "[[load_balancer.load_balancing_rule]]\nname = \"{name}\"\nfrontend = \"{frontend}\"\nprotocol = \"{protocol}\"\n\
             frontend_port = {port}\npool = \"pool1\"\nfloating_ip = true\n"
        )
    };
    let rules = "frontends = [\"pip1\"]\n".to_owned()
        + "[[load_balancer.load_balancing_rule]]\nname = \"plain\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
           frontend_port = 8080\npool = \"pool1\"\nbackend_port = 80\n"
        + &rule("web2", "pip2", "tcp", PORT)
        + &rule("web3", "pip3", "tcp", PORT)
        + &rule("dns2", "pip2", "udp", DATAGRAMS);
    let more = "[default_outbound]\naddresses = [\"203.0.113.240/29\"]\n";
    let mut text = Changes { rule: &rules, more, ..Changes::default() }.text();
    for number in [3, 4] {
        let own = format!("private_ip = \"10.0.1.{number}\"\nsubnet = \"vnet1/default\"\n");
        text = text.replace(&format!("{own}pool = \"lb1/pool1\"\n"), &own);
    }
    text
}

/// Gives a backend the frontends' addresses, and a server that tells each connection who it is, whom it was asked as, and by whom.
fn serve(lab: &Lab, backend: u32) {
    for address in FRONTENDS {
        let added = lab.exec(&format!("b{backend}"), &["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
        assert_eq!(added, "");
    }
    let listener = in_host(Host::Backend(backend), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
    let listener = listener.expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let talk = move || talk(backend, stream);
            let _ends_with_its_connection = thread::Builder::new().stack_size(128 << 10).spawn(talk);
        }
    });
    let address = (FRONTENDS[0], DATAGRAMS);
    let socket = in_host(Host::Backend(backend), || UdpSocket::bind(address)).expect("it has the address");
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            // As long as asked: what is too long for a packet goes in pieces.
            let text = format!("b{backend} {client} {len}");
            let _best_effort = socket.send_to(format!("{text:-<4000}").as_bytes(), client);
        }
    });
}

fn talk(backend: u32, mut stream: TcpStream) -> std::io::Result<()> {
    let (asked, client) = (stream.local_addr()?, stream.peer_addr()?);
    writeln!(stream, "b{backend} {asked} {client}")?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn use_ports(lab: &Lab, range: &str) {
    let set = lab.exec("inet", &["sysctl", "-w", &format!("net.ipv4.ip_local_port_range={range}")]);
    assert!(set.contains("ip_local_port_range"), "{set}");
}

/// A connection of the internet's; it was checked who answered and whom they saw.
struct Client {
    stream: BufReader<TcpStream>,
    own: SocketAddr,
    to: Ipv4Addr,
    member: String,
}

impl Client {
    fn connect(to: Ipv4Addr) -> std::io::Result<Self> {
        let end = SocketAddr::from((to, PORT));
        let stream = in_host(Host::Inet, || TcpStream::connect_timeout(&end, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let own = stream.local_addr()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let said: Vec<&str> = line.split_whitespace().collect();
        let [member, asked, client] = said[..] else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
        assert_eq!((asked, client), (&*end.to_string(), &*own.to_string()), "both ends as they are");
        Ok(Self { own, to, member: member.into(), stream })
    }

    /// Whether a line comes back.
    fn goes_on(&mut self) -> bool {
        let mut line = String::new();
        let said = self.stream.get_mut().write_all(b"on\n").is_ok();
        said && self.stream.read_line(&mut line).is_ok() && line == "on\n"
    }
}

/// A datagram whose answer takes three packets.
fn asks_a_long_answer() {
    let answer = in_host(Host::Inet, || {
        let socket = UdpSocket::bind((INET, 0)).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut buffer = [0; 8_192];
        let mut ask = || {
            socket.send_to(&[7; 1_900], (FRONTENDS[0], DATAGRAMS)).expect("sent");
            let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
            (len, from, String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        let (own, told) = (socket.local_addr().expect("bound"), ask());
        assert_eq!((told.0, told.1), (4_000, SocketAddr::from((FRONTENDS[0], DATAGRAMS))));
        (own, told.2)
    });
    assert!(answer.1.contains(&format!("{} 1900", answer.0)), "{answer:?}");
}

/// What the instances begin, and what others of their network ask of them.
fn nothing_else_is_changed(lab: &Lab) {
    // The instances leave by the pool's frontend, where a rule leads to the same port and does not float.
    let said = lab.exec("b1", &["curl", "-s", "--max-time", "5", &format!("http://{INET}/")]);
    assert!(said.contains("\"address\":\"203.0.113.1\""), "{said}");
    let asked = |host: &str, to: &str| {
        let script = format!("exec 3<>/dev/tcp/{to}; timeout 5 head -1 <&3");
        lab.exec(host, &["bash", "-c", &script])
    };
    let said = asked("inet", "203.0.113.1/8080");
    assert!(said.contains(":80 ") && said.contains(" 10.0.1."), "{said}");
    // Another instance of the network, which leaves by a system address, asks what floats.
    let said = asked("b3", "203.0.113.3/80");
    assert!(said.contains(" 203.0.113.3:80 203.0.113."), "{said}");
}

/// What floats no more ends, and nothing else.
fn one_floats_no_more(clients: &mut [Client]) {
    assert_eq!(ok(&["get", "config"]).matches("floating_ip = true").count(), 3);
    let floats_no_more = |text: &str| text.replacen("floating_ip = true\n", "", 1);
    let file = resources::file_of(&floats_no_more(&resources()));
    let refused = run(&["apply", "--dry-run", "-f", file.path().to_str().expect("a plain path")]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        why.contains("of the same backend is that of load_balancer.lb1.load_balancing_rule.plain already"),
        "{why}"
    );
    let text = floats_no_more(&resources())
        .replace("\"plain\"", "\"other\"")
        .replace("backend_port = 80\n", "backend_port = 81\n");
    let file = resources::file_of(&text);
    let told = json(&["apply", "--dry-run", "-o", "json", "-f", file.path().to_str().expect("a plain path")]);
    let live = || {
        let all = json(&["flows", "--limit", "100000", "-o", "json"]);
        let of = |to: &str| {
            let is_live = |row: &&serde_json::Value| row["public"] == to && row["state"] == "live";
            rows(&all["flows"]).filter(is_live).count()
        };
        (of("203.0.113.2:80"), of("203.0.113.3:80"))
    };
    let (first, second) = live();
    assert!(first >= CONNECTIONS && second >= CONNECTIONS, "{first} and {second}");
    assert_eq!(told["flows_cut"]["flows"].as_u64(), u64::try_from(first).ok(), "{told}");
    resources::apply(&text);
    wait_until("the flows to close", PATIENCE, || live().0 == 0);
    assert_eq!(live().1, second);
    let mut of_second = clients.iter_mut().filter(|client| client.to == FRONTENDS[1]);
    assert!(of_second.all(Client::goes_on));
}

#[test]
fn one_client_end_reaches_two_frontends_that_float_to_one_port_and_its_connections_survive_their_owner() {
    let lab = Lab::up_by(&resources());
    serve(&lab, 1);
    serve(&lab, 2);
    use_ports(&lab, FEW_PORTS);
    let connect = |to| Client::connect(to).expect("a connection");
    let by_each = FRONTENDS.map(|to| (0..CONNECTIONS).map(|_| connect(to)).collect::<Vec<_>>());
    let [first, second] = by_each.each_ref().map(|all| all.iter().map(|one| one.own).collect::<BTreeSet<_>>());
    let twice: Vec<&SocketAddr> = first.intersection(&second).collect();
    assert!(twice.len() >= 160, "{} ends of the client's have a connection by each", twice.len());
    let (some, mut clients) = (*twice[0], by_each.into_iter().flatten().collect::<Vec<Client>>());
    use_ports(&lab, MANY_PORTS);
    let members: BTreeSet<&str> = clients.iter().map(|client| client.member.as_str()).collect();
    assert_eq!(members, BTreeSet::from(["b1", "b2"]));
    let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
    let floating: Vec<_> = rows(&flows["flows"]).filter(|row| row["floating"] == true).collect();
    assert_eq!(floating.len(), clients.len());
    assert!(floating.iter().all(|row| row["inside"].as_str().is_some_and(|end| end.starts_with("10.0.1."))));

    let explained = ok(&["explain", &some.to_string(), &format!("{}:{PORT}", FRONTENDS[0])]);
    assert!(
        explained.contains("passes unchanged to 10.0.1.") && explained.contains("which has 203.0.113.2:80 too"),
        "{explained}"
    );
    // The same out of a dump, by a member that asks nobody.
    let dir = tempfile::tempdir().expect("a directory");
    let dump = dir.path().join("dump");
    let dump = dump.to_str().expect("a plain path");
    let _written = ok(&["dump", "--to", dump]);
    let from_dump = ok(&["explain", "--from", dump, &some.to_string(), &format!("{}:{PORT}", FRONTENDS[0])]);
    assert!(from_dump.contains("passes unchanged to 10.0.1."), "{from_dump}");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    let kept = clients.iter_mut().map(Client::goes_on).filter(|kept| *kept).count();
    assert_eq!(kept, clients.len(), "all of them");
    assert!((0..20).flat_map(|_| FRONTENDS).all(|to| connect(to).goes_on()), "new ones");
    asks_a_long_answer();
    nothing_else_is_changed(&lab);
    one_floats_no_more(&mut clients);
}

/// The kernel's guard knows the shard of what is inside for a frontend's address.
#[test]
fn without_a_majority_connections_that_float_last_for_the_grace() {
    let lab = Lab::up_by(&resources());
    serve(&lab, 1);
    serve(&lab, 2);
    let mut client = Client::connect(FRONTENDS[0]).expect("a connection");
    let owner = lab.owner_of("b1");
    for node in (1..=3).filter(|node| *node != owner) {
        ok(&["lab", "kill", &format!("n{node}")]);
    }
    let repeated = || {
        let counters = try_json(&["counters", "-o", "json", "--node", &format!("n{owner}")]);
        counters.and_then(|all| all["guard"]["pass_grace"].as_u64()).unwrap_or_default()
    };
    wait_until("packets of the grace", Duration::from_secs(2), || {
        assert!(client.goes_on(), "what is committed goes on");
        repeated() > 0
    });
    assert!(client.goes_on());
    wait_until("the grace to end", Duration::from_secs(15), || !client.goes_on());
}
