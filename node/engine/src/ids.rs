//! Identifiers that the engine, the control state and the dataplane share. One newtype per word of the vocabulary.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, bincode::Encode, bincode::Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/** A cluster member, as its certificate names it. */ NodeId(u32));
id!(/** One life of a node: the control log index of its registration, so unique and increasing for ever. It is also
the raft id of each of its flow replicas. */ Incarnation(u64));
id!(/** A group of frontends: the unit of ownership, of replication and of core affinity. Below 65536: it is part of the vMAC. */ ShardId(u16));
id!(/** A public IP address that flows are translated to, by its number in the control state. */ FrontendId(u32));
id!(/** An IP configuration in a pool, by its number in the control state. */ BackendId(u32));
id!(/** A virtual network; private addresses of different ones may overlap (D14). */ VnetId(u32));
id!(/** A Raft term of a shard's flow group. Epoch `e` starts at term `e << 32`, so terms grow across epochs too. */ Term(u64));
id!(/** A log index of a shard's flow group. */ LogIndex(u64));
id!(/** An index of the control log: names one version of the control state. */ ControlIndex(u64));

/// One more than the greatest shard id: tables that are indexed by it have so many places.
pub const SHARDS_MAX: u16 = 1024;

/// A MAC address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, bincode::Encode, bincode::Decode)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// First four octets of every shard's virtual MAC: locally administered, then "QN".
    pub const VIRTUAL_PREFIX: [u8; 4] = [0x02, 0x51, 0x4e, 0x00];

    /// The virtual MAC of a shard.
    #[must_use]
    pub const fn of_shard(shard: ShardId) -> Self {
        let [hi, lo] = shard.0.to_be_bytes();
        let p = Self::VIRTUAL_PREFIX;
        Self([p[0], p[1], p[2], p[3], hi, lo])
    }

    /// The shard that this virtual MAC belongs to; `None` for any other address.
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

/// A contiguous range of ports of one frontend, a power of two long and aligned to its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
pub struct PortBlock {
    /// The frontend whose ports these are.
    pub frontend: FrontendId,
    /// The first port.
    pub start: u16,
    /// How many ports; a power of two.
    pub len: u16,
}

impl PortBlock {
    /// Whether `port` lies in this block.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        port >= self.start && port - self.start < self.len
    }
}

/// Which data network a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Side {
    /// The network of the backends.
    Inside,
    /// The network of the public addresses.
    Outside,
}

/// The lease word of one shard on one node (rule K3): written by the flow-group loop alone, read by workers before each
/// transmission and by the kernel's egress guard. Times are CLOCK_BOOTTIME in nanoseconds; 0 means "not held".
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LeaseWord {
    /// The incarnation that wrote the word.
    pub incarnation: Incarnation,
    /// The term in which the lease is held.
    pub term: Term,
    /// Nothing new, and no frame from the shard's vMAC, from this time on.
    pub lease_until_ns: u64,
    /// Committed mappings may be repeated from the node's own MAC until then, if no successor is known.
    pub grace_until_ns: u64,
}
