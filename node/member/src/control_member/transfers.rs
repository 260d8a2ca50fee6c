//! Long frames of the control group on their way, in pieces (`pieces`).

use bytes::Bytes;
use consensus::control::storage::LogStore;
use engine::ids::NodeId;

use super::ControlMember;
use super::io::{ControlOut, Now};
use super::pieces::Piece;
use crate::frame::ControlFrame;

impl<S: LogStore> ControlMember<S> {
    /// Sends a long frame of the control group to the node.
    pub(super) fn send_in_pieces(&mut self, now: Now, node: NodeId, ids: (u64, u64), frame: Bytes) {
        let pieces = self.pieces.send(now.ns, self.registration_nonce, (node, ids), frame);
        pieces.into_iter().for_each(|piece| self.send_frame(node, &piece));
    }

    /// Sends again what was not answered.
    pub(super) fn resend_pieces(&mut self, now: Now) {
        let late = self.pieces.late(now.ns);
        late.into_iter().for_each(|(node, piece)| self.send_frame(node, &piece));
    }

    /// The receiver has so many bytes of a transfer.
    pub(super) fn pieces_taken(&mut self, now: Now, from: NodeId, transfer: u64, taken: u64) {
        let next = self.pieces.taken(now.ns, from, transfer, taken);
        next.into_iter().for_each(|piece| self.send_frame(from, &piece));
    }

    /// A piece of a frame of the control group.
    pub(super) fn piece(&mut self, now: Now, from: NodeId, piece: Piece) {
        let ids = piece.ids;
        if !self.may_speak(from, ids.0) {
            return;
        }
        let Some((answer, whole)) = self.pieces.collect(from, piece) else { return };
        self.send_frame(from, &answer);
        if let Some(frame) = whole {
            self.raft_frame(now, from, ids, frame);
        }
    }

    fn send_frame(&mut self, to: NodeId, frame: &ControlFrame) {
        self.out.push_back(ControlOut::Send { to, frame: frame.encode() });
    }
}
