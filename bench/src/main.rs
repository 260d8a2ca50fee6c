//! `qnat-bench`: measurements. Everything is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use qnat_bench::report::{Stored, finish};
use qnat_bench::ways::Work;
use qnat_bench::ways::concurrent;
use qnat_bench::{control, engine, flows, hold, malformed, report, rules, syn_flood, undo, ways, workers};

/// As the member has it: where a large table lies, in small pages or huge ones, decides what a packet costs.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Debug, Parser)]
#[command(version, about = "Measurements of qnat as a user runs it; needs root, nft and the qnat executable")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How long a first packet waits for its commit, and what that costs a client.
    Hold(hold::Args),
    /// New flows per second, beside the kernel's masquerade.
    Flows(flows::Args),
    /// TCP streams that stand, with the kernel's fast path and without, beside the kernel's masquerade.
    Bulk(ways::Args),
    /// Round trips of datagrams, the same.
    Rtt(ways::Args),
    /// Small datagrams, the same.
    Pps(ways::Args),
    /// Small datagrams that the kernel makes and counts: what one processor carries, the same.
    Offered(ways::Args),
    /// The same, by a member that hangs on its ends by a pair each, beside the kernel's masquerade that does too.
    Direct(ways::Args),
    /// The same, of a million flows
    Million(ways::Args),
    /// The same by a cluster of one member, with two workers beside one.
    Crew(ways::Args),
    /// What it costs one member to hold many flows at once: memory, datagrams, new flows; with plots.
    Concurrent(concurrent::Args),
    /// `iperf3`, `ping` and round trips between two instances on isolated ports, beside a plain bridge with rules of nftables.
    Between(ways::Args),
    /// Malformed and hostile packets, beside the kernel's masquerade.
    Malformed(malformed::Args),
    /// The engine alone: packets of known flows, new flows, memory. Needs no root.
    Engine(engine::Args),
    /// What a second worker is worth to the engines alone. Needs no root.
    Workers(workers::Args),
    /// What the control thread does at once in the largest cluster. Needs no root.
    Control(control::Args),
    /// Round trips of a stream while members apply as many security rules as a cluster has.
    Rules(rules::Args),
    /// Connections of genuine clients while a frontend is flooded with SYNs.
    SynFlood(syn_flood::Args),
    /// Tables of stored results.
    Report(report::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    netio::thread::end_process_on_panic();
    undo::on_signals()?;
    match Cli::parse().command {
        Command::Hold(args) => finish(&Stored::Hold(hold::run(&args)?), &args.printing)?,
        Command::Flows(args) => finish(&Stored::Flows(flows::run(&args)?), &args.printing)?,
        Command::Bulk(args) => finish(&Stored::Bulk(ways::run(Work::Bulk, &args)?), &args.printing)?,
        Command::Rtt(args) => finish(&Stored::Rtt(ways::run(Work::Rtt, &args)?), &args.printing)?,
        Command::Pps(args) => finish(&Stored::Pps(ways::run(Work::Pps, &args)?), &args.printing)?,
        Command::Offered(args) => finish(&Stored::Offered(ways::run(Work::Offered, &args)?), &args.printing)?,
        Command::Million(args) => finish(&Stored::Million(ways::run(Work::Million, &args)?), &args.printing)?,
        Command::Direct(args) => finish(&Stored::Direct(ways::run(Work::Direct, &args)?), &args.printing)?,
        Command::Crew(args) => finish(&Stored::Crew(ways::crew::run(&args)?), &args.printing)?,
        Command::Concurrent(args) => {
            let stored = Stored::Concurrent(concurrent::run(&args)?);
            finish(&stored, &args.printing)?;
            stored.draw(args.plot.as_deref())?;
        }
        Command::Between(args) => finish(&Stored::Between(ways::run(Work::Between, &args)?), &args.printing)?,
        Command::Malformed(args) => finish(&Stored::Malformed(malformed::run(&args)?), &args.printing)?,
        Command::Engine(args) => finish(&Stored::Engine(engine::run(&args)?), &args.printing)?,
        Command::Workers(args) => finish(&Stored::Workers(workers::run(&args)?), &args.printing)?,
        Command::Control(args) => control::run(&args)?,
        Command::Rules(args) => rules::run(&args)?,
        Command::SynFlood(args) => syn_flood::run(&args)?,
        Command::Report(args) => report::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
