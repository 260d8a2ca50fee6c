//! What one seed draws before anything runs.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MS: u64 = 1_000_000;

/// The streams of chance of one seed; drawing from one never shifts another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Params = 0,
    Network = 1,
    Faults = 2,
    Load = 3,
    Storage = 4,
    Schedule = 5,
}

pub(super) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// Whether a fault may begin before the last one has healed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Faults {
    OneAtATime,
    Overlapping,
}

/// The kind of a run.
#[derive(Clone, Debug)]
pub(super) struct Params {
    pub(super) nodes: u32,
    pub(super) faults: Faults,
    /// Longest ordinary delay between members.
    pub(super) delay_ns: u64,
    /// Chance of a frame between members to need a retransmission, to be lost with its connection, to be overtaken, and
    /// to come a second time, perhaps much later.
    pub(super) late: f64,
    pub(super) lost: f64,
    pub(super) overtaken: f64,
    pub(super) doubled: f64,
    /// The same for frames of the data networks.
    pub(super) data_doubled: f64,
    pub(super) data_overtaken: f64,
    pub(super) reconfigures: bool,
    /// At the end a majority of a shard's replicas dies at once (N4).
    pub(super) majority_dies: bool,
    pub(super) skews_ns: Vec<u64>,
}

impl Params {
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = stream(seed, Stream::Params);
        let mut chance = |share: f64, value: f64| if rng.random_bool(share) { value } else { 0.0 };
        let late = chance(0.4, 0.02);
        let lost = chance(0.2, 0.003);
        let overtaken = chance(0.4, 0.01);
        let doubled = chance(0.6, 0.01);
        let data_doubled = chance(0.5, 0.02);
        let data_overtaken = chance(0.5, 0.05);
        let slow = rng.random_bool(0.25);
        Self {
            nodes: if rng.random_bool(0.25) { 5 } else { 3 },
            faults: if rng.random_bool(0.4) { Faults::Overlapping } else { Faults::OneAtATime },
            delay_ns: if slow { 6 * MS } else { MS / 2 },
            late,
            lost,
            overtaken,
            doubled,
            data_doubled,
            data_overtaken,
            reconfigures: rng.random_bool(0.7),
            majority_dies: rng.random_bool(0.1),
            skews_ns: (0..8).map(|_| rng.random_range(0..1_000_000 * MS)).collect(),
        }
    }
}
