//! A TCP connection, naively: what each end has sent and acknowledged, by name. Numbers are small and never wrap around.

use std::fmt;

use engine::ids::Side;

/// FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// ACK.
pub const ACK: u8 = 16;

/// What a TCP packet says besides its ports.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Control bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; meaningless without ACK.
    pub ack: u32,
    /// Bytes of data.
    pub len: u32,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [(SYN, "S"), (FIN, "F"), (RST, "R"), (ACK, "A")];
        let flags: String = flags.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect();
        write!(f, "{flags} seq {} ack {} +{}", self.seq, self.ack, self.len)
    }
}

impl Segment {
    /// Whether it asks for a connection.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.has(SYN) && !self.has(ACK)
    }

    /// Whether it agrees to one.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.has(SYN) && self.has(ACK)
    }

    /// Whether it takes leave.
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.has(FIN) || self.has(RST)
    }

    /// Whether it breaks the connection off.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.has(RST)
    }

    /// Whether it acknowledges something of a connection that goes on.
    #[must_use]
    pub fn acknowledges(&self) -> bool {
        self.has(ACK) && !self.has(RST)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn end(&self) -> u32 {
        self.seq + self.len + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// How a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It goes on, or nothing is known of it.
    Open,
    /// The remote has not answered yet.
    Asked,
    /// One end has closed.
    Closing,
    /// Both ends have closed.
    Finished,
    /// One end has reset it and was silent since.
    Reset,
}

/// What is known of one connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// The backend has asked, and nobody has answered.
    asked: bool,
    /// The end of what the backend has sent.
    backend_sent: Option<u32>,
    /// How much of it the remote has acknowledged.
    backend_arrived: Option<u32>,
    /// The end of what the remote has sent in order.
    remote_sent: Option<u32>,
    /// How much of it the backend has acknowledged.
    remote_arrived: Option<u32>,
    /// Where the remote says that it ends.
    remote_end: Option<u32>,
    backend_closed: bool,
    remote_closed: bool,
    backend_reset: bool,
    remote_reset: bool,
}

impl Connection {
    /// Takes note of a segment that arrived on `side`; `false`: of a reset that nobody believes (R18).
    pub fn add(&mut self, side: Side, s: Segment) -> bool {
        if s.has(RST) {
            return self.reset(side, s);
        }
        match side {
            Side::Inside if s.opens() => self.ask(s),
            Side::Inside => self.heard_of_backend(s),
            Side::Outside if s.has(SYN) => self.answer(s),
            Side::Outside => self.heard_of_remote(s),
        }
        if self.remote_end.is_some() && self.remote_end == self.remote_sent {
            self.remote_closed = true;
        }
        true
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.backend_reset || self.remote_reset {
            Standing::Reset
        } else if self.backend_closed && self.remote_closed {
            Standing::Finished
        } else if self.backend_closed || self.remote_closed {
            Standing::Closing
        } else if self.asked {
            Standing::Asked
        } else {
            Standing::Open
        }
    }

    fn ask(&mut self, s: Segment) {
        let goes_on = self.backend_sent.is_some()
            && !self.asked
            && !self.backend_closed
            && !self.remote_closed
            && self.standing() == Standing::Open;
        *self = Self { asked: !goes_on, ..Self::default() };
        self.backend_sent = Some(s.end());
        self.backend_arrived = Some(s.seq + 1);
    }

    fn answer(&mut self, s: Segment) {
        let known = [self.backend_sent, self.backend_arrived].contains(&Some(s.ack));
        if s.has(ACK) && known && self.remote_sent.is_none() {
            self.asked = false;
            self.remote_sent = Some(s.end());
            self.backend_arrived = Some(s.ack);
        }
    }

    fn heard_of_backend(&mut self, s: Segment) {
        self.backend_reset = false;
        self.backend_sent = self.backend_sent.max(Some(s.end()));
        if s.has(FIN) && self.backend_sent == Some(s.end()) {
            self.backend_closed = true;
        }
        if s.has(ACK) {
            self.asked = false;
            self.remote_arrived = self.remote_arrived.max(Some(s.ack));
            self.remote_sent = self.remote_sent.max(Some(s.ack));
        }
    }

    fn heard_of_remote(&mut self, s: Segment) {
        if self.remote_sent == Some(s.seq) {
            self.remote_sent = Some(s.end());
            self.remote_reset = false;
        }
        if s.has(FIN) {
            self.remote_end = Some(s.end());
        }
        if s.has(ACK) && Some(s.ack) <= self.backend_sent {
            self.backend_arrived = self.backend_arrived.max(Some(s.ack));
        }
    }

    fn reset(&mut self, side: Side, s: Segment) -> bool {
        let (sent, arrived) = match side {
            Side::Inside => (self.backend_sent, self.backend_arrived),
            Side::Outside => (self.remote_sent, self.remote_arrived),
        };
        let refused = side == Side::Outside
            && self.asked
            && self.remote_sent.is_none()
            && s.has(ACK)
            && [self.backend_sent, self.backend_arrived].contains(&Some(s.ack));
        if sent != Some(s.seq) && arrived != Some(s.seq) && !refused {
            return false;
        }
        match side {
            Side::Inside => self.backend_reset = true,
            Side::Outside => self.remote_reset = true,
        }
        true
    }
}
