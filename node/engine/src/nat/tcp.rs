//! What is watched of a TCP connection (RFC 7857, RFC 6146): its sequence numbers, because a reset or a FIN is believed only
//! where the other end would believe it (R18, I17, RFC 5961), and how far its handshake and its closing have come. Hot path.
//!
//! Local to the owner and never replicated. It never decides about a packet: what is not believed is translated and changes
//! nothing. After a takeover it knows nothing, believes nothing, and learns again from the first segments of both sides; a
//! connection without knowledge counts as established, so that nobody is cut off.

use crate::wire::{TcpFields, TcpFlags};

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the backend.
    Out,
    /// From the remote.
    In,
}

/// What is known of one connection. Arrays are indexed by side: 0 the backend's, 1 the remote's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track {
    /// Behind the last octet that the side has sent.
    next: [u32; 2],
    /// What the other side expects next of this side: its newest acknowledgment number.
    acked: [u32; 2],
    /// log2, rounded up, of the largest window that the other side has offered to this side.
    window_log2: [u8; 2],
    /// Window scale of each side's own offers, a nibble each (RFC 7323).
    scales: u8,
    bits: u16,
}

const FIN: [u16; 2] = [1, 2];
const KNOWN: [u16; 2] = [4, 8];
const ACKED: [u16; 2] = [16, 32];
const RESET: [u16; 2] = [64, 128];
const HALF_OPEN: u16 = 256;
const ANSWERED: u16 = 512;
/// The greatest scale that exists, assumed of sides whose SYN was not seen (RFC 7323 2.3).
const SCALE_MAX: u8 = 14;
/// No window is larger; a segment behind by more is not a retransmission.
const WINDOW_MAX: u32 = 1 << 30;

/// What the packet did to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on.
    Open,
    /// Both sides have sent FIN.
    Finished,
}

/// How far a connection is, which decides its idle timeout (RFC 5382 REQ-5, RFC 7857 section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The remote has not answered the SYN.
    HalfOpen,
    /// Both sides have spoken, or nothing is known.
    Established,
    /// A FIN was seen.
    Closing,
    /// A believed reset was seen, and its sender is silent since.
    Reset,
}

impl Track {
    /// Nothing seen.
    pub const NEW: Self =
        Self { next: [0; 2], acked: [0; 2], window_log2: [0; 2], scales: SCALE_MAX << 4 | SCALE_MAX, bits: 0 };

    /// Takes note of a packet.
    pub fn observe(&mut self, direction: Direction, tcp: &TcpFields) -> Progress {
        let (own, other) = match direction {
            Direction::Out => (0, 1),
            Direction::In => (1, 0),
        };
        if tcp.flags.contains(TcpFlags::RST) {
            if self.believes_reset(own, other, tcp) {
                self.bits |= RESET[own];
            }
            return Progress::Open;
        }
        let syn = tcp.flags.contains(TcpFlags::SYN);
        let first = syn && !tcp.flags.contains(TcpFlags::ACK);
        if first && own == 0 && self.is_new_connection(tcp) {
            *self = Self::NEW;
            self.bits = HALF_OPEN;
        }
        let length = u32::from(syn) + u32::from(tcp.flags.contains(TcpFlags::FIN));
        let end = tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(length);
        if self.fits(own, end) {
            self.take(own, other, tcp, end);
        }
        if tcp.flags.contains(TcpFlags::ACK) {
            self.acknowledge(own, other, tcp);
        }
        if self.bits & FIN[0] != 0 && self.bits & FIN[1] != 0 { Progress::Finished } else { Progress::Open }
    }

