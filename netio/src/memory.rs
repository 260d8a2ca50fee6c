//! Memory that stays. A page of a program that was not used for a while may be given up and read from disk again, and whoever
//! needs it waits for the disk: longer than a lease lasts, if that is slow. What the system refuses is reported, never fatal.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Keeps all pages of this process in memory: those of now, the program's text above all, which are read at once, and later
/// ones from their first use on.
///
/// # Errors
/// Where RLIMIT_MEMLOCK would bind this process: without CAP_IPC_LOCK, and without CAP_SYS_RESOURCE to lift it. Nothing is
/// locked then: a table that grows would fail where it now takes memory.
pub fn lock_all() -> io::Result<()> {
    let Err(refused) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) else {
        return lock();
    };
    // The limit stays, and does not bind who has CAP_IPC_LOCK (mlock(2)): under a limit of 0 nobody else can lock.
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), ..before })?;
    let locked = lock();
    setrlimit(Resource::Memlock, before)?;
    locked.map_err(|_bound| refused.into())
}

fn lock() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT)?;
    Ok(mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/proc/self/status` says of a name.
    fn status_of(name: &str) -> String {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its line");
        line.trim_start_matches(':').trim().to_owned()
    }

    fn locked_kb() -> u64 {
        status_of("VmLck").split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number")
    }

    #[test]
    fn memory_is_locked_where_no_limit_binds_or_not_at_all() {
        const CAP_IPC_LOCK: u64 = 1 << 14;
        let capabilities = u64::from_str_radix(&status_of("CapEff"), 16).expect("hexadecimal");
        let before = locked_kb();
        let limit = getrlimit(Resource::Memlock);
        match lock_all() {
            Ok(()) => {
                assert!(locked_kb() > before + 1_000, "{} kB", locked_kb());
                let now = getrlimit(Resource::Memlock);
                assert!(now.current.is_none() || (now == limit && capabilities & CAP_IPC_LOCK != 0), "{now:?}");
                // More than the usual limit of 8 MiB: what grows goes on to get memory.
                assert_eq!(vec![1_u8; 64 << 20].iter().map(|&byte| u64::from(byte)).sum::<u64>(), 64 << 20);
            }
            Err(_refused) => {
                assert_eq!((locked_kb(), getrlimit(Resource::Memlock)), (before, limit));
                let everywhere =
                    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
                assert!(!everywhere || capabilities & CAP_IPC_LOCK == 0, "the capability is enough");
            }
        }
    }
}
