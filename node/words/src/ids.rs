//! Identifiers and numbers of the cluster: who, which, and in what order.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/** A cluster member, as its certificate names it. */ NodeId(u32));
id!(/** One life of a node: the control log index of its registration, so unique and increasing for ever; never 0. It is also
the raft id of each of its flow replicas. */ Incarnation(u64));
id!(/** A group of frontends: the unit of ownership, of replication (one flow group each) and of core affinity. Below
`SHARDS_MAX`: it is part of the vMAC and indexes tables. */ ShardId(u16));
id!(/** A public IP address that flows are translated to, by its number in the control state. */ FrontendId(u32));
id!(/** An IP configuration in a pool, by its number in the control state. */ BackendId(u32));
id!(/** A virtual network; private addresses of different ones may overlap (D14). */ VnetId(u32));
id!(/** A founding of a shard's flow group; grows with each re-creation (N4). */ Epoch(u32));
id!(/** A Raft term of a shard's flow group. Epoch `e` starts at term `e << 32`, so terms grow across epochs too. */ Term(u64));
id!(/** A log index of a shard's flow group. */ LogIndex(u64));
id!(/** An index of the control log: names one version of the control state. */ ControlIndex(u64));

/// One more than the greatest shard id: tables that are indexed by it have so many places (`SHARDS` of `bpf/guard.c`).
pub const SHARDS_MAX: u16 = 1024;

impl Term {
    /// The epoch that the term belongs to.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        let [a, b, c, d, ..] = self.0.to_be_bytes();
        Epoch(u32::from_be_bytes([a, b, c, d]))
    }
}

impl Epoch {
    /// Terms of this epoch are at least this one.
    #[must_use]
    pub const fn first_term(self) -> Term {
        Term((self.0 as u64) << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::{Epoch, Term};

    #[test]
    fn terms_belong_to_the_epoch_that_they_start_in() {
        for epoch in [0, 1, 7, u32::MAX] {
            let first = Epoch(epoch).first_term();
            assert_eq!((first.epoch(), Term(first.0 + u64::from(u32::MAX)).epoch()), (Epoch(epoch), Epoch(epoch)));
        }
        assert!(Epoch(3).first_term() > Term((2 << 32) + 9));
    }
}
