//! `qnat`: the member and the command line in one executable. Everything is in the library; see `qnat::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    qnat::cli::run(std::env::args_os())
}
