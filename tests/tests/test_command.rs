//! `scripts/test` in a tree of its own, with stubs for all that it calls: what it says of programs that fail, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Builds nothing, says where each black-box program is, and passes everything.
const CARGO: &str = r#"#!/bin/bash
case "$* " in *"--message-format "*)
    for file in "$STATE"/tests/tests/*.rs; do
        name=$(basename "$file" .rs)
        printf '{"manifest_path":"%s/tests/Cargo.toml","target":{"kind":["test"],"name":"%s"},"executable":"%s/built/%s"}\n' \
            "$STATE" "$name" "$STATE" "$name"
    done
esac
exit 0
"#;

/// A black-box program: fails with one test as often as `FAIL` says, then passes.
const PROGRAM: &str = r#"#!/bin/bash
name=$(basename "$0")
case " $FAIL " in *" $name:"*) ;; *) exit 0 ;; esac
times=${FAIL#*"$name:"}
echo again >>"$STATE/$name"
if [ "$(wc -l <"$STATE/$name")" -le "${times%% *}" ]; then
    printf 'test room::%s_shakes ... FAILED\n\nbecause of this\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n' "$name"
    exit 101
fi
printf 'test room::%s_shakes ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n' "$name"
"#;

/// Runs commands, and says of each how often the machine stood still meanwhile.
const CHAOS: &str = r#"#!/bin/bash
what=$1 out=$3
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
shift
case $what in
    stalls) "$@"; status=$?; [ -n "$STALLS" ] && printf '{"at_least_40_ms":%s}\n' "$STALLS" >"$out"; exit "$status" ;;
    awake) exec "$@" ;;
esac
"#;

struct Tree(TempDir);

impl Tree {
    /// With black-box programs of these names, beside those that are called twice.
    fn new(programs: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().expect("a temporary directory"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test");
        tree.put("scripts/test", &fs::read_to_string(script).expect("the script"));
        tree.put("cargo", CARGO);
        tree.put("scripts/world", "#!/bin/bash\nexec \"$@\"\n");
        tree.put("target/debug/qnat-chaos", CHAOS);
        for silent in ["scripts/setup", "target/debug/qnat"] {
            tree.put(silent, "#!/bin/bash\n");
        }
        tree.put("target/debug/conformance", "#!/bin/bash\necho a table\nexit ${CONFORMANCE:-0}\n");
        for program in programs.iter().chain(&["conduct", "groups"]) {
            tree.put(&format!("tests/tests/{program}.rs"), "");
            tree.put(&format!("built/{program}"), PROGRAM);
        }
        tree
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("in the tree")).expect("a folder");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("runnable");
    }

    /// Runs it; what it said, and whether it found all well.
    fn run(&self, settings: &[(&str, &str)]) -> (String, bool) {
        let here = self.0.path();
        let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.arg("scripts/test").current_dir(here).env("PATH", path).env("STATE", here).env_remove("QNAT_LONG");
        let Output { status, stdout, .. } = command.envs(settings.iter().copied()).output().expect("bash");
        (String::from_utf8(stdout).expect("text"), status.success())
    }
}

#[track_caller]
fn last_line_is(said: &str, line: &str) {
    assert_eq!(said.lines().last(), Some(line), "{said}");
}

#[test]
fn a_program_that_failed_while_the_machine_stood_still_is_run_once_more_and_named() {
    let tree = Tree::new(&["calm", "flaky"]);
    let (said, well) = tree.run(&[("FAIL", "flaky:1"), ("STALLS", "3")]);
    assert!(well, "{said}");
    last_line_is(&said, "1 passed, 0 failed");
    assert!(said.contains("first run: test room::flaky_shakes ... FAILED\n"), "printed: {said}");
    assert!(said.contains("first run: because of this\n"), "printed whole: {said}");
    let named = "\nre-run: flaky, because the machine stood still while it failed: room::flaky_shakes; \
                 target/test-logs/flaky.first.log\n";
    assert!(said.contains(named), "{said}");
    assert!(!said.contains("re-run: calm"), "{said}");
    let kept = fs::read_to_string(tree.0.path().join("target/test-logs/flaky.first.log")).expect("kept");
    assert!(kept.contains("because of this"), "{kept}");
}

#[test]
fn a_program_that_failed_on_a_machine_that_ran_has_failed() {
    for stalls in ["0", ""] {
        let (said, well) = Tree::new(&["calm", "flaky"]).run(&[("FAIL", "flaky:1"), ("STALLS", stalls)]);
        assert!(!well && !said.contains("re-run"), "{said}");
        last_line_is(&said, "0 passed, 1 failed");
        assert!(said.contains("because of this"), "{said}");
    }
}

#[test]
fn a_program_that_fails_twice_has_failed() {
    let (said, well) = Tree::new(&["flaky"]).run(&[("FAIL", "flaky:2"), ("STALLS", "1")]);
    assert!(!well && said.contains("re-run: flaky"), "{said}");
    last_line_is(&said, "0 passed, 1 failed");
}

#[test]
fn a_machine_on_which_many_programs_failed_first_cannot_judge_them() {
    let programs = ["one", "two", "three"];
    let two = Tree::new(&programs).run(&[("FAIL", "one:1 two:1"), ("STALLS", "1")]);
    assert!(two.1, "{}", two.0);
    last_line_is(&two.0, "2 passed, 0 failed");
    let three = Tree::new(&programs).run(&[("FAIL", "one:1 two:1 three:1"), ("STALLS", "1")]);
    assert!(!three.1 && three.0.contains("re-run: 3 programs, more than 2"), "{}", three.0);
    last_line_is(&three.0, "3 passed, 1 failed");
}

#[test]
fn a_line_of_the_specification_without_its_proof_fails_the_run() {
    let (said, well) = Tree::new(&["calm"]).run(&[("CONFORMANCE", "1")]);
    assert!(!well && said.contains("target/conformance.md: a table"), "{said}");
    last_line_is(&said, "0 passed, 1 failed");
}
