//! What users of the whole would try (`tests/scenarios.toml`), and which programs may show it: those that start a lab and look at
//! packets. Called by `tests/conformance.rs`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Scenarios that are also shown with the owner of the shard killed meanwhile.
pub const ALSO_KILLED: [u32; 16] = [2, 4, 5, 6, 7, 8, 13, 15, 19, 20, 23, 25, 26, 29, 30, 34];
/// Their numbers go from 1 to this.
pub const LAST: u32 = 35;
/// What the text of a program has that starts a lab.
const STARTS_A_LAB: [&str; 3] = ["Lab::up", "shared::run", "/run/qnat-lab"];

/// One scenario.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// From 1.
    pub number: u32,
    /// What is given, what happens and what is seen of it.
    pub says: String,
    /// Lines of the specification that it is about.
    pub ids: Vec<String>,
    /// Checks that show it, together.
    pub tests: Vec<String>,
    /// Those of them in which the owner dies meanwhile.
    #[serde(default)]
    pub killed: Vec<String>,
    /// Whether only the longer profile (QNAT_LONG=1) shows it.
    #[serde(default)]
    pub long: bool,
    /// What of it is not shown, and why.
    pub missing: Option<String>,
}

/// A scenario that is not there.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Its number.
    pub number: u32,
    /// Why.
    pub why: String,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// Those that are shown.
    pub scenario: Vec<Scenario>,
    /// Those that are not.
    #[serde(default)]
    pub absent: Vec<Absent>,
}

/// Reads them.
///
/// # Errors
/// If they are not written as described here.
pub fn parse(text: &str) -> Result<Scenarios, toml::de::Error> {
    toml::from_str(text)
}

/// Texts of the programs that start labs, each with all of its modules.
///
/// # Errors
/// If a source cannot be read.
pub fn black_box(root: &Path) -> std::io::Result<Vec<String>> {
    let mut programs = Vec::new();
    for dir in ["tests/tests", "chaos/tests"] {
        for entry in std::fs::read_dir(root.join(dir))? {
            let mut text = String::new();
            for source in sources(entry?.path())? {
                text += &std::fs::read_to_string(source)?;
            }
            programs.push(text);
        }
    }
    programs.retain(|text| STARTS_A_LAB.iter().any(|words| text.contains(words)));
    Ok(programs)
}

/// A program's own file, or those of its directory.
fn sources(path: PathBuf) -> std::io::Result<Vec<PathBuf>> {
    let all = if path.is_dir() {
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?
    } else {
        vec![path]
    };
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect())
}
