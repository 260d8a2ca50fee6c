//! Every short id in one list (`RULES.md`): what it says, which sources name it, which tests prove it, and which planted holes take
//! it out. Written from ARCHITECTURE.md, `tests/spec.toml`, `chaos/mutants.toml` and the comments of the sources; nothing in it is
//! written by hand. Read by the `rules` program and by the test that holds the file against the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::conformance::{Line, Standing, parse};

/// Sources that keep rules; tests and measurements name them too, but keep none.
const ROOMS: &[&str] = &["node/", "consensus/", "netio/"];

/// A planted hole, as far as the list says it.
#[derive(Deserialize)]
struct Hole {
    id: String,
    hole: String,
}

#[derive(Deserialize)]
struct Holes {
    mutant: Vec<Hole>,
}

/// The text of `RULES.md` for the tree at `root`.
///
/// # Errors
/// If a file that it is written from cannot be read.
pub fn write(root: &Path) -> Result<String> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let rules = protocol(&read("ARCHITECTURE.md")?);
    let table = parse(&read("tests/spec.toml")?)?;
    let holes: Holes = toml::from_str(&read("chaos/mutants.toml")?)?;
    let kept = citations(root)?;
    let mut text = String::from(HEAD);
    text += "\n## Rules of replication\n";
    for (id, says) in &rules {
        section(&mut text, (id, says), &[], &kept, &holes.mutant)?;
    }
    for (letter, title) in KINDS {
        write!(text, "\n## {title}\n")?;
        for line in table.line.iter().filter(|line| line.id.starts_with(letter)) {
            section(&mut text, (&line.id, &said(line)), &line.tests, &kept, &holes.mutant)?;
        }
    }
    Ok(text)
}

const HEAD: &str = "\
# Every rule, behaviour, decision and invariant

Written by `cargo run -p qnat-tests --bin rules`; a test holds it against the tree. *Kept in*: sources whose comments name the id.
*Holes*: edits in `chaos/mutants.toml` that take the rule out; `qnat-chaos mutants --only ID` shows who finds one.
";

const KINDS: [(char, &str); 4] =
    [('S', "Behaviour"), ('D', "Decisions"), ('R', "Duties of a NAT (RFCs)"), ('I', "Invariants")];

fn said(line: &Line) -> String {
    match line.standing {
        Standing::Built => line.says.clone(),
        Standing::Partial => format!("{} *(in part)*", line.says),
        Standing::NotYet => format!("{} *(not yet)*", line.says),
    }
}

fn section(
    text: &mut String,
    (id, says): (&str, &str),
    tests: &[String],
    kept: &BTreeMap<String, BTreeSet<PathBuf>>,
    holes: &[Hole],
) -> Result<()> {
    write!(text, "\n**{id}** {says}\n")?;
    let files = kept.get(id).into_iter().flatten().map(|file| format!("`{}`", file.display())).collect::<Vec<_>>();
    let tests = tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>();
    let of = |hole: &&Hole| hole.id.split('-').next() == Some(id);
    let holes = holes.iter().filter(of).map(|hole| format!("{} ({})", hole.id, hole.hole)).collect::<Vec<_>>();
    for (title, list) in [("Kept in", files), ("Tests", tests), ("Holes", holes)] {
        if !list.is_empty() {
            writeln!(text, "- {title}: {}", list.join(", "))?;
        }
    }
    Ok(())
}

/// The rules as ARCHITECTURE.md lists them: `- **F1** text`.
fn protocol(architecture: &str) -> Vec<(String, String)> {
    let rule = |line: &str| {
        let (id, says) = line.strip_prefix("- **")?.split_once("** ")?;
        is_id(id).then(|| (id.to_owned(), says.trim().to_owned()))
    };
    architecture.lines().filter_map(rule).collect()
}

/// A letter and a number.
fn is_id(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|letter| "FENLMKCWSDRI".contains(letter))
        && letters.as_str().len() <= 2
        && !letters.as_str().is_empty()
        && letters.all(|digit| digit.is_ascii_digit())
}

/// Which sources name which ids in their comments, tests left out.
fn citations(root: &Path) -> Result<BTreeMap<String, BTreeSet<PathBuf>>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    ensure!(listed.status.success(), "{} is no git work tree", root.display());
    let mut kept: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    // New files count before they are committed, too.
    for name in String::from_utf8(listed.stdout)?.split('\0') {
        let is_source =
            ROOMS.iter().any(|room| name.starts_with(room)) && (name.ends_with(".rs") || name.ends_with(".c"));
        if !is_source || name.contains("tests") {
            continue;
        }
        // One that was removed and not committed is not there.
        let Ok(source) = std::fs::read_to_string(root.join(name)) else { continue };
        let product = source.split("\n#[cfg(test)]\n").next().unwrap_or(&source);
        let comments = product.lines().filter_map(|line| line.split_once("//").map(|(_, comment)| comment));
        for word in comments.flat_map(|comment| comment.split(|c: char| !c.is_ascii_alphanumeric())) {
            if is_id(word) {
                kept.entry(word.to_owned()).or_default().insert(PathBuf::from(name));
            }
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_letter_and_a_number() {
        assert!(["F1", "S41", "K3", "I58"].into_iter().all(is_id));
        assert!(["F", "IP", "X1", "S123", "I2C", "4E"].into_iter().all(|word| !is_id(word)));
    }

    #[test]
    fn the_rules_of_the_map_are_read_with_their_texts() {
        let map = "**Flow groups**\n- **F1** A batch. `consensus/x.rs`.\n- **Bold** no rule\n- **M0** Links.\n";
        let read = |(id, says): (&str, &str)| (id.to_owned(), says.to_owned());
        assert_eq!(protocol(map), [("F1", "A batch. `consensus/x.rs`."), ("M0", "Links.")].map(read));
    }
}
