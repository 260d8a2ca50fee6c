//! Frames of raft that are longer than the transport carries: the control state on its way to a replica that lacks what the
//! log no longer has. They go in pieces, a few at a time, each sent again until the receiver says how far it has come; so
//! nothing else on the channel waits for more than these. A lost transfer begins anew when raft sends the state again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use consensus::control::storage::LogStore;
use engine::ids::NodeId;

use super::{ControlMember, ControlOut, Now};
use crate::frame::ControlFrame;
use words::time::MS;

/// Frames up to this length go whole: more than any but those with a state in them have.
pub(super) const WHOLE_BYTES_MAX: usize = 2 << 20;
/// Longest piece.
pub(super) const PIECE_BYTES_MAX: usize = 256 << 10;
/// So many pieces are on their way at once.
const UNDER_WAY_MAX: usize = 4;
/// Those that are not answered for so long are sent again.
const AGAIN_NS: u64 = 500 * MS;
/// A transfer of which nothing is heard for so long is over.
const SILENT_NS: u64 = 5_000 * MS;
/// Longest frame.
const FRAME_BYTES_MAX: usize = consensus::wire::MAX_BODY_BYTES + 1_024;

const _: () = assert!(WHOLE_BYTES_MAX >= 2 * consensus::control::MAX_COMMAND_BYTES);

/// What this member sends and what it is sent, in pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    last: u64,
    outgoing: BTreeMap<NodeId, Outgoing>,
    incoming: Option<Incoming>,
}

impl Pieces {
    /// Whether nothing is under way.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_none()
    }
}

#[derive(Debug)]
struct Outgoing {
    transfer: u64,
    ids: (u64, u64),
    frame: Bytes,
    /// Bytes that the receiver has, and bytes that were sent.
    taken: usize,
    sent: usize,
    heard_ns: u64,
    sent_ns: u64,
}

#[derive(Debug)]
struct Incoming {
    from: NodeId,
    transfer: u64,
    ids: (u64, u64),
    len: usize,
    bytes: BytesMut,
}

impl Outgoing {
    /// The pieces that may be sent now.
    fn next(&mut self, now_ns: u64) -> Vec<ControlFrame> {
        let until = self.frame.len().min(self.taken + UNDER_WAY_MAX * PIECE_BYTES_MAX);
        let mut pieces = Vec::new();
        while self.sent < until {
            let to = until.min(self.sent + PIECE_BYTES_MAX);
            let (transfer, (from, to_id)) = (self.transfer, self.ids);
            let (at, len) = (self.sent, self.frame.len());
            let bytes = self.frame.slice(at..to);
            pieces.push(ControlFrame::Piece { transfer, from, to: to_id, at: at as u64, len: len as u64, bytes });
            self.sent = to;
            self.sent_ns = now_ns;
        }
        pieces
    }
}

impl<S: LogStore> ControlMember<S> {
    /// Sends a long frame of the control group to the node. While an earlier one is under way, that goes on instead: raft
    /// sends again what it still needs.
    pub(super) fn send_in_pieces(&mut self, now: Now, node: NodeId, ids: (u64, u64), frame: Bytes) {
        let goes_on = |o: &Outgoing| o.ids == ids && now.ns.saturating_sub(o.heard_ns) < SILENT_NS;
        if self.pieces.outgoing.get(&node).is_some_and(goes_on) {
            return;
        }
        self.pieces.last += 1;
        // Not that of another life of this node, which the receiver may still collect.
        let transfer = self.registration_nonce.wrapping_add(self.pieces.last);
        let (heard_ns, sent_ns) = (now.ns, now.ns);
        let outgoing = Outgoing { transfer, ids, frame, taken: 0, sent: 0, heard_ns, sent_ns };
        self.pieces.outgoing.insert(node, outgoing);
        self.push_pieces(now, node);
    }

    /// Sends again what was not answered, and gives up transfers of which nothing is heard.
    pub(super) fn resend_pieces(&mut self, now: Now) {
        self.pieces.outgoing.retain(|_, o| now.ns.saturating_sub(o.heard_ns) < SILENT_NS);
        let mut late = Vec::new();
        for (node, outgoing) in &mut self.pieces.outgoing {
            if now.ns.saturating_sub(outgoing.sent_ns) >= AGAIN_NS {
                outgoing.sent = outgoing.taken;
                late.push(*node);
            }
        }
        late.into_iter().for_each(|node| self.push_pieces(now, node));
    }

    fn push_pieces(&mut self, now: Now, node: NodeId) {
        let Some(outgoing) = self.pieces.outgoing.get_mut(&node) else { return };
        for piece in outgoing.next(now.ns) {
            self.out.push_back(ControlOut::Send { to: node, frame: piece.encode() });
        }
    }

    /// The receiver has so many bytes of a transfer.
    pub(super) fn pieces_taken(&mut self, now: Now, from: NodeId, transfer: u64, taken: u64) {
        let Some(outgoing) = self.pieces.outgoing.get_mut(&from).filter(|o| o.transfer == transfer) else { return };
        let Ok(taken) = usize::try_from(taken) else { return };
        if taken < outgoing.taken || taken > outgoing.sent {
            return;
        }
        outgoing.taken = taken;
        outgoing.heard_ns = now.ns;
        if taken == outgoing.frame.len() {
            self.pieces.outgoing.remove(&from);
            return;
        }
        self.push_pieces(now, from);
    }

    /// A piece of a frame of the control group. Pieces count in order; a first one begins anew.
    pub(super) fn piece(&mut self, now: Now, from: NodeId, piece: Piece) {
        let Piece { transfer, ids, at, len, bytes } = piece;
        let (Ok(at), Ok(len)) = (usize::try_from(at), usize::try_from(len)) else { return };
        if !self.may_speak(from, ids.0) || len > FRAME_BYTES_MAX || bytes.is_empty() || bytes.len() > PIECE_BYTES_MAX {
            return;
        }
        let known = |i: &Incoming| (i.from, i.transfer, i.ids, i.len) == (from, transfer, ids, len);
        if at == 0 && !self.pieces.incoming.as_ref().is_some_and(known) {
            self.pieces.incoming = Some(Incoming { from, transfer, ids, len, bytes: BytesMut::new() });
        }
        let Some(incoming) = self.pieces.incoming.as_mut().filter(|i| known(i)) else { return };
        if at == incoming.bytes.len() && at + bytes.len() <= len {
            incoming.bytes.extend_from_slice(&bytes);
        }
        let taken = incoming.bytes.len();
        let frame = ControlFrame::Taken { transfer, taken: taken as u64 }.encode();
        self.out.push_back(ControlOut::Send { to: from, frame });
        if taken == len
            && let Some(incoming) = self.pieces.incoming.take()
        {
            self.raft_frame(now, from, ids, incoming.bytes.freeze());
        }
    }
}

/// What a frame says of a piece.
pub(super) struct Piece {
    pub(super) transfer: u64,
    /// Raft ids of sender and receiver.
    pub(super) ids: (u64, u64),
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) bytes: Bytes,
}
