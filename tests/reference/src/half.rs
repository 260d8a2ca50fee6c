//! What a remote has begun with an address that is one backend's own, and nothing proves yet (W3).

use crate::connection::Segment;
use crate::sent::{End, Packet};

/// One of these.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    pub(crate) proto: u8,
    pub(crate) near: u16,
    pub(crate) remote: End,
    pub(crate) since_ns: u64,
    /// Of a connection: the numbers of which one acknowledges its backend's answer.
    pub(crate) proof: Option<(u32, u32)>,
}

impl Half {
    pub(crate) fn is_of(&self, p: &Packet) -> bool {
        (self.proto, self.near, self.remote) == (p.proto, p.near, (p.remote, p.service))
    }

    pub(crate) fn is_proved_by(&self, s: Segment) -> bool {
        s.acknowledges() && self.proof.is_some_and(|(first, last)| (first..=last).contains(&s.ack))
    }
}
