//! A program that runs on a host of the lab while a test does other things, and ends with the value. Called by the tests
//! in `tests/`.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::command::{binary, wait_until};

/// One program. What it says, on both outputs, goes to a file that can be read meanwhile.
#[derive(Debug)]
pub struct Running {
    child: Child,
    said: NamedTempFile,
    what: String,
}

impl Running {
    /// Starts it. The child is the program itself, so that it ends by its own id.
    pub(crate) fn start(host: &str, argv: &[&str]) -> Self {
        let said = NamedTempFile::new().expect("a temporary file");
        let mut command = Command::new(binary());
        command.args(["lab", "netns-exec", &format!("qnat-{host}"), "--"]).args(argv);
        command.stdin(Stdio::piped()).stdout(appending(&said)).stderr(appending(&said));
        Self { child: command.spawn().expect("qnat starts"), said, what: argv.join(" ") }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    ///
    /// # Panics
    /// If its file is gone.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.said.path()).expect("its file is there")).into_owned()
    }

    /// Waits until it has said this.
    ///
    /// # Panics
    /// If it does not within the bound, with what it said instead.
    pub fn wait_for(&self, words: &str, bound: Duration) {
        let begun = std::time::Instant::now();
        while !self.said().contains(words) {
            assert!(begun.elapsed() < bound, "{} did not say {words:?} but: {}", self.what, self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a line.
    ///
    /// # Panics
    /// If it does not listen any more.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{} does not listen: {error}", self.what));
    }

    /// Whether it has not ended yet.
    ///
    /// # Panics
    /// If the kernel does not know.
    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within the bound.
    #[must_use]
    pub fn end(mut self, bound: Duration) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let what = self.what.clone();
        wait_until(&format!("{what} to end"), bound, || !self.goes_on());
        (self.child.wait().expect("a child of ours"), self.said())
    }
}

fn appending(said: &NamedTempFile) -> std::fs::File {
    std::fs::OpenOptions::new().append(true).open(said.path()).expect("a temporary file")
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}
