//! Hot path. ICMP queries (RFC 792, RFC 5508): echo request and reply, whose identifier stands for a port. Errors are a
//! variant of their own when they come: they carry another packet, not an identifier. Called by `wire::parse`.

use super::Transport;
use crate::event::DropReason;

/// Octets of the header of an echo message.
const LEN: usize = 8;
/// Where the checksum stands in the header.
pub(super) const CHECKSUM_AT: u16 = 2;
/// Where the identifier of an echo message stands in the header.
pub(super) const IDENTIFIER_AT: u16 = 4;

/// Which query it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpKind {
    /// Echo request: the identifier is the source port.
    EchoRequest,
    /// Echo reply: the identifier is the destination port.
    EchoReply,
}

/// An ICMP message that has all octets of its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    kind: u8,
    code: u8,
    identifier: u16,
}

/// Takes the header apart; its meaning waits for the checksum.
pub(super) fn parse(payload: &[u8]) -> Result<Message, DropReason> {
    let [kind, code, _, _, i0, i1, _, _] = *payload.first_chunk::<LEN>().ok_or(DropReason::Truncated)?;
    Ok(Message { kind, code, identifier: u16::from_be_bytes([i0, i1]) })
}

impl Message {
    /// What the message is, for translation.
    pub(super) fn transport(self) -> Result<Transport, DropReason> {
        let (icmp, src_port, dst_port) = match (self.kind, self.code) {
            (8, 0) => (IcmpKind::EchoRequest, self.identifier, 0),
            (0, 0) => (IcmpKind::EchoReply, 0, self.identifier),
            // RFC 792 knows no other code of an echo.
            (8 | 0, _) => return Err(DropReason::Malformed),
            _ => return Err(DropReason::UnknownProtocol),
        };
        Ok(Transport { src_port, dst_port, tcp: None, icmp: Some(icmp) })
    }
}