    /// How far the connection is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        if self.bits & (RESET[0] | RESET[1]) != 0 {
            Phase::Reset
        } else if self.bits & (FIN[0] | FIN[1]) != 0 {
            Phase::Closing
        } else if self.bits & HALF_OPEN != 0 {
            Phase::HalfOpen
        } else {
            Phase::Established
        }
    }

    /// Whether a believed reset was seen: the mapping then lives until some silence.
    #[must_use]
    pub const fn reset_seen(&self) -> bool {
        self.bits & (RESET[0] | RESET[1]) != 0
    }

    /// The sequence number with which a reset in the name of `from` is believed by the other end, if it is known (R27).
    #[must_use]
    pub const fn reset_sequence(&self, from: Direction) -> Option<u32> {
        let side = match from {
            Direction::Out => 0,
            Direction::In => 1,
        };
        if self.bits & ACKED[side] != 0 { Some(self.acked[side]) } else { None }
    }

    /// A datagram flow was asked again: it waits for an answer.
    pub const fn ask(&mut self) {
        self.bits &= !ANSWERED;
    }

    /// A datagram flow was answered. Returns whether this is the first answer since it was asked.
    pub const fn answer(&mut self) -> bool {
        let first = self.bits & ANSWERED == 0;
        self.bits |= ANSWERED;
        first
    }

    /// Whether a datagram flow was answered since it was asked.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.bits & ANSWERED != 0
    }

    /// Whether a SYN of the backend begins a connection, rather than being sent once more, or late.
    const fn is_new_connection(&self, tcp: &TcpFields) -> bool {
        if self.bits & KNOWN[0] == 0 || self.bits & (RESET[0] | RESET[1] | FIN[0] | FIN[1]) != 0 {
            return true;
        }
        is_after(tcp.seq, self.next[0])
    }

    /// Whether a segment that ends at `end` lies where the other side would take it.
    const fn fits(&self, own: usize, end: u32) -> bool {
        if self.bits & KNOWN[own] == 0 {
            return true;
        }
        if !is_after(end, self.next[own]) {
            return self.next[own].wrapping_sub(end) < WINDOW_MAX;
        }
        if self.bits & ACKED[own] == 0 {
            // The other side has told no window yet: what follows directly will do.
            return end.wrapping_sub(self.next[own]) < 1 << 16;
        }
        end.wrapping_sub(self.acked[own]) <= 1 << self.window_log2[own]
    }

    fn take(&mut self, own: usize, other: usize, tcp: &TcpFields, end: u32) {
        if self.bits & KNOWN[own] == 0 || is_after(end, self.next[own]) {
            self.next[own] = end;
            self.bits |= KNOWN[own];
        }
        self.bits &= !RESET[own];
        if tcp.flags.contains(TcpFlags::SYN) {
            let scale = tcp.window_scale.unwrap_or(0).min(SCALE_MAX);
            self.scales = if own == 0 { self.scales & 0xf0 | scale } else { self.scales & 0x0f | scale << 4 };
            let answers = !tcp.flags.contains(TcpFlags::ACK) || tcp.ack == self.next[other];
            if own == 1 && answers {
                // SYN and ACK, or a SYN of its own: simultaneous open (RFC 9293 3.5).
                self.bits &= !HALF_OPEN;
            }
        }
        if tcp.flags.contains(TcpFlags::FIN) {
            self.bits |= FIN[own];
        }
    }

    /// Takes note of what side `own` acknowledges of the other's octets. The backend's word is taken; the remote's, which
    /// anybody could forge, only within what the backend has sent.
    fn acknowledge(&mut self, own: usize, other: usize, tcp: &TcpFields) {
        let known = self.bits & KNOWN[other] != 0;
        let within = !is_after(tcp.ack, self.next[other]) && self.next[other].wrapping_sub(tcp.ack) < WINDOW_MAX;
        if own == 1 && !(known && within) {
            return;
        }
        if self.bits & ACKED[other] == 0 || is_after(tcp.ack, self.acked[other]) {
            self.acked[other] = tcp.ack;
            self.bits |= ACKED[other];
        }
        if known && !within {
            // Learned from a stray segment, or octets that another owner passed on.
            self.next[other] = tcp.ack;
        }
        // The window of a SYN is never scaled (RFC 7323 2.2).
        let scale = if tcp.flags.contains(TcpFlags::SYN) { 0 } else { self.scales >> (4 * own) & 0x0f };
        let window = u32::from(tcp.window) << scale;
        let log2 = u8::try_from(window.max(1).next_power_of_two().ilog2()).expect("a logarithm of 32 bits");
        self.window_log2[other] = self.window_log2[other].max(log2);
    }

    /// Only a reset at exactly the number that the other side expects is believed (R18), or, with data under way, at the one
    /// behind all that was sent.
    fn believes_reset(&self, own: usize, other: usize, tcp: &TcpFields) -> bool {
        let expected = self.bits & ACKED[own] != 0 && tcp.seq == self.acked[own];
        let behind_all = self.bits & KNOWN[own] != 0 && tcp.seq == self.next[own];
        // A refused connection: the reset is the first packet of its side and acknowledges the SYN (RFC 9293 3.10.7.3).
        let refused = self.bits & HALF_OPEN != 0
            && self.bits & KNOWN[own] == 0
            && self.bits & KNOWN[other] != 0
            && tcp.flags.contains(TcpFlags::ACK)
            && tcp.ack == self.next[other];
        expected || behind_all || refused
    }
}

/// Serial number comparison (RFC 1982): `a` comes after `b`.
const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
