//! Recovery of the control group from a survivor, and restore of a cluster from a backup (N6): the only founders beside
//! `qnat cluster init`.
//!
//! Both found a new cluster, with a new id and new raft ids, on what is known of the old one. A directory that was in use is
//! never changed, only put aside. Neither can know whether the old members are off: whoever calls this says so, by life.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use consensus::control::storage::{ClusterId, LogPosition, LogStore as _};
use control::recovery::Generation;
use control::registry::{Founder, Standing};
use control::state::State;
use engine::ids::{Incarnation, NodeId};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::config::NodeConfig;
use super::control_store::{control_dir, founder_raft_id, open_control_store, random};

/// What a survivor's disk holds of the control group.
#[derive(Debug)]
pub struct Base {
    /// The old cluster.
    pub cluster: ClusterId,
    /// Where its log ends.
    pub end: LogPosition,
    /// How far this member knew it to be committed.
    pub committed: u64,
    /// The state after all of it: what was not known to be committed may have been, and counts as if.
    pub state: State,
}

/// Another member of the old cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Other {
    /// The node.
    pub node: NodeId,
    /// Its newest life that the base knows of; `None`: it has not registered.
    pub life: Option<Incarnation>,
}

impl Base {
    /// Reads the control store of a member that does not run.
    ///
    /// # Errors
    /// If the member runs, or its store is damaged or empty.
    pub fn read(data_dir: &Path) -> Result<Self> {
        let place = data_dir.display();
        ensure!(control_dir(data_dir).exists(), "{place}: there is no control store");
        let mut store = open_control_store(data_dir).context("stop the member first (it must not run meanwhile)")?;
        let identity = store.identity().with_context(|| format!("{place}: it belongs to no cluster"))?;
        let recovered = store.recover()?;
        let snapshot = recovered.snapshot.as_ref();
        let snapshot = snapshot.with_context(|| format!("{place}: this member had not heard of the group yet"))?;
        let mut state = State::decode(&snapshot.state).context("the stored control state")?;
        for (index, command) in recovered.commands() {
            state.apply_bytes(index, command);
        }
        state.check().context("the control state on this disk is unsound: recover from another survivor")?;
        let committed = recovered.hard_state.commit;
        Ok(Self { cluster: identity.cluster, end: recovered.end(), committed, state })
    }

    /// The members of the old cluster but this one.
    #[must_use]
    pub fn others(&self, me: NodeId) -> Vec<Other> {
        let members = self.state.registry().nodes().iter().filter(|(_, node)| node.standing != Standing::Removed);
        let others = members.filter(|(id, _)| **id != me);
        others.map(|(id, node)| Other { node: *id, life: node.incarnation }).collect()
    }
}

/// Founds a new cluster of this member alone on `base`. The old store is put aside; returns the new id and where it went.
///
/// # Errors
/// If anything cannot be written; the old store is then in its place.
pub fn recover(config: &NodeConfig, base: Base) -> Result<(ClusterId, PathBuf)> {
    let cluster = ClusterId(random()?);
    let key = super::own_key::own_key(config)?;
    let (node, peer_addr, api_addr) = (NodeId(config.node_id), config.peers.listen, config.api.listen);
    let founder = Founder { node, peer_addr, api_addr, key };
    let old = base.cluster;
    let genesis = Genesis::of(base.state, base.end.term, cluster, &[founder])?;
    // Complete beside the old one, then in one step in its place.
    let scratch = config.data_dir.join("recovering");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    }
    let id = genesis.raft_id(config.node_id);
    let mut store = open_control_store(&scratch)?;
    store.found_at(cluster, id, &[id], genesis.at, &genesis.state)?;
    drop(store);
    let (new, place) = (control_dir(&scratch), control_dir(&config.data_dir));
    renameat_with(CWD, &new, CWD, &place, RenameFlags::EXCHANGE).with_context(|| place.display().to_string())?;
    let aside = config.data_dir.join(format!("control.of-{old}"));
    fs::rename(&new, &aside).with_context(|| aside.display().to_string())?;
    fs::remove_dir(&scratch).with_context(|| scratch.display().to_string())?;
    fs::File::open(&config.data_dir).and_then(|dir| dir.sync_all()).context("data directory")?;
    Ok((cluster, aside))
}

/// What every founder of a cluster stores first.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Where the log begins.
    pub at: LogPosition,
    /// The state, encoded.
    pub state: Bytes,
    /// `None` for a cluster that continues none.
    generation: Option<Generation>,
}

impl Genesis {
    /// Of a cluster that continues none (N5).
    ///
    /// # Errors
    /// If the state is too large to be stored.
    pub fn first(state: &State) -> Result<Self> {
        let state = Bytes::from(state.encode().context("the founding state")?);
        Ok(Self { at: LogPosition::FIRST, state, generation: None })
    }

    /// Continues `base`, whose log had reached `term`.
    ///
    /// # Errors
    /// If the state is too large to be stored.
    pub fn of(base: State, term: u64, cluster: ClusterId, founders: &[Founder]) -> Result<Self> {
        let state = base.recovered(cluster.0, founders);
        let at = LogPosition { term: term + 1, index: state.index().0 };
        let state = Bytes::from(state.encode().context("the recovered state")?);
        Ok(Self { at, state, generation: Some(Generation::of(cluster.0)) })
    }

    /// A founder's raft id in the control group.
    #[must_use]
    pub fn raft_id(&self, node: u32) -> u64 {
        self.generation.map_or_else(|| founder_raft_id(node), |generation| generation.raft_id(node))
    }
}
