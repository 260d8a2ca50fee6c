//! CLOCK_BOOTTIME: the only clock of leases and graces (L1, L6), since it goes on while the process or the machine sleeps,
//! and the one that the kernel's guard reads. Called by every thread that stamps or checks a lease.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, suspend included.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("time since boot is not negative");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanos
}

/// Whether this process lives in a time namespace that shifts CLOCK_BOOTTIME: then the kernel's guard, whose clock is never
/// shifted, would judge leases wrongly, and a node refuses to start. `false` also on kernels without time namespaces.
#[must_use]
pub fn is_shifted() -> bool {
    std::fs::read_to_string("/proc/self/timens_offsets").is_ok_and(|offsets| shifts_boottime(&offsets))
}

fn shifts_boottime(offsets: &str) -> bool {
    offsets.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("boottime" | "7")) && words.any(|offset| offset != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::{now_ns, shifts_boottime};

    #[test]
    fn time_advances() {
        let first = now_ns();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = now_ns();
        assert!(second >= first + 2_000_000, "{first} {second}");
    }

    #[test]
    fn a_shifted_boot_clock_is_recognised() {
        assert!(!shifts_boottime("monotonic           0         0\nboottime            0         0\n"));
        assert!(!shifts_boottime("monotonic           5         0\nboottime            0         0\n"));
        assert!(shifts_boottime("monotonic           0         0\nboottime          600         0\n"));
        assert!(shifts_boottime("monotonic           0         0\nboottime            0        17\n"));
    }
}
