//! Memory that stays. A page of a program that was not used for a while may be given up and read from disk again, and whoever
//! needs it waits for the disk: longer than a lease lasts, if that is slow. What the system refuses is reported, never fatal.

use std::io;
use std::ops::Range;
use std::ptr;

use rustix::mm::{Advice, MlockAllFlags, madvise, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Keeps all pages of this process in memory from their first use on, and reads the program's own at once. What the allocator
/// has reserved and nobody has used yet, a gigabyte at a time, takes none.
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
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for pages in maps.lines().filter_map(pages_of_a_file) {
        let first = ptr::with_exposed_provenance_mut(pages.start);
        // SAFETY: pages that are mapped for reading are read; what they hold does not change. Program and libraries stay
        // mapped, and where nothing is mapped any more the call fails.
        unsafe { madvise(first, pages.len(), Advice::LinuxPopulateRead) }?;
    }
    Ok(())
}

/// The addresses of a line of `/proc/self/maps`, if it maps a file that is only read: program text and constants.
fn pages_of_a_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_whitespace();
    let (range, access, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    if inode == "0" || !access.starts_with("r-") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    Some(address(start)?..address(end)?)
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

    /// Kilobytes that a field of `/proc/self/smaps` says of the mappings whose first line `is_wanted`.
    fn mapped_kb(field: &str, is_wanted: impl Fn(&str) -> bool) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("/proc");
        let (mut sum, mut wanted) = (0, false);
        for line in smaps.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            if !first.ends_with(':') {
                wanted = is_wanted(line);
            } else if wanted && first.trim_end_matches(':') == field {
                let kb: u64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
                sum += kb;
            }
        }
        sum
    }

    #[test]
    fn the_program_is_read_and_what_is_reserved_takes_no_memory() {
        const RESERVED: usize = 256 << 20;
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the system's choice.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), RESERVED, protection, rustix::mm::MapFlags::PRIVATE) };
        let reserved = reserved.expect("address space").expose_provenance();
        let before = mapped_kb("Rss", |_| true);
        if lock_all().is_ok() {
            let text = |line: &str| line.contains(" r-xp ") && line.contains('/');
            assert!(mapped_kb("Size", text) > 500, "this program and its libraries");
            assert_eq!(mapped_kb("Rss", text), mapped_kb("Size", text));
            // Another test may fill 64 MiB meanwhile.
            let taken = mapped_kb("Rss", |_| true).saturating_sub(before);
            assert!(taken < 128 << 10, "{taken} kB");
        }
        let first = ptr::with_exposed_provenance_mut(reserved);
        // SAFETY: as mapped above, and nobody uses it.
        unsafe { rustix::mm::munmap(first, RESERVED) }.expect("mapped above");
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
