//! The faults of the drills: how each is put upon the owner and taken back. Called by the runs.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use qnat::daemon::request::Request;
use qnat_lab::{Cut, Scope, Wipe, topology::Network};
use serde::de::IgnoredAny;

use super::cluster::Cluster;
use super::judge::Handover;

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
    /// Its worker's thread hangs, everything else of it lives.
    HangWorker,
    /// The data networks swallow what it sends and gets, though its links stay up.
    SilentNetwork,
    /// Its outside interface is deleted and made again with the same name and MAC.
    RemakeInterface,
}

/// The worker's thread, as it names itself.
const WORKER: &str = "worker-0";

impl Fault {
    /// All of them, in the order of `all`.
    pub const ALL: [Self; 7] = [
        Self::KillOwner,
        Self::PauseOwner,
        Self::PartitionOwner,
        Self::StopOwner,
        Self::HangWorker,
        Self::SilentNetwork,
        Self::RemakeInterface,
    ];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillOwner => "kill-owner",
            Self::PauseOwner => "pause-owner",
            Self::PartitionOwner => "partition-owner",
            Self::StopOwner => "stop-owner",
            Self::HangWorker => "hang-worker",
            Self::SilentNetwork => "silent-network",
            Self::RemakeInterface => "remake-interface",
        }
    }

    /// How long the fault lasts unless told otherwise: past the orphan grace of 3 s where the old owner lives on.
    #[must_use]
    pub const fn lasts(self) -> Duration {
        match self {
            Self::KillOwner | Self::StopOwner | Self::HangWorker | Self::RemakeInterface => Duration::from_secs(4),
            Self::PauseOwner => Duration::from_secs(10),
            Self::PartitionOwner | Self::SilentNetwork => Duration::from_secs(8),
        }
    }

    /// Largest median and largest 99th percentile of the gap, in milliseconds: what has to be noticed first takes its time.
    #[must_use]
    pub const fn gap_max_ms(self) -> (f64, f64) {
        match self {
            Self::KillOwner | Self::PauseOwner | Self::PartitionOwner | Self::StopOwner => (80.0, 150.0),
            Self::HangWorker | Self::RemakeInterface => (250.0, 250.0),
            Self::SilentNetwork => (2_000.0, 2_000.0),
        }
    }

    /// Whether the old owner hands over, so that its lease ends with its successor's first frame and not with the fault.
    pub(super) const fn handover(self) -> Handover {
        match self {
            Self::KillOwner | Self::PauseOwner | Self::PartitionOwner | Self::HangWorker => Handover::Abrupt,
            Self::StopOwner | Self::SilentNetwork | Self::RemakeInterface => Handover::Graceful,
        }
    }

    /// Until when, after the fault began, the owner is certainly the process that the fault met; `None`: for as long as the
    /// fault lasts, or until somebody ends it.
    pub(super) const fn survives(self) -> Option<Duration> {
        match self {
            // The member's own watch ends it, and it begins anew.
            Self::HangWorker => Some(Duration::from_millis(950)),
            Self::RemakeInterface => Some(Duration::from_millis(400)),
            Self::KillOwner | Self::PauseOwner | Self::PartitionOwner | Self::StopOwner | Self::SilentNetwork => None,
        }
    }

    /// Puts the fault upon `owner`. Returns when it began and when it was in force for certain.
    pub(super) fn inject(self, cluster: &Cluster, owner: u32) -> Result<(SystemTime, SystemTime)> {
        let began = SystemTime::now();
        match self {
            Self::KillOwner => qnat_lab::kill(cluster.dir(), owner)?,
            Self::PauseOwner => qnat_lab::pause(cluster.dir(), owner)?,
            Self::PartitionOwner => qnat_lab::partition(cluster.dir(), &Cut::partition(owner, None))?,
            Self::StopOwner => drop(cluster.ask::<IgnoredAny>(owner, &Request::Shutdown { now: false })?),
            Self::HangWorker => qnat_lab::hang(cluster.dir(), owner, WORKER)?,
            Self::SilentNetwork => qnat_lab::partition(cluster.dir(), &silence(owner))?,
            Self::RemakeInterface => qnat_lab::remake(cluster.dir(), owner, Network::Outside)?,
        }
        Ok((began, SystemTime::now()))
    }

    /// Takes it back.
    pub(super) fn end(self, cluster: &Cluster, owner: u32) -> Result<()> {
        match self {
            Self::KillOwner | Self::StopOwner => qnat_lab::restart(cluster.dir(), owner, Wipe::No),
            Self::PauseOwner => qnat_lab::resume(cluster.dir(), owner),
            Self::PartitionOwner | Self::SilentNetwork => qnat_lab::heal(cluster.dir()),
            Self::HangWorker => qnat_lab::release(cluster.dir(), owner),
            // It has mended itself.
            Self::RemakeInterface => Ok(()),
        }
    }
}

/// Both data networks of a node swallow everything.
const fn silence(node: u32) -> Cut {
    Cut { scope: Scope::Data, ..Cut::partition(node, None) }
}
