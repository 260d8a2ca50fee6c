//! What the kernel's egress guard has counted. Data only.

/// Frames by the guard's judgement, since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardCounters {
    /// From a vMAC within the lease.
    pub pass_lease: u64,
    /// To a peer's MAC.
    pub pass_forward: u64,
    /// A sounding to a peer's MAC.
    pub pass_sounding: u64,
    /// From the own MAC within the grace.
    pub pass_grace: u64,
    /// From a vMAC outside of the lease.
    pub drop_lease: u64,
    /// From the own MAC after the grace.
    pub drop_grace: u64,
    /// From the own MAC with an address of no shard: would leave untranslated (R28).
    pub drop_address: u64,
    /// ARP of the node's own stack: it has no address here (M1).
    pub drop_arp: u64,
    /// Neither ARP nor plain IPv4.
    pub drop_protocol: u64,
    /// Source MAC neither virtual nor the device's.
    pub drop_source: u64,
    /// Too short to be judged.
    pub drop_short: u64,
    /// On an interface that the guard does not know.
    pub drop_device: u64,
    /// Received for a virtual MAC with the tag of a VLAN.
    pub drop_tagged: u64,
}

impl GuardCounters {
    /// In the order of `enum reason` in the program.
    pub(crate) fn of(sums: Vec<u64>) -> Self {
        let mut sums = sums.into_iter();
        let mut next = || sums.next().unwrap_or_default();
        Self {
            pass_lease: next(),
            pass_forward: next(),
            pass_sounding: next(),
            pass_grace: next(),
            drop_lease: next(),
            drop_grace: next(),
            drop_address: next(),
            drop_arp: next(),
            drop_protocol: next(),
            drop_source: next(),
            drop_short: next(),
            drop_device: next(),
            drop_tagged: next(),
        }
    }
}
