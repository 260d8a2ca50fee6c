//! What is watched of a TCP connection: both FINs, and the next sequence number of each side, because a reset is believed
//! only at exactly that number (R18, I17). Hot path. Local to the owner and never replicated: after a takeover an unknown
//! sequence believes no reset, and the idle timeout ends the flow.

use crate::wire::{TcpFields, TcpFlags};

/// Silence after a believed reset before the mapping closes (R18, profile `azure`).
pub const RESET_SILENCE_NS: u64 = 16_000_000_000;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the backend.
    Out,
    /// From the remote.
    In,
}

/// What is known of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track {
    next: [u32; 2],
    bits: u8,
}

const FIN: [u8; 2] = [1, 2];
const KNOWN: [u8; 2] = [4, 8];
const RESET: u8 = 16;

/// What the packet did to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on.
    Open,
    /// Both sides have sent FIN.
    Finished,
}

impl Track {
    /// Nothing seen.
    pub const NEW: Self = Self { next: [0; 2], bits: 0 };

    /// Takes note of a packet.
    pub fn observe(&mut self, direction: Direction, tcp: &TcpFields) -> Progress {
        let (own, other) = match direction {
            Direction::Out => (0, 1),
            Direction::In => (1, 0),
        };
        if tcp.flags.contains(TcpFlags::RST) {
            if self.believes(own, other, tcp) {
                self.bits |= RESET;
            }
            return Progress::Open;
        }
        if tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::ACK) && direction == Direction::Out {
            // A new connection on the same tuple.
            *self = Self::NEW;
        }
        let length = u32::from(tcp.flags.contains(TcpFlags::SYN)) + u32::from(tcp.flags.contains(TcpFlags::FIN));
        let end = tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(length);
        if self.bits & KNOWN[own] == 0 || is_after(end, self.next[own]) {
            self.next[own] = end;
            self.bits |= KNOWN[own];
        }
        if tcp.flags.contains(TcpFlags::FIN) {
            self.bits |= FIN[own];
        }
        if self.bits & FIN[0] != 0 && self.bits & FIN[1] != 0 { Progress::Finished } else { Progress::Open }
    }

    /// Whether a believed reset was seen: the mapping then lives until `RESET_SILENCE_NS` of silence.
    #[must_use]
    pub const fn reset_seen(&self) -> bool {
        self.bits & RESET != 0
    }

    fn believes(&self, own: usize, other: usize, tcp: &TcpFields) -> bool {
        if self.bits & KNOWN[own] != 0 {
            return tcp.seq == self.next[own];
        }
        // A refused connection: the reset is the first packet of its side and acknowledges the SYN (RFC 9293 3.10.7.3).
        self.bits & KNOWN[other] != 0 && tcp.flags.contains(TcpFlags::ACK) && tcp.ack == self.next[other]
    }
}

/// Serial number comparison (RFC 1982): `a` comes after `b`.
const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpFields {
        TcpFields { flags: TcpFlags(flags), seq, ack, payload_len }
    }
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FINACK: u8 = 17;
    const RST: u8 = 4;

    fn established() -> Track {
        let mut t = Track::NEW;
        t.observe(Direction::Out, &packet(SYN, 100, 0, 0));
        t.observe(Direction::In, &packet(SYN | ACK, u32::MAX, 101, 0));
        t.observe(Direction::Out, &packet(ACK, 101, 0, 10));
        t
    }

    #[test]
    fn only_the_second_fin_finishes_and_a_repeated_one_does_not() {
        let mut t = established();
        assert_eq!(t.observe(Direction::Out, &packet(FINACK, 111, 0, 0)), Progress::Open);
        assert_eq!(t.observe(Direction::Out, &packet(FINACK, 111, 0, 0)), Progress::Open);
        assert_eq!(t.observe(Direction::In, &packet(ACK, 0, 112, 50)), Progress::Open, "half close carries data");
        assert_eq!(t.observe(Direction::In, &packet(FINACK, 50, 112, 0)), Progress::Finished);
    }

    #[test]
    fn a_reset_off_the_expected_sequence_changes_nothing() {
        let mut t = established();
        for seq in [1, 50, u32::MAX, 100] {
            let before = t;
            t.observe(Direction::In, &packet(RST, seq, 0, 0));
            assert_eq!(t, before);
        }
        t.observe(Direction::In, &packet(RST, 0, 0, 0));
        assert!(t.reset_seen());
    }

    #[test]
    fn a_refused_connection_is_believed_by_its_acknowledgement() {
        let mut t = Track::NEW;
        t.observe(Direction::Out, &packet(SYN, 100, 0, 0));
        t.observe(Direction::In, &packet(RST | ACK, 0, 100, 0));
        assert!(!t.reset_seen());
        t.observe(Direction::In, &packet(RST | ACK, 0, 101, 0));
        assert!(t.reset_seen());
        t.observe(Direction::Out, &packet(SYN, 900, 0, 0));
        assert!(!t.reset_seen(), "a new SYN starts over");
    }
}
