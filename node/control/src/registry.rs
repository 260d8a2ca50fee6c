//! Which nodes there are, and which life of each is the newest (N1, N5).
//!
//! The only judge of "gone": a replica is gone if its node has registered a newer incarnation or an operator removed the
//! node, never by time. Knows nothing of shards. Changed by `apply` only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bincode::{Decode, Encode};
use engine::ids::{Incarnation, Mac, NodeId};

use crate::command::Registration;
use crate::outcome::{Refusal, refuse};

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 32;
/// Founders' control raft ids carry this bit, since later ones are log indexes.
pub const FOUNDER_RAFT_ID: u64 = 1 << 48;
/// Past starts that are remembered per node, to refuse a late registration of one.
const PAST_NONCES_MAX: usize = 16;

/// A cluster member.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Node {
    /// Its control raft id: changes when its data directory was lost.
    pub raft_id: u64,
    /// The join attempt that gave it its raft id; `None` for a founder.
    pub join_nonce: Option<u64>,
    /// Its newest life; `None` before its first registration and after its removal.
    pub incarnation: Option<Incarnation>,
    /// Starts that registered, newest last.
    pub(crate) nonces: Vec<u64>,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// MAC of its inside data interface.
    pub inside_mac: Mac,
    /// MAC of its outside data interface.
    pub outside_mac: Mac,
    /// The greatest cluster level that it supports.
    pub level: u16,
    /// Standing in the cluster.
    pub standing: Standing,
}

/// Whether a node belongs to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It does.
    Member,
    /// An operator removed it; it can come back by joining with an empty data directory.
    Removed,
}

/// A node as named at the founding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Founder {
    /// The node.
    pub node: NodeId,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
}

/// All nodes and their lives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Registry {
    nodes: BTreeMap<NodeId, Node>,
    lives: BTreeMap<Incarnation, NodeId>,
}

impl Registry {
    pub(crate) fn found(founders: &[Founder]) -> Self {
        let node =
            |f: &Founder| (f.node, Node::new(FOUNDER_RAFT_ID | u64::from(f.node.0), None, f.peer_addr, f.api_addr));
        Self { nodes: founders.iter().map(node).collect(), lives: BTreeMap::new() }
    }

    /// A new cluster continues the old one's state: no life goes on, and only the founders are members (N6).
    pub(crate) fn recover(&mut self, founders: &BTreeMap<NodeId, (Founder, u64)>) {
        for node in self.nodes.values_mut() {
            node.standing = Standing::Removed;
            node.incarnation = None;
        }
        for (id, (founder, raft_id)) in founders {
            let fresh = || Node::new(*raft_id, None, founder.peer_addr, founder.api_addr);
            let node = self.nodes.entry(*id).or_insert_with(fresh);
            (node.raft_id, node.join_nonce, node.standing) = (*raft_id, None, Standing::Member);
            (node.peer_addr, node.api_addr) = (founder.peer_addr, founder.api_addr);
        }
    }

