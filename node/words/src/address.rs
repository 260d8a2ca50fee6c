//! Addresses as keys hold them.
//!
//! Four octets in memory: a record is then as long as a line of the cache, and packets of large tables wait for memory more
//! than for anything else. Sixteen octets where they are written (D14: what the log says of a flow is the same for either
//! family). IPv6 would add a parser, a rewriter and a table of wider records beside this one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

/// An IPv4 address; written as 16 octets, mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Addr([u8; 4]);

impl From<Ipv4Addr> for Addr {
    #[inline]
    fn from(ip: Ipv4Addr) -> Self {
        Self(ip.octets())
    }
}

impl Addr {
    /// That of nobody, 0.0.0.0.
    pub const NONE: Self = Self([0; 4]);

    /// The address. `None` is for what is no IPv4 address, as soon as there is any.
    #[inline]
    #[must_use]
    pub const fn ipv4(self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from_octets(self.0))
    }

    /// As a number, in the order of addresses.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl Encode for Addr {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        Ipv4Addr::from(self.0).to_ipv6_mapped().octets().encode(encoder)
    }
}

impl<C> Decode<C> for Addr {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let wide = Ipv6Addr::from_octets(<[u8; 16]>::decode(decoder)?);
        wide.to_ipv4_mapped().map(Self::from).ok_or(DecodeError::Other("an address that is not IPv4"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Addr {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(self.0).fmt(f)
    }
}

/// Address and port (or ICMP identifier).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// Port in host order; for ICMP echo the identifier on the inside and public side, 0 on the remote side.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_mapped_and_another_family_is_refused() {
        let config = bincode::config::standard().with_fixed_int_encoding();
        let addr = Addr::from(Ipv4Addr::new(198, 51, 100, 7));
        let written = bincode::encode_to_vec(addr, config).expect("fits");
        assert_eq!(written, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
        assert_eq!(bincode::decode_from_slice(&written, config).expect("mapped"), (addr, 16));
        let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).octets();
        assert!(bincode::decode_from_slice::<Addr, _>(&six, config).is_err());
    }
}
