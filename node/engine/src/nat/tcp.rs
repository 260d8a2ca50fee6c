//! What is watched of a TCP connection (RFC 7857, RFC 6146): which octet either end expects next, because a reset is
//! believed only there (R18, I17, RFC 5961), and how far its handshake and its closing have come. Hot path.
//!
//! The backend is taken at its word. The remote, in whose name anybody may write, is not: its numbers are those that the
//! backend acknowledges, or that come with an acknowledgment of the backend's own SYN, and from there they move only by
//! segments that begin exactly where the last one ended.
//!
//! Local to the owner and never replicated. It never decides about a packet: what is not believed is translated and changes
//! nothing. After a takeover it knows nothing, believes nothing, and learns again from what the backend sends; a connection
//! without knowledge counts as established, so that nobody is cut off. That goes for an owner that was one before, too:
//! what it learned then carries the mark of its term.

use crate::ids::Term;
use crate::wire::{TcpFields, TcpFlags};

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the backend.
    Out,
    /// From the remote.
    In,
}

/// What is known of one connection. Arrays are indexed by side: 0 the backend's, 1 the remote's. Packed, since it lies in
/// every record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(Rust, packed(2))]
pub struct Track {
    /// Behind the last octet of the side that is known to have passed in order.
    next: [u32; 2],
    /// The newest acknowledgment of the side's octets; of the backend's at first what acknowledges its SYN alone.
    acked: [u32; 2],
    /// Behind a FIN that the remote seems to have sent.
    fin_end: u32,
    bits: u16,
}

const KNOWN: [u16; 2] = [1, 2];
const ACKED: [u16; 2] = [4, 8];
const FIN: [u16; 2] = [16, 32];
const RESET: [u16; 2] = [64, 128];
/// `fin_end` counts.
const FIN_CLAIMED: u16 = 256;
const HALF_OPEN: u16 = 512;
const ANSWERED: u16 = 1024;
/// The rest of the bits: the term in which all this was learned, as far as there is room.
const TERM: u16 = !(2 * ANSWERED - 1);
/// No window is larger; what acknowledges more than that behind is no acknowledgment (RFC 7323 2.3).
const WINDOW_MAX: u32 = 1 << 30;

/// What a packet did to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on.
    Open,
    /// Both sides have sent FIN.
    Finished,
    /// A reset that nobody believes: not even a sign of life.
    Ignored,
}

/// How far a connection is, which decides its idle timeout (RFC 5382 REQ-5, RFC 7857 section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The remote has not answered the SYN.
    HalfOpen,
    /// Both sides have spoken, or nothing is known.
    Established,
    /// One side has sent FIN.
    Closing,
    /// Both have.
    Finished,
    /// A believed reset was seen, and its sender is silent since.
    Reset,
}

impl Track {
    /// Nothing seen.
    pub const NEW: Self = Self { next: [0; 2], acked: [0; 2], fin_end: 0, bits: 0 };

    /// What of it was learned in this term: all or nothing.
    #[must_use]
    pub fn known_in(self, term: Term) -> Self {
        let [low, ..] = term.0.to_le_bytes();
        let mark = u16::from(low).wrapping_mul(2 * ANSWERED);
        if self.bits & TERM == mark { self } else { Self { bits: mark, ..Self::NEW } }
    }

    /// Takes note of a packet.
    pub fn observe(&mut self, direction: Direction, tcp: &TcpFields) -> Progress {
        let end = end_of(tcp);
        match (direction, tcp.flags.contains(TcpFlags::RST)) {
            (_, true) => return self.reset(direction, tcp),
            (Direction::Out, false) => self.note_backend(tcp, end),
            (Direction::In, false) => self.note_remote(tcp, end),
        }
        if self.has(FIN_CLAIMED) && self.has(KNOWN[1]) && self.next[1] == self.fin_end {
            self.bits |= FIN[1];
        }
        if self.phase() == Phase::Finished { Progress::Finished } else { Progress::Open }
    }

