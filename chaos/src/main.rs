//! `qnat-chaos`: faults upon a cluster, and a verdict. Everything is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use qnat_chaos::awake::{self, AwakeArgs};
use qnat_chaos::drill::soak::{self, SoakArgs};
use qnat_chaos::drill::{self, DrillArgs};
use qnat_chaos::mutants::{self, MutantsArgs};
use qnat_chaos::sim::{self, SimArgs};
use qnat_chaos::stalls::{self, StallsArgs};

#[derive(Debug, Parser)]
#[command(version, about = "Faults upon a qnat cluster, and a verdict")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A fault upon a live cluster under traffic.
    Drill(DrillArgs),
    /// Traffic upon a healthy cluster: no election, no loss.
    Soak(SoakArgs),
    /// Whole clusters in virtual time, one per seed.
    Sim(SimArgs),
    /// Whether the simulator and the model find planted holes.
    Mutants(MutantsArgs),
    /// How long this machine stands still while a command runs: whether it can keep a lease.
    Stalls(StallsArgs),
    /// Keeps the processors of a virtual machine from going idle while a command runs.
    Awake(AwakeArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    netio::thread::end_process_on_panic();
    match Cli::parse().command {
        Command::Drill(args) => drill::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Stalls(args) => stalls::run(&args),
        Command::Awake(args) => awake::run(&args),
    }
}
