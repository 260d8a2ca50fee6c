//! The life of a member: opens what it stored, starts its threads and actors, and ends with them. Called by `qnat node`.

use super::config::NodeConfig;

/// Runs the member until it is told to stop.
///
/// # Errors
/// Whatever ends its life early.
pub fn run(config: NodeConfig) -> anyhow::Result<()> {
    anyhow::bail!("{}: this build has no member threads: they are not wired yet", config.name)
}
