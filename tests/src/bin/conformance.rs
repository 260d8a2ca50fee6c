//! `conformance LOG...`: the table of the specification, joined with what test runs printed into these files.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use qnat_tests::conformance::{Results, parse, read_log, report};

fn main() -> Result<()> {
    let mut results = Results::new();
    for path in std::env::args().skip(1) {
        let log = std::fs::read(&path).with_context(|| path.clone())?;
        read_log(&String::from_utf8_lossy(&log), &mut results);
    }
    ensure!(!results.is_empty(), "no test ended in any of the files: give the logs of a test run");
    let table = parse(include_str!("../../spec.toml"))?;
    write!(std::io::stdout(), "{}", report(&table, &results)).context("standard output")
}
