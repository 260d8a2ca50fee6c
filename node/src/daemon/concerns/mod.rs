//! What is not as it should be, as far as this member can know: the one place where all sources meet (I55).
//!
//! There are two ways in. What can be seen in the member's reports is judged by a source here, a function of [`Facts`]
//! (add one to `SOURCES`). What only the code that meets it knows is raised on the board [`Alarms`], and cleared there by
//! the same code. [`Memory`] says since when. Called by the answerer for `status`, and once a second by [`watch`], which
//! makes log lines and metrics of it. It must never wait for a disk or a peer, nor decide anything but what to say.

mod alarms;
mod limits;
mod links;
mod losses;
pub(in crate::daemon) mod machine;
mod members;
mod memory;
pub(in crate::daemon) mod ports;
mod redundancy;

use control::concern::{Concern, sorted};

use super::answer::Answerer;
use super::control_actor::ControlReport;
use super::flow_actor::FlowReport;
use super::worker_thread::WorkerStats;
use crate::answers::{NodeRow, ShardRow};
use crate::nat_log::JournalCounts;
pub use alarms::Alarms;
pub use losses::{Loss, Losses};
pub use memory::Memory;

/// What sources judge by: reports of this very moment.
#[derive(Debug)]
pub struct Facts<'a> {
    /// This node.
    pub node: u32,
    /// The control half.
    pub control: &'a ControlReport,
    /// The flow half.
    pub flows: &'a FlowReport,
    /// What the worker counts.
    pub worker: &'a WorkerStats,
    /// Members, as `status` shows them.
    pub nodes: &'a [NodeRow],
    /// Shards, as `status` shows them.
    pub shards: &'a [ShardRow],
    /// `attached`, or why the egress guard is not.
    pub guard: &'a str,
    /// The address-translation log.
    pub log: JournalCounts,
    /// Lines that it has lost lately, and in all; see [`Losses`].
    pub log_lost: Loss,
    /// What the threads that look at disks and certificates have found.
    pub machine: Vec<Concern>,
}

/// Finds concerns of one kind.
type Source = fn(&Facts<'_>, &mut Vec<Concern>);

const SOURCES: &[Source] =
    &[redundancy::concerns, members::concerns, machine::concerns, links::concerns, limits::concerns];

/// All concerns of this member: of the replicated state, of the sources, and what was raised.
pub(super) fn collect(facts: &Facts<'_>, alarms: &Alarms) -> Vec<Concern> {
    let mut found = facts.control.status.concerns.clone();
    for source in SOURCES {
        source(facts, &mut found);
    }
    found.extend(alarms.raised());
    redundancy::without_consequences(&mut found);
    sorted(found)
}

/// Looks once a second until the node stops.
pub async fn watch(answerer: Answerer) {
    let mut ticker = tokio::time::interval(std::time::Duration::from_secs(1));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        if answerer.note().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
pub(in crate::daemon) mod tests;
