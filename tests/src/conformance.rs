//! The table of what the product is held to (`tests/spec.toml`): every id, in a line, how far it is built, and the tests
//! that prove it; and the same joined with what a test run printed. Must never say more than the tests do. Read by
//! `tests/conformance.rs` and by the `conformance` program, which the test command calls at its end.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How far a line of the specification is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Whole.
    Built,
    /// Some of it.
    Partial,
    /// Nothing of it.
    NotYet,
}

/// One line of the specification.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// S, D, R or I and a number.
    pub id: String,
    /// What it asks for.
    pub says: String,
    /// How far it is built.
    pub standing: Standing,
    /// Names of test functions in this tree.
    #[serde(default)]
    pub tests: Vec<String>,
}

/// The whole table.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its lines, in order.
    pub line: Vec<Line>,
}

/// Reads the table.
///
/// # Errors
/// If it is not written as described here.
pub fn parse(text: &str) -> Result<Table, toml::de::Error> {
    toml::from_str(text)
}

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ended {
    /// Somewhere it failed; several tests may share a name.
    Failed,
    /// It was left out.
    Ignored,
    /// It passed wherever it ran.
    Passed,
}

/// Results of test functions, by name without its modules.
pub type Results = BTreeMap<String, Ended>;

/// Adds what a test run printed: lines such as `test module::name ... ok`.
pub fn read_log(log: &str, results: &mut Results) {
    for line in log.lines() {
        let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { continue };
        let name = name.split(" - ").next().unwrap_or(name).rsplit("::").next().unwrap_or(name);
        let ended = match end.split([',', ' ']).next() {
            Some("ok") => Ended::Passed,
            Some("ignored") => Ended::Ignored,
            // `FAILED`, or a test that printed into its own line and never came to an end.
            _ => Ended::Failed,
        };
        let known = results.entry(name.trim().to_owned()).or_insert(ended);
        *known = (*known).min(ended);
    }
}

/// A line with the results of its tests.
fn results_of(line: &Line, results: &Results) -> String {
    let word = |test: &String| match results.get(test) {
        Some(Ended::Passed) => format!("{test} passed"),
        Some(Ended::Failed) => format!("{test} **FAILED**"),
        Some(Ended::Ignored) => format!("{test} left out"),
        None => format!("{test} not run"),
    };
    line.tests.iter().map(word).collect::<Vec<_>>().join("; ")
}

/// The table as Markdown, with a summary in front.
#[must_use]
pub fn report(table: &Table, results: &Results) -> String {
    let all_passed =
        |line: &&Line| !line.tests.is_empty() && line.tests.iter().all(|t| results.get(t) == Some(&Ended::Passed));
    let standing = |standing: Standing| table.line.iter().filter(move |line| line.standing == standing);
    let mut text = format!(
        "{} ids: {} built, {} of them with all tests passed in this run; {} partial, {} of them; {} not yet; {} without a test\n\n",
        table.line.len(),
        standing(Standing::Built).count(),
        standing(Standing::Built).filter(all_passed).count(),
        standing(Standing::Partial).count(),
        standing(Standing::Partial).filter(all_passed).count(),
        standing(Standing::NotYet).count(),
        table.line.iter().filter(|line| line.tests.is_empty()).count(),
    );
    text += "| id | standing | says | tests and how they ended |\n|---|---|---|---|\n";
    for line in &table.line {
        let standing = match line.standing {
            Standing::Built => "built",
            Standing::Partial => "partial",
            Standing::NotYet => "not yet",
        };
        text += &format!("| {} | {standing} | {} | {} |\n", line.id, line.says, results_of(line, results));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_how_each_test_of_a_line_ended() {
        let mut results = Results::new();
        read_log("test a::b::good ... ok\ntest bad ... FAILED\ntest good ... ok\nnothing", &mut results);
        read_log("test good ... FAILED\ntest loud - should panic ... ok\ntest slow ... ignored, by hand", &mut results);
        assert_eq!(results["good"], Ended::Failed, "one failure is a failure");
        assert_eq!(results["loud"], Ended::Passed);
        assert_eq!(results["slow"], Ended::Ignored);
        let line = Line {
            id: "R1".into(),
            says: "x".into(),
            standing: Standing::Built,
            tests: vec!["loud".into(), "absent".into()],
        };
        let text = report(&Table { line: vec![line] }, &results);
        assert!(text.contains("1 built, 0 of them with all tests passed"), "{text}");
        assert!(text.contains("| R1 | built | x | loud passed; absent not run |"), "{text}");
    }
}
