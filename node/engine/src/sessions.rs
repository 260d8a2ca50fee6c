//! What an owner tells of its mappings for a log: each that comes to life and each that ends (R24). Off unless asked for.
//! Compact records in a queue of fixed size, which the driver empties; nothing here is formatted, and nothing waits for it.
//! What finds no room is counted. Called by the worker when the log has answered.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use crate::flow::Slot;
use crate::ids::ShardId;
use crate::record::{InsideKey, PublicKey};
use crate::worker::Worker;

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
    /// The inside.
    pub inside: InsideKey,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    queue: VecDeque<Session>,
    lost: u64,
}

impl Worker {
    /// Tells of mappings from now on, by `poll_session`.
    pub fn log_sessions(&mut self) {
        self.sessions = Some(Sessions { queue: VecDeque::with_capacity(QUEUE_MAX), lost: 0 });
    }

    /// The next event of a mapping. Call until `None`, after each batch.
    pub fn poll_session(&mut self) -> Option<Session> {
        self.sessions.as_mut()?.queue.pop_front()
    }

    /// How many events found no room.
    #[must_use]
    pub fn sessions_lost(&self) -> u64 {
        self.sessions.as_ref().map_or(0, |sessions| sessions.lost)
    }

    /// Takes note of what became of a mapping of this owner's.
    pub(crate) fn note_session(&mut self, now_ns: u64, shard: ShardId, slot: Slot, fate: SessionFate) {
        if self.sessions.is_none() {
            return;
        }
        let (Some(s), Some(snapshot)) = (self.replica(shard), &self.snapshot) else { return };
        let record = s.replica.table.record(slot);
        let Some(frontend) = snapshot.frontends.get(&record.frontend) else { return };
        let (public_ip, public, inside) = (frontend.ip, record.public(), record.inside_key());
        let Some(sessions) = &mut self.sessions else { return };
        if sessions.queue.len() < QUEUE_MAX {
            sessions.queue.push_back(Session { at_ns: now_ns, fate, public_ip, public, inside });
        } else {
            sessions.lost += 1;
        }
    }
}
