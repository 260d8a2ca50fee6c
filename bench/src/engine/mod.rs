//! `qnat-bench engine`: what the engine alone costs, without devices, threads or peers: processor time per packet of a known
//! flow drawn at random and per new flow, memory per flow, and the longest pieces of work that a packet may wait for.
//! `cargo bench -p qnat-bench` measures the same packets with criterion, to compare one change with another.

pub mod bed;
pub mod frames;
pub mod idle;
pub mod rounds;
pub mod rules;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use engine::record::Proto;
use serde::{Deserialize, Serialize};

use self::bed::Bed;
use self::frames::{Batch, Size, Way};
use self::idle::Idle;
use self::rounds::{BATCH, Draw, decide_all, known, new_flows, whole};
use self::rules::RuleRow;
use crate::machine::{self, Machine};
use crate::numbers::Spread;
use crate::printing::Printing;

/// Arguments of `qnat-bench engine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flows in the table.
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000,10000000")]
    flows: Vec<u32>,
    /// How often each is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Rules of a security group, each with 10,000 flows; 0: without any.
    #[arg(long, value_delimiter = ',', default_value = "0,10,100,1000,10000")]
    rules: Vec<usize>,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What `engine` measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineResult {
    /// Where and when.
    pub machine: Machine,
    /// Kind of the processors.
    pub processor: String,
    /// Share of the time that the host machine took from this one meanwhile, in percent.
    pub stolen_percent: f64,
    /// Rounds.
    pub rounds: u32,
    /// Packets of known flows.
    pub packets: Vec<PacketRow>,
    /// Tables by their flows.
    pub tables: Vec<TableRow>,
    /// Security groups by their rules.
    #[serde(default)]
    pub rules: Vec<RuleRow>,
}

/// Packets of known flows, drawn at random.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PacketRow {
    /// Flows in the table.
    pub flows: u32,
    /// UDP or TCP.
    pub proto: String,
    /// Length of the frames.
    pub size: Size,
    /// Direction.
    pub way: Way,
    /// Nanoseconds per packet; each value that of a round's middle batch.
    pub ns: Spread,
    /// Of these, what it takes to look ahead: to find each packet's mapping, by batches, and bring it into the cache.
    pub ahead_ns: Spread,
}

/// What depends on the number of flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// Flows.
    pub flows: u32,
    /// Octets per flow of the mappings and their indexes, as the engine counts them.
    pub octets: f64,
    /// Growth of the process's resident memory per flow, in octets.
    pub resident: f64,
    /// Nanoseconds per new flow: packet in, proposal, entry, commit, packet out.
    pub new_flow_ns: Spread,
    /// The longest that one entry of 64 took to apply while the table was filled, microseconds of processor time.
    pub longest_apply_us: f64,
    /// When all flows go idle at once.
    pub idle: Idle,
}

/// Measures.
///
/// # Errors
/// If `/proc` cannot be read, or the result cannot be written.
pub fn run(args: &Args) -> Result<EngineResult> {
    // As a member does: memory that it gave back, it would wait for again.
    if let Err(error) = netio::memory::lock_all() {
        eprintln!("memory is not locked, so entries may take longer: {error}");
    }
    let before = machine::stolen()?;
    let (mut packets, mut tables) = (Vec::new(), Vec::new());
    for flows in &args.flows {
        tables.push(table_row(*flows, args.rounds)?);
        for proto in [Proto::Udp, Proto::Tcp] {
            let mut bed = Bed::new(*flows, proto);
            packets.extend(packet_rows(&mut bed, *flows, proto, args.rounds)?);
        }
    }
    let rules: Result<_> = args.rules.iter().map(|rules| rules::row(*rules, args.rounds)).collect();
    let after = machine::stolen()?;
    let result = EngineResult {
        machine: Machine::here()?,
        processor: machine::processor()?,
        stolen_percent: (after.0 - before.0) / (after.1 - before.1) * 100.0,
        rounds: args.rounds,
        packets,
        tables,
        rules: rules?,
    };
    Ok(result)
}

