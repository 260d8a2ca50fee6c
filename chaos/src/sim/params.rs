//! What one seed draws before anything runs.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) use words::time::MS;

/// The streams of chance of one seed; drawing from one never shifts another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Params = 0,
    Network = 1,
    Faults = 2,
    Load = 3,
    Storage = 4,
    Schedule = 5,
    Rare = 6,
    Operator = 7,
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
    pub(super) clocks: Vec<Clock>,
    pub(super) rare: Rare,
}

/// How a machine's clock differs from the world's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    ahead_ns: u64,
    /// Parts per million that it runs fast.
    fast_ppm: u64,
}

impl Clock {
    /// What it shows at this moment of the world.
    pub(super) const fn at(self, now_ns: u64) -> u64 {
        now_ns + self.ahead_ns + now_ns / 1_000 * self.fast_ppm / 1_000
    }
}

/// Which seeds are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// All kinds of runs.
    Mixed,
    /// Only those in which members die while others are missing and the operator acts at any moment.
    Wild,
}

/// What makes the rarer paths common.
#[derive(Clone, Debug)]
pub(super) struct Rare {
    /// Records of a chunk: few, so that a table takes many chunks, with writes between them.
    pub(super) chunk_records: usize,
    /// Entries kept for followers that lag: few, so that they have to load the table anew.
    pub(super) retained: u64,
    /// Control entries between two compactions: few, so that a replica that lags is sent the whole state.
    pub(super) compact_every: u64,
    /// Members die while others are missing, so that majorities are lost, and faults go on.
    pub(super) deadly: bool,
    /// An operator moves replicas, removes nodes, asks for stops and takes tokens back at any moment.
    pub(super) operated: bool,
    /// Disks refuse to sync, to write and to be read.
    pub(super) failing_disks: bool,
    /// Chance that a node answers a leader in another one's name as well.
    pub(super) lies: f64,
    /// The operator removes nodes that are down.
    pub(super) removes: bool,
    /// A member's threads take turns at random, a few inputs at a time.
    pub(super) shuffled: bool,
    /// Where a member's queues end.
    pub(super) limits: Limits,
    /// A member in which the worker or the flow thread makes no turn for a second ends its life, as the daemon's watch does.
    pub(super) watched: bool,
    /// The cluster was founded by builds that know the first level of the formats alone; whoever starts again is newer.
    pub(super) older: bool,
}

/// Where a member's queues end, and what may leave at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Frames that wait for the worker; more are lost.
    pub(super) frames: usize,
    /// Outputs of the worker that wait for the flow thread; it is not asked for more.
    pub(super) outputs: usize,
    /// Duties that wait for the control thread; beyond that, what comes again by itself is left out.
    pub(super) duties: usize,
    /// Frames of other members that wait for the control thread; more are lost.
    pub(super) control: usize,
    /// Frames that the engine releases in a step of time; the others wait there.
    pub(super) released: usize,
}

impl Limits {
    /// As in the daemon, where they are counted in octets as if they had no end.
    const DAEMON: Self =
        Self { frames: 512, outputs: 1 << 16, duties: 4_096, control: usize::MAX, released: usize::MAX };

    /// So low that each is reached.
    fn tight(rng: &mut ChaCha8Rng) -> Self {
        Self {
            // More than the calm flows of the end at once, which come again together.
            frames: rng.random_range(32..64),
            outputs: rng.random_range(1..6),
            // More than a turn of the flow thread says at once, as in the daemon: else some would never be said.
            duties: rng.random_range(16..24),
            control: rng.random_range(8..64),
            // More than comes in a step on average, over one owner of all; else nothing that is bounded would ever pass.
            released: rng.random_range(2..5),
        }
    }
}

impl Rare {
    fn draw(seed: u64, kind: Kind) -> Self {
        let mut rng = stream(seed, Stream::Rare);
        let wild = kind == Kind::Wild;
        let mut rare = Self {
            chunk_records: if rng.random_bool(0.5) { rng.random_range(1..40) } else { usize::MAX },
            retained: if rng.random_bool(0.4) { rng.random_range(20..200) } else { 4_096 },
            compact_every: if rng.random_bool(0.5) { rng.random_range(3..40) } else { 512 },
            deadly: rng.random_bool(0.25) || wild,
            operated: rng.random_bool(0.3) || wild,
            failing_disks: rng.random_bool(0.2),
            lies: if rng.random_bool(0.3) { 0.2 } else { 0.0 },
            removes: wild,
            shuffled: rng.random_bool(0.5),
            limits: if rng.random_bool(0.4) { Limits::tight(&mut rng) } else { Limits::DAEMON },
            watched: rng.random_bool(0.3),
            older: rng.random_bool(0.3),
        };
        // Somebody has to raise the level.
        rare.operated |= rare.older;
        rare
    }
}

impl Params {
    pub(super) fn draw(seed: u64, kind: Kind) -> Self {
        let mut rng = stream(seed, Stream::Params);
        let mut rates = stream(seed, Stream::Rare);
        rates.set_word_pos(1_024);
        let steady = rates.random_bool(0.5);
        let mut fast_ppm = || if steady { 500 } else { rates.random_range(0..=1_000) };
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
            clocks: (0..8)
                .map(|_| Clock { ahead_ns: rng.random_range(0..1_000_000 * MS), fast_ppm: fast_ppm() })
                .collect(),
            rare: Rare::draw(seed, kind),
        }
    }
}
