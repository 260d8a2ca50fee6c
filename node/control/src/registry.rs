//! Which nodes there are, and which life of each is the newest (N1, N5).
//!
//! The only judge of "gone": a replica is gone if its node has registered a newer incarnation or an operator removed the
//! node, never by time. Knows nothing of shards. Changed by `apply` only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, Incarnation, Mac, NodeId};

use words::{INSIDE_MAX, InsideInterface};

use crate::limits::NODES_MAX;
use crate::refusal::{Refusal, count};

/// Founders' control raft ids carry this bit, since later ones are log indexes.
pub const FOUNDER_RAFT_ID: u64 = 1 << 48;
/// Past starts that are remembered per node, to refuse a late registration of one.
const PAST_NONCES_MAX: usize = 16;

/// A member has few interfaces, each to a network of its own.
fn check_inside(node: NodeId, inside: &[InsideInterface]) -> Result<(), Refusal> {
    let networks: BTreeSet<&Option<String>> = inside.iter().map(|i| &i.network).collect();
    let alone = inside.len() <= 1 || !networks.contains(&None);
    if inside.len() <= INSIDE_MAX && networks.len() == inside.len() && alone {
        return Ok(());
    }
    Err(Refusal::InsideInterfaces { node, interfaces: count(inside.len()), networks: count(networks.len()) })
}

/// SHA-256 of a member's public key, as its certificate holds it (SubjectPublicKeyInfo).
pub type KeyHash = [u8; 32];

/// A node's start.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Registration {
    /// The node.
    pub node: NodeId,
    /// Its control raft id, to tell a replaced data directory.
    pub control_raft_id: u64,
    /// Drawn at this start; a retry of the same start gets the same incarnation.
    pub nonce: u64,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// Its inside data interfaces.
    pub inside: Vec<InsideInterface>,
    /// MAC of its outside data interface.
    pub outside_mac: Mac,
    /// The greatest cluster level that its program supports (C2).
    pub level: u16,
}

/// A cluster member.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Node {
    /// Its control raft id: changes when its data directory was lost.
    pub raft_id: u64,
    /// The join attempt that gave it its raft id; `None` for a founder.
    pub join_nonce: Option<u64>,
    /// Its newest life; `None` before its first registration and after its removal.
    pub incarnation: Option<Incarnation>,
    /// The key that it proves itself with: while it is a member nobody else comes in under its number.
    pub key: KeyHash,
    /// Starts that registered, newest last.
    pub(crate) nonces: Vec<u64>,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// Its inside data interfaces.
    pub inside: Vec<InsideInterface>,
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
    /// It does still, but its shards move to other nodes, and then its vote in the control group ends.
    Draining,
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
    /// Its key.
    pub key: KeyHash,
}

/// A node that asks for a control raft id (N5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Joiner {
    /// The node, as its certificate names it.
    pub node: NodeId,
    /// Drawn by the node for this attempt; a repeated attempt gets the same answer.
    pub nonce: u64,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// The key of its certificate.
    pub key: KeyHash,
}

/// All nodes and their lives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Registry {
    nodes: BTreeMap<NodeId, Node>,
    lives: BTreeMap<Incarnation, NodeId>,
}

impl Registry {
    pub(crate) fn found(founders: &[Founder]) -> Self {
        let node = |f: &Founder| (f.node, Node::founded(FOUNDER_RAFT_ID | u64::from(f.node.0), f));
        Self { nodes: founders.iter().map(node).collect(), lives: BTreeMap::new() }
    }

    /// Nobody can be told by their key any more.
    pub(crate) fn forget_keys(&mut self) {
        for node in self.nodes.values_mut() {
            node.key = [0; 32];
            node.join_nonce = None;
            node.nonces.clear();
        }
    }

    /// A new cluster continues the old one's state: no life goes on, and only the founders are members (N6).
    pub(crate) fn recover(&mut self, founders: &BTreeMap<NodeId, (Founder, u64)>) {
        for node in self.nodes.values_mut() {
            node.standing = Standing::Removed;
            node.incarnation = None;
        }
        for (id, (founder, raft_id)) in founders {
            let node = self.nodes.entry(*id).or_insert_with(|| Node::founded(*raft_id, founder));
            (node.raft_id, node.join_nonce, node.standing) = (*raft_id, None, Standing::Member);
            (node.peer_addr, node.api_addr, node.key) = (founder.peer_addr, founder.api_addr, founder.key);
        }
    }

