//! Exclusivity, before anything that is shared is touched (I54): one process per data directory, and one per data interface
//! of a network namespace. Held until the process ends, however it ends. Taken first of all by `run`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::config::NodeConfig;

/// How long a start waits, and how often it tries: a process that was killed gives its locks back only when its last
/// descriptor is closed, and a child between fork and exec has a copy of each.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(20);
/// Where the locks of interfaces are.
const RUN_DIR: &str = "/run/qnat";

/// The locks; dropping them gives them back.
#[derive(Debug)]
pub struct MemberLock {
    _files: Vec<File>,
}

impl MemberLock {
    /// Takes the locks of the member that `config` describes.
    ///
    /// # Errors
    /// If another process has one of them after a few seconds, or the lock files cannot be written.
    pub fn take(config: &NodeConfig) -> Result<Self> {
        let until = Instant::now() + PATIENCE;
        let data = one(&config.data_dir, "lock", until)
            .with_context(|| format!("data_dir = {}", config.data_dir.display()))?;
        let mut files = vec![data];
        // Interfaces of one name are others in another network namespace.
        let namespace = std::fs::metadata("/proc/self/ns/net").context("/proc/self/ns/net")?.ino();
        let inside = config.data.inside.iter().map(|one| ("data.inside", &one.interface));
        for (field, name) in inside.chain([("data.outside", &config.data.outside)]) {
            let file = one(Path::new(RUN_DIR), &format!("{namespace}.{name}.lock"), until);
            files.push(file.with_context(|| format!("{field} = {name}"))?);
        }
        sweep(Path::new(RUN_DIR));
        Ok(Self { _files: files })
    }
}

/// Removes locks that nobody holds: those of members that were killed, in network namespaces that may be gone.
fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        // Under the lock: whoever opened it meanwhile sees that it is gone, and makes it anew.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // One that cannot be removed does no harm.
            let _left = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether `path` still leads to this file.
fn stands(path: &Path, file: &File) -> std::io::Result<bool> {
    let there = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let ours = file.metadata()?;
    Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

fn one(dir: &Path, name: &str, until: Instant) -> Result<File> {
    let path: PathBuf = dir.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
    // Never emptied before it is ours: it says whose it is.
    let open = || {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        options.with_context(|| path.display().to_string())
    };
    let mut file = open()?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if stands(&path, &file).with_context(|| path.display().to_string())? => break,
            // It was swept away between opening and locking.
            Ok(()) => file = open()?,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who cannot be named is still there.
                let _unread = file.read_to_string(&mut holder);
                bail!(
                    "{}: process {} runs this member, or another on the same interface; nothing was changed; stop that \
                     one first (`qnat stop`, or a signal to the process), or correct node.toml",
                    path.display(),
                    if holder.trim().is_empty() { "(unknown)" } else { holder.trim() }
                );
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    file.set_len(0).and_then(|()| file.rewind()).with_context(|| path.display().to_string())?;
    writeln!(file, "{}", std::process::id()).with_context(|| path.display().to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_first_ones_number_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let first = one(&data, "lock", Instant::now()).expect("free");
        let refused = one(&data, "lock", Instant::now()).expect_err("held").to_string();
        assert!(refused.contains(&format!("process {} ", std::process::id())), "{refused}");
        let text = std::fs::read_to_string(data.join("lock")).expect("readable");
        assert_eq!(text, format!("{}\n", std::process::id()));
        assert_eq!(std::fs::read_dir(&data).expect("a directory").count(), 1);
        drop(first);
        one(&data, "lock", Instant::now()).expect("free again");
    }

    #[test]
    fn locks_that_nobody_holds_are_swept_away_and_whoever_waits_for_one_makes_it_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let take = |name: &str, patience| one(dir.path(), name, Instant::now() + patience);
        let held = take("held", Duration::ZERO).expect("free");
        drop(take("left", Duration::ZERO).expect("free"));
        let opened = File::open(dir.path().join("left")).expect("it is there");
        sweep(dir.path());
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).expect("a directory").map(|e| e.expect("one").file_name()).collect();
        assert_eq!(names, ["held"]);
        assert!(!stands(&dir.path().join("left"), &opened).expect("it can be told"));
        let again = take("left", Duration::ZERO).expect("made anew");
        assert!(stands(&dir.path().join("left"), &again).expect("it can be told"));
        take("held", Duration::ZERO).map(drop).expect_err("who holds one keeps it");
        drop(held);
    }

    #[test]
    fn a_start_waits_for_a_lock_that_is_about_to_be_free() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = one(dir.path(), "lock", Instant::now()).expect("free");
        let path = dir.path().to_owned();
        let second = thread::spawn(move || one(&path, "lock", Instant::now() + Duration::from_secs(10)).map(|_| ()));
        thread::sleep(Duration::from_millis(100));
        drop(first);
        second.join().expect("no panic").expect("free in time");
    }
}
