//! Where the control group's store of a member is, and how it is opened; what a founding and a start share.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use consensus::control::storage::StoreError;
use consensus::control::storage::sled::SledStore;
use control::registry::FOUNDER_RAFT_ID;
use ring::rand::{SecureRandom, SystemRandom};

/// How long a start waits for the store's lock, and how often it tries.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The control group's store inside a member's data directory.
#[must_use]
pub fn control_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("control")
}

/// Opens the control group's store of a member. Waits a moment for whoever has it: a process that was killed gives its lock
/// back only when its last descriptor is closed, and a child between fork and exec has a copy of each.
///
/// # Errors
/// If somebody still has it after `LOCK_PATIENCE`, or it cannot be opened.
pub fn open_control_store(data_dir: &Path) -> Result<SledStore> {
    let dir = control_dir(data_dir);
    let begun = Instant::now();
    loop {
        match SledStore::open(&dir) {
            Err(StoreError::Locked { .. }) if begun.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_RETRY),
            opened => return opened.with_context(|| format!("data directory {}", data_dir.display())),
        }
    }
}

/// The raft id of a founder in the control group.
#[must_use]
pub fn founder_raft_id(node: u32) -> u64 {
    FOUNDER_RAFT_ID | u64::from(node)
}

/// Bytes from the operating system.
///
/// # Errors
/// If it has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random numbers")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_waits_for_a_lock_that_is_about_to_be_given_back_and_refuses_one_that_is_kept() {
        let scratch = tempfile::tempdir().expect("scratch");
        let holder = open_control_store(scratch.path()).expect("free");
        let release = thread::spawn(move || {
            thread::sleep(LOCK_RETRY * 4);
            drop(holder);
        });
        let kept = open_control_store(scratch.path()).expect("waits for the first");
        release.join().expect("released");
        let refused = open_control_store(scratch.path()).expect_err("two users of one directory");
        assert!(format!("{refused:#}").contains("lock"), "{refused:#}");
        drop(kept);
    }
}
