//! Loading the table anew: this replica's log ended before the leader's began.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType, Snapshot};
use words::{GroupEvent, Incarnation, LogIndex};

use super::{Effects, FlowGroup, Piece};
use crate::event::FlowEffect;
use crate::flow::frame::Frame;
use crate::flow::membership;

impl FlowGroup {
    /// The leader's log begins at `base`, behind what it takes for this replica's end; answers with what is needed.
    pub(crate) fn fell_behind(&mut self, from: Incarnation, base: u64, out: &mut Effects) {
        let raft = &self.node.raft;
        if self.is_sealed() || raft.state != StateRole::Follower || raft.leader_id != from.0 {
            return;
        }
        let committed = raft.raft_log.committed;
        if committed >= base {
            // It has loaded a table since, of which raft says nothing: the leader only needs to hear where it stands.
            let mut m = Message { from: self.me.0, to: from.0, term: raft.term, ..Message::default() };
            m.set_msg_type(MessageType::MsgAppendResponse);
            (m.index, m.commit) = (committed, committed);
            let frame = Frame::Raft { key: self.key(from), message: m }.encode();
            out.push_back(FlowEffect::Send { to: from, group: self.group(), frame });
            return;
        }
        let frame = Frame::Join { key: self.key(from), have: self.reload.have() }.encode();
        out.push_back(FlowEffect::Send { to: from, group: self.group(), frame });
    }

    /// A chunk for a replica that reloads. Term, vote and every acknowledged entry stay: the new table is installed as
    /// raft's own snapshot of a committed prefix, and only when it is complete.
    pub(crate) fn reload_chunk(&mut self, piece: Piece, now_ns: u64, out: &mut Effects) {
        let Piece { from, head, end, chunk } = piece;
        let raft = &self.node.raft;
        if self.is_sealed() || raft.state != StateRole::Follower || raft.leader_id != from.0 {
            return;
        }
        let Some(chunks) = self.reload.take(from, head, chunk, end.is_some()) else { return };
        let Some(end) = end else { return };
        self.settle(now_ns, out);
        let raft = &self.node.raft;
        let term = raft.term;
        let follows = raft.state == StateRole::Follower && raft.leader_id == from.0 && end.base_term <= term;
        if !follows || !membership::holds(&end.conf, self.me.0) || end.conf.learners_next.contains(&self.me.0) {
            return;
        }
        let (index, shard, epoch) = (head.base, self.group(), self.spec.epoch.0);
        let replaces = index > raft.raft_log.committed && !raft.raft_log.match_term(index, end.base_term);
        if replaces {
            out.push_back(FlowEffect::Worker(GroupEvent::Opened { shard, epoch, index: LogIndex(index), loads: true }));
            out.extend(chunks.into_iter().map(|chunk| FlowEffect::Worker(GroupEvent::Load { shard, epoch, chunk })));
            out.push_back(FlowEffect::Worker(GroupEvent::Loaded {
                shard,
                base: LogIndex(index),
                until: LogIndex(end.until),
            }));
            self.loading_until = Some(end.until);
        }
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = end.base_term;
        snapshot.mut_metadata().set_conf_state(end.conf);
        let mut m = Message { from: from.0, to: self.me.0, term, ..Message::default() };
        m.set_msg_type(MessageType::MsgSnapshot);
        m.set_snapshot(snapshot);
        let _ignored = self.node.step(m);
        self.set_campaign_time();
        self.settle(now_ns, out);
    }
}
