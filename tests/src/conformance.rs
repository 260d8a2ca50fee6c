//! The table of what the product is held to (`tests/spec.toml`): every id, in a line, how far it is built, and the tests
//! that prove it. Must never say more than the tests do. Read by `tests/conformance.rs`.

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
