//! `qnat-bench concurrent`: what it costs one member to hold many flows at once: memory, what its worker and the kernel's fast path
//! carry of them hit in turn, new flows while they are opened; what happens when all of them go idle at once, and when a member of
//! three comes back to so many. A real member, frames that the kernel makes, and no switch but in the last.

mod filling;
mod idling;
mod member;
pub mod plots;
mod probed;
mod rejoining;
pub mod rows;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine, Memory};
use crate::printing::Printing;
pub use filling::Opening;
use filling::PER_PORT;
pub use idling::Idling;
use member::Member;
pub use member::{Carried, PACED};
pub use probed::Probed;
pub use rejoining::Rejoining;

/// Octets that a flow may take in one member, by far.
const OCTETS_PER_FLOW: u64 = 400;
/// And what a lab takes without flows.
const OCTETS_OF_LAB: u64 = 2 << 30;
/// Flows that find room in the kernel's fast path at most: with more, it keeps 16,384 numbers free for others.
const CACHED_MAX: u32 = 1_000_000;

/// Arguments of `qnat-bench concurrent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// Flows at once, whole thousands.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000], value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    flows: Vec<u32>,
    /// How long datagrams are counted in a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often, of each number of flows.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// At last let all flows go idle at once, which takes six minutes or more: the shortest time that an outbound rule has, and a
    /// hold of their ports.
    #[arg(long)]
    idle: bool,
    /// Also have a member of three crash and come back to so many flows, whole thousands.
    #[arg(long, value_name = "FLOWS", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    rejoin: Option<u32>,
    /// Also draw it, in this directory.
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What `concurrent` measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct ConcurrentResult {
    /// Where and when.
    pub machine: Machine,
    /// Seconds of a round.
    pub seconds: u64,
    /// Rounds.
    pub rounds: u32,
    /// How many tasks ran or wanted to in the minute before, at the beginning and at the end.
    pub load_average: (f64, f64),
    /// A member without flows.
    pub empty: Memory,
    /// By flows, ascending.
    pub sizes: Vec<SizeRow>,
    /// When the most of them went idle at once.
    pub idling: Option<Idling>,
    /// When a member of three came back.
    pub rejoining: Option<Rejoining>,
}

/// So many flows at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeRow {
    /// How many.
    pub flows: u32,
    /// The member's.
    pub memory: Memory,
    /// How they were opened, from the number before.
    pub opening: Opening,
    /// What the worker carried by itself.
    pub worker: Carried,
    /// What was carried with every mapping in the kernel that has room there; none: they have no room.
    pub cache: Option<Carried>,
}

impl ConcurrentResult {
    /// Resident octets of a flow beyond what a member takes without any.
    #[must_use]
    pub fn octets_per_flow(&self, row: &SizeRow) -> f64 {
        row.memory.resident.saturating_sub(self.empty.resident) as f64 / f64::from(row.flows)
    }
}

/// Measures.
///
/// # Errors
/// If there is too little memory, a lab does not come up, or flows do not stay open.
pub fn run(args: &Args) -> Result<ConcurrentResult> {
    let flows = checked(args)?;
    let began = machine::load_average()?;
    let (empty, mut sizes, idling) = by_worker(args, &flows)?;
    by_cache(args, &mut sizes)?;
    let rejoining = args.rejoin.map(|count| rejoining::measure(&args.binary, count)).transpose()?;
    Ok(ConcurrentResult {
        machine: Machine::here()?,
        seconds: args.seconds,
        rounds: args.rounds,
        load_average: (began, machine::load_average()?),
        empty,
        sizes,
        idling,
        rejoining,
    })
}

/// The numbers of flows, ascending.
fn checked(args: &Args) -> Result<Vec<u32>> {
    let mut flows = args.flows.clone();
    flows.sort_unstable();
    flows.dedup();
    for count in flows.iter().chain(&args.rejoin) {
        let near = count.next_multiple_of(PER_PORT);
        ensure!(*count == near, "{count} flows: each port of the remote has {PER_PORT} of them; ask for {near}");
    }
    let most = flows.last().copied().unwrap_or(0).max(args.rejoin.unwrap_or(0) * 3);
    let (wanted, there) = (u64::from(most) * OCTETS_PER_FLOW + OCTETS_OF_LAB, machine::available()?);
    let mib = |octets: u64| octets >> 20;
    ensure!(
        there >= wanted,
        "so many flows may take {} MiB, and {} are available: ask for fewer by --flows or --rejoin, or end what takes memory",
        mib(wanted),
        mib(there)
    );
    Ok(flows)
}

fn by_worker(args: &Args, flows: &[u32]) -> Result<(Memory, Vec<SizeRow>, Option<Idling>)> {
    let mut member = Member::up(&args.binary, "off")?;
    let (empty, lasting, mut sizes) = (member.memory()?, Duration::from_secs(args.seconds), Vec::new());
    for count in flows {
        let opening = member.grow(*count)?;
        let memory = member.memory()?;
        let worker = member.carried(args.rounds, lasting)?;
        eprintln!(
            "{count} flows: {:.0} opened a second, {} MiB, {:.0} kpps",
            opening.per_second,
            memory.resident >> 20,
            worker.kpps.median
        );
        sizes.push(SizeRow { flows: *count, memory, opening, worker, cache: None });
    }
    let idling = args.idle.then(|| idling::measure(&member)).transpose()?;
    Ok((empty, sizes, idling))
}

fn by_cache(args: &Args, sizes: &mut [SizeRow]) -> Result<()> {
    let mut sizes = sizes.iter_mut().take_while(|size| size.flows <= CACHED_MAX).peekable();
    if sizes.peek().is_none() {
        return Ok(());
    }
    let mut member = Member::up(&args.binary, "eager")?;
    for size in sizes {
        member.grow(size.flows)?;
        member.await_cached()?;
        let carried = member.carried(args.rounds, Duration::from_secs(args.seconds))?;
        eprintln!("{} flows in the kernel: {:.0} kpps", size.flows, carried.kpps.median);
        size.cache = Some(carried);
    }
    Ok(())
}
