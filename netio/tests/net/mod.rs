//! Network namespaces for the live tests: unique names, removed when dropped, also after a failed assertion.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Fails the calling test without root, which network namespaces need: a test that did nothing has not passed. Who cannot be
/// root says so, and it is left out with a word.
#[macro_export]
macro_rules! require_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("QNAT_WITHOUT_ROOT").is_some(),
                "needs root, or QNAT_WITHOUT_ROOT=1 to be left out"
            );
            eprintln!("left out: needs root for network namespaces");
            return;
        }
    };
}

/// A network namespace of this test.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("qnatio-{}-{number}-{role}", std::process::id()) };
        ip(&format!("netns add {}", namespace.name));
        namespace.ip("link set lo up");
        // No router solicitations or neighbour discovery between the frames that the tests count.
        namespace.exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        namespace
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    pub(crate) fn exec(&self, command: &str) {
        ip(&format!("netns exec {} {command}", self.name));
    }

    /// A veth pair: `ours` in here, `theirs` in `other`, both up.
    pub(crate) fn veth(&self, ours: &str, other: &Self, theirs: &str) {
        self.ip(&format!("link add {ours} type veth peer name {theirs} netns {}", other.name));
        self.ip(&format!("link set {ours} up"));
        other.ip(&format!("link set {theirs} up"));
    }

    /// Runs `f` on a thread of its own in the namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace exists");
        std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).expect("setns");
            f()
        })
    }

    /// Runs `f` in the namespace and waits for it; its panic is ours.
    pub(crate) fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(f).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
