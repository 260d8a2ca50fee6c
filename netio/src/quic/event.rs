//! What the transport tells its owner, and how it waits for him.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

/// What the transport tells its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A frame sent with [`super::Transport::send`].
    Frame {
        /// The sender, proved by its certificate.
        from: u32,
        /// The channel it was sent on.
        channel: u32,
        /// The frame, at most [`super::FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A frame sent with [`super::Transport::send_bulk`]; its channels are numbered apart from those of `Frame`.
    Bulk {
        /// The sender, proved by its certificate.
        from: u32,
        /// The bulk channel it was sent on.
        channel: u32,
        /// The frame, at most [`super::FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A frame on the channel for joining: a question of a node that may be no member ([`super::Transport::ask`]), or a member's
    /// answer to ours ([`super::Transport::answer`]).
    Join {
        /// The sender, proved by its certificate.
        from: u32,
        /// The frame, at most [`super::JOIN_FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A link to this member begins.
    Up(u32),
    /// The link to this member ended; what was on its way is lost. A restarted peer shows as `Down`, then `Up`.
    Down(u32),
}

/// Events on their way to the owner; a permit gives back the receive budget when the owner has taken the frame.
pub(super) type Inbound = (Event, Option<OwnedSemaphorePermit>);
