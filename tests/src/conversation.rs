//! One TCP connection from a backend to an echo server, as that of the internet, over all that a test does to the members. Called by the
//! tests in `tests/`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Child;

use crate::lab::{INET, Lab};

/// An echo client: a line in, `kept` or `lost` out, over one connection for its whole life.
const ECHO_CLIENT: &str = r#"
exec 3<>/dev/tcp/$0/$1 || exit 1
while read -r line; do
    echo "$line" >&3; answer=lost
    while read -r -t 1 back <&3; do [ "$back" = "$line" ] && answer=kept && break; done
    echo "$answer"
done"#;

/// One connection from a backend to an echo server.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    said: u32,
}

impl Conversation {
    /// Begins one from a host such as `b1`.
    ///
    /// # Panics
    /// If the client cannot be started.
    #[must_use]
    pub fn begin(lab: &Lab, host: &str) -> Self {
        Self::begin_with(lab, host, INET, 7)
    }

    /// Begins one with whoever echoes lines at this address and port.
    ///
    /// # Panics
    /// If the client cannot be started.
    #[must_use]
    pub fn begin_with(lab: &Lab, host: &str, ip: &str, port: u16) -> Self {
        let mut child = lab.spawn(host, &["bash", "-c", ECHO_CLIENT, ip, &port.to_string()]);
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, answers, said: 0 }
    }

    /// Whether a new line comes back within a second.
    ///
    /// # Panics
    /// If the client has ended.
    pub fn goes_on(&mut self) -> bool {
        self.said += 1;
        let mut line = String::new();
        writeln!(self.child.stdin.as_mut().expect("piped"), "line {}", self.said).expect("the client runs");
        self.answers.read_line(&mut line).expect("the client answers");
        line.trim() == "kept"
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}
