//! Connections on which somebody types now and then.

use std::time::Duration;

use qnat_tests::lab::{INET, Lab};
use qnat_tests::running::Running;
use qnat_tests::shared::is_long;

use crate::SOON;

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

pub(crate) fn a_shell_session_goes_on_while_its_owner_dies(lab: &Lab) {
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

pub(crate) fn keepalives_keep_an_idle_connection_through_the_death_of_its_owner(lab: &Lab) {
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
