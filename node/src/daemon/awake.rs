//! `keep_awake` of `node.toml`: whether a process beside the member keeps its processors from halting. Started by `run`; a member
//! goes on without it.

use netio::awake::{Spinner, is_virtual};
use netio::thread::allowed_cpus;

use super::config::KeepAwake;

/// The hidden command by which this program spins.
pub const COMMAND: &str = "spin";
/// A virtual machine with more processors pays much for what a few of them need.
const PROCESSORS_MAX: usize = 8;

/// The process, as long as it is wanted; the log says what became of it, and why.
pub(super) fn keep_awake(wanted: KeepAwake) -> Option<Spinner> {
    let processors = allowed_cpus().map_or(0, |cpus| cpus.len());
    if !is_worth_it(wanted, is_virtual(), processors) {
        tracing::info!(?wanted, processors, "processors may halt");
        return None;
    }
    match Spinner::start(&[COMMAND]) {
        Ok(spinner) => {
            tracing::info!(processors, process = spinner.id(), "processors are kept from halting");
            Some(spinner)
        }
        Err(error) => {
            tracing::warn!(%error, "processors may halt: no process to keep them from it");
            None
        }
    }
}

const fn is_worth_it(wanted: KeepAwake, is_virtual: bool, processors: usize) -> bool {
    match wanted {
        KeepAwake::Always => true,
        KeepAwake::Never => false,
        KeepAwake::Auto => is_virtual && processors <= PROCESSORS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_processors_of_a_virtual_machine_are_kept_awake_unless_told_otherwise() {
        assert!(is_worth_it(KeepAwake::Auto, true, PROCESSORS_MAX));
        assert!(!is_worth_it(KeepAwake::Auto, true, PROCESSORS_MAX + 1) && !is_worth_it(KeepAwake::Auto, false, 1));
        assert!(is_worth_it(KeepAwake::Always, false, 64) && !is_worth_it(KeepAwake::Never, true, 1));
    }
}
