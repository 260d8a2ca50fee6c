//! Memory that stays. A page of a program that was not used for a while may be given up and read from disk again, and whoever
//! needs it waits for the disk: longer than a lease lasts, if that is slow. What the system refuses is reported, never fatal.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Keeps all pages of this process in memory: those of now, the program's text above all, which are read at once, and later
/// ones from their first use on.
///
/// # Errors
/// Without CAP_SYS_RESOURCE and CAP_IPC_LOCK; nothing is locked then. A limit that stayed (RLIMIT_MEMLOCK) would let a table
/// that grows fail where it now takes memory.
pub fn lock_all() -> io::Result<()> {
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    mlockall(MlockAllFlags::CURRENT)?;
    Ok(mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

#[cfg(test)]
mod tests {
    use super::lock_all;

    #[test]
    fn memory_is_locked_without_a_limit_or_not_at_all() {
        let locked_kb = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
            line.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number")
        };
        let before = locked_kb();
        match lock_all() {
            Ok(()) => {
                assert!(locked_kb() > before + 1_000, "{} kB", locked_kb());
                let limits = std::fs::read_to_string("/proc/self/limits").expect("/proc");
                let limit = limits.lines().find(|line| line.starts_with("Max locked memory")).expect("its line");
                assert_eq!(limit.matches("unlimited").count(), 2, "{limit}");
            }
            Err(_refused) => assert_eq!(locked_kb(), before),
        }
    }
}
