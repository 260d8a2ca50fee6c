//! Runs of lines that stand twice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::source::Source;

/// Lines of a run that count as one, blank ones and lone brackets left out.
pub const RUN_LINES: usize = 8;

/// The same lines in two places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Run {
    /// Where it stands first, and the number of its first line there.
    pub first: (PathBuf, usize),
    /// Where again.
    pub again: (PathBuf, usize),
    /// Its lines.
    pub lines: usize,
}

/// Runs of at least [`RUN_LINES`] lines that stand twice in these sources, each reported once at its full length. Imports,
/// attributes and comments are no code here, and what follows `#[cfg(test)]` is a test.
#[must_use]
pub fn repeated(sources: &[Source]) -> Vec<Run> {
    let lines: Vec<Vec<(usize, &str)>> = sources.iter().map(|source| code(&source.text)).collect();
    let mut first_at: BTreeMap<Vec<&str>, (usize, usize)> = BTreeMap::new();
    let mut found: Vec<Run> = Vec::new();
    let mut last: Option<((usize, usize), (usize, usize))> = None;
    for (file, own) in lines.iter().enumerate() {
        for (at, window) in own.windows(RUN_LINES).enumerate() {
            let key: Vec<&str> = window.iter().map(|(_, line)| *line).collect();
            let Some(&(other, there)) = first_at.get(&key) else {
                first_at.insert(key, (file, at));
                continue;
            };
            if other == file && there + RUN_LINES > at {
                continue;
            }
            let goes_on = last == Some(((other, there.wrapping_sub(1)), (file, at.wrapping_sub(1))));
            last = Some(((other, there), (file, at)));
            match found.last_mut().filter(|_| goes_on) {
                Some(run) => run.lines += 1,
                None => found.push(Run {
                    first: (sources[other].path.clone(), lines[other][there].0),
                    again: (sources[file].path.clone(), own[at].0),
                    lines: RUN_LINES,
                }),
            }
        }
    }
    found
}

/// Lines of code with their numbers.
fn code(text: &str) -> Vec<(usize, &str)> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let numbered = product.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let skipped = ["//", "use ", "pub use ", "#"];
    numbered
        .filter(|(_, line)| line.chars().any(char::is_alphanumeric))
        .filter(|(_, line)| !skipped.iter().any(|start| line.starts_with(start)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn a_run_is_found_once_at_its_length() {
        let body: String = (0..RUN_LINES + 2).map(|n| format!("    step_{n}();\n")).collect();
        let one = source("one.rs", &format!("fn one() {{\n{body}}}\n"));
        let two = source("two.rs", &format!("// again\nfn two() {{\n\n{body}}}\n"));
        let found = repeated(&[one, two]);
        let want = Run { first: ("one.rs".into(), 2), again: ("two.rs".into(), 4), lines: RUN_LINES + 2 };
        assert_eq!(found, [want]);
    }

    #[test]
    fn shorter_runs_and_tests_are_none() {
        let body: String = (0..RUN_LINES - 1).map(|n| format!("    step_{n}();\n")).collect();
        let text = |name| {
            format!("fn {name}() {{\n{body}}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 1;\n".repeat(20))
        };
        assert!(repeated(&[source("one.rs", &text("one")), source("two.rs", &text("two"))]).is_empty());
    }
}
