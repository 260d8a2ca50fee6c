//! How a life ends by its own hand: as a crash would, to begin anew, or for good. None of it waits for another thread.

use std::sync::OnceLock;
use std::time::Duration;

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

pub(super) static ENDING: OnceLock<Ending> = OnceLock::new();

/// Ends this life at once, as a crash would (C4). Says why itself: log lines are written by a thread that ends with the rest.
pub(super) fn end_life(why: &str) -> ! {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: this life ends: {why}");
    std::process::abort();
}

/// Ends this life, to be started again. Works whatever the other threads are caught in.
pub(super) fn start_again(why: String) -> ! {
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
pub(super) fn leave(why: &str) -> ! {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: this member ends: {why}");
    netio::process::end(1);
}
