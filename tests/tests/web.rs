//! Web servers behind a load-balancing rule: clients that keep their connections and ask again and again, and others that come and
//! go, while the owner of the frontend is killed. Needs root.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use qnat_lab::{DEFAULT_DIR, Host};
use qnat_tests::lab::{INET, Lab, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::running::Running;

const FRONTEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 80);
const RULE: &str = "[[load_balancer.load_balancing_rule]]\nname = \"http\"\nfrontend = \"pip1\"\nprotocol = \"tcp\"\n\
                    frontend_port = 80\npool = \"pool1\"\nbackend_port = 8080\n";
/// Clients, in so many threads.
const THREADS: usize = 8;
const CONNECTIONS: usize = 125;
/// Between two requests of a thread; each fourth is on a connection of its own.
const PAUSE: Duration = Duration::from_millis(2);
/// What a client waits: longer than a takeover.
const PATIENCE: Duration = Duration::from_secs(5);

/// nginx on a backend, which notes who asked.
fn serve(lab: &Lab, backend: u32, dir: &Path) -> Running {
    serve_at(lab, &format!("b{backend}"), dir)
}

/// The same on any host.
fn serve_at(lab: &Lab, host: &str, dir: &Path) -> Running {
    let at = |what: &str| dir.join(format!("{host}.{what}")).display().to_string();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {};\nevents {{ worker_connections 4096; }}\nhttp {{\n\
         log_format who '$remote_addr $remote_port $status';\naccess_log {} who;\nkeepalive_requests 1000000;\n\
         keepalive_timeout 600s;\nserver {{ listen 8080 backlog=4096; location / {{ return 200 '{host}\\n'; }} }}\n}}\n",
        at("pid"),
        at("log"),
    );
    std::fs::write(at("conf"), text).expect("a file");
    lab.start(host, &["/usr/sbin/nginx", "-e", "stderr", "-c", &at("conf")])
}

/// Sends a request and reads its answer; who gave it.
fn ask(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let (mut line, mut length) = (String::new(), 0);
    stream.read_line(&mut line)?;
    let is_right = line.starts_with("HTTP/1.1 200");
    while line != "\r\n" {
        if let Some(text) = line.strip_prefix("Content-Length: ") {
            length = text.trim().parse().unwrap_or(0);
        }
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if is_right { Ok(String::from_utf8_lossy(&body).trim().to_owned()) } else { Err(std::io::ErrorKind::Other.into()) }
}

fn connect() -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&FRONTEND, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// What a thread of clients has seen.
#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    failed: Vec<String>,
    /// By connection that stays, who answered it.
    members: Vec<BTreeSet<String>>,
    longest: Duration,
}

impl Seen {
    fn note(&mut self, asked: Instant, answer: std::io::Result<String>) -> Option<String> {
        self.longest = self.longest.max(asked.elapsed());
        match answer {
            Ok(who) => {
                self.answered += 1;
                Some(who)
            }
            Err(why) => {
                self.failed.push(why.to_string());
                None
            }
        }
    }
}

/// Asks by turns on connections that stay, and by new ones, until a moment.
fn clients(until: Instant) -> Seen {
    let mut seen = Seen { members: vec![BTreeSet::new(); CONNECTIONS], ..Seen::default() };
    let mut all: Vec<BufReader<TcpStream>> = (0..CONNECTIONS).map(|_| connect().expect("a connection")).collect();
    for turn in 0.. {
        let asked = Instant::now();
        if asked > until && turn >= CONNECTIONS {
            break;
        }
        let which = turn % CONNECTIONS;
        let answer = ask(&mut all[which]);
        let who = seen.note(asked, answer);
        seen.members[which].extend(who);
        if turn % 4 == 0 {
            let asked = Instant::now();
            let answer = connect().and_then(|mut stream| ask(&mut stream));
            seen.note(asked, answer);
        }
        thread::sleep(PAUSE);
    }
    seen
}

