//! `qnat` as a user runs it, its answers, and waiting for what they say. Called by `lab` and all that stands on it.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The rows of a list in an answer; none if it is no list.
pub fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Runs `qnat` with these arguments.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(arguments: &[&str]) -> Output {
    // Members that `lab up` leaves behind must not keep a pipe of ours open: its output goes to files.
    let [mut out, mut err] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let shared = |file: &File| Stdio::from(file.try_clone().expect("another handle"));
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).stdout(shared(&out)).stderr(shared(&err));
    let status = command.status().expect("qnat starts");
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("just written");
        bytes
    };
    Output { status, stdout: read(&mut out), stderr: read(&mut err) }
}

/// Runs `qnat`, which must succeed. Returns its standard output.
///
/// # Panics
/// If it fails, with what it said.
#[expect(clippy::must_use_candidate, reason = "often it is the success that matters, and that is checked here")]
pub fn ok(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    // 4: it answered, and something is wrong with the cluster, which is what many tests are about.
    let told_of_wrongs = arguments.first() == Some(&"status") && output.status.code() == Some(4);
    assert!(output.status.success() || told_of_wrongs, "qnat {arguments:?} ended with {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As [`ok`], parsed.
///
/// # Panics
/// If it fails or is no JSON.
#[must_use]
pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(arguments)).expect("-o json prints JSON")
}

/// As [`json`], for moments when nobody may be able to answer.
#[must_use]
pub fn try_json(arguments: &[&str]) -> Option<Value> {
    serde_json::from_slice(&run(arguments).stdout).ok()
}

/// Looks at a condition until it holds.
///
/// # Panics
/// If it does not within the bound.
pub fn wait_until(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "waited {bound:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `qnat` as built beside this test.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a file");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let binary = profile.join("qnat");
    assert!(binary.exists(), "{} is missing: cargo build -p qnat", binary.display());
    binary
}
