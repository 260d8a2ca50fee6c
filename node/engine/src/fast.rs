//! What the kernel's fast path is told and asked: it carries the packets of mappings about which all is decided, so that no
//! worker wakes for them. Data, and the trait by which a worker reaches it: memory that the kernel shares in the daemon, a
//! table in tests. Decides nothing; `cache` keeps the books, `judge::caching` says what is worth an entry.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use crate::ids::{BackendId, Incarnation, Link, Mac, ShardId, Term};
use crate::record::Proto;
pub use words::{FastBoth, FastSeen};

/// Which mappings are handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FastMode {
    /// None; what was handed over is taken back.
    #[default]
    Off,
    /// Those in use: packets have passed both ways.
    On,
    /// Each as soon as all is decided about it: for tests, which want every packet on that path that may go there.
    Eager,
}

/// One side of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastSide {
    /// By which packets come from there and go there.
    pub link: Link,
    /// Who takes what goes there; inside also who alone may send from there.
    pub mac: Mac,
    /// The longest IP packet that goes there.
    pub mtu: u16,
}

/// A mapping with what is done to its packets, both ways, and what that stands by; or two instances that no group judges, with
/// all that passes between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastEntry {
    /// Whose virtual MAC they are sent to, and whose lease they need.
    pub shard: ShardId,
    /// The life that decided it.
    pub incarnation: Incarnation,
    /// The term in which.
    pub term: Term,
    /// The revision at which; see [`FastTable::raise`].
    pub made: u64,
    /// Whose revision.
    pub backend: BackendId,
    /// And whose, if what passes is private: between two instances, of which nothing but a hop changes.
    pub far: Option<BackendId>,
    /// TCP or UDP. `None`: whatever passes between the two; both ports are 0 then.
    pub proto: Option<Proto>,
    /// The backend's end.
    pub inside: (Ipv4Addr, u16),
    /// The public end; private: the backend's.
    pub public: (Ipv4Addr, u16),
    /// The remote end; private: the other instance's.
    pub remote: (Ipv4Addr, u16),
    /// Towards the backend.
    pub to_backend: FastSide,
    /// Towards the next hop outside; private: towards the other instance.
    pub to_hop: FastSide,
    /// TCP, of the backend and of the remote: behind the last octet of it that is known, and the newest that it acknowledged.
    pub tcp: [(u32, u32); 2],
}

/// A worker's part of the fast path. Entries have numbers below `flows`; whoever has it says which one is free.
pub trait FastTable: Debug + Send {
    /// Flows that it has room for.
    fn flows(&self) -> u32;
    /// From now on it carries the packets of a mapping; `number` was removed, or never installed. `false`: it does not.
    fn install(&mut self, number: u32, entry: &FastEntry) -> bool;
    /// From now on no packet passes by the entry.
    fn kill(&mut self, number: u32);
    /// Takes away what finds a killed entry. A second later its number may be used again, not earlier: packets may be on
    /// their way by it.
    fn remove(&mut self, number: u32);
    /// What has passed by an entry since it was installed.
    fn seen(&self, number: u32) -> FastBoth;
    /// What was decided about packets of a backend before `made` no longer stands.
    fn raise(&mut self, backend: BackendId, made: u64);
    /// What was decided before `made` no longer stands.
    fn raise_all(&mut self, made: u64);
}

/// The books of a worker's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastCounts {
    /// Mappings, and pairs of instances, that it carries now.
    pub entries: u64,
    /// As many as it has room for.
    pub room: u64,
    /// Handed over so far.
    pub installed: u64,
    /// Taken back so far.
    pub ended: u64,
    /// Part of those: nobody had used them lately, and others wanted room.
    pub cold: u64,
    /// Not handed over, for want of room or because the kernel did not take them.
    pub refused: u64,
}

impl FastCounts {
    /// Together with another worker's.
    #[must_use]
    pub const fn with(&self, other: &Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            room: self.room + other.room,
            installed: self.installed + other.installed,
            ended: self.ended + other.ended,
            cold: self.cold + other.cold,
            refused: self.refused + other.refused,
        }
    }
}
