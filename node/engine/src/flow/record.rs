//! One mapping in the slab: its keys, what the log says of it, and what this node alone knows of it. Hot path.

use words::SplitMix;

use crate::ids::{BackendId, FrontendId, LogIndex, VnetId};
use crate::nat::tcp::Track;
use crate::record::{CloseReason, Endpoint, HoldClass, InsideKey, Open, Proto, PublicKey, Scenario};
use crate::snapshot::Sharing;

/// Position of a record in its table's slab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// Where a hand that walks over the slab meets it.
    #[must_use]
    pub const fn position(self) -> u32 {
        self.0
    }
}

/// What the log says of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The slot is empty.
    Free,
    /// The mapping translates.
    Live,
    /// The mapping closed; its port is not for others towards this remote, and late packets still pass (D6).
    Held(HoldClass),
}

/// The in2out key: one mapping per remote (profile `azure`, S8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    /// Protocol.
    pub proto: Proto,
    /// The backend's end.
    pub inside: InsideKey,
    /// The remote end.
    pub remote: Endpoint,
}

/// A mapping.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The remote end.
    pub remote: Endpoint,
    /// The backend's end.
    pub inside: Endpoint,
    /// Public port or ICMP identifier.
    pub public_port: u16,
    /// Protocol.
    pub proto: Proto,
    /// Live or held.
    pub state: State,
    /// Whose lease the port comes from.
    pub backend: BackendId,
    /// Virtual network of the inside end.
    pub vnet: VnetId,
    /// Frontend of the public end.
    pub frontend: FrontendId,
    /// Local: what is under way with it.
    pub mark: Mark,
    /// Under which right it stands, and, local, what it takes besides its tuple.
    pub(super) terms: Terms,
    /// The entry that wrote the record last.
    pub written_at: LogIndex,
    /// Local: when the last packet came that counts for the idle timeout; of a held one, when its hold began.
    pub last_seen: Seen,
    /// Local: what was seen of the TCP connection.
    pub tcp: Track,
}

const _: () = assert!(size_of::<Record>() == 64, "as long as a line of the cache");

/// What is under way with a record; never both at once, since only an owner closes and only a joiner replays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Nothing.
    None,
    /// A `Close` is in the worker's stream but not applied yet.
    Closing(CloseReason),
    /// It came with a scan and was not written by the replay since (F10).
    Scanned,
}

/// A time in units of 67 ms, rounded up, so that no idle timeout ends early. It lasts for nine years of uptime.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seen(u32);

impl Seen {
    const UNIT_LOG2: u32 = 26;

    /// The first unit that does not begin before `ns`.
    #[must_use]
    pub fn at(ns: u64) -> Self {
        Self(u32::try_from(ns.div_ceil(1 << Self::UNIT_LOG2)).unwrap_or(u32::MAX))
    }

    /// In nanoseconds.
    #[must_use]
    pub const fn ns(self) -> u64 {
        (self.0 as u64) << Self::UNIT_LOG2
    }
}

/// A scenario and what the mapping claims, in one octet: a record has no other left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms(u8);

impl Terms {
    const CLAIM_SHIFT: u32 = 4;
    const SCENARIO: u8 = (1 << Self::CLAIM_SHIFT) - 1;

    /// Nothing is claimed.
    const fn new(scenario: Scenario) -> Self {
        Self(scenario as u8 | (Sharing::Tuple as u8) << Self::CLAIM_SHIFT)
    }

    const fn scenario(self) -> Scenario {
        Scenario::ALL[(self.0 & Self::SCENARIO) as usize]
    }

    const fn claim(self) -> Sharing {
        Sharing::ALL[(self.0 >> Self::CLAIM_SHIFT) as usize]
    }

    pub(super) const fn claiming(self, claim: Sharing) -> Self {
        Self(self.0 & Self::SCENARIO | (claim as u8) << Self::CLAIM_SHIFT)
    }
}

