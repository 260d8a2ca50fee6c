//! Hanging one thread of a member, as a driver or a system call would: the freezer of a threaded control group (version 2)
//! stops that thread and nothing else. Everything here is undone by `release`, and by taking the lab down.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::process::ProcessId;

/// Begins the names of our control groups.
const PREFIX: &str = "qnat-lab-";
const FROZEN: &str = "frozen";

/// Where control groups of version 2 are mounted.
fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let found = mounts.find_map(|fields| (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1])));
    found.context("no control groups of version 2 are mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

fn write(path: &Path, value: impl std::fmt::Display) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| path.display().to_string())
}

/// The thread of this name.
fn thread_named(process: ProcessId, name: &str) -> Result<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).context("the process has ended")?;
    let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |tid: &u32| {
        let comm = fs::read_to_string(format!("/proc/{}/task/{tid}/comm", process.pid));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    tids.into_iter().find(is_it).with_context(|| format!("process {} has no thread {name}", process.pid))
}

/// Stops the thread `thread` of a member's process.
pub(super) fn hang(node: u32, process: ProcessId, thread: &str) -> Result<()> {
    let tid = thread_named(process, thread)?;
    let group = root()?.join(format!("{PREFIX}n{node}"));
    ensure!(!group.exists(), "a thread of n{node} hangs already: release it first");
    let frozen = group.join(FROZEN);
    fs::create_dir(&group).with_context(|| group.display().to_string())?;
    let done = (|| {
        write(&group.join("cgroup.procs"), process.pid)?;
        fs::create_dir(&frozen).with_context(|| frozen.display().to_string())?;
        write(&frozen.join("cgroup.type"), "threaded")?;
        write(&frozen.join("cgroup.threads"), tid)?;
        write(&frozen.join("cgroup.freeze"), 1)
    })();
    // Half of it is worse than nothing.
    done.inspect_err(|_| drop(release(node)))
}

/// Lets it go on, if it is still there, and removes the control group.
pub(super) fn release(node: u32) -> Result<()> {
    let root = root()?;
    let group = root.join(format!("{PREFIX}n{node}"));
    if !group.exists() {
        return Ok(());
    }
    remove(&root, &group)
}

fn remove(root: &Path, group: &Path) -> Result<()> {
    let frozen = group.join(FROZEN);
    if frozen.exists() {
        write(&frozen.join("cgroup.freeze"), 0)?;
    }
    // In version 2 a process moves as a whole, wherever its threads are.
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines() {
        // It may end meanwhile.
        let _gone = write(&root.join("cgroup.procs"), pid);
    }
    for group in [&frozen, group] {
        let mut left = fs::remove_dir(group);
        for _ in 0..100 {
            if left.is_ok() || !group.exists() {
                break;
            }
            // What was killed leaves its group a moment later.
            std::thread::sleep(std::time::Duration::from_millis(10));
            left = fs::remove_dir(group);
        }
        ensure!(!group.exists(), "{}: {left:?}", group.display());
    }
    Ok(())
}

/// Removes what any lab left.
pub(super) fn release_all() -> Result<()> {
    // Without them nothing was frozen.
    let Ok(root) = root() else { return Ok(()) };
    let Ok(entries) = fs::read_dir(&root) else { return Ok(()) };
    let ours = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)));
    for entry in ours {
        remove(&root, &entry.path())?;
    }
    Ok(())
}
