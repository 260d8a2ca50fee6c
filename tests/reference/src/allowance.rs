//! What a backend may open and what the gateway may say, naively: tokens that fill up with time. Spans again, for packets
//! of which nobody can tell whether they opened anything.

use std::net::Ipv4Addr;

use engine::ids::Link;
use words::time::SECOND_NS;

use crate::flow::Cost;

/// R21: so many flows a second, and at once. In billionths of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    per_second: u64,
    least: i128,
    most: i128,
    at_ns: u64,
}

impl Rate {
    /// Full.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        let full = i128::from(per_second) * i128::from(SECOND_NS);
        Self { per_second, least: full, most: full, at_ns: 0 }
    }

    /// Whether one more flow may open: for sure, and at all.
    pub fn allows(&mut self, now_ns: u64) -> (bool, bool) {
        let one = i128::from(SECOND_NS);
        let filled = i128::from(now_ns - self.at_ns) * i128::from(self.per_second);
        let full = i128::from(self.per_second) * one;
        self.at_ns = now_ns;
        self.least = full.min(self.least + filled);
        self.most = full.min(self.most + filled);
        (self.least >= one, self.most >= one)
    }

    /// A flow opened, or opened again; what is there may be less than nothing then (R22).
    pub fn pay(&mut self, now_ns: u64, cost: Cost) {
        self.allows(now_ns);
        let one = i128::from(SECOND_NS);
        self.least -= if cost == Cost::None { 0 } else { one };
        self.most -= if cost == Cost::One { one } else { 0 };
    }
}

/// R25: notices are few. So many to one receiver at once are always said, and in a second never more than the other.
const SAID_AT_ONCE: usize = 20;
const SAID_MAX: usize = 70;

/// What the gateway has said lately.
#[derive(Debug, Default)]
pub struct Notices(Vec<(u64, (Link, Ipv4Addr))>);

impl Notices {
    /// Judges whether a notice to `receiver` had to be said, or had better not been.
    ///
    /// # Errors
    /// Says which.
    pub fn judge(&mut self, now_ns: u64, receiver: (Link, Ipv4Addr), said: bool) -> Result<(), String> {
        self.0.retain(|(at, _)| at + SECOND_NS > now_ns);
        let to_him = self.0.iter().filter(|(_, to)| *to == receiver).count();
        if said {
            self.0.push((now_ns, receiver));
        }
        match said {
            false if self.0.len() < SAID_AT_ONCE => Err("nobody was told what became of it".into()),
            true if to_him >= SAID_MAX => Err(format!("{to_him} notices in a second to {receiver:?}")),
            _ => Ok(()),
        }
    }
}
