//! Memory that stays. A page of a program that was not used for a while may be given up and read from disk again, and whoever
//! needs it waits for the disk: longer than a lease lasts, if that is slow. What the system refuses is reported, never fatal.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};

/// Keeps all pages of this process in memory: those of now, the program's text above all, which are read at once, and later
/// ones from their first use on.
///
/// # Errors
/// Without CAP_IPC_LOCK, beyond RLIMIT_MEMLOCK.
pub fn lock_all() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT)?;
    Ok(mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

#[cfg(test)]
mod tests {
    use super::lock_all;

    #[test]
    fn locked_memory_is_counted_as_such_or_refused() {
        let locked_kb = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
            line.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number")
        };
        match lock_all() {
            Ok(()) => assert!(locked_kb() > 1_000, "{} kB", locked_kb()),
            Err(refused) => assert!(refused.raw_os_error().is_some(), "{refused}"),
        }
    }
}
