//! The running member: threads, actors and how they are wired.
//!
//! `run` starts everything. The flow actor has a thread with raised priority, the control actor one that may wait for the
//! disk, the worker one that never meets an actor but through rings; strangers at the peer port, the egress guard's upkeep
//! and the address-translation log have ordinary ones. The API and its answers live on the main thread.

pub mod answer;
mod applying;
pub mod ask;
pub mod backup;
mod bindings;
pub mod clerk;
pub mod concerns;
pub mod config;
pub mod control_actor;
pub mod control_store;
pub mod data_config;
pub mod flow_actor;
pub mod founding;
pub mod guard_keeper;
mod health;
pub mod joining;
mod machine;
pub mod member_lock;
pub mod metrics;
pub mod questions;
pub mod recovery;
pub mod request;
pub mod room;
pub mod run;
mod status;
mod stopping;
mod tape;
mod together;
pub mod watch;
pub mod worker_thread;

use std::sync::OnceLock;
use std::time::Duration;

pub use run::run;

/// Exit code of a member that ended its own life, because a part of it hangs or an interface was made anew, and that should
/// be started again (`EX_TEMPFAIL`; for systemd: `Restart=on-failure`).
pub const EXIT_AGAIN: u8 = 75;
/// How long the last words may take: whoever hangs may hold the lock of standard error.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// What becomes of a member that ends its own life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It exits with [`EXIT_AGAIN`]; whoever started it starts it again.
    Exit,
    /// It starts anew in the same process, where nobody else would do that.
    Again,
}

static ENDING: OnceLock<Ending> = OnceLock::new();

/// Ends this life at once, as a crash would (C4). Says why itself: log lines are written by a thread that ends with the rest.
fn end_life(why: &str) -> ! {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: this life ends: {why}");
    std::process::abort();
}

/// Ends this life, to be started again. Works whatever the other threads are caught in.
fn start_again(why: String) -> ! {
    use std::io::Write as _;
    use std::os::unix::process::CommandExt as _;
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // If standard error is closed there is nobody to tell.
        let _ignored = writeln!(std::io::stderr(), "qnat: this life ends and should begin anew: {why}");
        let _ignored = said.send(());
    });
    let _ignored = heard.recv_timeout(LAST_WORDS_WAIT);
    if ENDING.get() == Some(&Ending::Again) {
        netio::thread::ordinary_current();
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0(arguments.next().unwrap_or_default()).args(arguments);
        // It returns only if it failed.
        let _refused = command.exec();
    }
    netio::process::end(EXIT_AGAIN);
}

/// Ends a process that the cluster does not want any more: nothing is wrong with it, and starting it again would not help.
fn leave(why: &str) -> ! {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: this member ends: {why}");
    netio::process::end(1);
}
