//! Ctrl-C and SIGTERM for programs that make things on a machine: what they made is taken away before they end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// As shells report a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// From now on one of them has a thread of its own do `work`, after which the process ends.
///
/// # Errors
/// If signals cannot be waited for, or there is no thread to do it.
pub fn on_interrupt(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered here and not in the thread: a signal that comes early must find it.
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        work();
        std::process::exit(INTERRUPTED);
    };
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
    Ok(())
}
