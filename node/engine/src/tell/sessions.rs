//! What an owner tells of its mappings for a log: each that comes to life and each that ends (R24). Off unless asked for.
//! Compact records in a queue of fixed size, which the driver empties; nothing here is formatted, and nothing waits for it.
//! What finds no room is counted. Called by the worker when the log has answered.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use crate::flow::Record;
use crate::record::{Endpoint, InsideKey, PublicKey};

/// Records that wait for the driver at most; it looks after every batch of frames.
const QUEUE_MAX: usize = 1 << 14;

/// What became of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionFate {
    /// It came to life, or back to life.
    Opened,
    /// It closed; its port is held.
    Closed,
}

/// One event of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// When it was committed, by CLOCK_BOOTTIME.
    pub at_ns: u64,
    /// What happened.
    pub fate: SessionFate,
    /// Address of the frontend.
    pub public_ip: Ipv4Addr,
    /// The public side.
    pub public: PublicKey,
    /// The inside, at the backend's own address.
    pub inside: InsideKey,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    queue: VecDeque<Session>,
    lost: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::with_capacity(QUEUE_MAX), lost: 0 }
    }

    pub(crate) fn pop(&mut self) -> Option<Session> {
        self.queue.pop_front()
    }

    /// How many found no room.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// What became of the mapping that this record is, whose backend is at `own`.
    pub(crate) fn note(
        &mut self,
        at_ns: u64,
        fate: SessionFate,
        public_ip: Ipv4Addr,
        (record, own): (&Record, Endpoint),
    ) {
        if self.queue.len() < QUEUE_MAX {
            let (public, inside) = (record.public(), InsideKey { vnet: record.vnet, endpoint: own });
            self.queue.push_back(Session { at_ns, fate, public_ip, public, inside });
        } else {
            self.lost += 1;
        }
    }
}
