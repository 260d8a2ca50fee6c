//! One mapping, naively: whose it is, how long it lives, and what is known of its connection.

use std::net::Ipv4Addr;

use engine::ids::Side;

use crate::connection::{Connection, Standing};
use crate::life::{Life, Timers, timers};
use crate::packet::{TCP, UDP};
use crate::sent::Packet;
use crate::world::{PUBLIC, Rule};

/// Services whose mappings end soon after their answer (D26).
const SHORT: [u16; 2] = [53, 123];

/// One mapping.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Protocol.
    pub proto: u8,
    /// Whose: the backend's place and its port.
    pub inside: (usize, u16),
    /// Towards whom.
    pub remote: (Ipv4Addr, u16),
    /// Under which address and port.
    pub public: Ipv4Addr,
    /// The second of them.
    pub port: u16,
    /// Who began it.
    pub begun: Side,
    /// How long.
    pub life: Life,
    /// Of TCP alone.
    connection: Connection,
    /// Nobody can tell how the connection stands.
    doubtful: bool,
    /// It was answered since it was asked (D26).
    answered: bool,
    /// Nothing was asked since a new owner has it.
    inherited: bool,
}

/// What a packet costs of its backend's rate (R21).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// Nothing: the mapping lived.
    None,
    /// One flow, or nothing.
    Perhaps,
    /// One flow.
    One,
}

impl Flow {
    /// A mapping that this packet of the backend opened.
    #[must_use]
    pub fn opened(now_ns: u64, rule: &Rule, p: &Packet, port: u16) -> Self {
        let mut flow = Self {
            proto: p.proto,
            inside: (p.backend, p.near),
            remote: (p.remote, p.service),
            public: PUBLIC,
            port,
            begun: Side::Inside,
            life: Life::from(now_ns, timers(rule, p.proto, Standing::Open)),
            connection: Connection::default(),
            doubtful: false,
            answered: false,
            inherited: false,
        };
        flow.begin(now_ns, rule, p);
        flow
    }

    /// A mapping at the address that is its backend's own, begun from the first of these sides, that a packet opened which arrived
    /// on the second.
    #[must_use]
    pub fn own(now_ns: u64, rule: &Rule, (begun, arrived): (Side, Side), p: &Packet) -> Self {
        let mut flow = Self { public: p.public, begun, ..Self::opened(now_ns, rule, p, p.near) };
        flow.connection = Connection::default();
        flow.connection.add(arrived, p.seen());
        flow.refresh(now_ns, rule);
        flow
    }

    /// Whether a packet of this protocol goes to, or comes from, its remote.
    #[must_use]
    pub fn is_of(&self, p: &Packet) -> bool {
        (self.proto, self.remote) == (p.proto, (p.remote, p.service))
    }

    /// Whether nobody else may have its port.
    #[must_use]
    pub fn is_kept(&self, now_ns: u64) -> bool {
        !self.life.may_be_gone(now_ns)
    }

    /// Whether an answer surely comes in by it (S13, D6): as long as it lives, and after its connection's end until its hold's.
    #[must_use]
    pub fn lets_in(&self, now_ns: u64) -> bool {
        self.life.is_live(now_ns) || (self.is_kept(now_ns) && !self.ends_by_silence())
    }

    /// Whether nothing may come in by it any more: it fell silent.
    #[must_use]
    pub fn is_silent(&self, now_ns: u64) -> bool {
        self.ends_by_silence() && !self.doubtful && !self.is_of_service() && !self.life.may_live(now_ns)
    }

    /// Whether it may be there although nothing came in by it.
    #[must_use]
    pub fn may_be_held(&self) -> bool {
        self.doubtful || self.ends_by_silence()
    }

    /// Behind the shared address, nothing else ends it, as far as its packets were seen.
    fn ends_by_silence(&self) -> bool {
        let ended = matches!(self.connection.standing(), Standing::Finished | Standing::Reset);
        self.public == PUBLIC && self.begun == Side::Inside && (self.proto != TCP || !ended)
    }

    fn begin(&mut self, now_ns: u64, rule: &Rule, p: &Packet) {
        self.connection = Connection::default();
        self.connection.add(Side::Inside, p.seen());
        self.refresh(now_ns, rule);
    }

    fn is_of_service(&self) -> bool {
        self.proto == UDP && self.begun == Side::Inside && SHORT.contains(&self.remote.1)
    }

    fn timers(&self, rule: &Rule, standing: Standing) -> Timers {
        let timers = timers(rule, self.proto, standing);
        // What a remote began is held no longer than it must: no other port waits for it, and the same client may come back.
        if self.is_of_service() || self.begun == Side::Outside { timers.of_service() } else { timers }
    }