    /// All nodes, removed ones too.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Nodes that belong to the cluster.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, n)| n.standing != Standing::Removed).map(|(id, n)| (*id, n))
    }

    /// Members that have registered, with their newest life.
    pub fn registered(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        self.members().filter_map(|(id, node)| Some((id, node.incarnation?)))
    }

    /// Registered members that may take shards: those that are not on their way out.
    pub fn eligible(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        self.registered().filter(|(id, _)| self.nodes.get(id).is_some_and(|n| n.standing == Standing::Member))
    }

    /// Whether the node is on its way out.
    #[must_use]
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.standing == Standing::Draining)
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

    /// Gives a node without a stamp its raft id (N5). A repeated attempt hears the same. The number of a member is given to
    /// nobody with another key.
    pub(crate) fn join(&mut self, index: u64, joiner: &Joiner) -> Result<u64, Refusal> {
        let id = joiner.node;
        match self.nodes.get_mut(&id) {
            Some(known) if known.standing == Standing::Removed && known.join_nonce == Some(joiner.nonce) => {
                return Err(Refusal::NodeRemovedSinceAsked { node: id });
            }
            Some(known) if known.standing == Standing::Removed => {}
            Some(known) if known.key != joiner.key => {
                return Err(Refusal::NodeNumberTaken { node: id, incarnation: known.named() });
            }
            Some(known) => {
                if known.join_nonce != Some(joiner.nonce) {
                    known.raft_id = index;
                    known.join_nonce = Some(joiner.nonce);
                    (known.peer_addr, known.api_addr) = (joiner.peer_addr, joiner.api_addr);
                }
                return Ok(known.raft_id);
            }
            None => {}
        }
        if self.members().count() >= NODES_MAX {
            return Err(Refusal::ClusterFull {});
        }
        self.nodes.insert(id, Node::new(index, joiner));
        self.forget_removed();
        Ok(index)
    }

    /// Of removed nodes only as many are remembered as there may be members; those that came first are forgotten first.
    fn forget_removed(&mut self) {
        let removed = |(_, node): &(&NodeId, &Node)| node.standing == Standing::Removed;
        while self.nodes.iter().filter(removed).count() > NODES_MAX {
            let oldest = self.nodes.iter().filter(removed).min_by_key(|(id, node)| (node.named(), **id));
            let Some(oldest) = oldest.map(|(id, _)| *id) else { return };
            self.nodes.remove(&oldest);
        }
    }

    /// Why a node with this control raft id is out for good, if it is, by what is applied here. An id that the log gave later
    /// is not known here yet.
    #[must_use]
    pub fn over(&self, applied: ControlIndex, id: NodeId, raft_id: u64) -> Option<Refusal> {
        match self.nodes.get(&id) {
            Some(node) if node.raft_id == raft_id && node.standing != Standing::Removed => None,
            _ if raft_id < FOUNDER_RAFT_ID && raft_id > applied.0 => None,
            Some(node) if node.standing != Standing::Removed => {
                Some(Refusal::NodeJoinedAgain { node: id, raft_id: node.raft_id, former: raft_id })
            }
            Some(_) | None => Some(Refusal::NodeRemoved { node: id }),
        }
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
            return Err(Refusal::NodeNotJoined { node: id });
        };
        if node.standing == Standing::Removed {
            return Err(Refusal::NodeRemoved { node: id });
        }
        if node.raft_id != r.control_raft_id {
            let (raft_id, former) = (node.raft_id, r.control_raft_id);
            return Err(Refusal::NodeJoinedAgain { node: id, raft_id, former });
        }
        if r.level < level {
            return Err(Refusal::NodeLevelTooLow { node: id, supports: r.level, level });
        }
        if let (Some(&last), Some(life)) = (node.nonces.last(), node.incarnation)
            && last == r.nonce
        {
            return Ok((life, None));
        }
        if node.nonces.contains(&r.nonce) {
            return Err(Refusal::StartReplaced { node: id });
        }
        check_inside(id, &r.inside)?;
        let replaced = node.incarnation.replace(Incarnation(index));
        node.nonces.push(r.nonce);
        if node.nonces.len() > PAST_NONCES_MAX {
            node.nonces.remove(0);
        }
        (node.peer_addr, node.api_addr, node.level) = (r.peer_addr, r.api_addr, r.level);
        (node.inside, node.outside_mac) = (r.inside.clone(), r.outside_mac);
        self.lives.insert(Incarnation(index), id);
        Ok((Incarnation(index), replaced))
    }

    /// Removes a node after an operator powered it off. Returns its last life.
    pub(crate) fn remove(&mut self, id: NodeId, named: Incarnation) -> Result<Option<Incarnation>, Refusal> {
        let others = self.registered().any(|(other, _)| other != id);
        let node = self.named_mut(id, named)?;
        if !others {
            return Err(Refusal::LastNode { node: id });
        }
        node.standing = Standing::Removed;
        let last = node.incarnation.take();
        self.forget_removed();
        Ok(last)
    }

    /// Puts a node on its way out.
    pub(crate) fn drain(&mut self, id: NodeId, named: Incarnation) -> Result<(), Refusal> {
        let others = self.eligible().any(|(other, _)| other != id);
        let node = self.named_mut(id, named)?;
        if !others {
            return Err(Refusal::NobodyToDrainTo { node: id });
        }
        node.standing = Standing::Draining;
        Ok(())
    }

    /// Takes a drain back.
    pub(crate) fn resume(&mut self, id: NodeId) -> Result<(), Refusal> {
        match self.nodes.get_mut(&id).filter(|node| node.standing != Standing::Removed) {
            Some(node) => node.standing = Standing::Member,
            None => return Err(Refusal::NodeNoMember { node: id }),
        }
        Ok(())
    }

    /// The member of that number, if `named` is what it is now. A command that ends something is for one incarnation: late
    /// or repeated, it would declare a living successor gone (N4).
    fn named_mut(&mut self, id: NodeId, named: Incarnation) -> Result<&mut Node, Refusal> {
        match self.nodes.get_mut(&id) {
            None => Err(Refusal::NodeUnknown { node: id }),
            Some(node) if node.standing == Standing::Removed => Err(Refusal::NodeRemovedAlready { node: id }),
            Some(node) if node.named() != named => {
                Err(Refusal::NodeIsAnotherIncarnation { node: id, incarnation: node.named(), named })
            }
            Some(node) => Ok(node),
        }
    }

    /// Forgets lives that nothing refers to any more.
    pub(crate) fn prune(&mut self, referred: &BTreeSet<Incarnation>) {
        let newest: BTreeSet<Incarnation> = self.nodes.values().filter_map(|node| node.incarnation).collect();
        self.lives.retain(|life, _| newest.contains(life) || referred.contains(life));
    }
}

impl Node {
    /// What a command must name to mean this node as it is now: its incarnation; the index of its joining, if it has not
    /// registered since; 0 of a founder that never registered.
    #[must_use]
    pub fn named(&self) -> Incarnation {
        let joined = self.join_nonce.map_or(0, |_| self.raft_id);
        self.incarnation.unwrap_or_default().max(Incarnation(joined))
    }

    fn founded(raft_id: u64, founder: &Founder) -> Self {
        let Founder { node, peer_addr, api_addr, key } = *founder;
        Self { join_nonce: None, ..Self::new(raft_id, &Joiner { node, nonce: 0, peer_addr, api_addr, key }) }
    }

    fn new(raft_id: u64, joiner: &Joiner) -> Self {
        let Joiner { node: _, nonce, peer_addr, api_addr, key } = *joiner;
        Self {
            raft_id,
            join_nonce: Some(nonce),
            incarnation: None,
            key,
            nonces: Vec::new(),
            peer_addr,
            api_addr,
            inside: Vec::new(),
            outside_mac: Mac::default(),
            level: 0,
            standing: Standing::Member,
        }
    }
}
