//! Small disks of their own for tests of disks that fail: an ext4 on a loop device, which ends with the value. Needs root.
//! Called by tests of the control store and of members; it must not use anything of the product.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Its size.
pub const DISK_BYTES: u64 = 64 << 20;

/// A small ext4 on a loop device, which writes nothing by itself for ten minutes.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    device: String,
    place: PathBuf,
    _home: TempDir,
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk {
    /// An empty one.
    ///
    /// # Panics
    /// If the system does not make it.
    #[must_use]
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let image = home.path().join("image");
        File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("room for an image");
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        Self::attach(home, image)
    }

    fn attach(home: TempDir, image: PathBuf) -> Self {
        let place = home.path().join("mounted");
        fs::create_dir(&place).expect("a place");
        let device = run("losetup", &["--find", "--show", text(&image)]);
        let disk = Self { image, device, place, _home: home };
        disk.mount_at(&disk.place);
        disk
    }

    /// Mounts it at one more place, until it ends.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn mount_at(&self, place: &Path) {
        run("mount", &["-o", "commit=600", &self.device, text(place)]);
    }

    /// What would be on this disk, had the power failed now: what a file system has not been made to write is not on its
    /// device.
    ///
    /// # Panics
    /// If the device cannot be copied, or the copy not be mounted.
    #[must_use]
    pub fn after_a_power_cut(&self) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let image = home.path().join("image");
        fs::copy(&self.image, &image).expect("a copy of the device");
        Self::attach(home, image)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Takes all room that is left, and returns the file that holds it.
    ///
    /// # Panics
    /// If it is not full then.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let ballast = self.place.join("ballast");
        let full = fs::write(&ballast, vec![1; usize::try_from(DISK_BYTES).expect("fits")]);
        assert_eq!(full.expect_err("the disk is full").kind(), std::io::ErrorKind::StorageFull);
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file there keeps the mount until he lets go of it.
        let _ = command("umount", &["--lazy", "--all-targets", &self.device]).status();
        let _ = command("losetup", &["--detach", &self.device]).status();
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path);
    command
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program, arguments).output().expect("a program of the system");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