#[test]
fn no_request_to_a_web_server_fails_when_the_owner_of_its_frontend_dies_and_a_thousand_connections_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let lab = Lab::up_by(&Changes { rule: RULE, ..Changes::default() }.text());
    let _servers: Vec<Running> = (1..=4).map(|backend| serve(&lab, backend, dir.path())).collect();
    for backend in 1..=4 {
        wait_until("nginx to listen", PATIENCE, || {
            !lab.exec(&format!("b{backend}"), &["ss", "-Hltn", "sport = :8080"]).is_empty()
        });
    }
    let lasts = Duration::from_secs(if std::env::var_os("QNAT_LONG").is_some() { 60 } else { 15 });
    let until = Instant::now() + lasts;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let work =
            || qnat_lab::in_host(Path::new(DEFAULT_DIR), Host::Inet, || clients(until)).expect("a host of the lab");
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        thread::sleep(lasts / 3);
        let killed = lab.kill_owner_of("b1");
        lab.wait_for_successor("b1", killed);
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let failed: Vec<&String> = seen.iter().flat_map(|seen| &seen.failed).collect();
    let answered: usize = seen.iter().map(|seen| seen.answered).sum();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap_or_default();
    eprintln!("{answered} requests in {lasts:?}, {} failed, the longest took {longest:?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert!(answered > 4 * THREADS * CONNECTIONS, "{answered} requests");
    let stayed = seen.iter().flat_map(|seen| &seen.members).filter(|members| members.len() == 1).count();
    assert_eq!(stayed, THREADS * CONNECTIONS, "each connection has one server");
    let served: BTreeSet<&String> = seen.iter().flat_map(|seen| seen.members.iter().flatten()).collect();
    assert_eq!(served.len(), 4);
    // What the servers say of it.
    let (mut lines, mut hidden) = (0, Vec::new());
    for backend in 1..=4 {
        let log = std::fs::read_to_string(dir.path().join(format!("b{backend}.log"))).expect("a log");
        lines += log.lines().count();
        hidden.extend(
            log.lines()
                .filter(|line| !line.starts_with(&format!("{INET} ")) || !line.ends_with(" 200"))
                .map(String::from),
        );
    }
    assert!(hidden.is_empty(), "S24: {hidden:?}");
    assert_eq!(lines, answered, "each was asked once");
}

/// What a server of the internet has noted of others: the public end of each request.
fn noted(log: &Path) -> Vec<String> {
    let (text, own) = (std::fs::read_to_string(log).unwrap_or_default(), format!("{INET} "));
    text.lines()
        .filter(|line| !line.starts_with(&own))
        .map(|line| line.strip_suffix(" 200").unwrap_or_else(|| panic!("{line}")).to_owned())
        .collect()
}

/// curl asks a thousand times by as many connections as it is told, and keeps them for one request after the other.
#[test]
fn a_client_that_reuses_its_connection_uses_one_port_and_a_pool_of_eight_uses_eight() {
    let lab = Lab::up();
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, log) = (serve_at(&lab, "inet", dir.path()), dir.path().join("inet.log"));
    let url = |query: &str| format!("http://{INET}:8080/{query}");
    wait_until("the server to answer", PATIENCE, || {
        lab.exec("inet", &["sh", "-c", &format!("curl -s --max-time 2 {} || true", url(""))]).contains("inet")
    });
    let asks = |options: &[&str]| {
        let before = noted(&log).len();
        let curl = ["curl", "-sS", "--http1.1", "--max-time", "60", "-o", "/dev/null"];
        let said = lab.exec("b1", &[&curl, options, &[&url("?[1-1000]")]].concat());
        assert_eq!(said, "", "none failed");
        wait_until("the server to have noted a thousand", PATIENCE, || noted(&log).len() >= before + 1_000);
        let ports = noted(&log).split_off(before);
        assert_eq!(ports.len(), 1_000);
        ports.into_iter().collect::<BTreeSet<String>>().len()
    };
    assert_eq!(asks(&[]), 1);
    assert_eq!(asks(&["--parallel", "--parallel-max", "8"]), 8);
}
