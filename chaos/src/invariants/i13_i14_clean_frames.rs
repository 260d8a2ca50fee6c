//! I13: no inside address ever appears outside. I14: every checksum that leaves is right.

use engine::wire::{FrameMeta, IpPacket, Parsed, parse};

use super::{Check, Violation, ensure};

/// The EtherType of an owner's announcement, which no host reads.
const ANNOUNCEMENT: [u8; 2] = [0x88, 0xb5];

/// Reads a frame that left; `None` for ARP and announcements, and for an ICMP error or a later fragment, which name no flow.
///
/// # Errors
/// I14 if the engine's own parser, which checks lengths and sums, refuses it.
pub fn read(frame: &[u8]) -> Result<Option<IpPacket>, Violation> {
    if frame.get(12..14) == Some(&ANNOUNCEMENT) {
        return Ok(None);
    }
    match parse(frame, &FrameMeta::default()) {
        Ok(Parsed::Ip(packet)) => Ok(Some(packet)),
        Ok(Parsed::Arp(_) | Parsed::Error(_) | Parsed::Fragment(_) | Parsed::Sounding(_)) => Ok(None),
        Err(reason) => Err(Violation { invariant: "I14", what: format!("a frame left that is {reason:?}") }),
    }
}

/// Checks a frame that left outside.
///
/// # Errors
/// If its source is private.
pub fn outside(packet: &IpPacket) -> Check {
    ensure(!packet.src.is_private(), "I13", || format!("inside address {} appeared outside", packet.src))
}
