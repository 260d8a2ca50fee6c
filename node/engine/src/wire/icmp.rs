//! Hot path. ICMP (RFC 792): queries, whose identifier stands for a port (RFC 5508), and errors, which carry the packet
//! that they are about (`quote`). Called by `wire::parse`.

use super::transport::{IcmpKind, Transport};
use crate::event::DropReason;

/// Octets of the header of every message that is understood here.
pub(super) const LEN: u16 = 8;
/// Where the checksum stands in the header.
pub(super) const CHECKSUM_AT: u16 = 2;
/// Where the identifier of an echo message stands in the header.
pub(super) const IDENTIFIER_AT: u16 = 4;

/// An ICMP message that has all octets of its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    kind: u8,
    code: u8,
    identifier: u16,
    /// Of an error: words of the quote, 0 if it fills the message (RFC 4884).
    quoted_words: u8,
}

/// What a message is, for translation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    Query(Transport),
    /// Of so many words, if it says so.
    Error {
        quoted_words: u8,
    },
}

/// Takes the header apart; its meaning waits for the checksum.
pub(super) fn parse(payload: &[u8]) -> Result<Message, DropReason> {
    let [kind, code, _, _, i0, i1, _, _] = *payload.first_chunk::<{ LEN as usize }>().ok_or(DropReason::Truncated)?;
    Ok(Message { kind, code, identifier: u16::from_be_bytes([i0, i1]), quoted_words: i1 })
}

impl Message {
    /// What the message is, for translation.
    pub(super) fn meaning(self) -> Result<Meaning, DropReason> {
        let (icmp, src_port, dst_port) = match (self.kind, self.code) {
            (8, 0) => (IcmpKind::EchoRequest, self.identifier, 0),
            (0, 0) => (IcmpKind::EchoReply, 0, self.identifier),
            // Unreachable, time exceeded, parameter problem (RFC 792, RFC 1122, RFC 1812).
            (3, 0..=15) | (11, 0..=1) | (12, 0..=2) => return Ok(Meaning::Error { quoted_words: self.quoted_words }),
            // No RFC knows another code.
            (8 | 0 | 3 | 11 | 12, _) => return Err(DropReason::Malformed),
            // Among them source quench, which nobody may heed (RFC 6633), and redirect, which is for the own link.
            _ => return Err(DropReason::UnknownProtocol),
        };
        Ok(Meaning::Query(Transport { src_port, dst_port, tcp: None, icmp: Some(icmp) }))
    }
}

/// Reads the query that a quote starts with; errors about errors, and about anything else, are none.
pub(super) fn parse_quoted(payload: [u8; LEN as usize]) -> Result<Transport, DropReason> {
    match parse(&payload)?.meaning() {
        Ok(Meaning::Query(transport)) => Ok(transport),
        Ok(Meaning::Error { .. }) | Err(_) => Err(DropReason::IcmpQuote),
    }
}
