//! Frames of raft that are longer than the transport carries: the control state on its way to a replica that lacks what the
//! log no longer has. They go in pieces, a few at a time, each sent again until the receiver says how far it has come; so
//! nothing else on the channel waits for more than these. A lost transfer begins anew when raft sends the state again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use engine::ids::NodeId;

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
    /// Begins to send a long frame to the node, unless an earlier one is under way: that goes on instead, since raft sends again
    /// what it still needs. `nonce` tells this life's transfers from another's, which the receiver may still collect.
    pub(super) fn send(
        &mut self,
        now_ns: u64,
        nonce: u64,
        (node, ids): (NodeId, (u64, u64)),
        frame: Bytes,
    ) -> Vec<ControlFrame> {
        let goes_on = |o: &Outgoing| o.ids == ids && now_ns.saturating_sub(o.heard_ns) < SILENT_NS;
        if self.outgoing.get(&node).is_some_and(goes_on) {
            return Vec::new();
        }
        self.last += 1;
        let transfer = nonce.wrapping_add(self.last);
        let mut outgoing = Outgoing { transfer, ids, frame, taken: 0, sent: 0, heard_ns: now_ns, sent_ns: now_ns };
        let first = outgoing.next(now_ns);
        self.outgoing.insert(node, outgoing);
        first
    }

    /// What was not answered and goes again; gives up transfers of which nothing is heard.
    pub(super) fn late(&mut self, now_ns: u64) -> Vec<(NodeId, ControlFrame)> {
        self.outgoing.retain(|_, o| now_ns.saturating_sub(o.heard_ns) < SILENT_NS);
        let mut again = Vec::new();
        for (node, outgoing) in &mut self.outgoing {
            if now_ns.saturating_sub(outgoing.sent_ns) >= AGAIN_NS {
                outgoing.sent = outgoing.taken;
                again.extend(outgoing.next(now_ns).into_iter().map(|piece| (*node, piece)));
            }
        }
        again
    }

    /// The receiver has so many bytes of a transfer; what follows.
    pub(super) fn taken(&mut self, now_ns: u64, from: NodeId, transfer: u64, taken: u64) -> Vec<ControlFrame> {
        let Some(outgoing) = self.outgoing.get_mut(&from).filter(|o| o.transfer == transfer) else { return Vec::new() };
        let taken = usize::try_from(taken).ok().filter(|taken| (outgoing.taken..=outgoing.sent).contains(taken));
        let Some(taken) = taken else { return Vec::new() };
        outgoing.taken = taken;
        outgoing.heard_ns = now_ns;
        if taken == outgoing.frame.len() {
            self.outgoing.remove(&from);
            return Vec::new();
        }
        outgoing.next(now_ns)
    }

    /// A piece of a frame: how far the transfer has come, and the frame if it is whole now. Pieces count in order; a first one
    /// begins anew.
    pub(super) fn collect(&mut self, from: NodeId, piece: Piece) -> Option<(ControlFrame, Option<Bytes>)> {
        let Piece { transfer, ids, at, len, bytes } = piece;
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
        if len > FRAME_BYTES_MAX || bytes.is_empty() || bytes.len() > PIECE_BYTES_MAX {
            return None;
        }
        let known = |i: &Incoming| (i.from, i.transfer, i.ids, i.len) == (from, transfer, ids, len);
        if at == 0 && !self.incoming.as_ref().is_some_and(known) {
            self.incoming = Some(Incoming { from, transfer, ids, len, bytes: BytesMut::new() });
        }
        let incoming = self.incoming.as_mut().filter(|i| known(i))?;
        if at == incoming.bytes.len() && at + bytes.len() <= len {
            incoming.bytes.extend_from_slice(&bytes);
        }
        let taken = incoming.bytes.len();
        let whole = if taken == len { self.incoming.take().map(|incoming| incoming.bytes.freeze()) } else { None };
        Some((ControlFrame::Taken { transfer, taken: taken as u64 }, whole))
    }

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

/// What a frame says of a piece.
pub(super) struct Piece {
    pub(super) transfer: u64,
    /// Raft ids of sender and receiver.
    pub(super) ids: (u64, u64),
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) bytes: Bytes,
}
