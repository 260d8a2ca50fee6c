//! How a node comes into the cluster and hears that it is out: a raft id for its store, then a number for this incarnation,
//! the stop token back, and the answers of members to those that ask from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use consensus::control::storage::{ClusterId, LogStore};
use consensus::control::{ControlGroup, OpenError};
use control::Refusal;
use control::command::{Command, CommandBody};
use control::outcome::{Outcome, Yield};
use control::registry::Registration;
use control::registry::{Joiner, Standing};
use engine::ids::NodeId;

use super::io::{ControlOut, Now};
use super::{ControlMember, Phase, RETRY_NS};
use crate::frame::ControlFrame;
use words::time::MS;

/// Without a leader for so long a member asks whether it still belongs, and a refused joiner asks again after this.
const LOST_NS: u64 = 3_000 * MS;
const ASK_AGAIN_NS: u64 = 2_000 * MS;

impl<S: LogStore> ControlMember<S> {
    pub(super) fn others(&self) -> Vec<NodeId> {
        let members = self.state.registry().members().map(|(id, _)| id);
        let all: BTreeSet<NodeId> = members.chain(self.me.peers.iter().copied()).collect();
        all.into_iter().filter(|node| *node != self.me.node).collect()
    }

    pub(super) fn ask_to_join(&mut self, now: Now) {
        let Phase::Joining { nonce, next_ns, .. } = &mut self.phase else { return };
        if now.ns < *next_ns {
            return;
        }
        *next_ns = now.ns + RETRY_NS;
        let nonce = *nonce;
        let body = CommandBody::JoinControl(Joiner {
            node: self.me.node,
            nonce,
            peer_addr: self.me.peer_addr,
            api_addr: self.me.api_addr,
            key: self.me.key,
        });
        self.ask_everybody(now, nonce, body);
    }

