//! The table of the specification keeps to the tree: every test that it names is there, every id once, and what is
//! called built has a test.

use std::collections::BTreeSet;
use std::path::Path;

use qnat_tests::conformance::{Standing, Table, parse};
use qnat_tests::scenarios::{self, ALSO_KILLED, LAST};

fn table() -> Table {
    parse(include_str!("../spec.toml")).expect("spec.toml is well formed")
}

/// The names of a source's tests: functions with the attribute, also within `proptest!`, and the checks of programs that have
/// a harness of their own. A function that only a test calls is none.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut is_test, mut is_list) = (false, false);
    for line in text.lines().map(str::trim) {
        for constructor in ["Check::new(\"", "Check::long(\""] {
            names.extend(
                line.split_once(constructor).and_then(|(_, rest)| rest.split('"').next()).map(ToOwned::to_owned),
            );
        }
        let listed = line.split_once("checks![").or_else(|| line.split_once("exchanges!["));
        let list = match (listed, is_list) {
            (Some((_, rest)), _) => Some(rest),
            (None, true) => Some(line),
            (None, false) => None,
        };
        if let Some(list) = list {
            let (items, end) = list.split_once(']').map_or((list, false), |(items, _)| (items, true));
            let paths = items.split(',').map(|item| item.rsplit("::").next().unwrap_or(item).trim());
            names.extend(paths.filter(|name| !name.is_empty()).map(ToOwned::to_owned));
            is_list = !end;
            continue;
        }
        if ["#[test]", "#[tokio::test", "#[actix_rt::test"].iter().any(|attribute| line.starts_with(attribute)) {
            is_test = true;
        } else if let Some((_, after)) = line.split_once("fn ").filter(|(before, _)| ["", "async "].contains(before)) {
            if is_test {
                names.extend(after.split(['(', '<']).next().map(ToOwned::to_owned));
            }
            is_test = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            is_test = false;
        }
    }
    names
}

/// All tests of the workspace's sources.
fn tests(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                tests(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.extend(tests_in(&std::fs::read_to_string(&path).expect("sources are text")));
        }
    }
}

#[test]
fn only_what_a_harness_runs_is_a_test() {
    let source = "
        /// Called by a test.
        fn helper() {}
        #[test]
        #[should_panic(expected = \"x\")]
        // Why.
        fn one() { }
        fn between() {}
        #[tokio::test(flavor = \"current_thread\")]
        async fn two() {}
        proptest! {
            #[test]
            fn three(x in 0..9) {}
        }
        checks.push(Check::long(\"four\", |lab| four(lab)));
        exchanges: exchanges![
            room::five,
            hall::six,
        ],
        fn seven(lab: &Lab) {}
        shared::run(checks![eight, nine])
        #[expect(dead_code)]
        fn ten() {}
        #[test]
        const NOT: u8 = 0;
        fn eleven() {}
    ";
    let expected = ["one", "two", "three", "four", "five", "six", "eight", "nine"];
    assert_eq!(tests_in(source), expected.map(ToOwned::to_owned).into());
}

#[test]
fn every_test_that_the_table_names_is_in_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let mut there = BTreeSet::new();
    tests(root, &mut there);
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
    for (letter, last) in [("S", 46), ("D", 31), ("R", 28), ("I", 58)] {
        for number in 1..=last {
            let id = format!("{letter}{number}");
            assert!(ids.contains(id.as_str()), "{id} is missing");
        }
    }
    assert_eq!(ids.len(), 46 + 31 + 28 + 58);
}

#[test]
fn every_scenario_is_there_once_and_shown_by_programs_that_start_a_lab() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let all = scenarios::parse(include_str!("../scenarios.toml")).expect("scenarios.toml is well formed");
    let shown = all.scenario.iter().map(|scenario| scenario.number);
    let mut numbers: Vec<u32> = shown.chain(all.absent.iter().map(|absent| absent.number)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=LAST).collect::<Vec<_>>(), "each number once");
    let lines = table().line;
    let ids: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    let programs = scenarios::black_box(root).expect("readable sources");
    let black_box: BTreeSet<String> = programs.iter().flat_map(|text| tests_in(text)).collect();
    for scenario in &all.scenario {
        let number = scenario.number;
        assert!(!scenario.tests.is_empty() && !scenario.ids.is_empty(), "{number} has no test or no id");
        let unknown: Vec<&String> = scenario.ids.iter().filter(|id| !ids.contains(id.as_str())).collect();
        assert!(unknown.is_empty(), "{number}: no lines of spec.toml: {unknown:?}");
        let missing: Vec<&String> = scenario.tests.iter().filter(|test| !black_box.contains(*test)).collect();
        assert!(missing.is_empty(), "{number}: in no program that starts a lab: {missing:?}");
        assert!(scenario.killed.iter().all(|test| scenario.tests.contains(test)), "{number}: killed ones are tests");
        assert!(!scenario.killed.is_empty() || !ALSO_KILLED.contains(&number), "{number}: its owner lives on");
    }
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

#[test]
fn the_list_of_rules_is_what_the_tree_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let kept = std::fs::read_to_string(root.join("RULES.md")).expect("RULES.md");
    let written = qnat_tests::rules::write(root).expect("readable sources");
    let differs = kept.lines().zip(written.lines()).find(|(kept, written)| kept != written);
    assert!(kept == written, "cargo run -p qnat-tests --bin rules > RULES.md; first difference: {differs:?}");
}
