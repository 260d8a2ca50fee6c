//! `qnat`: the member and the command line in one executable. Everything is in the library; see `qnat::cli`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    netio::thread::end_process_on_panic();
    qnat::cli::run(std::env::args_os())
}