    /// Puts a command to all members that this node knows, under a key made from the nonce: asked again, it is the same
    /// command, with the same outcome.
    fn ask_everybody(&mut self, now: Now, nonce: u64, body: CommandBody) {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&nonce.to_be_bytes());
        let command = Command { key, stamped_unix_ms: now.unix_ms, draw: 0, body };
        let Ok(bytes) = command.encode() else { return };
        let frame = ControlFrame::Submit { command: Bytes::from(bytes) }.encode();
        for to in self.others() {
            self.out.push_back(ControlOut::Ask { to, frame: frame.clone() });
        }
    }

    /// A node that may be no member asks, and only for itself: to join, which is for the log to say; or whether it still
    /// belongs, which this member says by what it knows. Nothing else is taken from it.
    pub(super) fn asked_from_outside(&mut self, now: Now, from: NodeId, bytes: Bytes) {
        let Ok(command) = Command::decode(&bytes) else { return };
        if let CommandBody::JoinControl(_) = command.body {
            self.forwarded(now, from, bytes);
        } else if let CommandBody::RegisterIncarnation(r) = command.body
            && r.node == from
            && self.founded
            && let Some(refusal) = self.state.registry().over(self.state.index(), from, r.control_raft_id)
        {
            let frame = ControlFrame::Refused { nonce: r.nonce, refusal }.encode();
            self.out.push_back(ControlOut::Answer { to: from, frame });
        }
    }

    pub(super) fn joined(
        &mut self,
        now: Now,
        (nonce, raft_id): (u64, u64),
        cluster_id: [u8; 16],
        members: BTreeMap<NodeId, SocketAddr>,
    ) {
        let asked = matches!(&self.phase, Phase::Joining { nonce: asked, .. } if *asked == nonce);
        if !asked {
            return;
        }
        self.me.peers.extend(members.keys());
        self.out.push_back(ControlOut::Members(members));
        let Phase::Joining { mut store, .. } = std::mem::replace(&mut self.phase, Phase::Failed) else { return };
        let opened = store.join(ClusterId(cluster_id), raft_id).map_err(OpenError::from);
        match opened.and_then(|()| ControlGroup::open(*store, self.timing, self.seed, now.ns)) {
            Ok(group) => self.phase = Phase::Running(Box::new(group)),
            Err(error) => self.fail(error.to_string()),
        }
    }

    pub(super) fn register(&mut self, now: Now) {
        let Phase::Running(group) = &self.phase else { return };
        let known = self.state.registry().nodes().get(&self.me.node).is_some_and(|n| n.raft_id == group.raft_id());
        if self.incarnation.is_some() || self.registering.is_some() || self.leader == 0 || !known || self.over {
            return;
        }
        let registration = self.registration(group.raft_id());
        self.registering = self.enqueue(now, None, CommandBody::RegisterIncarnation(registration));
    }

    fn registration(&self, control_raft_id: u64) -> Registration {
        Registration {
            node: self.me.node,
            control_raft_id,
            nonce: self.registration_nonce,
            peer_addr: self.me.peer_addr,
            api_addr: self.me.api_addr,
            inside: self.me.inside.clone(),
            outside_mac: self.me.outside_mac,
            level: self.me.level,
        }
    }

    /// A node that was removed hears nothing of it: nobody speaks to it any more. So one that has no leader shows its
    /// registration to the members, and a refusal is the news.
    pub(super) fn ask_whether_wanted(&mut self, now: Now) {
        let Phase::Running(group) = &self.phase else { return };
        let raft_id = group.raft_id();
        // One that has no state yet has just joined, and will hear of its leader.
        if self.leader != 0 || self.over || !self.founded {
            self.lost_ns = None;
            return;
        }
        let lost_ns = *self.lost_ns.get_or_insert(now.ns);
        if now.ns.saturating_sub(lost_ns) > LOST_NS && now.ns >= self.next_asking_ns {
            self.next_asking_ns = now.ns + ASK_AGAIN_NS;
            let registration = self.registration(raft_id);
            self.ask_everybody(now, self.registration_nonce, CommandBody::RegisterIncarnation(registration));
        }
    }

    /// A member says no. One that joins asks anew, since an operator may change that; for one that has joined it is the end.
    pub(super) fn refused(&mut self, now: Now, from: NodeId, nonce: u64, refusal: &Refusal) {
        if !self.others().contains(&from) {
            return;
        }
        let anew = self.rng.draw();
        match &mut self.phase {
            Phase::Joining { nonce: asked, next_ns, .. } if *asked == nonce => {
                *asked = anew;
                *next_ns = now.ns + ASK_AGAIN_NS;
                self.out.push_back(ControlOut::NotTaken { why: refusal.to_string() });
            }
            Phase::Running(_) if nonce == self.registration_nonce => self.end(refusal.to_string()),
            Phase::Joining { .. } | Phase::Running(_) | Phase::Failed => {}
        }
    }

    /// Tells a node that asked to join what the log said. Every member does: it waits for an answer where it asked.
    pub(super) fn answer_joiner(&mut self, command: &Command, outcome: &Outcome) {
        let CommandBody::JoinControl(Joiner { node, nonce, .. }) = command.body else { return };
        let frame = match outcome {
            Outcome::Applied { result: Yield::RaftId(raft_id), .. } => {
                self.routes.insert(*raft_id, node);
                let members = self.state.registry().members().filter(|(id, _)| *id != node);
                let members = members.map(|(id, member)| (id, member.peer_addr)).collect();
                ControlFrame::Joined { nonce, raft_id: *raft_id, cluster_id: self.state.cluster_id(), members }
            }
            Outcome::Refused(refusal) => ControlFrame::Refused { nonce, refusal: refusal.clone() },
            Outcome::Applied { .. } => return,
        };
        self.out.push_back(ControlOut::Answer { to: node, frame: frame.encode() });
    }

    /// What the log itself says about the end of this incarnation.
    pub(super) fn notice_own_end(&mut self) {
        let (Some(node), Phase::Running(group)) = (self.state.registry().nodes().get(&self.me.node), &self.phase)
        else {
            return;
        };
        if !self.founded || node.raft_id != group.raft_id() {
            return;
        }
        if node.standing == Standing::Removed {
            self.end(Refusal::NodeRemoved { node: self.me.node }.to_string());
        } else if let (Some(mine), Some(newest)) = (self.incarnation, node.incarnation)
            && mine < newest
        {
            self.end(format!("node {} was started again as incarnation {newest}, this was {mine}", self.me.node));
        }
    }

    pub(super) fn end(&mut self, why: String) {
        if !std::mem::replace(&mut self.over, true) {
            self.out.push_back(ControlOut::Over { why });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use consensus::control::ControlTiming;
    use consensus::control::storage::memory::MemoryStore;
    use control::registry::{FOUNDER_RAFT_ID, Founder};
    use control::state::State;
    use engine::ids::Mac;

    use super::*;
    use crate::control_member::Identity;
    use words::time::MS;

    fn address(node: u32) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, u8::try_from(node).expect("few nodes")], 7800))
    }

    /// A cluster of node 1 alone, which leads.
    fn leader() -> (ControlMember<MemoryStore>, Now) {
        let founder = Founder { node: NodeId(1), peer_addr: address(1), api_addr: address(1), key: [1; 32] };
        let state = State::found([7; 16], &[founder], [1, 2]).encode().expect("small");
        let mut store = MemoryStore::new();
        let raft_id = FOUNDER_RAFT_ID | 1;
        store.found(ClusterId([7; 16]), raft_id, &[raft_id], &Bytes::from(state)).expect("an empty disk");
        let inside = vec![words::InsideInterface { network: None, mac: Mac([2, 0, 0, 0, 0, 1]) }];
        let outside_mac = Mac([2, 0, 0, 0, 0, 2]);
        let (peer_addr, api_addr, peers) = (address(1), address(1), Vec::new());
        let me = Identity {
            node: NodeId(1),
            peer_addr,
            api_addr,
            inside,
            outside_mac,
            level: words::level::NEWEST,
            key: [1; 32],
            peers,
        };
        let mut now = Now { ns: 1, unix_ms: 1 };
        let mut member = ControlMember::new(me, store, ControlTiming::default(), 3, now).expect("a whole store");
        for _ in 0..1000 {
            now.ns += 10 * MS;
            member.tick(now);
            while let Some(out) = member.poll(now) {
                if let ControlOut::Job(job) = out {
                    member.finish(now, job.run());
                }
            }
            if member.leading() && member.incarnation().is_some() {
                return (member, now);
            }
        }
        panic!("nobody leads");
    }

    fn submit(body: CommandBody) -> Bytes {
        let command = Command { key: [9; 16], stamped_unix_ms: 0, draw: 0, body };
        ControlFrame::Submit { command: Bytes::from(command.encode().expect("small")) }.encode()
    }

    fn join(node: u32) -> CommandBody {
        let (peer_addr, api_addr) = (address(node), address(node));
        CommandBody::JoinControl(Joiner { node: NodeId(node), nonce: 5, peer_addr, api_addr, key: [2; 32] })
    }

    /// What the member answers on the channel for joining within a second.
    fn answers(member: &mut ControlMember<MemoryStore>, now: &mut Now, frame: &Bytes) -> Vec<(NodeId, Bytes)> {
        member.handle_join(*now, NodeId(2), frame);
        let mut answers = Vec::new();
        for _ in 0..100 {
            now.ns += 10 * MS;
            member.tick(*now);
            while let Some(out) = member.poll(*now) {
                if let ControlOut::Answer { to, frame } = out {
                    answers.push((to, frame));
                }
            }
        }
        answers
    }

    #[test]
    fn on_the_channel_for_joining_a_node_asks_for_itself_and_nothing_else() {
        let (mut member, mut now) = leader();
        let index = member.state().index();
        let raft = ControlFrame::Raft { from: 1, to: FOUNDER_RAFT_ID | 1, frame: Bytes::from_static(b"x") }.encode();
        let alive = ControlFrame::Alive { owned: Vec::new() }.encode();
        for frame in [submit(join(3)), submit(CommandBody::StopTokenRevoke), raft, alive] {
            assert_eq!(answers(&mut member, &mut now, &frame), []);
            assert_eq!(member.state().index(), index, "{frame:?} was committed");
            assert!(!member.live(now).contains(&NodeId(2)), "a node that asks is not counted on");
        }
        let heard = answers(&mut member, &mut now, &submit(join(2)));
        let [(to, frame)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(*to, NodeId(2));
        let joined = ControlFrame::decode(frame);
        let raft_id = member.state().registry().nodes()[&NodeId(2)].raft_id;
        let members = BTreeMap::from([(NodeId(1), address(1))]);
        assert_eq!(joined, Some(ControlFrame::Joined { nonce: 5, raft_id, cluster_id: [7; 16], members }));
    }
}
