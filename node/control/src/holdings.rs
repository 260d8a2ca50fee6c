//! What there is to allocate: frontends, backends, and blocks on their way back. Plain values of the state; `allocation` changes
//! them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bincode::{Decode, Encode};
use engine::ids::{BackendId, ControlIndex, FrontendId, Mac, PortBlock, ShardId, VnetId};

use engine::snapshot::OnReclaim;

use crate::default_outbound::ways::Granting;
use crate::resource::PoolRef;

/// A public address that flows are translated to.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Frontend {
    /// The address. As long as this entry lives, the same address keeps this id and shard.
    pub ip: Ipv4Addr,
    /// Its shard, as long as the entry lives. A new frontend comes to where its pool's backends have lost theirs; else it begins a
    /// shard of its own while there are fewer than `settings.shards_max`; else it joins the one with the fewest frontends, of
    /// these the one that is home to the fewest backends, of these the one of the lowest id. Frontends on their way out count.
    pub shard: ShardId,
    /// What it is for, or was when it was declared last.
    pub purpose: Purpose,
    /// Ports never handed out (D8).
    pub reserved: BTreeSet<u16>,
    /// Ports from 1024 on that inbound rules have: withdrawn from leases, and never handed out (W3).
    pub ruled: BTreeSet<u16>,
    /// Whether the configuration still wants it.
    pub declared: Declared,
    /// Since when, by the clock of proposers, it is neither declared nor used by a lease or a draining block.
    pub idle_since_unix_ms: Option<u64>,
}

impl Frontend {
    /// Ports that nobody may be given.
    pub(crate) fn barred(&self) -> BTreeSet<u16> {
        self.reserved.union(&self.ruled).copied().collect()
    }

    /// Whether a block holds a port of an inbound rule.
    pub(crate) fn rules_within(&self, block: PortBlock) -> bool {
        self.ruled.range(block.start..=block.start + (block.len - 1)).next().is_some()
    }
}

/// What a public address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Purpose {
    /// A load balancer's: its ports are granted to many.
    Shared,
    /// One backend's own (S2).
    Own(BackendId),
    /// The system's, granted to those who have nothing else (S4).
    System,
}

/// Whether the present configuration holds a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Declared {
    /// It does.
    Yes,
    /// It does not; the entry stays until its blocks have drained.
    No,
}

/// An IP configuration.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Backend {
    /// Its virtual network.
    pub vnet: VnetId,
    /// Its address. (vnet, ip) keeps this id as long as the entry lives.
    pub ip: Ipv4Addr,
    /// Who alone may have it, if that is declared (I43).
    pub mac: Option<Mac>,
    /// The instance.
    pub instance: String,
    /// The IP configuration of the instance.
    pub ip_configuration: String,
    /// Its pool.
    pub pool: Option<PoolRef>,
    /// By what it gets ports.
    pub granting: Granting,
    /// Whether the configuration still wants it.
    pub declared: Declared,
    /// Its home shard (M3); `None` only while there is no frontend at all.
    pub home: Option<ShardId>,
    /// The public address that is to be its own.
    pub public: Option<Ipv4Addr>,
    /// The same, once it has it: nobody else's flows are left there.
    pub own: Option<FrontendId>,
    /// The frontend that it is bound to (D1).
    pub frontend: Option<FrontendId>,
    /// Its lease, sorted, without draining blocks.
    pub lease: Vec<PortBlock>,
    /// Ports that its pool's tier grants; 0 without an outbound path.
    pub grant: u16,
}

impl Backend {
    /// Ports leased now.
    #[must_use]
    pub fn ports(&self) -> u16 {
        self.lease.iter().map(|block| block.len).sum()
    }

    /// All that is its own on a frontend now: blocks of its lease, or the whole address.
    pub fn blocks_on(&self, frontend: FrontendId) -> impl Iterator<Item = PortBlock> + '_ {
        let own = self.own.into_iter().filter(move |own| *own == frontend).flat_map(PortBlock::whole);
        self.lease.iter().copied().filter(move |block| block.frontend == frontend).chain(own)
    }
}

/// A block on its way back (S14).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Drain {
    /// Whose lease it was.
    pub backend: BackendId,
    /// The control index at which it began to drain (F5).
    pub reclaim_index: ControlIndex,
    /// What happens to its flows (D5).
    pub on_reclaim: OnReclaim,
}