impl Record {
    pub(super) const EMPTY: Self = Self {
        remote: Endpoint { addr: crate::record::Addr::NONE, port: 0 },
        inside: Endpoint { addr: crate::record::Addr::NONE, port: 0 },
        public_port: 0,
        proto: Proto::Icmp,
        state: State::Free,
        backend: BackendId(0),
        vnet: VnetId(0),
        frontend: FrontendId(0),
        mark: Mark::None,
        terms: Terms::new(Scenario::Pool),
        written_at: LogIndex(0),
        last_seen: Seen(0),
        tcp: Track::NEW,
    };

    /// The out2in key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        PublicKey { proto: self.proto, frontend: self.frontend, port: self.public_port, remote: self.remote }
    }

    /// The inside end with its virtual network.
    #[must_use]
    pub const fn inside_key(&self) -> InsideKey {
        InsideKey { vnet: self.vnet, endpoint: self.inside }
    }

    /// As it was opened.
    #[must_use]
    pub const fn opened(&self) -> Open {
        let (public, inside) = (self.public(), self.inside_key());
        Open { public, inside, backend: self.backend, scenario: self.terms.scenario() }
    }

    /// Under which right it stands.
    #[must_use]
    pub const fn scenario(&self) -> Scenario {
        self.terms.scenario()
    }

    /// What the mapping takes besides its tuple.
    #[must_use]
    pub const fn claim(&self) -> Sharing {
        self.terms.claim()
    }

    /// The in2out key.
    #[must_use]
    pub const fn flow(&self) -> FlowKey {
        FlowKey { proto: self.proto, inside: self.inside_key(), remote: self.remote }
    }

    /// Why the mapping is about to close, if a `Close` is on its way.
    #[must_use]
    pub const fn closing(&self) -> Option<CloseReason> {
        match self.mark {
            Mark::Closing(reason) => Some(reason),
            Mark::None | Mark::Scanned => None,
        }
    }

    /// Whether the replay has not written the record since it came with a scan.
    #[must_use]
    pub fn from_scan(&self) -> bool {
        self.mark == Mark::Scanned
    }

    /// A digest of the replicated values, the same in every build. Records' digests are summed; who can choose values to fit
    /// is a member, and members are trusted.
    pub(crate) fn digest(&self) -> u64 {
        let held = match self.state {
            State::Held(class) => 1 + class as u64,
            State::Live | State::Free => 0,
        };
        let words = [
            u64::from(self.remote.addr.bits()) << 32 | u64::from(self.inside.addr.bits()),
            u64::from(self.remote.port) << 48 | u64::from(self.inside.port) << 32 | u64::from(self.public_port) << 16,
            u64::from(self.backend.0) << 32 | u64::from(self.vnet.0),
            u64::from(self.frontend.0) << 32 | (self.terms.scenario() as u64) << 16 | (self.proto as u64) << 8 | held,
            self.written_at.0,
        ];
        words.into_iter().fold(0, |digest, word| SplitMix::mix(digest ^ word))
    }

    /// Something of the record's cache line.
    pub(crate) const fn peek(&self) -> u64 {
        self.written_at.0
    }

    /// Whether the mapping translates without question.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }
}

impl Record {
    /// A mapping that comes to life.
    pub(super) fn of(open: Open, index: LogIndex, seen: Seen) -> Self {
        let Open { public, inside, backend, scenario } = open;
        Self {
            remote: public.remote,
            inside: inside.endpoint,
            public_port: public.port,
            proto: public.proto,
            state: State::Live,
            backend,
            vnet: inside.vnet,
            frontend: public.frontend,
            terms: Terms::new(scenario),
            written_at: index,
            last_seen: seen,
            ..Self::EMPTY
        }
    }

    /// A record as another replica's scan brought it (F10).
    #[must_use]
    pub fn scanned(scanned: &crate::record::ScanRecord, state: State) -> Self {
        Self { state, mark: Mark::Scanned, ..Self::of(scanned.open, scanned.written_at, Seen(0)) }
    }
}
