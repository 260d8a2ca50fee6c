//! A lab that ends with the value: `qnat lab up`, commands through the binary, `qnat lab down` on drop.
//! One lab fits on a machine, so [`Lab::up`] lets one test at a time have it. Called by the tests in `tests/`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use qnat_lab::{DEFAULT_DIR, Host};
use serde_json::Value;

pub use crate::command::{binary, json, ok, rows, run, try_json, wait_until};
use crate::running::Running;

/// The lab's web server.
pub const INET: &str = "203.0.113.10";
/// Where a lab keeps its members' files.
const DIR: &str = "/run/qnat-lab";
/// Until a lab that is up has come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of each member's log is shown when a test fails.
const LOG_LINES: usize = 120;

/// Whether a test of this process has the lab, and the news that it has not any more.
static TAKEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// The right to the machine's one lab. No lock's guard: a shared lab goes from thread to thread.
#[derive(Debug)]
pub struct Alone;

impl Alone {
    /// Waits until no other one is there.
    #[must_use]
    pub fn wait() -> Self {
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = TAKEN.1.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        *taken = true;
        Self
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        TAKEN.1.notify_one();
    }
}

/// Does something in the network of a host of the lab that is up.
///
/// # Panics
/// If there is no such host.
pub fn in_host<T: Send>(host: Host, work: impl FnOnce() -> T + Send) -> T {
    qnat_lab::in_host(Path::new(DEFAULT_DIR), host, work).expect("a host of the lab")
}

/// A running lab: members n1 to n3, backends b1 to b4, public addresses 203.0.113.1 to .3.
#[derive(Debug)]
pub struct Lab {
    _alone: Alone,
}