    /// All nodes, removed ones too.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Nodes that belong to the cluster.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, n)| n.standing == Standing::Member).map(|(id, n)| (*id, n))
    }

    /// Members that have registered, with their newest life.
    pub fn registered(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        self.members().filter_map(|(id, node)| Some((id, node.incarnation?)))
    }

    /// The newest life of a member.
    #[must_use]
    pub fn newest(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.get(&node)?.incarnation
    }

    /// The node of a life; `None` if the life is long gone.
    #[must_use]
    pub fn node_of(&self, life: Incarnation) -> Option<NodeId> {
        self.lives.get(&life).copied()
    }

    /// Whether this life is over for good (N4).
    #[must_use]
    pub fn gone(&self, life: Incarnation) -> bool {
        self.node_of(life).is_none_or(|node| self.newest(node) != Some(life))
    }

    /// The control group's voters as they should be: the present raft id of each member.
    #[must_use]
    pub fn control_voters(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.members().map(|(_, node)| node.raft_id).collect();
        ids.sort_unstable();
        ids
    }

    /// Gives a node without a stamp its raft id (N5). A repeated attempt hears the same.
    pub(crate) fn join(
        &mut self,
        index: u64,
        node: NodeId,
        nonce: u64,
        peer_addr: SocketAddr,
        api_addr: SocketAddr,
    ) -> Result<u64, Refusal> {
        if let Some(known) = self.nodes.get_mut(&node) {
            if known.join_nonce == Some(nonce) && known.standing == Standing::Member {
                return Ok(known.raft_id);
            }
            known.raft_id = index;
            known.join_nonce = Some(nonce);
            known.standing = Standing::Member;
            (known.peer_addr, known.api_addr) = (peer_addr, api_addr);
            return Ok(index);
        }
        if self.nodes.len() >= NODES_MAX {
            return refuse(format!("the cluster has {NODES_MAX} nodes already"), "remove a node that is gone first");
        }
        self.nodes.insert(node, Node::new(index, Some(nonce), peer_addr, api_addr));
        Ok(index)
    }

    /// Registers a start (N1). Returns the new life, and the one that it replaces.
    pub(crate) fn register(
        &mut self,
        index: u64,
        level: u16,
        r: &Registration,
    ) -> Result<(Incarnation, Option<Incarnation>), Refusal> {
        let id = r.node;
        let Some(node) = self.nodes.get_mut(&id) else {
            return refuse(format!("node {id} is not in this cluster"), "let it join first: qnat join");
        };
        if node.standing == Standing::Removed {
            return refuse(format!("node {id} was removed"), "empty its data directory and let it join again");
        }
        if node.raft_id != r.control_raft_id {
            return refuse(
                format!("node {id} has joined again since, with raft id {}, not {}", node.raft_id, r.control_raft_id),
                "stop the process that uses the old data directory",
            );
        }
        if r.level < level {
            return refuse(
                format!("node {id} supports cluster level {}, the cluster is at {level}", r.level),
                "start a newer version of qnat on it",
            );
        }
        if let (Some(&last), Some(life)) = (node.nonces.last(), node.incarnation)
            && last == r.nonce
        {
            return Ok((life, None));
        }
        if node.nonces.contains(&r.nonce) {
            return refuse(format!("this start of node {id} has been replaced by a newer one"), "start it again");
        }
        let replaced = node.incarnation.replace(Incarnation(index));
        node.nonces.push(r.nonce);
        if node.nonces.len() > PAST_NONCES_MAX {
            node.nonces.remove(0);
        }
        (node.peer_addr, node.api_addr, node.level) = (r.peer_addr, r.api_addr, r.level);
        (node.inside_mac, node.outside_mac) = (r.inside_mac, r.outside_mac);
        self.lives.insert(Incarnation(index), id);
        Ok((Incarnation(index), replaced))
    }

    /// Removes a node after an operator powered it off. Returns its last life.
    pub(crate) fn remove(&mut self, id: NodeId) -> Result<Option<Incarnation>, Refusal> {
        let others = self.registered().any(|(other, _)| other != id);
        let Some(node) = self.nodes.get_mut(&id) else {
            return refuse(format!("node {id} is not in this cluster"), "see qnat get nodes");
        };
        if node.standing == Standing::Removed {
            return refuse(format!("node {id} is removed already"), "nothing to do");
        }
        if !others {
            return refuse(
                format!("no registered node would be left without node {id}"),
                "let another node join first",
            );
        }
        node.standing = Standing::Removed;
        Ok(node.incarnation.take())
    }

    /// Forgets lives that nothing refers to any more.
    pub(crate) fn prune(&mut self, referred: &BTreeSet<Incarnation>) {
        let newest: BTreeSet<Incarnation> = self.nodes.values().filter_map(|node| node.incarnation).collect();
        self.lives.retain(|life, _| newest.contains(life) || referred.contains(life));
    }
}

impl Node {
    fn new(raft_id: u64, join_nonce: Option<u64>, peer_addr: SocketAddr, api_addr: SocketAddr) -> Self {
        Self {
            raft_id,
            join_nonce,
            incarnation: None,
            nonces: Vec::new(),
            peer_addr,
            api_addr,
            inside_mac: Mac::default(),
            outside_mac: Mac::default(),
            level: 0,
            standing: Standing::Member,
        }
    }
}
