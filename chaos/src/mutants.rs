//! `qnat-chaos mutants`: do the tests find the holes that the rules close?
//!
//! Each planted hole of `mutants.toml` is built into a copy of the tracked sources, which then runs the simulator, compares the
//! engine with the model, or runs the one test of a crate that has to fail. The copy has a target directory in common with the tree, so that its dependencies are built
//! once, but a program of another name, and another version, so that nobody ever runs a mutant by mistake.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{fs, io::Write};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The planted holes, in the tree.
const TABLE: &str = "chaos/mutants.toml";
/// The program of the copies.
const PROGRAM: &str = "qnat-chaos-mutant";
/// The test that compares the engine with the model.
const MODEL: &str = "against_the_model";
/// How long a test of a mutant may run, in seconds: a hole may be one that nobody gets out of.
const TEST_SECONDS_MAX: &str = "300";

/// Arguments of `mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct MutantsArgs {
    /// Only these, by id.
    #[arg(long)]
    pub only: Vec<String>,
    /// Seeds of the simulator that each may take.
    #[arg(long, default_value_t = 500)]
    pub seeds: u64,
    /// Packets that the model may compare.
    #[arg(long, default_value_t = 2_000_000)]
    pub packets: u64,
}

#[derive(Debug, Deserialize)]
struct Table {
    mutant: Vec<Mutant>,
}

#[derive(Debug, Deserialize)]
struct Mutant {
    id: String,
    hole: String,
    #[serde(default)]
    proof: Proof,
    /// Of `proof = "test"`: who has to fail.
    test: Option<Test>,
    #[serde(flatten)]
    edit: Edit,
    #[serde(default)]
    also: Vec<Edit>,
}

#[derive(Debug, Deserialize)]
struct Edit {
    file: PathBuf,
    find: String,
    replace: String,
}

/// A test of a crate, or all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    package: String,
    /// The integration test that it is in; none: the crate's own unit tests.
    program: Option<String>,
    /// Its function; none: any test of the crate may find the hole.
    name: Option<String>,
}

impl Test {
    fn arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["test", "--quiet", "-p", &self.package];
        match (&self.program, &self.name) {
            (Some(program), _) => arguments.extend(["--test", program]),
            (None, Some(_)) => arguments.push("--lib"),
            (None, None) => arguments.extend(["--lib", "--tests", "--no-fail-fast"]),
        }
        arguments
    }
}

/// Who has to find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Proof {
    /// Whole clusters in virtual time, by seed.
    #[default]
    Simulator,
    /// The naive translator, by packets that it compared before.
    Model,
    /// A test of a crate.
    Test,
}

/// Where a hole was found, in seeds or packets, and what was said.
type Found = Option<(String, String)>;

/// Plants the holes one by one and looks for them.
///
/// # Errors
/// If there is no such mutant, or nothing can be written.
pub fn run(args: &MutantsArgs) -> Result<ExitCode> {
    let table = table()?;
    let chosen: Vec<&Mutant> =
        table.mutant.iter().filter(|m| args.only.is_empty() || args.only.contains(&m.id)).collect();
    ensure!(!chosen.is_empty(), "no mutant is called {:?}", args.only);
    let tree = tree();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tree.join("target"), PathBuf::from);
    let copy = target.join("mutants");
    let mut out = std::io::stdout();
    let (planted, mut missed, mut broken) = (chosen.len(), Vec::new(), Vec::new());
    let mut rows = comfy_table::Table::new();
    rows.set_header(["id", "after", "found by", "s"]);
    for mutant in chosen {
        write!(out, "{}: {}: ", mutant.id, mutant.hole)?;
        out.flush()?;
        let begun = Instant::now();
        // One that says nothing keeps nobody from looking for the others.
        let found = look_for(mutant, (&tree, &copy, &target), args);
        let (after, why) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                missed.push(mutant.id.as_str());
                ("-".to_owned(), "NOT FOUND".to_owned())
            }
            Err(error) => {
                eprintln!("{error:#}");
                broken.push(mutant.id.as_str());
                ("-".to_owned(), "NO VERDICT".to_owned())
            }
        };
        let why: String = why.chars().take(100).collect();
        writeln!(out, "{after}: {why}")?;
        rows.add_row([&mutant.id, &after, &why, &begun.elapsed().as_secs().to_string()]);
    }
    writeln!(out, "{rows}")?;
    let found = planted - missed.len() - broken.len();
    writeln!(out, "{found} of {planted} found; not found: {}; without a verdict: {}", missed.len(), broken.len())?;
    for (kind, ids) in [("survivors", &missed), ("without a verdict", &broken)] {
        if !ids.is_empty() {
            writeln!(out, "{kind}: {}", ids.join(" "))?;
        }
    }
    Ok(if found == planted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table() -> Result<Table> {
    toml::from_str(&fs::read_to_string(tree().join(TABLE)).context(TABLE)?).context(TABLE)
}

/// The tree that this program was built from.
fn tree() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("the crate is a folder of the workspace").to_path_buf()
}