    fn refresh(&mut self, now_ns: u64, rule: &Rule) {
        let standing = if self.proto == TCP { self.connection.standing() } else { Standing::Open };
        self.life = Life::from(now_ns, self.timers(rule, standing));
        (self.doubtful, self.answered, self.inherited) = (false, false, false);
    }

    /// It is held, and late packets of its connection may be refused (I11).
    #[must_use]
    pub fn may_refuse_late(&self, now_ns: u64, p: &Packet) -> bool {
        let stands = self.life.is_live(now_ns) || self.begun == Side::Outside;
        p.proto == TCP && !p.seen().opens() && !stands && self.life.may_refuse_late(now_ns)
    }

    /// Nobody can tell what a packet did to it.
    pub fn doubt(&mut self, now_ns: u64, rule: &Rule) {
        self.doubtful = true;
        self.life.doubt(now_ns, rule, self.proto);
    }

    /// It is held, and a late packet of its connection must not pass any more (I11).
    #[must_use]
    pub fn refuses_late(&self, now_ns: u64, p: &Packet) -> bool {
        let held = p.proto == TCP && !self.doubtful && !self.life.may_live(now_ns);
        held && self.stays_held(p) && !p.seen().answers() && self.life.refuses_late(now_ns)
    }

    /// A packet of the backend does not bring a held mapping back.
    fn stays_held(&self, p: &Packet) -> bool {
        let ended_itself = matches!(self.connection.standing(), Standing::Finished | Standing::Reset);
        !p.seen().opens() && (ended_itself || p.seen().leaves() || self.begun == Side::Outside)
    }

    /// A packet of the backend was translated by it.
    pub fn passed_out(&mut self, now_ns: u64, rule: &Rule, p: &Packet) -> Cost {
        let (live, held) = (self.life.is_live(now_ns), !self.life.may_live(now_ns));
        let cost = if live { Cost::None } else { Cost::Perhaps };
        if p.proto != TCP {
            self.refresh(now_ns, rule);
            return if held && !self.doubtful { Cost::One } else { cost };
        }
        if self.doubtful {
            self.life.doubt(now_ns, rule, TCP);
            return Cost::Perhaps;
        }
        if live {
            if self.connection.add(Side::Inside, p.seen()) {
                self.refresh(now_ns, rule);
            }
            return Cost::None;
        }
        if held {
            // A held mapping comes back with its connection, unless that has ended or takes leave (D6).
            let stays = self.stays_held(p);
            if stays && p.seen().answers() && self.life.may_be_gone(now_ns) {
                // Or it was gone, and this opened it anew (R6).
                self.doubtful = true;
                self.life.doubt(now_ns, rule, TCP);
                return Cost::Perhaps;
            }
            if stays {
                return Cost::None;
            }
            self.begin(now_ns, rule, p);
            return Cost::One;
        }
        let (mut on, mut anew) = (self.connection.clone(), Connection::default());
        on.add(Side::Inside, p.seen());
        anew.add(Side::Inside, p.seen());
        self.connection = anew;
        if p.seen().opens() && on == self.connection {
            self.refresh(now_ns, rule);
        } else {
            self.doubtful = true;
            self.life.doubt(now_ns, rule, TCP);
        }
        Cost::Perhaps
    }

    /// A packet of the remote was translated by it.
    pub fn passed_in(&mut self, now_ns: u64, rule: &Rule, p: &Packet) {
        let live = self.life.is_live(now_ns);
        if self.is_of_service() && !self.answered {
            self.answered = !self.inherited;
            self.life.shorten(now_ns, live && !self.inherited);
        }
        if p.proto != TCP && self.begun == Side::Outside && live {
            // What a remote may begin anew it keeps alive (R5).
            self.refresh(now_ns, rule);
        }
        if p.proto != TCP || (!self.doubtful && !self.life.may_live(now_ns)) {
            return;
        }
        if self.doubtful || !live {
            self.doubtful = true;
            self.life.doubt(now_ns, rule, TCP);
        } else if self.connection.add(Side::Outside, p.seen()) {
            self.refresh(now_ns, rule);
        }
    }

    /// A new owner has it, and knows nothing of its connection.
    pub fn taken_over(&mut self, now_ns: u64, rule: &Rule) {
        if self.life.is_live(now_ns) {
            self.connection = Connection::default();
        } else if self.life.may_live(now_ns) {
            self.doubtful = self.proto == TCP;
        }
        self.answered = false;
        self.inherited = true;
        self.life.restart(now_ns, self.timers(rule, Standing::Open), rule, self.proto);
    }
}
