//! Real clients, before, while and after the owner of their shard is killed. Needs root and what `scripts/setup` installs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use qnat_tests::checks;
use qnat_tests::lab::{INET, Lab, ok, run, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::running::Running;
use qnat_tests::shared::{self, is_long};
use serde_json::Value;

fn main() -> ExitCode {
    shared::run(checks![
        streams_both_ways_are_as_fast_again_after_their_owner_died,
        a_download_survives_the_death_of_its_owner,
        a_shell_session_goes_on_while_its_owner_dies,
        keepalives_keep_an_idle_connection_through_the_death_of_its_owner,
        names_are_resolved_whoever_is_the_owner,
        the_path_and_its_mtu_are_told_whoever_is_the_owner,
    ])
}

const SOON: Duration = Duration::from_secs(10);

/// What a command on a host printed, whatever its exit code.
fn said(host: &str, argv: &[&str]) -> String {
    let output = run(&[&["lab", "exec", host, "--"], argv].concat());
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Looks before, during and after the death of the owner of b1. During: the question is asked when nobody owns the shard.
fn before_during_and_after(lab: &Lab, mut look: impl FnMut(&str)) {
    look("before");
    let owner = lab.kill_owner_of("b1");
    look("while the owner is gone");
    lab.wait_for_successor("b1", owner);
    look("under the successor");
    ok(&["lab", "restart", &format!("n{owner}")]);
    lab.wait_until_whole(Duration::from_secs(60));
    look("after the owner came back");
}

fn streams_both_ways_are_as_fast_again_after_their_owner_died(lab: &Lab) {
    /// Of each direction, in Mbit/s.
    const OFFERED: f64 = 100.0;
    let server = lab.start("inet", &["iperf3", "--server", "--one-off", "--forceflush"]);
    server.wait_for("Server listening", SOON);
    let client = lab.start(
        "b1",
        &["iperf3", "--client", INET, "--bidir", "--time", "8", "--bitrate", "100M", "--interval", "0.5", "--json"],
    );
    let begun = Instant::now();
    wait_until("both streams to be there", SOON, || lab.live_mappings("10.0.1.1", 5201).len() == 3);
    std::thread::sleep(Duration::from_secs(2).saturating_sub(begun.elapsed()));
    let killed = lab.kill_owner_of("b1");
    let killed_at = begun.elapsed().as_secs_f64();
    lab.wait_for_successor("b1", killed);
    let (status, text) = client.end(Duration::from_secs(30));
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}"));
    assert!(status.success() && report["error"].is_null(), "{status}: {}", report["error"]);
    let intervals = report["intervals"].as_array().expect("a report has intervals");
    // Half a second until the next owner is there, and as long as the sender's retransmission had already backed off.
    let again = killed_at + 2.5;
    for sum in ["sum", "sum_bidir_reverse"] {
        let late = intervals.iter().map(|row| &row[sum]).filter(|row| row["start"].as_f64() > Some(again));
        let mbits: Vec<f64> = late.filter_map(|row| row["bits_per_second"].as_f64()).map(|b| b / 1e6).collect();
        let mean = mbits.iter().sum::<f64>() / f64::from(u32::try_from(mbits.len()).expect("few"));
        assert!(mbits.len() >= 4 && mean > 0.9 * OFFERED, "{sum}: {mbits:?} Mbit/s from {again:.1} s on");
    }
}

fn a_download_survives_the_death_of_its_owner(lab: &Lab) {
    let url = format!("http://{INET}/blob/200M");
    let want = lab.exec("b1", &["curl", "-sS", "--max-time", "20", &format!("{url}/sha256")]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("blob");
    let path = file.to_str().expect("a plain path");
    let mut curl = lab.spawn("b1", &["curl", "-sS", "--max-time", "90", "--limit-rate", "40M", "-o", path, &url]);
    wait_until("the download to be under way", Duration::from_secs(20), || {
        std::fs::metadata(&file).is_ok_and(|meta| meta.len() > 20 << 20)
    });
    let before = lab.live_mappings("10.0.1.1", 80);
    assert_eq!(before.len(), 1, "one connection: {before:?}");
    let owner = lab.kill_owner_of("b1");
    wait_until("the mapping to be with another owner", Duration::from_secs(20), || {
        lab.owner_of("b1") != owner && lab.live_mappings("10.0.1.1", 80) == before
    });
    assert!(curl.wait().expect("curl ends").success(), "curl failed");
    let have = ok(&["lab", "exec", "b1", "--", "sha256sum", path]);
    assert_eq!(have.split_whitespace().next(), Some(want.trim()));
}

/// A server for shells and what a client needs for it.
struct Shells {
    dir: tempfile::TempDir,
    _server: Running,
}

impl Shells {
    fn serve(lab: &Lab) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("a plain path").to_owned();
        for name in ["host", "user"] {
            let _made = lab.exec("inet", &["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(name)]);
        }
        let config = format!(
            "Port 2222\nListenAddress {INET}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PidFile none\nPermitRootLogin prohibit-password\n",
            path("host"),
            path("user.pub")
        );
        std::fs::write(path("config"), config).expect("a temporary directory");
        // Where Debian's server separates its privileges; the service makes it at its start.
        std::fs::create_dir_all("/run/sshd").expect("root may write there");
        let server = lab.start("inet", &["/usr/sbin/sshd", "-D", "-e", "-f", &path("config")]);
        server.wait_for("Server listening", SOON);
        Self { dir, _server: server }
    }

    fn connect(&self, lab: &Lab, host: &str, command: &str) -> Running {
        let key = self.dir.path().join("user").to_str().expect("a plain path").to_owned();
        let to = format!("root@{INET}");
        let mut argv = vec!["ssh", "-tt", "-p", "2222", "-i", &key];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ServerAliveInterval=1",
            "ServerAliveCountMax=5",
        ] {
            argv.extend(["-o", option]);
        }
        argv.extend([to.as_str(), command]);
        lab.start(host, &argv)
    }
}

fn a_shell_session_goes_on_while_its_owner_dies(lab: &Lab) {
    let shells = Shells::serve(lab);
    let script = "for i in $(seq 60); do echo tick $i.; sleep 0.1; done; read -r line; echo heard $line.; exit 7";
    let mut shell = shells.connect(lab, "b1", script);
    shell.wait_for("tick 10.", SOON);
    let killed = lab.kill_owner_of("b1");
    // Typed while nobody owns the shard.
    shell.tell("hello");
    lab.wait_for_successor("b1", killed);
    let (status, text) = shell.end(Duration::from_secs(20));
    assert_eq!(status.code(), Some(7), "the exit code of the command: {text}");
    let ticks: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("tick")).collect();
    let wanted: Vec<String> = (1..=60).map(|i| format!("tick {i}.")).collect();
    assert_eq!(ticks, wanted, "each line once and in order");
    assert!(text.contains("heard hello."), "{text}");
}

fn keepalives_keep_an_idle_connection_through_the_death_of_its_owner(lab: &Lab) {
    // The idle timeout of the default profile is four minutes.
    let (idle, every) = if is_long() { (Duration::from_secs(290), "60") } else { (Duration::from_secs(12), "1") };
    let url = format!("telnet://{INET}:7");
    let mut client = lab.start("b1", &["curl", "-sS", "--no-buffer", "--keepalive-time", every, &url]);
    client.tell("first");
    client.wait_for("first", SOON);
    let mapping = lab.live_mappings("10.0.1.1", 7);
    assert_eq!(mapping.len(), 1, "{mapping:?}");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    std::thread::sleep(idle);
    let sockets = lab.exec("b1", &["ss", "-tnoH", "dport = 7"]);
    assert!(sockets.contains("timer:(keepalive,") && sockets.contains(",0)"), "all keepalives answered: {sockets}");
    assert_eq!(lab.live_mappings("10.0.1.1", 7), mapping);
    client.tell("second");
    client.wait_for("second", SOON);
    assert!(client.goes_on());
}

fn names_are_resolved_whoever_is_the_owner(lab: &Lab) {
    let listen = format!("--listen-address={INET}");
    let large = format!("--txt-record=large.example,{}", "x".repeat(200));
    let mut argv = vec!["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"];
    argv.extend(["--bind-interfaces", &listen, "--edns-packet-max=4096", "--address=/small.example/192.0.2.53"]);
    argv.extend([large.as_str(); 14]);
    let server = lab.start("inet", &argv);
    server.wait_for("started", SOON);
    let at = format!("@{INET}");
    before_during_and_after(lab, |when| {
        let ask = |more: &[&str]| said("b1", &[&["dig", &at, "+time=1", "+tries=8"], more].concat());
        let answer = ask(&["small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(UDP)"), "{when}: {answer}");
        let answer = ask(&["+tcp", "small.example", "A"]);
        assert!(answer.contains("192.0.2.53") && answer.contains("(TCP)"), "{when}: {answer}");
        let answer = ask(&["+bufsize=4096", "+ignore", "large.example", "TXT"]);
        let size = answer.split("MSG SIZE  rcvd: ").nth(1).and_then(|rest| rest.trim().parse::<u32>().ok());
        assert!(size > Some(2_800) && answer.contains("(UDP)"), "{when}, in fragments: {answer}");
        assert_eq!(answer.matches(&"x".repeat(200)).count(), 14, "{when}");
    });
}

/// A host behind a router outside and a link of 1280 octets: 198.51.100.2 behind 203.0.113.10.
struct FarHost(Running);

impl FarHost {
    fn up(lab: &Lab) -> Self {
        let far = lab.start("inet", &["unshare", "--net", "sh", "-c", "echo there; exec sleep 3600"]);
        far.wait_for("there", SOON);
        let id = far.id().to_string();
        let script = format!(
            "set -e; ip link add far mtu 1280 type veth peer name eth0 mtu 1280 netns {id}
             ip address add 198.51.100.1/24 dev far; ip link set far up; echo 1 >/proc/sys/net/ipv4/ip_forward
             inside='nsenter --target {id} --net'
             $inside ip address add 198.51.100.2/24 dev eth0; $inside ip link set eth0 up
             $inside ip route add default via 198.51.100.1"
        );
        let _done = lab.exec("inet", &["sh", "-c", &script]);
        let next_hop = format!("next_hop = \"{INET}\"");
        Changes { outside: &next_hop, ..Changes::default() }.apply();
        Self(far)
    }

    const ADDRESS: &str = "198.51.100.2";
}

/// What is told of each hop by `tracepath`: number, address, and what else stands in its line.
fn hops(text: &str) -> Vec<(u32, String, String)> {
    let hop = |line: &str| {
        let (number, rest) = line.trim().split_once(':')?;
        let (address, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        Some((number.parse().ok()?, address.to_owned(), rest.trim().to_owned()))
    };
    text.lines().filter_map(hop).collect()
}

fn the_path_and_its_mtu_are_told_whoever_is_the_owner(lab: &Lab) {
    let far = FarHost::up(lab);
    let path = ["10.0.0.1", INET, FarHost::ADDRESS];
    before_during_and_after(lab, |when| {
        let text = said("b1", &["tracepath", "-n", FarHost::ADDRESS]);
        assert!(text.contains("Resume: pmtu 1280 hops 3 back 3"), "{when}: {text}");
        let hops = hops(&text);
        for (number, address) in (1..).zip(path) {
            assert!(hops.iter().any(|hop| (hop.0, hop.1.as_str()) == (number, address)), "{when}, hop {number}: {text}");
        }
        let from_the_router = |hop: &&(u32, String, String)| hop.2.contains("pmtu 1280");
        assert_eq!(hops.iter().find(from_the_router).map(|hop| hop.1.as_str()), Some(INET), "{when}: {text}");
        let text = said("b2", &["mtr", "--no-dns", "--report", "-c", "5", "-i", "0.3", FarHost::ADDRESS]);
        for (number, address) in (1..).zip(path) {
            let hop = format!("{number}.|-- {address} ");
            let line = text.lines().find(|line| line.contains(&hop)).unwrap_or_else(|| panic!("{when}: {text}"));
            assert!(when.starts_with("while") || line.contains(" 0.0% "), "{when}: {text}");
        }
    });
    drop(far.0);
}
