//! Whether a member lives, and whether it does its part: what probes ask.

use serde::{Deserialize, Serialize};

/// The answer of `/healthz` and `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Its threads turn: each answered within a second. What is not live wants a restart.
    pub live: bool,
    /// It serves, or could: registered, a replica for each of its shards, both data links up, its newest configuration in
    /// use. What is live and not ready wants no restart.
    pub ready: bool,
    /// The node.
    pub node: u32,
    /// Its life; none before it has registered.
    pub incarnation: Option<u64>,
    /// What is missing.
    pub problems: Vec<String>,
}
