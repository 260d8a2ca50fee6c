//! What is kept beside a record: what is done to its mapping's packets. Data only; `crate::translation` decides.

use std::net::Ipv4Addr;

use crate::neigh::Place;

/// What is done to the packets of a mapping, both ways: decided once, applied to many. A value beside the record, by slot; not
/// replicated, and lost without harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The revision that it was made at; 0: there is none.
    pub(crate) made: u64,
    /// The address of its public end; the port is the record's.
    pub(crate) public: Ipv4Addr,
    /// Who takes what goes out.
    pub(crate) hop: Ipv4Addr,
    /// Where the backend's neighbour entry stands, and the next hop's.
    pub(crate) inside: Place,
    pub(crate) outside: Place,
    /// What an answer of the remote does to the mapping.
    pub(crate) answers: Answers,
    /// Packets that a worker has translated by it, of each side, until it was handed over; they end at 255.
    pub(crate) passed: [u8; 2],
    /// One more than the number of the fast path's entry that carries it; 0: none does.
    pub(crate) fast: u32,
}

const _: () = assert!(size_of::<Translation>() <= 64, "a cache line beside the record");

/// What answers of the remote do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answers {
    /// Nothing.
    Nothing,
    /// The first one shortens the mapping's life (D26).
    Shorten,
}

impl Translation {
    pub(crate) const NONE: Self = Self {
        made: 0,
        public: Ipv4Addr::UNSPECIFIED,
        hop: Ipv4Addr::UNSPECIFIED,
        inside: Place::NOWHERE,
        outside: Place::NOWHERE,
        answers: Answers::Nothing,
        passed: [0; 2],
        fast: 0,
    };
}
