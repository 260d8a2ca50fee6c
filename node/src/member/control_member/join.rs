//! How a node comes into the cluster: a raft id for its store, then a number for this life, and the stop token back.

use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::control_group::{ControlGroup, OpenError};
use consensus::storage::{ClusterId, LogStore};
use control::command::{Command, CommandBody, Registration};
use engine::ids::NodeId;

use super::{ControlMember, ControlOut, LEVEL, LIVE_NS, Now, Phase, RETRY_NS};
use crate::member::frame::ControlFrame;

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
        let body = CommandBody::JoinControl {
            node: self.me.node,
            nonce: *nonce,
            peer_addr: self.me.peer_addr,
            api_addr: self.me.api_addr,
        };
        // The same key each time, made from the nonce: asking again yields the same raft id.
        let mut key = [0; 16];
        key[..8].copy_from_slice(&nonce.to_be_bytes());
        let command = Command { key, stamped_unix_ms: now.unix_ms, draw: 0, body };
        let Ok(bytes) = command.encode() else { return };
        let frame = ControlFrame::Submit { command: Bytes::from(bytes) }.encode();
        for to in self.others() {
            self.out.push_back(ControlOut::Ask { to, frame: frame.clone() });
        }
    }

    /// A node that may be no member asks to join: nothing else is taken from it, and only for itself.
    pub(super) fn asked_to_join(&mut self, now: Now, from: NodeId, bytes: Bytes) {
        let asks = Command::decode(&bytes).is_ok_and(|command| matches!(command.body, CommandBody::JoinControl { .. }));
        if asks {
            self.forwarded(now, from, bytes);
        }
    }

    pub(super) fn joined(&mut self, now: Now, nonce: u64, raft_id: u64, cluster_id: [u8; 16]) {
        let asked = matches!(&self.phase, Phase::Joining { nonce: asked, .. } if *asked == nonce);
        if !asked {
            return;
        }
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
        if self.incarnation.is_some() || self.registering.is_some() || self.leader == 0 || !known {
            return;
        }
        let registration = Registration {
            node: self.me.node,
            control_raft_id: group.raft_id(),
            nonce: self.registration_nonce,
            peer_addr: self.me.peer_addr,
            api_addr: self.me.api_addr,
            inside_mac: self.me.inside_mac,
            outside_mac: self.me.outside_mac,
            level: LEVEL,
        };
        self.registering = self.enqueue(now, None, CommandBody::RegisterIncarnation(registration));
    }

    /// A node that stopped gracefully returns the stop token when its new life is a voter everywhere that it should be (N3).
    pub(super) fn return_token(&mut self, now: Now) {
        let Some(token) = self.state.stop_token().filter(|token| token.holder == self.me.node) else { return };
        let restarted = self.incarnation.filter(|life| *life != token.incarnation);
        let Some(life) = restarted else { return };
        let whole =
            self.state.shards().values().all(|shard| {
                shard.leaving.is_empty() && (!shard.members.contains(&life) || shard.voters.contains(&life))
            });
        if whole && now.ns >= self.next_return_ns {
            self.next_return_ns = now.ns + LIVE_NS;
            self.enqueue(now, None, CommandBody::StopTokenReturn { node: self.me.node });
        }
    }
}
