//! The lab against the real kernel: namespaces, links, bridges, processes. Needs root, as the lab does; the names are
//! fixed, so one test at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use super::topology::{INET_ADDRESSES, Network, backend_address, fabric_port, peer_address};
use super::*;

const BOUND: Duration = Duration::from_secs(10);

/// Excludes other tests of this machine, in whatever process. A lab that somebody uses is left alone.
fn turn() -> File {
    let file = File::create(std::env::temp_dir().join("qnat-lab-test.lock")).expect("lock file");
    file.lock().expect("lock");
    assert!(lab_namespaces().is_empty(), "a lab is up, and these tests would take it down: run `qnat lab down` first");
    file
}

/// A stand-in for the executable: each member and the internet sleep.
fn config(dir: &Path) -> LabConfig {
    assert!(rustix::process::geteuid().is_root(), "the lab's tests need root");
    let binary = dir.join("sleeper");
    fs::write(&binary, "#!/bin/sh\necho started \"$@\"\nexec sleep 600\n").expect("script");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("mode");
    let config = LabConfig::new(3, 2).expect("config");
    LabConfig { dir: dir.join("lab"), binary, ..config }
}

struct Recorder;

impl Founder for Recorder {
    fn found(&self, _: &LabConfig, nodes: &[LabNode]) -> Result<()> {
        for node in nodes {
            fs::write(&node.config_path, "id")?;
            fs::write(node.data_dir.join("kept"), "old")?;
        }
        Ok(())
    }

    fn after_start(&self, lab: &LabConfig, nodes: &[LabNode]) -> Result<()> {
        ensure!(status(&lab.dir)?.nodes.iter().all(|node| node.state == ProcessState::Running));
        ensure!(nodes.len() == usize::try_from(lab.nodes)?);
        Ok(())
    }

    fn join(&self, _: &LabConfig, node: &LabNode) -> Result<()> {
        Ok(fs::write(&node.config_path, "id")?)
    }
}

struct Refuser;

impl Founder for Refuser {
    fn found(&self, _: &LabConfig, _: &[LabNode]) -> Result<()> {
        anyhow::bail!("refused")
    }

    fn after_start(&self, _: &LabConfig, _: &[LabNode]) -> Result<()> {
        Ok(())
    }

    fn join(&self, _: &LabConfig, _: &LabNode) -> Result<()> {
        anyhow::bail!("refused")
    }
}

/// Takes the lab down when a test ends, however it ends.
struct Up(PathBuf);

impl Drop for Up {
    fn drop(&mut self) {
        down(&self.0).expect("down");
    }
}

fn lab_namespaces() -> Vec<String> {
    let names = netns::list().expect("namespaces");
    names.into_iter().filter(|name| topology::is_lab_namespace(name)).collect()
}

fn assert_nothing_left(config: &LabConfig) {
    assert_eq!(lab_namespaces(), Vec::<String>::new());
    assert!(!config.dir.exists());
}

/// Whether a datagram from one host reaches an address of another.
fn reaches(from: Host, to: Host, address: Ipv4Addr) -> bool {
    let receiver =
        netns::run_in(&to.namespace(), || UdpSocket::bind((address, 4000))).expect("namespace").expect("bind");
    receiver.set_read_timeout(Some(Duration::from_millis(400))).expect("timeout");
    netns::run_in(&from.namespace(), || {
        let sender = UdpSocket::bind("0.0.0.0:0").expect("bind");
        for _ in 0..3 {
            // Fails when the neighbour is known to be unreachable; then nothing arrives, which is the answer.
            let _refused = sender.send_to(b"hello", (address, 4000));
            if receiver.recv(&mut [0; 16]).is_ok() {
                return true;
            }
        }
        false
    })
    .expect("namespace")
}

fn read_in(host: Host, path: &str) -> String {
    netns::run_in(&host.namespace(), || fs::read_to_string(path)).expect("namespace").expect(path).trim().to_owned()
}

