//! Sessions of processes. Linux gives each session that is in no group of its own an equal share of a processor
//! (`sched_autogroup_enabled`, on by default): nice values then count among the threads of one session only, and a session has
//! one of its own, by which it counts against others. Real-time priorities (`thread`) do not care.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What became of a request about the calling process's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// It counts as this nice value says.
    Nice(i32),
    /// Somebody else began the session, as a shell does: it is theirs, and as it was.
    NotOurs,
    /// The kernel has no nice values of sessions, or refuses.
    Refused,
}

/// Has `command` begin in a session of its own: no terminal's signal reaches it, and it counts by itself.
pub fn lead_session(command: &mut Command) {
    let begin = || rustix::process::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec only setsid is called, which is safe there: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(begin) };
}

/// Prefers the session of the calling process, which leads it, to ordinary ones: nice −10.
pub fn prefer_session() -> Weighed {
    weigh_session(-10)
}

/// Lets the session of the calling process, which leads it, have what others leave: nice 19.
pub fn spare_session() -> Weighed {
    weigh_session(19)
}

fn weigh_session(nice: i32) -> Weighed {
    if !leads_its_session() {
        return Weighed::NotOurs;
    }
    match std::fs::write("/proc/self/autogroup", nice.to_string()) {
        Ok(()) => Weighed::Nice(nice),
        Err(_) => Weighed::Refused,
    }
}

/// Whether the calling process began its session. The kernel names a leader outside the process's PID namespace 0 (getsid(2), a
/// command begun in a container from outside): rustix has no value for that answer, and panics or worse.
fn leads_its_session() -> bool {
    // SAFETY: getsid takes a number and returns one, it touches no memory of ours.
    let leader = unsafe { libc::getsid(0) };
    rustix::process::Pid::as_raw(Some(rustix::process::getpid())) == leader
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the session's group, if the kernel has any: `/autogroup-7 nice 0`.
    fn group_of(process: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{process}/autogroup")).ok()?;
        Some(text.split_whitespace().next()?.to_owned())
    }

    #[test]
    fn a_command_leads_a_session_of_its_own_and_nobody_elses_is_weighed() {
        let mut command = Command::new("sleep");
        command.arg("60");
        lead_session(&mut command);
        let mut child = command.spawn().expect("coreutils");
        let id = child.id();
        let pid = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        let session = rustix::process::getsid(Some(pid));
        let groups = (group_of(&id.to_string()), group_of("self"));
        child.kill().expect("it runs");
        child.wait().expect("it was ours");
        assert_eq!(session, Ok(pid));
        assert!(groups.0.is_none() || groups.0 != groups.1, "{groups:?}");
        if !leads_its_session() {
            assert_eq!((prefer_session(), spare_session()), (Weighed::NotOurs, Weighed::NotOurs));
        }
    }

    /// As a command that somebody began in a container from outside: the kernel names its session 0 there.
    #[test]
    fn a_session_that_began_outside_the_pid_namespace_is_somebody_elses() {
        const WITHIN: &str = "QNAT_TEST_WITHIN_PID_NAMESPACE";
        if std::env::var_os(WITHIN).is_some() {
            assert_eq!((prefer_session(), spare_session()), (Weighed::NotOurs, Weighed::NotOurs));
            return;
        }
        let test = "session::tests::a_session_that_began_outside_the_pid_namespace_is_somebody_elses";
        let ended = Command::new("unshare")
            .args(["--pid", "--fork"])
            .arg(std::env::current_exe().expect("this test"))
            .args([test, "--exact"])
            .env(WITHIN, "1")
            .output()
            .expect("util-linux");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"), "it ran");
    }
}