impl Lab {
    /// Starts one with the default resources. Needs root, and `cargo build -p qnat` before.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn up() -> Self {
        Self::up_with(3)
    }

    /// The same with another number of members.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn up_with(members: u32) -> Self {
        Self::up_as(members, &[])
    }

    /// The same with further options of `qnat lab up`.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn up_as(members: u32, options: &[&str]) -> Self {
        let lab = Self { _alone: Alone::wait() };
        let members = members.to_string();
        let up = ["lab", "up", "--nodes", &members, "--detach"];
        let backends: &[&str] = if options.contains(&"--backends") { &[] } else { &["--backends", "4"] };
        // Checks that say nothing of workers hold for any number of them: QNAT_TEST_WORKERS=2 runs them with two.
        let workers = std::env::var("QNAT_TEST_WORKERS").ok().filter(|_| !options.contains(&"--workers"));
        let workers: Vec<&str> = workers.iter().flat_map(|workers| ["--workers", workers]).collect();
        // So with the kernel's fast path: QNAT_TEST_CACHE=eager has every mapping go there that may.
        let cache = std::env::var("QNAT_TEST_CACHE").ok().filter(|_| !options.contains(&"--cache"));
        let cache: Vec<&str> = cache.iter().flat_map(|cache| ["--cache", cache]).collect();
        ok(&[&up, backends, options, &workers, &cache].concat());
        lab.wait_until_whole(PATIENCE);
        lab
    }

    /// Starts one of three members with these resources in place of the default ones.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn up_by(resources: &str) -> Self {
        let file = crate::resources::file_of(resources);
        Self::up_as(3, &["--file", file.path().to_str().expect("a plain path")])
    }

    /// A command on a host that must succeed; its standard output.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn exec(&self, host: &str, argv: &[&str]) -> String {
        ok(&[&["lab", "exec", host, "--"], argv].concat())
    }

    /// A command on a host; it goes on while the test does other things. Pipes on all three sides.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(&self, host: &str, argv: &[&str]) -> Child {
        let mut command = Command::new(binary());
        command.args(["lab", "exec", host, "--"]).args(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("qnat starts")
    }

    /// The same with its output in a file, and ended with the value.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, host: &str, argv: &[&str]) -> Running {
        Running::start(host, argv)
    }

    /// Kills the owner of a backend's shard (SIGKILL); its number.
    pub fn kill_owner_of(&self, backend: &str) -> u64 {
        let owner = self.owner_of(backend);
        ok(&["lab", "kill", &format!("n{owner}")]);
        owner
    }

    /// Waits until a backend's shard has another owner than this one.
    pub fn wait_for_successor(&self, backend: &str, killed: u64) {
        wait_until("another owner", Duration::from_secs(20), || self.owner_of(backend) != killed);
    }

    /// Starts every member that does not run.
    pub fn restart_the_dead(&self) {
        let status = json(&["lab", "status", "-o", "json"]);
        for row in rows(&status["nodes"]).filter(|row| row["state"] == "dead") {
            ok(&["lab", "restart", row["node"]["name"].as_str().expect("a member has a name")]);
        }
    }

    /// Starts a member again as a build that speaks this level, or the newest.
    ///
    /// # Panics
    /// If its configuration cannot be written.
    pub fn start_as(&self, node: u64, level: Option<u16>) {
        let file = format!("{DIR}/n{node}/node.toml");
        let text = std::fs::read_to_string(&file).expect("the lab wrote it");
        let others = text.lines().filter(|line| !line.starts_with("level = ")).collect::<Vec<_>>().join("\n");
        let told = level.map(|level| format!("level = {level}\n")).unwrap_or_default();
        std::fs::write(&file, told + &others).expect("as it was written");
        ok(&["lab", "restart", &format!("n{node}")]);
    }

    /// What the members say together.
    #[must_use]
    pub fn status(&self) -> Value {
        json(&["status", "-o", "json"])
    }

    /// The owner of the shard in which a backend such as `b1` has its ports.
    ///
    /// # Panics
    /// If nobody owns it within 20 s.
    #[must_use]
    pub fn owner_of(&self, backend: &str) -> u64 {
        let shard = self.ports_of(backend)["shard"].clone();
        let mut owner = None;
        wait_until("the shard to have an owner", Duration::from_secs(20), || {
            let status = self.status();
            owner = rows(&status["shards"]).find(|row| row["shard"] == shard).and_then(|row| row["owner"].as_u64());
            owner.is_some()
        });
        owner.expect("just waited for")
    }

    /// The row of `qnat ports` of a backend.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn ports_of(&self, backend: &str) -> Value {
        let name = format!("{backend}/ipconfig1");
        let all = json(&["ports", "-o", "json"]);
        rows(&all["backends"]).find(|row| row["backend"] == name.as_str()).cloned().expect("the backend is listed")
    }

    /// Public addresses and ports of the live mappings of an inside address towards a port of the internet.
    #[must_use]
    pub fn live_mappings(&self, inside: &str, remote_port: u16) -> Vec<String> {
        let suffix = format!(":{remote_port}");
        self.publics(inside, None, |remote| remote.ends_with(&suffix))
    }

    /// The term in which the shard is owned where a backend such as `b1` has its ports. A new one is a takeover, after which
    /// flows have all their time again (I48).
    #[must_use]
    pub fn term_of(&self, backend: &str) -> Option<u64> {
        let (shard, status) = (self.ports_of(backend)["shard"].clone(), self.status());
        rows(&status["shards"]).find(|row| row["shard"] == shard).and_then(|row| row["term"].as_u64())
    }

    /// Public ports of the live UDP mappings of an inside address towards an address.
    #[must_use]
    pub fn udp_ports(&self, inside: &str, remote: &str) -> Vec<u16> {
        let prefix = format!("{remote}:");
        let publics = self.publics(inside, Some("udp"), |remote| remote.starts_with(&prefix));
        publics.iter().filter_map(|public| public.rsplit(':').next()?.parse().ok()).collect()
    }

    /// How many flows an inside address has, live and held.
    #[must_use]
    pub fn flows_of(&self, inside: &str) -> usize {
        let prefix = format!("{inside}:");
        let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
        rows(&flows["flows"]).filter(|row| row["inside"].as_str().is_some_and(|text| text.starts_with(&prefix))).count()
    }

    /// Public ends of live mappings, each once.
    fn publics(&self, inside: &str, proto: Option<&str>, is_remote: impl Fn(&str) -> bool) -> Vec<String> {
        let prefix = format!("{inside}:");
        let is = |row: &&Value| {
            row["inside"].as_str().is_some_and(|text| text.starts_with(&prefix))
                && proto.is_none_or(|proto| row["proto"] == proto)
                && row["remote"].as_str().is_some_and(&is_remote)
                && row["state"].as_str().is_some_and(|text| !text.starts_with("held"))
        };
        let flows = json(&["flows", "--limit", "100000", "-o", "json"]);
        let mut public: Vec<String> =
            rows(&flows["flows"]).filter(is).filter_map(|row| row["public"].as_str().map(ToOwned::to_owned)).collect();
        public.sort();
        public.dedup();
        public
    }

    /// Waits until every shard is served by its preferred owner with all replicas, and no member is preferred by two more
    /// than another: from then on shards move only if something happens.
    pub fn wait_until_whole(&self, bound: Duration) {
        wait_until("all shards whole and with their preferred owners", bound, || {
            try_json(&["status", "-o", "json"]).is_some_and(|status| is_whole(&status))
        });
    }

    /// Waits until all shards are served with all their replicas, whoever owns them: one more member may be killed.
    ///
    /// # Panics
    /// If that takes longer than `bound`.
    pub fn wait_until_redundant(&self, bound: Duration) {
        wait_until("all shards served and redundant", bound, || {
            try_json(&["status", "-o", "json"]).is_some_and(|status| {
                let shards = rows(&status["shards"]);
                shards.count() > 0 && rows(&status["shards"]).all(|row| is_redundant(row, replicas(&status)))
            })
        });
    }

    /// How many shards a member owns.
    #[must_use]
    pub fn owned_by(&self, node: u64) -> usize {
        rows(&self.status()["shards"]).filter(|row| row["owner"] == node).count()
    }
}

