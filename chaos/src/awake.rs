//! `qnat-chaos awake`: keeps the processors of a virtual machine from halting while a command runs, as a member does for itself
//! where its `node.toml` says so: for drills whose ends stand on the same machine, and for other programs (`netio::awake`).

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use netio::awake::{Spinner, spin_until_told};

use crate::command;

/// Arguments of `awake`.
#[derive(Clone, Debug, clap::Args)]
pub struct AwakeArgs {
    /// Only spin, until standard input ends.
    #[arg(long, hide = true)]
    pub spin: bool,
    /// A command to run meanwhile; its exit code is this one's.
    #[arg(last = true, required_unless_present = "spin")]
    pub command: Vec<String>,
}

/// Runs a command while no processor halts. The exit code is the command's.
///
/// # Errors
/// If it cannot be started, or the system refuses the threads.
pub fn run(args: &AwakeArgs) -> Result<ExitCode> {
    if args.spin {
        spin_until_told()?;
        return Ok(ExitCode::SUCCESS);
    }
    let _spinner = Spinner::start(&["awake", "--spin"]).context("a process that spins")?;
    command::run(&args.command)
}
