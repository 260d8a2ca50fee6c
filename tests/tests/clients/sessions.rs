//! Connections on which somebody types now and then.

use std::time::{Duration, Instant};

use qnat_tests::lab::{INET, Lab};
use qnat_tests::running::Running;
use qnat_tests::shared::is_long;

use crate::SOON;

/// An interactive command over SSH, which prints for ten seconds and waits for a line then.
pub(crate) struct Shell {
    shell: Running,
    _server: Running,
    _dir: tempfile::TempDir,
}

impl Shell {
    pub(crate) fn begin(lab: &Lab) -> Self {
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
        let script = "for i in $(seq 100); do echo tick $i.; sleep 0.1; done; read -r line; echo heard $line.; exit 7";
        let shell = connect(lab, &path("user"), script);
        shell.wait_for("tick 5.", SOON);
        Self { shell, _server: server, _dir: dir }
    }

    /// Types a line.
    pub(crate) fn type_hello(&mut self) {
        self.shell.tell("hello");
    }

    /// Everything that was printed came once and in order, and what was typed arrived.
    pub(crate) fn end(self) {
        let (status, text) = self.shell.end(Duration::from_secs(30));
        assert_eq!(status.code(), Some(7), "the exit code of the command: {text}");
        let ticks: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("tick")).collect();
        let wanted: Vec<String> = (1..=100).map(|i| format!("tick {i}.")).collect();
        assert_eq!(ticks, wanted, "each line once and in order");
        assert!(text.contains("heard hello."), "{text}");
    }
}

fn connect(lab: &Lab, key: &str, command: &str) -> Running {
    let to = format!("root@{INET}");
    let mut argv = vec!["ssh", "-tt", "-p", "2222", "-i", key];
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
    lab.start("b1", &argv)
}

/// A connection on which nothing but keepalives is sent.
pub(crate) struct Idle {
    client: Running,
    mapping: Vec<String>,
}

impl Idle {
    pub(crate) fn begin(lab: &Lab) -> Self {
        let (every, url) = (if is_long() { "60" } else { "1" }, format!("telnet://{INET}:7"));
        let mut client = lab.start("b1", &["curl", "-sS", "--no-buffer", "--keepalive-time", every, &url]);
        client.tell("first");
        client.wait_for("first", SOON);
        let mapping = lab.live_mappings("10.0.1.1", 7);
        assert_eq!(mapping.len(), 1, "{mapping:?}");
        Self { client, mapping }
    }

    /// All keepalives were answered, also some time after the owner died, and the connection is good for data.
    pub(crate) fn end(mut self, lab: &Lab, killed: Instant) {
        // The idle timeout of the default profile is four minutes.
        let idle = Duration::from_secs(if is_long() { 600 } else { 8 });
        std::thread::sleep(idle.saturating_sub(killed.elapsed()));
        let sockets = lab.exec("b1", &["ss", "-tnoH", "dport = 7"]);
        assert!(sockets.contains("timer:(keepalive,") && sockets.contains(",0)"), "unanswered: {sockets}");
        assert_eq!(lab.live_mappings("10.0.1.1", 7), self.mapping);
        self.client.tell("second");
        self.client.wait_for("second", SOON);
        assert!(self.client.goes_on());
    }
}
