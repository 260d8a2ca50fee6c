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
    /// What of it only the longer profile shows.
    pub long: Option<String>,
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
    /// It failed, and passed when it was run once more.
    FailedFirst,
    /// It was left out.
    Ignored,
    /// It passed wherever it ran.
    Passed,
}

/// Results of test functions, by name without its modules.
pub type Results = BTreeMap<String, Ended>;

/// Which checks a run was to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Without those that take minutes.
    Short,
    /// All.
    Long,
}

/// How a line of the specification came out of a run; the worst of its tests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// One of its tests failed.
    Failed,
    /// One of its tests was not run at all.
    NotRun,
    /// One of its tests passed only when it was run once more.
    FailedFirst,
    /// A part of it was left to the longer profile.
    Long,
    /// Every test of it passed.
    Passed,
    /// It has no test.
    Untested,
}

/// How lines that a first run printed begin, when a second one followed.
const FIRST_RUN: &str = "first run: ";

/// Adds what a test run printed: lines such as `test module::name ... ok`.
pub fn read_log(log: &str, results: &mut Results) {
    // A test that prints splits its own line: how it ended stands alone on a later one, before the next test's.
    let mut open: Option<String> = None;
    let mut note = |name: String, ended: Ended| {
        let known = results.entry(name).or_insert(ended);
        *known = (*known).min(ended);
    };
    for line in log.lines() {
        let (line, first) = line.strip_prefix(FIRST_RUN).map_or((line, false), |rest| (rest, true));
        let failed = if first { Ended::FailedFirst } else { Ended::Failed };
        let begun = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        let (name, end) = match begun {
            Some((name, end)) => {
                let name = name.split(" - ").next().unwrap_or(name).rsplit("::").next().unwrap_or(name);
                (name.trim().to_owned(), end)
            }
            None => match (open.take(), line) {
                (Some(name), "ok" | "ignored" | "FAILED") => (name, line),
                (still, _) => {
                    open = still;
                    continue;
                }
            },
        };
        if let Some(never_ended) = open.take() {
            note(never_ended, failed);
        }
        match end.split([',', ' ']).next() {
            Some("ok") => note(name, Ended::Passed),
            Some("ignored") => note(name, Ended::Ignored),
            Some("FAILED") => note(name, failed),
            _ => open = Some(name),
        }
    }
    if let Some(never_ended) = open {
        note(never_ended, Ended::Failed);
    }
}

/// How a line came out.
#[must_use]
pub fn verdict(line: &Line, results: &Results, profile: Profile) -> Verdict {
    let of_test = |test: &String| match results.get(test) {
        Some(Ended::Passed) => Verdict::Passed,
        Some(Ended::Ignored) => Verdict::Long,
        Some(Ended::FailedFirst) => Verdict::FailedFirst,
        Some(Ended::Failed) => Verdict::Failed,
        None => Verdict::NotRun,
    };
    let rest = if line.long.is_some() && profile == Profile::Short { Verdict::Long } else { Verdict::Passed };
    line.tests.iter().map(of_test).min().map_or(Verdict::Untested, |worst| worst.min(rest))
}

/// The lines that a run has to fail for, each with its verdict.
#[must_use]
pub fn unproved<'a>(table: &'a Table, results: &Results, profile: Profile) -> Vec<(&'a str, Verdict)> {
    let judged = table.line.iter().map(|line| (line.id.as_str(), verdict(line, results, profile)));
    judged.filter(|(_, verdict)| matches!(verdict, Verdict::Failed | Verdict::NotRun)).collect()
}

/// A line with the results of its tests.
fn results_of(line: &Line, results: &Results) -> String {
    let word = |test: &String| match results.get(test) {
        Some(Ended::Passed) => format!("{test} passed"),
        Some(Ended::FailedFirst) => format!("{test} **FAILED first**, passed when run once more"),
        Some(Ended::Failed) => format!("{test} **FAILED**"),
        Some(Ended::Ignored) => format!("{test} left out"),
        None => format!("{test} **not run**"),
    };
    let long = line.long.iter().map(|what| format!("only in the longer profile: {what}"));
    line.tests.iter().map(word).chain(long).collect::<Vec<_>>().join("; ")
}