fn members(status: &Value) -> Vec<u64> {
    let members = rows(&status["nodes"]).filter(|row| row["standing"] == "member");
    members.filter_map(|row| row["node"].as_u64()).collect()
}

/// How many of each shard there are to be.
fn replicas(status: &Value) -> usize {
    members(status).len().min(3)
}

fn is_redundant(row: &Value, replicas: usize) -> bool {
    row["serving"] == "yes" && row["redundancy"]["have"] == replicas
}

fn is_whole(status: &Value) -> bool {
    let members = members(status);
    let replicas = replicas(status);
    let whole = |row: &Value| is_redundant(row, replicas) && row["owner"] == row["members"][0];
    let owned = |node: &u64| rows(&status["shards"]).filter(|row| row["owner"] == *node).count();
    let shares = || members.iter().map(owned);
    rows(&status["shards"]).all(whole) && shares().max() <= shares().min().map(|least| least + 1)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["status", "counters"] {
                eprintln!("qnat {what} when it failed: {}", try_json(&[what, "-o", "json"]).unwrap_or_default());
            }
            // They go with the lab.
            for (member, log) in ends_of_logs() {
                eprintln!("the end of {member}'s log:\n{log}");
            }
        }
        // Whatever the test did, the machine is left as it was; a failure to do so shows in the next test.
        let _shown_by_the_next = run(&["lab", "down"]);
    }
}

/// The last lines of each member's log.
fn ends_of_logs() -> Vec<(String, String)> {
    let lab = try_json(&["lab", "status", "-o", "json"]).unwrap_or_default();
    let end_of = |row: &Value| {
        let log = std::fs::read_to_string(row["node"]["log_path"].as_str()?).ok()?;
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        Some((row["node"]["name"].as_str()?.to_owned(), end))
    };
    rows(&lab["nodes"]).filter_map(end_of).collect()
}
