//! The table of the specification keeps to the tree: every test that it names is there, every id once, and what is
//! called built has a test.

use std::collections::BTreeSet;
use std::path::Path;

use qnat_tests::conformance::{Standing, Table, parse};

fn table() -> Table {
    parse(include_str!("../spec.toml")).expect("spec.toml is well formed")
}

/// The function that a line of source begins, or the check that it names.
fn name_in(line: &str) -> Option<&str> {
    if let Some((_, check)) = line.split_once("Check::new(\"") {
        return check.split('"').next();
    }
    let (before, after) = line.split_once("fn ")?;
    let is_declared = ["", "async ", "pub(crate) "].contains(&before);
    is_declared.then(|| after.split(['(', '<']).next()).flatten()
}

/// All functions of the workspace's sources.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                functions(&path, found);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            found.extend(text.lines().filter_map(|line| name_in(line.trim())).map(ToOwned::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_table_names_is_in_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let mut there = BTreeSet::new();
    functions(root, &mut there);
    let table = table();
    let missing: Vec<String> = table
        .line
        .iter()
        .flat_map(|line| {
            line.tests.iter().filter(|test| !there.contains(*test)).map(|test| format!("{}: {test}", line.id))
        })
        .collect();
    assert!(missing.is_empty(), "named but not there: {missing:#?}");
}

#[test]
fn every_id_is_there_once() {
    let lines = table().line;
    let ids: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!(ids.len(), lines.len(), "an id is there twice");
    for (letter, last) in [("S", 40), ("D", 26), ("R", 28), ("I", 52)] {
        for number in 1..=last {
            let id = format!("{letter}{number}");
            assert!(ids.contains(id.as_str()), "{id} is missing");
        }
    }
    assert_eq!(ids.len(), 146);
}

#[test]
fn what_is_called_built_has_a_test() {
    let table = table();
    let untested: Vec<&str> =
        table.line.iter().filter(|line| line.tests.is_empty()).map(|line| line.id.as_str()).collect();
    println!("{} of {} ids have no test: {}", untested.len(), table.line.len(), untested.join(" "));
    let boasts: Vec<&str> = table
        .line
        .iter()
        .filter(|line| line.standing == Standing::Built && line.tests.is_empty())
        .map(|line| line.id.as_str())
        .collect();
    assert!(boasts.is_empty(), "called built without a test: {boasts:?}");
    let absent: Vec<&str> = table
        .line
        .iter()
        .filter(|line| line.standing == Standing::NotYet && !line.tests.is_empty())
        .map(|line| line.id.as_str())
        .collect();
    assert!(absent.is_empty(), "called absent but has tests: {absent:?}");
}
