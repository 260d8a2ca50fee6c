//! What ends at this gateway itself: answers to its probes, until the driver takes them. Bounded; what finds no room is
//! dropped, and a connection sends it again.

use std::collections::VecDeque;

use crate::event::DropReason;
use crate::ids::BackendId;

/// Answers that wait for the driver at most; it looks after every batch of frames.
const WAITING_MAX: usize = 1024;

/// A packet of a backend for the platform's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whose it is.
    pub backend: BackendId,
    /// The port that it is for.
    pub port: u16,
    /// It, from its IPv4 header to its end. Its transport checksum was verified, or is still to be made: nobody need look
    /// at it.
    pub packet: Box<[u8]>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Delivered(VecDeque<Answer>);

impl Delivered {
    /// A frame that came in ends here, once it is taken.
    pub(crate) fn push(&mut self, answer: Answer) -> Result<(), DropReason> {
        if self.0.len() >= WAITING_MAX {
            return Err(DropReason::HoldLimit);
        }
        self.0.push_back(answer);
        Ok(())
    }

    /// The next one.
    pub(crate) fn pop(&mut self) -> Option<Answer> {
        self.0.pop_front()
    }
}
