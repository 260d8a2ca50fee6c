//! Processes that outlive the command that started them, known by number and start time, so that a reused number is never
//! mistaken for one of ours.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netio::netns;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

/// A process by number and start time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

/// What a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Running or able to.
    Running,
    /// Stopped by `pause`.
    Paused,
    /// Ended, or never started.
    Dead,
}

/// Starts `command` inside a namespace, in a session of its own (the terminal's Ctrl-C is not for it, and its priorities do not
/// depend on what else runs in the caller's), output appended to `log`.
pub(super) fn spawn_in(namespace: &str, mut command: Command, log: &Path) -> Result<ProcessId> {
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let err = out.try_clone()?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    netio::session::lead_session(&mut command);
    // A child begins in the namespace of the thread that forks it.
    let child = netns::run_in(namespace, || command.spawn()).with_context(|| namespace.to_owned())?;
    let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
    let pid = child.id();
    let (start_ticks, _) = stat(pid).with_context(|| format!("process {pid} ended at once, see {}", log.display()))?;
    Ok(ProcessId { pid, start_ticks })
}

impl ProcessId {
    /// What it is doing now.
    #[must_use]
    pub fn state(self) -> ProcessState {
        match stat(self.pid) {
            Some((start_ticks, state)) if start_ticks == self.start_ticks => match state {
                'Z' | 'X' | 'x' => ProcessState::Dead,
                'T' | 't' => ProcessState::Paused,
                _ => ProcessState::Running,
            },
            _ => ProcessState::Dead,
        }
    }

    /// Sends a signal; `false` if the process is dead.
    pub(super) fn signal(self, signal: Signal) -> Result<bool> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("process number")?;
        // The descriptor is taken before the start time is compared: from then on the number cannot change hands.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
        if self.state() == ProcessState::Dead {
            return Ok(false);
        }
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("signal to process {pid:?}")),
        }
    }

    /// Kills it without mercy and waits until it is gone.
    pub(super) fn kill(self) -> Result<()> {
        let began = Instant::now();
        while self.signal(Signal::KILL)? {
            if began.elapsed() > Duration::from_secs(10) {
                bail!("process {} does not die", self.pid);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.reap();
        Ok(())
    }

    /// Takes the exit status if it is a dead child of this process; does nothing otherwise.
    pub(super) fn reap(self) {
        if self.state() == ProcessState::Dead
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            // Not our child, or reaped before: nothing to do.
            let _reaped = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// All processes that have their network in `namespace`, save this one.
pub(super) fn occupants(namespace: &str) -> Vec<ProcessId> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let Some(wanted) = identity(&netns::path(namespace)) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| identity(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(wanted))
        .filter_map(|pid| stat(pid).map(|(start_ticks, _)| ProcessId { pid, start_ticks }))
        .collect()
}

/// Start time and state letter.
fn stat(pid: u32) -> Option<(u64, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold anything; what follows the last one is plain.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_followed_through_its_life_and_a_reused_number_is_not_it() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let (start_ticks, _) = stat(child.id()).expect("alive");
        let id = ProcessId { pid: child.id(), start_ticks };
        let other_life = ProcessId { start_ticks: start_ticks - 1, ..id };
        assert_eq!(other_life.state(), ProcessState::Dead);
        assert!(!other_life.signal(Signal::KILL).expect("no error"), "killed a stranger");
        assert!(id.signal(Signal::STOP).expect("signal"));
        let began = Instant::now();
        while id.state() != ProcessState::Paused {
            assert!(began.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        assert!(id.signal(Signal::CONT).expect("signal"));
        assert_eq!(id.state(), ProcessState::Running);
        id.kill().expect("kill");
        assert_eq!(id.state(), ProcessState::Dead);
        assert!(child.wait().is_err(), "kill leaves no zombie");
        assert!(!id.signal(Signal::TERM).expect("no error"));
    }
}