fn look_for(mutant: &Mutant, (tree, copy, target): (&Path, &Path, &Path), args: &MutantsArgs) -> Result<Found> {
    copy_tree(tree, copy, mutant)?;
    let what = match mutant.proof {
        Proof::Simulator => vec!["build", "--quiet", "-p", "qnat-chaos", "--bin", PROGRAM],
        Proof::Model => vec!["test", "--quiet", "--no-run", "-p", "qnat-reference", "--test", MODEL],
        Proof::Test => [mutant.test()?.arguments(), vec!["--no-run"]].concat(),
    };
    let built = cargo(&what, copy, target).output().context("cargo")?;
    let errors = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "mutant {} does not build: {errors}", mutant.id);
    match mutant.proof {
        Proof::Simulator => simulated(mutant, target, args.seeds),
        Proof::Model => compared(mutant, copy, target, args.packets),
        Proof::Test => tested(mutant, copy, target),
    }
}

fn cargo(what: &[&str], copy: &Path, target: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(what).current_dir(copy).env("CARGO_TARGET_DIR", target);
    cargo
}

/// Runs the mutant's simulator.
fn simulated(mutant: &Mutant, target: &Path, seeds: u64) -> Result<Found> {
    let output = Command::new(target.join("debug").join(PROGRAM))
        .args(["sim", "--first", "--seeds", &seeds.to_string()])
        .stderr(Stdio::null())
        .output()
        .context("the mutant")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let by = said.lines().filter_map(|line| {
        let (seed, why) = line.strip_prefix("seed ")?.split_once(": ")?;
        Some((seed.parse().ok()?, why.to_owned()))
    });
    let by = by.min_by_key(|(seed, _): &(u64, String)| *seed);
    ensure!(by.is_some() || output.status.success(), "mutant {} ended without a verdict: {}", mutant.id, output.status);
    Ok(by.map(|(seed, why)| (format!("seed {seed}"), why)))
}

/// Compares the mutant's engine with the model; always the same packets.
fn compared(mutant: &Mutant, copy: &Path, target: &Path, packets: u64) -> Result<Found> {
    let output = cargo(&["test", "--quiet", "-p", "qnat-reference", "--test", MODEL], copy, target)
        .env("QNAT_PACKETS", packets.to_string())
        .env("QNAT_SEED", "1")
        .output()
        .context("the mutant")?;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).join("\n");
    let by = said.lines().find_map(|line| {
        let (_, found) = line.strip_prefix("seed ")?.split_once(": after ")?;
        let (packets, why) = found.split_once(" packets: ")?;
        Some((format!("{packets} packets"), why.to_owned()))
    });
    ensure!(by.is_some() || output.status.success(), "mutant {} ended without a verdict: {said}", mutant.id);
    Ok(by)
}

/// Runs the one test that has to fail. Not to end counts as failing: that is seen, too.
fn tested(mutant: &Mutant, copy: &Path, target: &Path) -> Result<Found> {
    let test = mutant.test()?;
    let mut timed = Command::new("timeout");
    timed.args(["-k", "5", TEST_SECONDS_MAX, "cargo"]).args(test.arguments()).args(&test.name);
    let output = timed.current_dir(copy).env("CARGO_TARGET_DIR", target).output().context("timeout of coreutils")?;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).join("\n");
    verdict(test.name.as_deref(), output.status.code(), &said).with_context(|| format!("mutant {}", mutant.id))
}