#[test]
fn hosts_of_one_network_reach_each_other_and_down_leaves_nothing() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");

    assert_eq!(lab_namespaces().len(), 3 + 2 + 2);
    assert!(reaches(Host::Backend(1), Host::Backend(2), backend_address(2)), "backends share the inside bridge");
    assert!(reaches(Host::Node(1), Host::Node(3), peer_address(3)), "members share the peers' bridge");
    assert!(!reaches(Host::Backend(1), Host::Inet, INET_ADDRESSES[0]), "nothing translates, so nothing may pass");
    assert_eq!(read_in(Host::Node(2), "/proc/sys/net/ipv4/conf/inside/arp_ignore"), "8");
    assert_eq!(read_in(Host::Node(2), "/proc/sys/net/ipv4/conf/outside/rp_filter"), "0");
    assert_eq!(read_in(Host::Node(2), "/proc/sys/net/ipv4/ip_forward"), "0");
    assert_eq!(read_in(Host::Backend(1), "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1");
    let own_addresses = read_in(Host::Node(1), "/proc/thread-self/net/fib_trie");
    assert!(
        own_addresses.contains("198.18.0.1") && !own_addresses.contains("10.0.") && !own_addresses.contains("203.")
    );

    let now = status(&config.dir).expect("status");
    assert!(now.nodes.iter().all(|node| node.state == ProcessState::Running));
    assert_eq!((now.inet, now.namespaces_missing), (ProcessState::Running, Vec::new()));
    let log = fs::read_to_string(&now.nodes[0].node.log_path).expect("log");
    assert_eq!(log.trim(), format!("started node --again --config {}", config.dir.join("n1/node.toml").display()));
    let second = up(&config, &Recorder).expect_err("one lab per machine").to_string();
    assert!(second.contains("qnat lab down"), "{second}");
    assert!(status(&config.dir).is_ok(), "a refused start must not harm the lab that is up");

    drop(lab);
    assert_nothing_left(&config);
    assert!(now.nodes.iter().all(|node| node.process.is_some_and(|p| p.state() == ProcessState::Dead)));
    down(&config.dir).expect("down is idempotent");
}

#[test]
fn members_are_killed_frozen_restarted_and_wiped() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    let dir = config.dir.as_path();
    let state = |node: usize| status(dir).expect("status").nodes[node - 1].state;
    let kept = dir.join("n2/data/kept");

    kill(dir, 2).expect("kill");
    assert_eq!((state(1), state(2)), (ProcessState::Running, ProcessState::Dead));
    assert!(kill(dir, 2).expect_err("dead already").to_string().contains("n2 is not running"));
    restart(dir, 2, Wipe::No).expect("restart");
    assert_eq!(state(2), ProcessState::Running);
    assert!(kept.exists());
    restart(dir, 2, Wipe::Yes).expect("restart of a running one");
    assert_eq!(state(2), ProcessState::Running);
    assert!(!kept.exists() && kept.parent().expect("data").exists());

    pause(dir, 3).expect("pause");
    let began = Instant::now();
    while state(3) != ProcessState::Paused {
        assert!(began.elapsed() < BOUND);
    }
    resume(dir, 3).expect("resume");
    assert_eq!(state(3), ProcessState::Running);
    assert!(kill(dir, 4).expect_err("no such node").to_string().contains("it has n1, n2, n3, b1"));
}

#[test]
fn commands_run_in_a_host_and_give_back_their_exit_code() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    let run = |host, script: &str| {
        let argv = ["sh", "-c", script].map(OsString::from);
        exec(&config.dir, host, &argv).expect("exec")
    };
    assert_eq!(run(Host::Backend(2), "grep -q eth0 /proc/net/dev && exit 7"), 7);
    assert_eq!(run(Host::Node(1), "grep -q outside /proc/net/dev"), 0);
    assert_eq!(run(Host::Inet, "kill -TERM $$"), 128 + 15);
    assert!(exec(&config.dir, Host::Backend(3), &[OsString::from("true")]).is_err());
}

