//! Network namespaces by name, kept as `ip netns` keeps them: a bind mount of each in `/run/netns`.
//! Never changes the namespace of a thread that somebody else still uses: work in a namespace runs on a thread of its own.
//! Called by the lab and by live tests.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Where named namespaces are mounted.
pub const DIRECTORY: &str = "/run/netns";

/// The mount point of namespace `name`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes an empty namespace called `name` (its loopback is down).
///
/// # Errors
/// `AlreadyExists` if the name is taken, `InvalidInput` if it is no file name, else what the kernel says.
pub fn create(name: &str) -> io::Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("namespace name {name:?}")));
    }
    share_directory()?;
    let path = path(name);
    File::create_new(&path)?;
    let mounted = on_own_thread(|| {
        // SAFETY: only CLONE_FILES makes unshare unsafe (descriptors of other threads would vanish); it is not given.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind("/proc/thread-self/ns/net", &path)?;
        Ok(())
    });
    mounted.inspect_err(|_| drop(fs::remove_file(&path)))
}

/// Removes the name; the namespace ends when the last process and socket in it do. `false` if there was no such name.
///
/// # Errors
/// What the kernel says.
pub fn delete(name: &str) -> io::Result<bool> {
    let path = path(name);
    match unmount(&path, UnmountFlags::DETACH) {
        // INVAL: a file that is no mount point, left by a creation that was interrupted.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    fs::remove_file(&path).map(|()| true)
}

/// A descriptor of namespace `name`.
///
/// # Errors
/// `NotFound` if there is none.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    File::open(path(name)).map(OwnedFd::from)
}

/// The names of all namespaces, sorted.
///
/// # Errors
/// If the directory cannot be read; if there is none, there are no namespaces.
pub fn list() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Moves the calling thread into namespace `name` for good. Processes that it starts, and what it executes, are there too.
///
/// # Errors
/// `NotFound` if there is none, else what the kernel says.
pub fn enter(name: &str) -> io::Result<()> {
    let namespace = open(name)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Runs `work` inside namespace `name`, on a thread of its own, and waits for it. Sockets opened and processes started
/// there belong to the namespace.
///
/// # Errors
/// If the namespace cannot be entered.
///
/// # Panics
/// If `work` does.
pub fn run_in<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_own_thread(|| {
        enter(name)?;
        Ok(work())
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Makes the directory a shared mount, so that mounts made here show in other mount namespaces, as iproute2 does.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    if mount_change(DIRECTORY, shared).is_ok() {
        return Ok(());
    }
    // No mount point yet.
    mount_bind_recursive(DIRECTORY, DIRECTORY)?;
    mount_change(DIRECTORY, shared)?;
    Ok(())
}
