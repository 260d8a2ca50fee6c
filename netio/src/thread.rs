//! Priority and placement of threads. Raft, peers and liveness keep their CPU at full data load (ARCHITECTURE.md,
//! "Threads"); what the system refuses is reported, never fatal: the node runs on, and its status says so.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The last nice value.
const NICEST: i32 = 19;

/// What became of a request for a raised priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// SCHED_FIFO with this priority.
    RealTime(i32),
    /// No privilege for that: a nice value below 0 instead.
    Nice(i32),
    /// Neither; the thread runs as any other.
    Refused,
}

/// From now on a panic of any thread ends the process at once, as if it had been compiled so: a member without one of its
/// threads must not go on. Profiles that are tested unwind, since the test harness does, and so each library is built once.
pub fn end_process_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

/// Raises the calling thread: SCHED_FIFO `priority` (1–99), else nice −10, else nothing.
///
/// Only for threads that block; a spinning one would starve its core. SCHED_RESET_ON_FORK keeps children ordinary.
#[must_use]
pub fn raise_current(priority: i32) -> Raised {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: `parameters` outlives the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) } == 0
    {
        return Raised::RealTime(priority);
    }
    prefer_current()
}

/// Prefers the calling thread to ordinary ones: nice −10, else nothing. For a thread that may be busy for long, as a
/// worker is under full load: with a real-time priority it would starve the kernel's own threads on its core.
#[must_use]
pub fn prefer_current() -> Raised {
    const NICE: i32 = -10;
    // SAFETY: no memory is involved; on Linux, 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 { Raised::Nice(NICE) } else { Raised::Refused }
}

/// Makes the calling thread an ordinary one again, before it becomes another program: priorities outlive that.
pub fn ordinary_current() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` outlives the call; 0 is the calling thread. Giving a priority up is never refused.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) };
    // SAFETY: no memory is involved; on Linux, 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
}

/// Lets the calling thread run only where nothing else wants to (SCHED_IDLE). Whatever wakes up preempts it at once, and its
/// time is counted apart from that of others, as `nice`.
///
/// # Errors
/// When the system refuses.
pub fn spare_current() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` outlives the call; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no memory is involved; on Linux, 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// When the CPU does not exist, or is outside of what the process may use.
pub fn pin_current(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// When the system refuses to tell.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::{
        Raised, allowed_cpus, end_process_on_panic, ordinary_current, pin_current, prefer_current, raise_current,
        spare_current,
    };

    #[test]
    fn a_thread_that_panics_ends_its_process() {
        const CHILD: &str = "QNAT_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            end_process_on_panic();
            let _survived = std::thread::spawn(|| panic!("of one thread")).join();
            return;
        }
        let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "thread::tests::a_thread_that_panics_ends_its_process", "--nocapture"]).env(CHILD, "1");
        let ended = again.output().expect("started");
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("of one thread"), "and says why: {ended:?}");
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_cpu_only() {
        std::thread::spawn(|| {
            let cpu = *allowed_cpus().expect("affinity").last().expect("a CPU");
            pin_current(cpu).expect("pin");
            assert_eq!(allowed_cpus().expect("affinity"), [cpu]);
            assert!(pin_current(usize::MAX).is_err());
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn a_preferred_thread_is_nicer_to_itself_and_leaves_the_others_alone() {
        let nice = || rustix::process::getpriority_process(None).expect("the calling thread's");
        let before = nice();
        std::thread::spawn(move || {
            let expected = if prefer_current() == Raised::Nice(-10) { -10 } else { before };
            assert_eq!(nice(), expected);
        })
        .join()
        .expect("thread");
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_raised_thread_becomes_ordinary_again() {
        std::thread::spawn(|| {
            for raise in [|| raise_current(10), prefer_current] {
                let _raised = raise();
                ordinary_current();
                // SAFETY: asks for the calling thread's policy; no memory is involved.
                assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
                assert_eq!(rustix::process::getpriority_process(None).expect("the calling thread's"), 0);
            }
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn a_spare_thread_takes_what_others_leave() {
        std::thread::spawn(|| {
            spare_current().expect("anybody may");
            // SAFETY: asks for the calling thread's policy; no memory is involved.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_IDLE);
            assert_eq!(rustix::process::getpriority_process(None).expect("the calling thread's"), 19);
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn raising_never_fails_and_says_what_it_did() {
        std::thread::spawn(|| {
            let raised = raise_current(10);
            // SAFETY: asks for the calling thread's policy; no memory is involved.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            assert_eq!(raised == Raised::RealTime(10), policy == libc::SCHED_FIFO);
            assert_ne!(raise_current(1000), Raised::RealTime(1000), "out of range");
        })
        .join()
        .expect("thread");
    }
}