#[test]
fn partitions_drop_what_they_name_and_heal() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    let dir = config.dir.as_path();
    let peers = |a, b| reaches(Host::Node(a), Host::Node(b), peer_address(b));

    // Neighbours are known before the cut, so that a one-way cut is not mistaken for a failed resolution.
    assert!(peers(1, 2) && peers(2, 1) && peers(1, 3) && peers(2, 3) && peers(3, 1) && peers(3, 2));
    partition(dir, &Cut::partition(1, Some(2))).expect("partition");
    assert!(!peers(1, 2) && !peers(2, 1) && peers(1, 3) && peers(2, 3));
    partition(dir, &Cut::partition(3, None)).expect("partition");
    assert!(!peers(1, 3) && !peers(3, 2));
    assert_eq!(status(dir).expect("status").cuts.len(), 2);
    heal(dir).expect("heal");
    assert!(peers(1, 2) && peers(3, 2) && status(dir).expect("status").cuts.is_empty());

    partition(dir, &Cut { direction: Direction::Outgoing, ..Cut::partition(1, Some(2)) }).expect("one way");
    assert!(!peers(1, 2) && peers(2, 1));
    assert!(partition(dir, &Cut::partition(1, Some(1))).is_err());
    assert!(partition(dir, &Cut::partition(9, None)).is_err());
}

#[test]
fn a_lab_without_switches_refuses_what_takes_one() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = LabConfig { nodes: 1, backends: 1, direct: true, ..config(scratch.path()) };
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    let dir = config.dir.as_path();
    let refused = [
        partition(dir, &Cut::partition(1, None)).expect_err("no switch loses frames"),
        add(dir, 2, &Recorder).expect_err("nothing to plug it into"),
        remake(dir, 1, Network::Outside).expect_err("nothing to plug it into"),
    ];
    for error in refused.map(|error| format!("{error:#}")) {
        assert!(error.contains("no switch") && error.contains("`qnat lab up` without --direct"), "{error}");
    }
    let status = status(dir).expect("status");
    assert!(status.cuts.is_empty() && status.nodes.len() == 1, "nothing was changed");
}

#[test]
fn a_failed_start_leaves_nothing() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let error = up(&config, &Refuser).expect_err("founder refuses");
    assert!(format!("{error:#}").contains("refused"));
    assert_nothing_left(&config);
    let absent = LabConfig { binary: scratch.path().join("absent"), ..config };
    assert!(format!("{:#}", up(&absent, &Recorder).expect_err("no executable")).contains("absent"));
    assert_nothing_left(&absent);
}

#[test]
fn a_directory_with_other_peoples_files_is_neither_used_nor_removed() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    fs::create_dir(&config.dir).expect("dir");
    fs::write(config.dir.join("precious"), "").expect("file");
    assert!(up(&config, &Recorder).expect_err("not empty").to_string().contains("not empty"));
    assert!(kill(&config.dir, 1).expect_err("no lab").to_string().contains("no lab is up"));
    down(&config.dir).expect("nothing to do");
    assert_eq!(fs::read_dir(&config.dir).expect("dir").count(), 1);
}

#[test]
fn down_clears_what_a_crashed_start_left() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    links::build(&config).expect("links");
    // Started, but never recorded.
    let mut orphan = netns::run_in("qnat-n2", || Command::new("sleep").arg("600").spawn()).expect("ns").expect("sleep");
    File::create(netns::path("qnat-b9")).expect("a name without a namespace");
    down(&config.dir).expect("down");
    assert_nothing_left(&config);
    assert!(orphan.wait().is_err(), "the orphan was killed and reaped");
}

fn get(address: Ipv4Addr, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect((address, 80)).expect("connect");
    stream.set_read_timeout(Some(BOUND)).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: inet\r\nConnection: close\r\n\r\n").expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receive");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a header");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).expect("text"), body)
}

/// Reads an answer, keeps nothing of it, and returns how long it was.
fn drain(address: Ipv4Addr, path: &str) -> usize {
    let mut stream = TcpStream::connect((address, 80)).expect("connect");
    stream.set_read_timeout(Some(BOUND)).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: inet\r\nConnection: close\r\n\r\n").expect("send");
    let mut buffer = vec![0; 1 << 20];
    std::iter::from_fn(|| stream.read(&mut buffer).ok().filter(|length| *length > 0)).sum()
}

