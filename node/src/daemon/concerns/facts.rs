//! What concerns are found in.

use control::concern::Concern;

use super::losses::Loss;
use crate::answers::{NodeRow, ShardRow};
use crate::daemon::reports::{ControlReport, FlowReport, WorkerStats};
use crate::nat_log::JournalCounts;

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
    /// Lines that it has lost lately, and in all; see [`super::Losses`].
    pub log_lost: Loss,
    /// What the threads that look at disks and certificates have found.
    pub machine: Vec<Concern>,
}
