//! Whether this member does its part, judged from its own status: what `/healthz` answers.

use serde::Serialize;
use serde_json::Value;

/// The answer of `/healthz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Health {
    /// The node is registered, and a flow group runs for every shard that it is a member of.
    pub(super) healthy: bool,
    /// The node.
    pub(super) node: Option<u64>,
    /// Its life; none before it has registered.
    pub(super) incarnation: Option<u64>,
    /// What is missing.
    pub(super) problems: Vec<String>,
}

impl Health {
    /// Reads it out of the answer to `Status`.
    pub(super) fn of(status: &Value) -> Self {
        let me = &status["me"];
        let node = me["node"].as_u64();
        // Incarnations are control indexes; none is 0.
        let incarnation = me["incarnation"].as_u64().filter(|life| *life > 0);
        let mut problems = Vec::new();
        if incarnation.is_none() {
            problems.push("not registered with the cluster yet".to_owned());
        }
        for shard in status["shards"].as_array().into_iter().flatten() {
            let member = shard["members"].as_array().is_some_and(|members| members.iter().any(|m| m.as_u64() == node));
            let runs = shard["role"].as_str().is_some_and(|role| !role.is_empty() && role != "none");
            if member && node.is_some() && !runs {
                problems.push(format!("the flow group of shard {} does not run", shard["shard"]));
            }
        }
        Self { healthy: problems.is_empty(), node, incarnation, problems }
    }

    /// The node did not say.
    pub(super) fn unknown(problems: Vec<String>) -> Self {
        Self { healthy: false, node: None, incarnation: None, problems }
    }
}
