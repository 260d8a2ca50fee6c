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
        for (field, name) in [("data.inside", &config.data.inside), ("data.outside", &config.data.outside)] {
            let file = one(Path::new(RUN_DIR), &format!("{namespace}.{name}.lock"), until);
            files.push(file.with_context(|| format!("{field} = {name}"))?);
        }
        Ok(Self { _files: files })
    }
}

fn one(dir: &Path, name: &str, until: Instant) -> Result<File> {
    let path: PathBuf = dir.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
    // Never emptied before it is ours: it says whose it is.
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = options.with_context(|| path.display().to_string())?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
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