fn packet_rows(bed: &mut Bed, flows: u32, proto: Proto, rounds: u32) -> Result<Vec<PacketRow>> {
    let mut kinds = Vec::new();
    for size in [Size::Small, Size::Super] {
        for way in [Way::Out, Way::In, Way::Mixed] {
            kinds.push((size, way, Batch::new(BATCH, proto, size, way), (Vec::new(), Vec::new())));
        }
    }
    let mut draw = Draw::new(1);
    decide_all(bed, &mut Batch::new(BATCH, proto, Size::Small, Way::Out), (flows, proto))?;
    // Round by round, so that what the machine does meanwhile falls on all of them.
    for _ in 0..rounds {
        for (_, _, batch, values) in &mut kinds {
            let (ns, ahead_ns) = known(bed, batch, (flows, proto), &mut draw)?;
            values.0.push(ns);
            values.1.push(ahead_ns);
        }
    }
    let rows = kinds.into_iter().map(|(size, way, _, values)| {
        let [ns, ahead_ns] = [values.0, values.1].map(Spread::of).map(|spread| spread.context("at least one round"));
        Ok(PacketRow { flows, proto: format!("{proto:?}").to_uppercase(), size, way, ns: ns?, ahead_ns: ahead_ns? })
    });
    rows.collect()
}

fn table_row(flows: u32, rounds: u32) -> Result<TableRow> {
    let resident_before = machine::resident()?;
    let mut bed = Bed::new(flows, Proto::Udp);
    let resident = machine::resident()?.saturating_sub(resident_before) as f64 / f64::from(flows);
    let octets = bed.worker.view().shard_status()[0].table_bytes as f64 / f64::from(flows);
    let mut again = Bed::new(flows, Proto::Udp);
    let longest_apply_us = idle::longest(&bed.apply_ns, &std::mem::take(&mut again.apply_ns)) as f64 / 1e3;
    let steps = idle::measure(again)?;
    let idle = steps.common(&idle::measure(Bed::new(flows, Proto::Udp))?, flows);
    let mut batch = Batch::new(BATCH, Proto::Udp, Size::Small, Way::Out);
    let (mut values, mut next) = (Vec::new(), flows);
    for _ in 0..rounds {
        values.push(new_flows(&mut bed, &mut batch, &mut next)?);
    }
    let new_flow_ns = Spread::of(values).context("at least one round")?;
    Ok(TableRow { flows, octets, resident, new_flow_ns, longest_apply_us, idle })
}

/// As Markdown.
#[must_use]
pub fn table(result: &EngineResult) -> String {
    let mut flows: Vec<u32> = result.tables.iter().map(|row| row.flows).collect();
    flows.sort_unstable();
    let markdown = |first: &str| {
        let mut table = Table::new();
        let columns = flows.iter().map(|n| format!("{n} flows"));
        table.load_preset(presets::ASCII_MARKDOWN).set_header(std::iter::once(first.to_owned()).chain(columns));
        table
    };
    let mut packets = markdown("ns per packet of a known flow");
    for first in result.packets.iter().filter(|row| Some(&row.flows) == flows.first()) {
        let cell = |flows: &u32| {
            let same = |row: &&PacketRow| {
                (row.flows, &row.proto, row.size, row.way) == (*flows, &first.proto, first.size, first.way)
            };
            let cell = |row: &PacketRow| format!("{}, {:.0} of them ahead", whole(&row.ns), row.ahead_ns.median);
            result.packets.iter().find(same).map_or_else(String::new, cell)
        };
        let size = if first.size == Size::Small { "60 octets" } else { "64 KB" };
        let name = format!("{} {size}, {}", first.proto, format!("{:?}", first.way).to_lowercase());
        packets.add_row(std::iter::once(name).chain(flows.iter().map(cell)));
    }
    let mut tables = markdown("by table");
    let mut line = |name: &str, value: &dyn Fn(&TableRow) -> String| {
        let of = |n: &u32| result.tables.iter().find(|row| row.flows == *n).map_or_else(String::new, value);
        tables.add_row(std::iter::once(name.to_owned()).chain(flows.iter().map(of)));
    };
    line("ns per new flow, from packet to packet", &|row| whole(&row.new_flow_ns));
    line("octets per flow, computed", &|row| format!("{:.0}", row.octets));
    line("octets per flow that is held, computed", &|row| format!("{:.0}", row.idle.held_octets));
    line("octets per flow, resident", &|row| format!("{:.0}", row.resident));
    line("longest entry of 64 while it fills, µs", &|row| format!("{:.0}", row.longest_apply_us));
    line("all idle at once: longest round of timers, µs", &|row| format!("{:.0}", row.idle.longest_timers_us));
    line("all idle at once: longest entry, µs", &|row| format!("{:.0}", row.idle.longest_entry_us));
    let rules = rules::table(&result.rules);
    let machine = &result.machine;
    format!(
        "{packets}\n\n{tables}\n\n{rules}{} rounds, medians (least–greatest); batches of {BATCH}, flows at random. {}, {} cores, kernel {}, \
         {:.2} % of the time stolen by the host, at {} s since 1970, commit {}.",
        result.rounds,
        result.processor,
        machine.cores,
        machine.kernel,
        result.stolen_percent,
        machine.unix_seconds,
        machine.commit
    )
}