#[test]
fn the_internet_serves_http_echo_and_discard() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    // A visitor hung into the outside network for a while.
    let (visitor, own) = (Host::Backend(99), Ipv4Addr::new(203, 0, 113, 99));
    links::build_host(visitor, Network::Outside, &[(own, 24)], None).expect("visitor");
    std::thread::spawn(|| netns::run_in(topology::INET, inet::run));
    netns::run_in(&visitor.namespace(), || {
        let began = Instant::now();
        while TcpStream::connect((INET_ADDRESSES[1], 80)).is_err() {
            assert!(began.elapsed() < BOUND, "the internet does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        for address in INET_ADDRESSES {
            let (_, body) = get(address, "/");
            let seen: serde_json::Value = serde_json::from_slice(&body).expect("json");
            assert_eq!(seen["address"], own.to_string());
        }
        let (header, body) = get(INET_ADDRESSES[0], "/blob/256M");
        let began = Instant::now();
        assert!(drain(INET_ADDRESSES[0], "/blob/1G") > 1 << 30);
        println!("1 GiB in {:?}", began.elapsed());
        assert!(header.to_lowercase().contains("content-length: 268435456"), "{header}");
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(String::from_utf8_lossy(&get(INET_ADDRESSES[1], "/blob/256M/sha256").1).trim(), hex);
        assert!(get(INET_ADDRESSES[0], "/blob/many").0.contains(" 400 "));
        let began = Instant::now();
        assert!(String::from_utf8_lossy(&get(INET_ADDRESSES[0], "/slow/1").1).contains("line 10"));
        assert!(began.elapsed() >= Duration::from_millis(850), "took {:?}", began.elapsed());

        let echo = SocketAddr::new(IpAddr::V4(INET_ADDRESSES[1]), 7);
        let mut stream = TcpStream::connect(echo).expect("echo");
        stream.write_all(b"over tcp").expect("send");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).expect("receive");
        assert_eq!(&answer, b"over tcp");
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(BOUND)).expect("timeout");
        socket.send_to(b"over udp", echo).expect("send");
        let (length, from) = socket.recv_from(&mut answer).expect("receive");
        assert_eq!((&answer[..length], from), (&b"over udp"[..], echo));
        let mut discard = TcpStream::connect((INET_ADDRESSES[0], 9)).expect("discard");
        discard.write_all(&vec![0; 1 << 20]).expect("swallowed");
    })
    .expect("namespace");
}

#[test]
fn ports_of_the_fabric_are_named_after_their_hosts() {
    assert_eq!(fabric_port(Host::Node(2), Network::Outside), "n2-out");
    assert_eq!(fabric_port(Host::Backend(17), Network::Inside), "b17");
}

#[test]
fn machines_come_and_go_while_the_lab_is_up() {
    let _turn = turn();
    let scratch = tempfile::tempdir().expect("scratch");
    let config = config(scratch.path());
    let _lab = Up(config.dir.clone());
    up(&config, &Recorder).expect("up");
    let dir = config.dir.as_path();
    assert!(add(dir, 5, &Recorder).expect_err("n4 is next").to_string().contains("take n4"));
    assert!(add(dir, 3, &Recorder).expect_err("it is there").to_string().contains("take n4"));
    let names = || status(dir).expect("status").nodes.into_iter().map(|n| (n.node.id, n.state)).collect::<Vec<_>>();
    let running = |ids: &[u32]| ids.iter().map(|id| (*id, ProcessState::Running)).collect::<Vec<_>>();
    add(dir, 4, &Recorder).expect("a fourth machine");
    assert_eq!(names(), running(&[1, 2, 3, 4]));
    assert!(reaches(Host::Node(4), Host::Node(2), peer_address(2)), "it is on the members' network");
    remove(dir, 2).expect("gone");
    assert_eq!(names(), running(&[1, 3, 4]));
    assert!(!lab_namespaces().contains(&"qnat-n2".to_owned()) && !dir.join("n2").exists());
    assert!(kill(dir, 2).expect_err("no such machine").to_string().contains("it has n1, n3, n4, b1 to b2"));
    assert!(add(dir, 2, &Refuser).is_err());
    assert!(!lab_namespaces().contains(&"qnat-n2".to_owned()), "of a machine that did not start nothing is left");
    add(dir, 2, &Recorder).expect("another machine under the same number");
    assert_eq!(names(), running(&[1, 2, 3, 4]));
    assert!(!dir.join("n2/data/kept").exists(), "it has the disk of its predecessor");
}