    /// How far the connection is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        if self.has(RESET[0]) || self.has(RESET[1]) {
            Phase::Reset
        } else if self.has(FIN[0]) && self.has(FIN[1]) {
            Phase::Finished
        } else if self.has(FIN[0]) || self.has(FIN[1]) {
            Phase::Closing
        } else if self.has(HALF_OPEN) {
            Phase::HalfOpen
        } else {
            Phase::Established
        }
    }

    /// The sequence number of a reset in the name of `from` that lies in the other end's window, if it is known (R27).
    #[must_use]
    pub const fn reset_sequence(&self, from: Direction) -> Option<u32> {
        let side = match from {
            Direction::Out => 0,
            Direction::In => 1,
        };
        if self.has(KNOWN[side]) { Some(self.next[side]) } else { None }
    }

    /// What the kernel has to know to go on with the numbers of an established connection: of the backend and of the remote, what
    /// is behind its last octet, and its newest acknowledgment. `None`: it is not established, or not all is known, or the remote
    /// has claimed an end that it has not come to, so that each of its segments may be the last.
    #[must_use]
    pub fn settled(&self) -> Option<[(u32, u32); 2]> {
        let known = [KNOWN, ACKED].into_iter().flatten().all(|bit| self.has(bit));
        let ends = [(self.next[0], self.acked[1]), (self.next[1], self.acked[0])];
        let ends_soon = self.has(FIN_CLAIMED) && !is_after(self.next[1], self.fin_end);
        (known && !ends_soon && self.phase() == Phase::Established).then_some(ends)
    }

    /// Both have come this far meanwhile, as the kernel saw it: as if it had been observed.
    pub fn catch_up(&mut self, [backend, remote]: [(u32, u32); 2]) {
        if self.settled().is_none() {
            return;
        }
        let newest = |a: u32, b: u32| if is_after(a, b) { a } else { b };
        self.next = [newest(self.next[0], backend.0), newest(newest(self.next[1], remote.0), backend.1)];
        self.acked = [newest(self.acked[0], remote.1), newest(self.acked[1], backend.1)];
    }

    /// A datagram flow was asked again: it waits for an answer.
    pub const fn ask(&mut self) {
        self.bits &= !ANSWERED;
    }

    /// A datagram flow was answered.
    pub const fn answer(&mut self) {
        self.bits |= ANSWERED;
    }

    /// Whether a datagram flow was answered since it was asked.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.has(ANSWERED)
    }

    const fn has(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    fn note_backend(&mut self, tcp: &TcpFields, end: u32) {
        if tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::ACK) {
            self.begin(tcp, end);
            return;
        }
        self.bits &= !RESET[0];
        if !self.has(KNOWN[0]) || is_after(end, self.next[0]) {
            self.next[0] = end;
            self.bits |= KNOWN[0];
        }
        if tcp.flags.contains(TcpFlags::FIN) && end == self.next[0] {
            self.bits |= FIN[0];
        }
        if tcp.flags.contains(TcpFlags::ACK) {
            // Whoever acknowledges has been answered: the handshake is over, also after a simultaneous open.
            self.bits &= !HALF_OPEN;
            if !self.has(ACKED[1]) || is_after(tcp.ack, self.acked[1]) {
                self.acked[1] = tcp.ack;
                self.bits |= ACKED[1];
            }
            if !self.has(KNOWN[1]) || is_after(tcp.ack, self.next[1]) {
                self.next[1] = tcp.ack;
                self.bits |= KNOWN[1];
            }
        }
    }

    /// A SYN of the backend.
    fn begin(&mut self, tcp: &TcpFields, end: u32) {
        // In the middle of a connection it is a late copy, or a host that has forgotten: either way what was known may
        // be wrong, and the connection is not cut for it.
        let anew = self.phase() != Phase::Established || !self.has(KNOWN[0]);
        *self = Self { bits: self.bits & TERM, ..Self::NEW };
        self.next[0] = end;
        // A remote that wants no data with the SYN acknowledges the SYN alone (RFC 7413).
        self.acked[0] = tcp.seq.wrapping_add(1);
        self.bits |= KNOWN[0] | ACKED[0] | if anew { HALF_OPEN } else { 0 };
    }

    fn note_remote(&mut self, tcp: &TcpFields, end: u32) {
        let (syn, ack) = (tcp.flags.contains(TcpFlags::SYN), tcp.flags.contains(TcpFlags::ACK));
        if syn {
            // A SYN alone is a simultaneous open: the backend's answer to it will show its number (RFC 9293 3.5).
            if ack && !self.has(KNOWN[1]) && self.acknowledges_syn(tcp) {
                self.next[1] = end;
                self.acked[0] = tcp.ack;
                self.bits = self.bits & !HALF_OPEN | KNOWN[1];
            }
            return;
        }
        if self.has(KNOWN[1]) && tcp.seq == self.next[1] {
            self.next[1] = end;
            self.bits &= !RESET[1];
        }
        if tcp.flags.contains(TcpFlags::FIN) {
            // Believed once all before it has come through, or once the backend acknowledges exactly it.
            self.fin_end = end;
            self.bits |= FIN_CLAIMED;
        }
        let within = self.next[0].wrapping_sub(tcp.ack) < WINDOW_MAX;
        if ack && self.has(KNOWN[0]) && within && (!self.has(ACKED[0]) || is_after(tcp.ack, self.acked[0])) {
            self.acked[0] = tcp.ack;
            self.bits |= ACKED[0];
        }
    }

    fn reset(&mut self, direction: Direction, tcp: &TcpFields) -> Progress {
        let side = match direction {
            Direction::Out => 0,
            Direction::In => 1,
        };
        let expected = (self.has(KNOWN[side]) && tcp.seq == self.next[side])
            || (self.has(ACKED[side]) && tcp.seq == self.acked[side]);
        // A refused connection: the reset is the first packet of its side and acknowledges the SYN (RFC 9293 3.10.7.3).
        let refused = side == 1 && self.has(HALF_OPEN) && !self.has(KNOWN[1]) && self.acknowledges_syn(tcp);
        if !expected && !refused {
            return Progress::Ignored;
        }
        self.bits |= RESET[side];
        Progress::Open
    }

    /// Whether the remote's segment acknowledges the backend's SYN, which only who has seen it can.
    fn acknowledges_syn(&self, tcp: &TcpFields) -> bool {
        let exact = tcp.ack == self.next[0] || (self.has(ACKED[0]) && tcp.ack == self.acked[0]);
        self.has(KNOWN[0]) && tcp.flags.contains(TcpFlags::ACK) && exact
    }
}

/// The sequence number behind a segment; SYN and FIN count as an octet each.
fn end_of(tcp: &TcpFields) -> u32 {
    let syn = u32::from(tcp.flags.contains(TcpFlags::SYN));
    let fin = u32::from(tcp.flags.contains(TcpFlags::FIN));
    tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(syn + fin)
}

/// Serial number comparison (RFC 1982): `a` comes after `b`.
const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
