//! Whether this member does its part, judged from its own status: what `/healthz` answers.

use serde::Serialize;

use crate::answers::Status;

/// The answer of `/healthz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Health {
    /// The node is registered, and a flow group runs for every shard that it is a member of.
    pub(super) healthy: bool,
    /// The node.
    pub(super) node: Option<u32>,
    /// Its life; none before it has registered.
    pub(super) incarnation: Option<u64>,
    /// What is missing.
    pub(super) problems: Vec<String>,
}

impl Health {
    /// Reads it out of the answer to `Status`.
    pub(super) fn of(status: &Status) -> Self {
        let node = status.me.node;
        let incarnation = status.me.incarnation;
        let mut problems = Vec::new();
        if incarnation.is_none() {
            problems.push("not registered with the cluster yet".to_owned());
        }
        for row in status.shards.iter().filter(|row| row.members.contains(&Some(node)) && row.role.is_none()) {
            problems.push(format!("the flow group of shard {} does not run", row.shard));
        }
        Self { healthy: problems.is_empty(), node: Some(node), incarnation, problems }
    }

    /// The node did not say.
    pub(super) fn unknown(problems: Vec<String>) -> Self {
        Self { healthy: false, node: None, incarnation: None, problems }
    }
}
