//! The faults of the drills: how each is put upon the owner and taken back. Called by the runs.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use qnat::daemon::request::Request;
use qnat::lab::{self, Cut, Wipe};

use super::cluster::Cluster;

/// What happens to the owner of the shard under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL.
    KillOwner,
    /// SIGSTOP, later SIGCONT.
    PauseOwner,
    /// Cut off from its peers both ways, while backends and internet still reach it.
    PartitionOwner,
    /// Asked to stop: it hands over first.
    StopOwner,
}

impl Fault {
    /// All of them, in the order of `all`.
    pub const ALL: [Self; 4] = [Self::KillOwner, Self::PauseOwner, Self::PartitionOwner, Self::StopOwner];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillOwner => "kill-owner",
            Self::PauseOwner => "pause-owner",
            Self::PartitionOwner => "partition-owner",
            Self::StopOwner => "stop-owner",
        }
    }

    /// How long the fault lasts unless told otherwise: past the orphan grace of 3 s where the old owner lives on.
    #[must_use]
    pub const fn lasts(self) -> Duration {
        match self {
            Self::KillOwner | Self::StopOwner => Duration::from_secs(4),
            Self::PauseOwner => Duration::from_secs(10),
            Self::PartitionOwner => Duration::from_secs(8),
        }
    }

    /// Puts the fault upon `owner`. Returns when it began and when it was in force for certain.
    pub(super) fn inject(self, cluster: &Cluster, owner: u32) -> Result<(SystemTime, SystemTime)> {
        let began = SystemTime::now();
        match self {
            Self::KillOwner => lab::kill(cluster.dir(), owner)?,
            Self::PauseOwner => lab::pause(cluster.dir(), owner)?,
            Self::PartitionOwner => lab::partition(cluster.dir(), &Cut::partition(owner, None))?,
            Self::StopOwner => drop(cluster.ask(owner, &Request::Shutdown)?),
        }
        Ok((began, SystemTime::now()))
    }

    /// Takes it back.
    pub(super) fn end(self, cluster: &Cluster, owner: u32) -> Result<()> {
        match self {
            Self::KillOwner | Self::StopOwner => lab::restart(cluster.dir(), owner, Wipe::No),
            Self::PauseOwner => lab::resume(cluster.dir(), owner),
            Self::PartitionOwner => lab::heal(cluster.dir()),
        }
    }
}
