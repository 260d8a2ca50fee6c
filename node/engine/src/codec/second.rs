//! Records as versions 5 and 6 have them: levels 2 and 3 of the cluster. Little-endian, octet by octet:
//!
//! ```text
//! open    0 · protocol u8 · scenario u8 · backend u32 · public · remote · inside
//! close   1 · protocol u8 · reason u8 · public · remote
//! fence   2 · frontend u32 · first port u16 · ports u16 · reclaim index u64
//! scanned protocol u8 · scenario u8 · state u8 · written at u64 · backend u32 · public · remote · inside
//!
//! public  0 · frontend u32 · port u16        1: the inside end itself, untranslated
//! remote  0 · address · port u16             1 · virtual network u32 · address · port u16
//! inside  virtual network u32 · address · port u16
//! address 4 · 4 octets                       6 · 16 octets
//! ```
//!
//! Protocols are IANA's numbers; version 5 has those of level 2 alone. What this build does not translate yet (protocols, IPv6, ends
//! in virtual networks) is refused as damaged: a level that allows it is above this build's.

use std::net::Ipv4Addr;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use crate::ids::{BackendId, ControlIndex, FrontendId, LogIndex, PortBlock, VnetId};
use crate::record::{Addr, CloseReason, Endpoint, FlowRecord, InsideKey, Open, Proto, PublicKey, ScanRecord, Scenario};

/// Encoded length of the longest record that this format can have: between two private ends of IPv6.
pub(super) const RECORD_MAX_LEN: usize = 1 + 2 + 4 + PUBLIC_MAX_LEN + REMOTE_MAX_LEN + INSIDE_MAX_LEN;
/// Encoded length of the longest scanned record that this format can have.
pub(super) const SCAN_RECORD_MAX_LEN: usize = 3 + 8 + 4 + PUBLIC_MAX_LEN + REMOTE_MAX_LEN + INSIDE_MAX_LEN;
const PUBLIC_MAX_LEN: usize = 1 + 4 + 2;
const REMOTE_MAX_LEN: usize = 1 + INSIDE_MAX_LEN;
const INSIDE_MAX_LEN: usize = 4 + 1 + 16 + 2;

const OPEN: u8 = 0;
const CLOSE: u8 = 1;
const FENCE: u8 = 2;
const TRANSLATED: u8 = 0;
const OUTSIDE: u8 = 0;
const IPV4: u8 = 4;

/// A `FlowRecord`.
pub(super) struct Written(pub(super) FlowRecord);

/// A `ScanRecord`.
pub(super) struct Scanned(pub(super) ScanRecord);

impl Encode for Written {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        match self.0 {
            FlowRecord::Open(Open { public, inside, backend, scenario }) => {
                (OPEN, public.proto as u8, scenario as u8, backend).encode(to)?;
                put_public(&public, to)?;
                put_inside(inside, to)
            }
            FlowRecord::Close { public, reason } => {
                (CLOSE, public.proto as u8, reason.number()).encode(to)?;
                put_public(&public, to)
            }
            FlowRecord::Fence { block, reclaim_index } => {
                (FENCE, block.frontend, block.start, block.len, reclaim_index).encode(to)
            }
        }
    }
}

impl<C> Decode<C> for Written {
    fn decode<D: Decoder<Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        let record = match u8::decode(from)? {
            OPEN => {
                let proto = take_proto(from)?;
                let scenario = take_scenario(from)?;
                let backend = BackendId::decode(from)?;
                let (public, inside) = (take_public(proto, from)?, take_inside(from)?);
                FlowRecord::Open(Open { public, inside, backend, scenario })
            }
            CLOSE => {
                let proto = take_proto(from)?;
                let reason = CloseReason::of_number(u8::decode(from)?).ok_or(DecodeError::Other("reason"))?;
                FlowRecord::Close { public: take_public(proto, from)?, reason }
            }
            FENCE => {
                let (frontend, start, len, reclaim_index) = <(FrontendId, u16, u16, ControlIndex)>::decode(from)?;
                FlowRecord::Fence { block: PortBlock { frontend, start, len }, reclaim_index }
            }
            _ => return Err(DecodeError::Other("kind of record")),
        };
        Ok(Self(record))
    }
}

impl Encode for Scanned {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        let ScanRecord { open: Open { public, inside, backend, scenario }, written_at, .. } = self.0;
        (public.proto as u8, scenario as u8, self.0.state(), written_at, backend).encode(to)?;
        put_public(&public, to)?;
        put_inside(inside, to)
    }
}

impl<C> Decode<C> for Scanned {
    fn decode<D: Decoder<Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        let proto = take_proto(from)?;
        let scenario = take_scenario(from)?;
        let (state, written_at, backend) = <(u8, LogIndex, BackendId)>::decode(from)?;
        let (public, inside) = (take_public(proto, from)?, take_inside(from)?);
        let open = Open { public, inside, backend, scenario };
        ScanRecord::of(open, state, written_at).map(Self).ok_or(DecodeError::Other("state"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Written {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        Self::decode(from)
    }
}

impl<'de, C> BorrowDecode<'de, C> for Scanned {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        Self::decode(from)
    }
}

fn put_public<E: Encoder>(public: &PublicKey, to: &mut E) -> Result<(), EncodeError> {
    (TRANSLATED, public.frontend, public.port).encode(to)?;
    OUTSIDE.encode(to)?;
    put_endpoint(public.remote, to)
}

fn put_inside<E: Encoder>(inside: InsideKey, to: &mut E) -> Result<(), EncodeError> {
    inside.vnet.encode(to)?;
    put_endpoint(inside.endpoint, to)
}

fn put_endpoint<E: Encoder>(endpoint: Endpoint, to: &mut E) -> Result<(), EncodeError> {
    (IPV4, endpoint.addr.bits().to_be_bytes(), endpoint.port).encode(to)
}

fn take_public<D: Decoder>(proto: Proto, from: &mut D) -> Result<PublicKey, DecodeError> {
    let TRANSLATED = u8::decode(from)? else { return Err(DecodeError::Other("an end that is not translated")) };
    let (frontend, port) = <(FrontendId, u16)>::decode(from)?;
    let OUTSIDE = u8::decode(from)? else { return Err(DecodeError::Other("a remote that is not outside")) };
    Ok(PublicKey { proto, frontend, port, remote: take_endpoint(from)? })
}

fn take_inside<D: Decoder>(from: &mut D) -> Result<InsideKey, DecodeError> {
    Ok(InsideKey { vnet: VnetId::decode(from)?, endpoint: take_endpoint(from)? })
}

fn take_endpoint<D: Decoder>(from: &mut D) -> Result<Endpoint, DecodeError> {
    let IPV4 = u8::decode(from)? else { return Err(DecodeError::Other("an address that is not IPv4")) };
    let (octets, port) = <([u8; 4], u16)>::decode(from)?;
    Ok(Endpoint { addr: Addr::from(Ipv4Addr::from(octets)), port })
}

fn take_proto<D: Decoder>(from: &mut D) -> Result<Proto, DecodeError> {
    let number = u8::decode(from)?;
    Proto::of_number(number).ok_or(DecodeError::Other("protocol"))
}

fn take_scenario<D: Decoder>(from: &mut D) -> Result<Scenario, DecodeError> {
    let number = usize::from(u8::decode(from)?);
    Scenario::ALL.get(number).copied().ok_or(DecodeError::Other("scenario"))
}
