//! Why one end closes a connection, as the other end reads it (RFC 9000, 20.2).

use quinn::VarInt;

/// All is said.
pub(super) const CLOSE_GOODBYE: VarInt = VarInt::from_u32(0);
/// The peer is no longer listed.
pub(super) const CLOSE_REMOVED: VarInt = VarInt::from_u32(1);
/// A newer connection of the same pair took over.
pub(super) const CLOSE_REPLACED: VarInt = VarInt::from_u32(2);
/// Heard you knock; you will be dialed.
pub(super) const CLOSE_KNOCKED: VarInt = VarInt::from_u32(3);
/// The certificate is good, but its member is no peer here.
pub(super) const CLOSE_NO_PEER: VarInt = VarInt::from_u32(4);
pub(super) const CLOSE_MALFORMED: VarInt = VarInt::from_u32(5);
/// Your address was not listed; it is now, if you are a member.
pub(super) const CLOSE_ASK_AGAIN: VarInt = VarInt::from_u32(7);
/// As many nodes as may ask to join do so already.
pub(super) const CLOSE_BUSY: VarInt = VarInt::from_u32(6);
