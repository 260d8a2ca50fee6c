//! When a mapping ends and when its hold does: not moments but spans, since idle mappings are noticed with a margin (I48),
//! and since nobody outside can tell what a packet did that came within one.

use engine::snapshot::Profile;
use words::time::SECOND_NS;

use crate::connection::Standing;
use crate::packet::{ICMP, TCP, UDP};
use crate::world::Rule;

/// I48: how much later the engine may notice; the larger of 2 s and 1 %, of which the second is larger from 200 s on.
const MARGIN_NS: u64 = 2_400_000_000;
/// I29: how much later a hold may end.
const HOLD_MARGIN_NS: u64 = 2 * SECOND_NS;
/// D6: after a reset, after idle UDP of the profile `rfc`, and after anything else.
const RESET_HOLD_NS: u64 = 16 * SECOND_NS;
const UDP_RFC_HOLD_NS: u64 = 120 * SECOND_NS;
const HOLD_NS: u64 = 65 * SECOND_NS;

/// D26: the shortest hold that F6 allows: grace, vote timeout and a second.
const SERVICE_HOLD_NS: u64 = 4_050_000_000;

/// I11: the last packet before a port changes hands is so old at least, and who refuses later ones may begin that early.
const QUIET_NS: u64 = 16 * SECOND_NS;
const LATE_NS: u64 = 17 * SECOND_NS + MARGIN_STEP_NS;
/// How exactly a mapping's times are known.
const MARGIN_STEP_NS: u64 = 100_000_000;

/// The silence that ends a mapping, and its hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    silence_ns: u64,
    hold_ns: u64,
}

/// D26: a well-known service has answered.
pub const ANSWERED: Timers = Timers { silence_ns: 10 * SECOND_NS, hold_ns: SERVICE_HOLD_NS };

impl Timers {
    /// The same towards a well-known service (D26).
    #[must_use]
    pub fn of_service(self) -> Self {
        Self { hold_ns: SERVICE_HOLD_NS, ..self }
    }
}

/// Those of a mapping (S13, D6, D7, R4, R14, R15, R18).
#[must_use]
pub fn timers(rule: &Rule, proto: u8, standing: Standing) -> Timers {
    let rfc = rule.profile == Profile::Rfc;
    let seconds = match (proto, standing) {
        (UDP, _) if rfc => 300,
        (ICMP, _) if rfc => 60,
        (TCP, Standing::Reset) if !rfc => 16,
        (TCP, Standing::Finished) => 0,
        (TCP, Standing::Open) if rfc => 7440,
        _ => 240,
    };
    let hold_ns = match (proto, standing) {
        (TCP, Standing::Reset) => RESET_HOLD_NS,
        (UDP, _) if rfc => UDP_RFC_HOLD_NS,
        _ => HOLD_NS,
    };
    Timers { silence_ns: seconds * SECOND_NS, hold_ns }
}

/// The longest of them all.
fn longest_ns(rule: &Rule, proto: u8) -> u64 {
    timers(rule, proto, Standing::Open).silence_ns.max(240 * SECOND_NS)
}

/// What is known of a mapping's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// It ends not before the first, and, if it is there at all, not after the second.
    ends: (u64, u64),
    /// Its hold then lasts no less than the first, and no more than the second.
    hold: (u64, u64),
}

impl Life {
    /// Of a mapping that lives from now on, undisturbed.
    #[must_use]
    pub fn from(now_ns: u64, timers: Timers) -> Self {
        let hold = (timers.hold_ns, timers.hold_ns);
        if timers.silence_ns == 0 {
            return Self { ends: (now_ns - 1, now_ns - 1), hold };
        }
        let end = now_ns + timers.silence_ns;
        Self { ends: (end, end + MARGIN_NS), hold }
    }

    /// It lives for sure.
    #[must_use]
    pub fn is_live(&self, now_ns: u64) -> bool {
        now_ns < self.ends.0
    }

    /// It may live.
    #[must_use]
    pub fn may_live(&self, now_ns: u64) -> bool {
        now_ns <= self.ends.1
    }

    /// It may be gone, hold and all, and its port somebody else's.
    #[must_use]
    pub fn may_be_gone(&self, now_ns: u64) -> bool {
        now_ns >= self.ends.0 + self.hold.0
    }

    /// Its port may be somebody else's within `LATE_NS`: late packets of the backend may be refused.
    #[must_use]
    pub fn may_refuse_late(&self, now_ns: u64) -> bool {
        now_ns + LATE_NS >= self.ends.0 + self.hold.0
    }

    /// Its hold surely has begun, not just its close on its way, and its port is somebody else's within `QUIET_NS`, if anybody
    /// wants it.
    #[must_use]
    pub fn refuses_late(&self, now_ns: u64) -> bool {
        now_ns > self.ends.1 + HOLD_MARGIN_NS && now_ns + QUIET_NS > self.ends.1 + self.hold.1
    }

    /// It is.
    #[must_use]
    pub fn is_gone(&self, now_ns: u64) -> bool {
        now_ns > self.ends.1 + self.hold.1 + HOLD_MARGIN_NS
    }

    /// It is known to live.
    pub fn lives(&mut self, now_ns: u64) {
        self.ends.0 = self.ends.0.max(now_ns + 1);
    }

    /// It is known to have ended.
    pub fn ended(&mut self, now_ns: u64) {
        self.ends = (self.ends.0.min(now_ns - 1), self.ends.1.min(now_ns - 1));
    }

    /// A packet went by that may or may not have made it live on, end or come back.
    pub fn doubt(&mut self, now_ns: u64, rule: &Rule, proto: u8) {
        self.ends.0 = self.ends.0.min(now_ns - 1);
        self.ends.1 = self.ends.1.max(now_ns + longest_ns(rule, proto) + MARGIN_NS);
        self.hold = self.any_hold();
    }

    /// Any hold of its protocol, or the one that it has.
    fn any_hold(&self) -> (u64, u64) {
        (self.hold.0.min(RESET_HOLD_NS), self.hold.1.max(UDP_RFC_HOLD_NS))
    }

    /// D26: it was answered, and lives for ten more seconds at most; `surely`: if it lives at all.
    pub fn shorten(&mut self, now_ns: u64, surely: bool) {
        let end = now_ns + ANSWERED.silence_ns;
        if surely && end + MARGIN_NS < self.ends.0 {
            *self = Self::from(now_ns, ANSWERED);
        } else {
            self.ends.0 = self.ends.0.min(end);
        }
    }

    /// I48, D6: a new owner gives all its time again, to a mapping as to a hold, and a tenth more at most.
    pub fn restart(&mut self, now_ns: u64, timers: Timers, longest: &Rule, proto: u8) {
        let late = |ns: u64| now_ns + ns + ns / 10 + MARGIN_NS;
        if self.is_live(now_ns) {
            self.ends = (now_ns + timers.silence_ns, late(timers.silence_ns));
            self.hold = (timers.hold_ns, timers.hold_ns);
            return;
        }
        if !self.may_be_gone(now_ns) {
            self.ends.0 = now_ns - 1;
        }
        if self.may_live(now_ns) {
            // Why it ends then is another matter, too.
            self.ends.1 = late(longest_ns(longest, proto));
            self.hold = self.any_hold();
        } else {
            self.ends.1 = now_ns - 1;
        }
    }
}
