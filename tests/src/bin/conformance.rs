//! `conformance LOG...`: the table of the specification, joined with what test runs printed into these files. Ends with an
//! error if a line's test failed, or is named by the table and did not run.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use qnat_tests::conformance::{Profile, Results, parse, read_log, report, unproved};
use qnat_tests::shared::is_long;

fn main() -> Result<ExitCode> {
    let mut results = Results::new();
    for path in std::env::args().skip(1) {
        let log = std::fs::read(&path).with_context(|| path.clone())?;
        read_log(&String::from_utf8_lossy(&log), &mut results);
    }
    ensure!(!results.is_empty(), "no test ended in any of the files: give the logs of a test run");
    let table = parse(include_str!("../../spec.toml"))?;
    let profile = if is_long() { Profile::Long } else { Profile::Short };
    write!(std::io::stdout(), "{}", report(&table, &results, profile)).context("standard output")?;
    let unproved = unproved(&table, &results, profile);
    for (id, verdict) in &unproved {
        writeln!(std::io::stderr(), "{id}: {verdict:?}").context("standard error")?;
    }
    Ok(if unproved.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