/// What the end of a test program says: the test that was asked for has to have run, and failed, passed or never ended.
fn verdict(name: Option<&str>, code: Option<i32>, said: &str) -> Result<Found> {
    const TIMED_OUT: i32 = 124;
    let asked = name.unwrap_or("any test");
    if code == Some(TIMED_OUT) {
        return Ok(Some((format!("{TEST_SECONDS_MAX} s"), format!("{asked} did not end"))));
    }
    if code == Some(0) {
        let ran = said.lines().any(|line| line.starts_with("test result: ok. ") && !line.contains(" 0 passed"));
        ensure!(ran, "no test is called {asked}: {said}");
        return Ok(None);
    }
    // Below the word, each test that failed stands on a line of its own.
    let listed = said.split("\nfailures:\n").skip(1).flat_map(str::lines).filter_map(|line| line.strip_prefix("    "));
    let mut failed = listed.map(|path| path.trim().rsplit("::").next().unwrap_or(path));
    let found = failed.find(|failed| name.is_none_or(|name| name == *failed));
    let found = found.with_context(|| format!("ended without a verdict of {asked}: {said}"))?;
    Ok(Some(("test".to_owned(), found.to_owned())))
}

impl Mutant {
    fn test(&self) -> Result<&Test> {
        self.test.as_ref().with_context(|| format!("mutant {} is to be found by a test and names none", self.id))
    }
}

