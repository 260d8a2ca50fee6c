//! `qnat-drill`: the live drills as a command of their own. Everything is in the library; see `qnat_chaos::drill`.

use std::process::ExitCode;

use clap::FromArgMatches;
use qnat_chaos::drill::{self, DrillArgs};

fn main() -> anyhow::Result<ExitCode> {
    let matches = drill::command().get_matches();
    drill::run(&DrillArgs::from_arg_matches(&matches)?)
}
