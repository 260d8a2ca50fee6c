//! Every input that fuzzing chose or that once broke something, on whatever toolchain runs the tests.

use std::path::Path;

use qnat_fuzz::{TARGETS, Target};

fn replay(name: &str, target: Target) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.expect("a folder that can be read").path())
        .collect();
    files.sort();
    for file in &files {
        // Shown if the target panics.
        eprintln!("{}", file.display());
        target(&std::fs::read(file).expect("a file of this tree"));
    }
    files.len()
}

#[test]
fn no_input_of_the_corpus_breaks_a_target() {
    for (name, target) in TARGETS {
        assert!(replay(name, *target) > 0, "{name} has no corpus");
    }
}

#[test]
fn no_target_minds_an_empty_input_or_noise() {
    for (name, target) in TARGETS {
        eprintln!("{name}");
        target(&[]);
        for length in 1..200_u8 {
            let noise: Vec<u8> = (0..length).map(|at| at.wrapping_mul(73).wrapping_add(length)).collect();
            target(&noise);
        }
    }
}