/// The table as Markdown, with a summary in front.
#[must_use]
pub fn report(table: &Table, results: &Results, profile: Profile) -> String {
    let count = |standing: Standing, wanted: Verdict| {
        let of_standing = table.line.iter().filter(|line| line.standing == standing);
        of_standing.filter(|line| verdict(line, results, profile) == wanted).count()
    };
    let mut text = format!("{} ids: ", table.line.len());
    for (standing, name) in [(Standing::Built, "built"), (Standing::Partial, "partial")] {
        let all = table.line.iter().filter(|line| line.standing == standing).count();
        text += &format!("{all} {name} (passed {}", count(standing, Verdict::Passed));
        for (verdict, what) in [
            (Verdict::Long, "left in part to the longer profile"),
            (Verdict::FailedFirst, "failed first"),
            (Verdict::NotRun, "not run"),
            (Verdict::Failed, "FAILED"),
        ] {
            let lines = count(standing, verdict);
            if lines > 0 {
                text += &format!(", {what} {lines}");
            }
        }
        text += "), ";
    }
    let absent = table.line.iter().filter(|line| line.standing == Standing::NotYet).count();
    let untested = table.line.iter().filter(|line| line.tests.is_empty()).count();
    text += &format!("{absent} not yet; {untested} without a test\n\n");
    text += "| id | standing | in this run | says | tests and how they ended |\n|---|---|---|---|---|\n";
    for line in &table.line {
        let standing = match line.standing {
            Standing::Built => "built",
            Standing::Partial => "partial",
            Standing::NotYet => "not yet",
        };
        let run = match verdict(line, results, profile) {
            Verdict::Failed => "**FAILED**",
            Verdict::NotRun => "**not run**",
            Verdict::FailedFirst => "**failed first**",
            Verdict::Long => "in part",
            Verdict::Passed => "passed",
            Verdict::Untested => "",
        };
        text += &format!("| {} | {standing} | {run} | {} | {} |\n", line.id, line.says, results_of(line, results));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, tests: &[&str]) -> Line {
        let tests = tests.iter().map(|&name| name.to_owned()).collect();
        Line { id: id.into(), says: "x".into(), standing: Standing::Built, tests, long: None }
    }

    fn results(log: &str) -> Results {
        let mut results = Results::new();
        read_log(log, &mut results);
        results
    }

    #[test]
    fn each_test_has_the_worst_of_its_ends() {
        let mut results = results("test a::b::good ... ok\ntest bad ... FAILED\ntest good ... ok\nnothing");
        read_log("test good ... FAILED\ntest loud - should panic ... ok\ntest slow ... ignored, by hand", &mut results);
        assert_eq!(results["good"], Ended::Failed, "one failure is a failure");
        assert_eq!(results["loud"], Ended::Passed);
        assert_eq!(results["slow"], Ended::Ignored);
    }

    #[test]
    fn a_test_that_prints_ends_on_a_later_line_and_one_that_never_ends_has_failed() {
        let log = "test loud ... taken over: once more\nok\ntest sad ... hm\nFAILED\ntest quiet ... ok\n\
                   test cut ... going on\ntest next ... ok\ntest last ... begins";
        let results = results(log);
        let ended = |name: &str| results[name];
        assert_eq!(["loud", "quiet", "next"].map(ended), [Ended::Passed; 3]);
        assert_eq!(["sad", "cut", "last"].map(ended), [Ended::Failed; 3]);
    }

    #[test]
    fn a_test_that_failed_first_has_not_passed() {
        let log = "first run: test shaky ... FAILED\nfirst run: test calm ... ok\ntest shaky ... ok\ntest calm ... ok";
        let results = results(log);
        assert_eq!((results["shaky"], results["calm"]), (Ended::FailedFirst, Ended::Passed));
        let table = Table { line: vec![line("R1", &["shaky", "calm"]), line("R2", &["calm"])] };
        let text = report(&table, &results, Profile::Short);
        assert!(text.starts_with("2 ids: 2 built (passed 1, failed first 1), "), "{text}");
        assert!(text.contains("| R1 | built | **failed first** | x | shaky **FAILED first**"), "{text}");
        assert_eq!(unproved(&table, &results, Profile::Short), []);
    }

    #[test]
    fn what_failed_or_did_not_run_fails_the_run() {
        let results = results("test bad ... FAILED\ntest good ... ok");
        let table =
            Table { line: vec![line("R1", &["good", "bad"]), line("R2", &["good", "gone"]), line("R3", &["good"])] };
        let unproved = unproved(&table, &results, Profile::Short);
        assert_eq!(unproved, [("R1", Verdict::Failed), ("R2", Verdict::NotRun)]);
        let text = report(&table, &results, Profile::Short);
        assert!(text.contains("gone **not run**") && text.contains("bad **FAILED**"), "{text}");
    }

    #[test]
    fn what_is_left_to_the_longer_profile_is_counted_apart() {
        let short = results("test slow ... ignored\ntest good ... ok");
        let shortened = Line { long: Some("the whole six seconds".into()), ..line("R2", &["good"]) };
        let table = Table { line: vec![line("R1", &["slow"]), shortened, line("R3", &["good"])] };
        let text = report(&table, &short, Profile::Short);
        assert!(text.starts_with("3 ids: 3 built (passed 1, left in part to the longer profile 2), "), "{text}");
        assert!(text.contains("only in the longer profile: the whole six seconds"), "{text}");
        assert_eq!(unproved(&table, &short, Profile::Short), []);
        let long = results("test slow ... ok\ntest good ... ok");
        assert!(report(&table, &long, Profile::Long).starts_with("3 ids: 3 built (passed 3), "));
    }
}
