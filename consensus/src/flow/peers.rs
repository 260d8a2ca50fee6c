//! Frames of other nodes: checked against the keys of this node's replicas before anything else (N1), then handed on.

use std::collections::BTreeMap;

use bytes::Bytes;
use words::{GroupEvent, Incarnation, LogIndex, ShardId, Term};

use super::{FlowGroups, until};
use crate::event::FlowEffect;
use crate::flow::admit::FrameDrop;
use crate::flow::frame::{Frame, Key, Owned};
use crate::flow::group::{Effects, FlowGroup, Piece};
use crate::flow::membership;
use crate::flow::transfer::Accept;

impl FlowGroups {
    pub(super) fn peer(&mut self, from: Incarnation, bytes: &Bytes, now_ns: u64) {
        if let Err(reason) = self.try_peer(from, bytes, now_ns) {
            *self.drops.entry(reason).or_default() += 1;
        }
    }

    pub(super) fn try_peer(&mut self, from: Incarnation, bytes: &Bytes, now_ns: u64) -> Result<(), FrameDrop> {
        let frame = Frame::decode(bytes).map_err(|_| FrameDrop::Malformed)?;
        if frame.from() != from || from == self.me {
            return Err(FrameDrop::WrongKey);
        }
        match frame {
            Frame::Raft { key, message } => {
                if message.from != key.from.0 || message.to != key.to.0 {
                    return Err(FrameDrop::WrongKey);
                }
                let lease_bound_ns = self.turns.lease_bound_ns(&self.timing);
                let (replica, out) = self.replica(key)?;
                replica.bound_lease(lease_bound_ns);
                replica.receive(message, now_ns, out)?;
                self.dirty.insert(key.group);
            }
            Frame::Join { key, have } => {
                let transfers = &mut self.transfers;
                let replica = living(&mut self.replicas, self.me, key)?;
                replica.join_asked((key.from, have), transfers, now_ns, &mut self.out);
            }
            Frame::Behind { key, base } => {
                let (replica, out) = self.replica(key)?;
                replica.fell_behind(from, base, out);
            }
            Frame::Chunk { key, head, end, chunk } => {
                let piece = Piece { from, head, end, chunk };
                self.chunk(key, piece, now_ns)?;
            }
            Frame::Owners { owned, .. } => {
                if !self.is_known(from) {
                    return Err(FrameDrop::Stranger);
                }
                for Owned { group, epoch, term } in owned {
                    if self.specs.contains_key(&group) {
                        self.owners.heard(group, epoch, term, from, now_ns);
                    }
                }
                self.follow_roles(now_ns);
            }
            Frame::Report { report, .. } => {
                if !self.is_known(from) {
                    return Err(FrameDrop::Stranger);
                }
                self.reports.heard(from, *report, now_ns);
                self.poll_barrier(now_ns);
            }
        }
        Ok(())
    }

    pub(super) fn replica(&mut self, key: Key) -> Result<(&mut FlowGroup, &mut Effects), FrameDrop> {
        Ok((living(&mut self.replicas, self.me, key)?, &mut self.out))
    }

    /// A piece of a table, for a joiner or for a replica that reloads.
    pub(super) fn chunk(&mut self, key: Key, piece: Piece, now_ns: u64) -> Result<(), FrameDrop> {
        if key.to != self.me {
            return Err(FrameDrop::WrongKey);
        }
        let group = key.group;
        let Some(joining) = self.joining.get_mut(&group).filter(|j| j.epoch == key.epoch) else {
            let (replica, out) = self.replica(key)?;
            replica.reload_chunk(piece, now_ns, out);
            self.dirty.insert(group);
            return Ok(());
        };
        let Some(spec) =
            self.specs.get(&group).filter(|s| s.members.contains(&key.from) || s.leaving.contains(&key.from))
        else {
            return Err(FrameDrop::Stranger);
        };
        let Piece { from, head, end, chunk } = piece;
        let epoch = joining.epoch;
        match joining.incoming.accept(from, head) {
            Accept::Ignore => return Ok(()),
            Accept::First => {
                let index = LogIndex(head.base);
                self.out.push_back(FlowEffect::Worker(GroupEvent::Opened {
                    shard: group,
                    epoch: epoch.0,
                    index,
                    loads: true,
                }));
            }
            Accept::Next => {}
        }
        self.out.push_back(FlowEffect::Worker(GroupEvent::Load { shard: group, epoch: epoch.0, chunk }));
        let Some(end) = end else { return Ok(()) };
        let of_this_epoch = end.base_term <= head.term && Term(head.term).epoch() == epoch && head.base >= 1;
        if !of_this_epoch || !membership::holds(&end.conf, self.me.0) {
            return Err(FrameDrop::Term);
        }
        let spec = spec.clone();
        self.joining.remove(&group);
        let loaded = GroupEvent::Loaded { shard: group, base: LogIndex(head.base), until: LogIndex(end.until) };
        self.out.push_back(FlowEffect::Worker(loaded));
        let at = (head.base, end.base_term);
        self.start(spec, at, Some(end.until), end.conf, until(now_ns, end.wait_left_ns), now_ns);
        Ok(())
    }
}

/// The replica that a frame is meant for, if it lives and knows the sender (N1).
fn living(replicas: &mut BTreeMap<ShardId, FlowGroup>, me: Incarnation, key: Key) -> Result<&mut FlowGroup, FrameDrop> {
    if key.to != me {
        return Err(FrameDrop::WrongKey);
    }
    let replica = replicas.get_mut(&key.group).filter(|r| r.epoch() == key.epoch).ok_or(FrameDrop::NoReplica)?;
    if replica.knows(key.from) { Ok(replica) } else { Err(FrameDrop::Stranger) }
}