/// Copies the tracked files, the mutant's edits made. A file that is as it should be is left alone: cargo goes by time.
fn copy_tree(tree: &Path, copy: &Path, mutant: &Mutant) -> Result<()> {
    let names = tracked(tree)?;
    remove_strangers(copy, copy, &names)?;
    let mut edits = Vec::new();
    for edit in std::iter::once(&mutant.edit).chain(&mutant.also) {
        edits.push((place_of(tree, &names, edit).with_context(|| format!("mutant {}", mutant.id))?, edit));
    }
    for name in &names {
        // A tracked file that was deleted and not committed is not there.
        let Ok(mut bytes) = fs::read(tree.join(name)) else { continue };
        for (_, edit) in edits.iter().filter(|(place, _)| place == name) {
            let text = String::from_utf8(bytes).with_context(|| name.display().to_string())?;
            bytes = plant(&text, edit).with_context(|| format!("mutant {}", mutant.id))?.into_bytes();
        }
        if name == Path::new("Cargo.toml") {
            // Cargo names what it builds by version and place in the workspace: with the same version, the mutant's crates
            // would take the place of the tree's own in the common target directory.
            let text = String::from_utf8(bytes).context("Cargo.toml")?;
            bytes = plant(&text, &version()).context("the workspace's version")?.into_bytes();
        }
        if name == Path::new("chaos/Cargo.toml") {
            bytes.extend_from_slice(format!("\n[[bin]]\nname = \"{PROGRAM}\"\npath = \"src/main.rs\"\n").as_bytes());
        }
        let to = copy.join(name);
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

/// Takes out of `copy` what is no file of the tree any more: one that moved would be there twice. What cargo keeps there stays.
fn remove_strangers(copy: &Path, folder: &Path, names: &[PathBuf]) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let name = path.strip_prefix(copy).context("below its folder")?;
        if names.iter().any(|known| known == name) || name == Path::new("Cargo.lock") || name == Path::new("target") {
            continue;
        }
        if path.is_dir() {
            remove_strangers(copy, &path, names)?;
        } else {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The files that git knows of.
fn tracked(tree: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(tree).output().context("git ls-files")?;
    ensure!(listed.status.success(), "{} is no git work tree", tree.display());
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok(PathBuf::from(std::str::from_utf8(name).context("a file's name")?))).collect()
}

/// The file that a snippet is in: the one that is named, or after a move the only source that has it.
fn place_of(tree: &Path, names: &[PathBuf], edit: &Edit) -> Result<PathBuf> {
    let count = |name: &Path| fs::read_to_string(tree.join(name)).map_or(0, |text| text.matches(&edit.find).count());
    let here = count(&edit.file);
    if here == 1 {
        return Ok(edit.file.clone());
    }
    let sources = names.iter().filter(|name| **name != edit.file && name.extension().is_some_and(|end| end == "rs"));
    let elsewhere: Vec<&PathBuf> = sources.filter(|name| count(name) > 0).collect();
    match (here, elsewhere.as_slice()) {
        (0, [only]) if count(only) == 1 => Ok((*only).clone()),
        _ => bail!("the snippet occurs {here} times in {}: {}", edit.file.display(), edit.find.trim()),
    }
}

fn version() -> Edit {
    let own = concat!("\nversion = \"", env!("CARGO_PKG_VERSION"));
    Edit { file: PathBuf::from("Cargo.toml"), find: format!("{own}\""), replace: format!("{own}-mutant\"") }
}

/// The text with the hole in it. Line breaks at the ends of a snippet only make it whole lines.
fn plant(text: &str, edit: &Edit) -> Result<String> {
    match text.matches(&edit.find).count() {
        1 => Ok(text.replacen(&edit.find, &edit.replace, 1)),
        count => bail!("the snippet occurs {count} times in {}: {}", edit.file.display(), edit.find.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_snippet_occurs_exactly_once() {
        let table = table().expect("mutants.toml is a table of mutants");
        assert!(table.mutant.len() >= 7, "the rules that matter most each have a hole");
        let manifest = fs::read_to_string(tree().join("Cargo.toml")).expect("the workspace's manifest");
        plant(&manifest, &version()).expect("the version is there once");
        let names = tracked(&tree()).expect("a git work tree");
        for mutant in &table.mutant {
            for edit in std::iter::once(&mutant.edit).chain(&mutant.also) {
                let place = place_of(&tree(), &names, edit).unwrap_or_else(|error| panic!("{}: {error}", mutant.id));
                let text = fs::read_to_string(tree().join(place)).expect("a file of the tree");
                let planted = plant(&text, edit).expect("the snippet is there once");
                assert_ne!(planted, text, "mutant {} changes something", mutant.id);
            }
        }
    }

    #[test]
    fn every_mutant_has_a_name_of_its_own_and_a_test_that_is_there() {
        let table = table().expect("mutants.toml is a table of mutants");
        let ids: std::collections::BTreeSet<&str> = table.mutant.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(ids.len(), table.mutant.len(), "an id is there twice");
        let names = tracked(&tree()).expect("a git work tree");
        let sources = names.iter().filter(|name| name.extension().is_some_and(|end| end == "rs"));
        let all: String = sources.filter_map(|name| fs::read_to_string(tree().join(name)).ok()).collect();
        for mutant in table.mutant {
            assert_eq!(mutant.test.is_some(), mutant.proof == Proof::Test, "{}", mutant.id);
            if let Some(name) = mutant.test.and_then(|test| test.name) {
                assert!(all.contains(&format!("fn {name}(")), "{}: {name} is not there", mutant.id);
            }
        }
    }

    #[test]
    fn a_snippet_is_found_where_it_moved_to_if_there_is_only_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = ["a.rs", "b.rs", "c.rs"].map(PathBuf::from);
        let write = |texts: [&str; 3]| {
            for (name, text) in names.iter().zip(texts) {
                fs::write(dir.path().join(name), text).expect("written");
            }
        };
        let edit = Edit { file: "a.rs".into(), find: "rule".into(), replace: "hole".into() };
        write(["the rule", "a rule", ""]);
        assert_eq!(place_of(dir.path(), &names, &edit).expect("named"), Path::new("a.rs"));
        write(["", "", "the rule"]);
        assert_eq!(place_of(dir.path(), &names, &edit).expect("moved"), Path::new("c.rs"));
        for ambiguous in [["rule rule", "", ""], ["", "rule", "rule"], ["", "rule rule", ""], ["", "", ""]] {
            write(ambiguous);
            assert!(place_of(dir.path(), &names, &edit).is_err(), "{ambiguous:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_more_in_the_tree_is_not_in_the_copy_either() {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path();
        for name in ["src/moved.rs", "src/moved/mod.rs", "target/debug/built", "Cargo.lock"] {
            let file = copy.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, "").expect("written");
        }
        remove_strangers(copy, copy, &[PathBuf::from("src/moved/mod.rs")]).expect("removed");
        let there = |name: &str| copy.join(name).exists();
        assert!(!there("src/moved.rs"));
        assert!(there("src/moved/mod.rs") && there("target/debug/built") && there("Cargo.lock"));
    }

    #[test]
    fn only_a_test_that_ran_has_a_verdict() {
        let found = |code, said| verdict(Some("it_holds"), code, said).map(|found| found.map(|(after, _)| after));
        let failed = "\nfailures:\n    room::it_holds\n\ntest result: FAILED. 0 passed; 1 failed";
        let any = verdict(None, Some(101), failed).expect("a verdict");
        assert_eq!(any, Some(("test".to_owned(), "it_holds".to_owned())));
        assert_eq!(found(Some(101), failed).expect("a verdict"), Some("test".to_owned()));
        assert_eq!(found(Some(0), "test result: ok. 1 passed; 0 failed").expect("a verdict"), None);
        assert_eq!(found(Some(124), "").expect("a verdict"), Some("300 s".to_owned()));
        assert!(found(Some(0), "test result: ok. 0 passed; 0 failed").is_err(), "nothing ran");
        assert!(found(Some(101), "error: could not compile").is_err(), "it did not build");
        assert!(found(Some(101), "\nfailures:\n    another\n").is_err(), "another one failed");
    }
}
