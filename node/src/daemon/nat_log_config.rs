//! `[nat_log]` of `node.toml`: where the address-translation log is, how much of it stays, and what it says. Read by `config`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[nat_log]`: the address-translation log (R24).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatLogConfig {
    /// The file; `nat.log` in the data directory unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Length from which a new file begins.
    pub size_max_mib: u32,
    /// Older files that stay.
    pub kept: u32,
    /// Each mapping, by the owner of its shard, besides port blocks.
    pub sessions: bool,
    /// Remote ends of mappings too. RFC 6888 section 4 advises against it.
    pub destinations: bool,
}

impl Default for NatLogConfig {
    fn default() -> Self {
        Self { path: None, size_max_mib: 64, kept: 9, sessions: false, destinations: false }
    }
}

impl NatLogConfig {
    /// Whether its numbers are in range, and its switches go together.
    ///
    /// # Errors
    /// The field that is wrong, its value, what is wrong, and the remedy.
    pub(super) fn check(&self) -> Result<(), [String; 4]> {
        let wrong = |field: &str, value: &str, problem: &str, remedy: String| {
            Err([field.to_owned(), value.to_owned(), problem.to_owned(), remedy])
        };
        for (field, value, range) in
            [("nat_log.size_max_mib", self.size_max_mib, 1..=65_536), ("nat_log.kept", self.kept, 0..=999)]
        {
            if !range.contains(&value) {
                let remedy = format!("use {} to {}", range.start(), range.end());
                return wrong(field, &value.to_string(), "is out of range", remedy);
            }
        }
        if self.destinations && !self.sessions {
            let remedy = "set nat_log.sessions = true too, or leave it out".to_owned();
            return wrong("nat_log.destinations", "true", "is about mappings, which are not logged", remedy);
        }
        Ok(())
    }
}
