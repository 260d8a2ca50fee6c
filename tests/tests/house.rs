//! The shape of the sources gets no worse: no new circle of imports, no new long function, no new run of lines that stands
//! twice. What is left of each is listed; whoever mends one takes it off the list.

use std::path::Path;

use qnat_tests::house::{self, CRATES};

/// Of a crate: circles of imports, functions over the limit, repeated runs.
const LEFT: &[(&str, usize, usize, usize)] = &[
    ("node/words", 0, 0, 0),
    ("node/engine", 0, 0, 0),
    ("node/control", 0, 0, 0),
    ("node/member", 0, 0, 0),
    ("consensus", 0, 0, 0),
    ("netio", 0, 0, 0),
    ("node/lab", 0, 0, 0),
    ("node", 0, 0, 0),
    ("bench", 0, 0, 0),
    ("chaos", 0, 0, 0),
    ("tests", 0, 0, 0),
    ("tests/reference", 0, 0, 0),
];
/// Files of the engine that write or take its worker: its own.
const NAMING_WORKER: usize = 1;

#[test]
fn no_circle_no_long_function_and_no_repeated_run_is_new() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    assert_eq!(LEFT.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), CRATES, "every crate has its line");
    for &(name, circles, long, runs) in LEFT {
        let sources = house::sources(&root.join(name).join("src")).expect("sources that parse");
        let (all_circles, all_long, all_runs) =
            (house::circles(&sources), house::long_functions(&sources), house::repeated(&sources));
        let files: Vec<_> = all_circles.iter().map(|circle| &circle.files).collect();
        assert_eq!(files.len(), circles, "circles of {name}: {files:?}");
        assert_eq!(all_long.len(), long, "long functions of {name}: {all_long:?}");
        assert_eq!(all_runs.len(), runs, "repeated runs of {name}: {all_runs:?}");
        if name == "node/engine" {
            let named = house::naming(&sources, "Worker");
            assert_eq!(named.len(), NAMING_WORKER, "who names Worker: {named:?}");
        }
    }
}
