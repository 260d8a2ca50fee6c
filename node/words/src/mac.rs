//! MAC addresses, and those that shards have.

use std::fmt;

use bincode::{Decode, Encode};

use crate::ShardId;

/// A MAC address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// First four octets of every shard's virtual MAC: locally administered, then "QN".
    pub const VIRTUAL_PREFIX: [u8; 4] = [0x02, 0x51, 0x4e, 0x00];

    /// The virtual MAC of a shard.
    #[inline]
    #[must_use]
    pub const fn of_shard(shard: ShardId) -> Self {
        let [hi, lo] = shard.0.to_be_bytes();
        let p = Self::VIRTUAL_PREFIX;
        Self([p[0], p[1], p[2], p[3], hi, lo])
    }

    /// The shard that this virtual MAC belongs to; `None` for any other address.
    #[inline]
    #[must_use]
    pub fn shard(self) -> Option<ShardId> {
        let [a, b, c, d, hi, lo] = self.0;
        ([a, b, c, d] == Self::VIRTUAL_PREFIX).then(|| ShardId(u16::from_be_bytes([hi, lo])))
    }
}

/// What is no MAC address in text, which is six pairs of hexadecimal digits with colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMac;

impl std::str::FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut mac = Self::default();
        let mut pairs = text.split(':');
        for octet in &mut mac.0 {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(pair.ok_or(NoMac)?, 16).map_err(|_| NoMac)?;
        }
        if pairs.next().is_none() { Ok(mac) } else { Err(NoMac) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
