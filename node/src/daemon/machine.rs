//! Looks at this member's machine every ten seconds: the space and the speed of its disks, and how long its certificates
//! last. What is not as it should be goes to the board of concerns. A disk that hangs holds up this thread alone.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::concern::{Concern, Subject, What};
use netio::ca;

use super::concerns::Alarms;
use super::config::NodeConfig;

const EVERY: Duration = Duration::from_secs(10);
/// Below this share of the file system, and below [`SPACE_LOW_BYTES`], space is said to end.
const SPACE_LOW_PERCENT: u64 = 10;
const SPACE_LOW_BYTES: u64 = 1 << 30;
/// Below this much the store cannot be relied on to grow.
const SPACE_NONE_BYTES: u64 = 64 << 20;
/// A write that takes longer to reach the disk holds up configuration and members that register.
const SYNC_SLOW: Duration = Duration::from_millis(500);
/// Certificates are renewed before this much is left.
const CERTIFICATE_DAYS: u64 = 30;
const DAY: Duration = Duration::from_secs(86_400);

/// A disk as it was found.
#[derive(Clone, Copy, Debug)]
struct Disk {
    free_bytes: u64,
    size_bytes: u64,
    /// How long a small write took to reach it.
    sync: Duration,
}

/// Looks until the process ends, on a thread of its own.
pub(super) fn watch(config: &NodeConfig, alarms: Alarms) -> io::Result<()> {
    let config = config.clone();
    let me = Subject::Member { node: config.node_id };
    let look = move || loop {
        let mut dirs: Vec<PathBuf> = config.nat_log_path().parent().map(Path::to_owned).into_iter().collect();
        dirs.retain(|dir| *dir != config.data_dir);
        dirs.push(config.data_dir.clone());
        alarms.replace(&[What::DiskSpace, What::StoreSlow], judge_disks(&me, &dirs));
        let certificates = [config.tls.cert.as_path(), config.tls.ca.as_path()];
        alarms.replace(&[What::CertificateEnds], judge_certificates(&me, &certificates, SystemTime::now()));
        std::thread::sleep(EVERY);
    };
    std::thread::Builder::new().name("machine".to_owned()).spawn(look).map(drop)
}

fn judge_disks(me: &Subject, dirs: &[PathBuf]) -> Vec<Concern> {
    dirs.iter().flat_map(|dir| judge_disk(me, dir, measure(dir))).collect()
}

fn measure(dir: &Path) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(dir)?;
    let probe = dir.join(".disk-probe");
    let began = Instant::now();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(probe)?;
    file.write_all(b"qnat")?;
    file.sync_data()?;
    let sync = began.elapsed();
    Ok(Disk { free_bytes: stat.f_bavail * stat.f_frsize, size_bytes: stat.f_blocks * stat.f_frsize, sync })
}

fn judge_disk(me: &Subject, dir: &Path, found: io::Result<Disk>) -> Vec<Concern> {
    let dir = dir.display();
    let disk = match found {
        Ok(disk) => disk,
        Err(error) => {
            let why = format!("{dir} cannot be written: {error}");
            return vec![Concern::critical(
                me.clone(),
                What::DiskSpace,
                why,
                "make room, or look at the disk (`dmesg`)",
            )];
        }
    };
    let mut found = Vec::new();
    let why = format!("{} MiB of {} MiB are free at {dir}", disk.free_bytes >> 20, disk.size_bytes >> 20);
    let remedy = "make room; older files of the address-translation log may be moved away";
    if disk.free_bytes < SPACE_NONE_BYTES {
        found.push(Concern::critical(me.clone(), What::DiskSpace, why, remedy));
    } else if disk.free_bytes < SPACE_LOW_BYTES && disk.free_bytes < disk.size_bytes / 100 * SPACE_LOW_PERCENT {
        found.push(Concern::warning(me.clone(), What::DiskSpace, why, remedy));
    }
    if disk.sync > SYNC_SLOW {
        let why = format!("a write at {dir} took {} ms to reach the disk", disk.sync.as_millis());
        let remedy = "look for what keeps the disk busy (`iostat -x`); configuration waits for it, packets do not";
        found.push(Concern::warning(me.clone(), What::StoreSlow, why, remedy));
    }
    found
}

fn judge_certificates(me: &Subject, files: &[&Path], now: SystemTime) -> Vec<Concern> {
    let concern = |file: &&Path| {
        let name = file.display();
        let remedy = "issue new certificates from the cluster's authority, put them in place on each member and restart them one by one";
        let pem = std::fs::read_to_string(file).ok();
        let Some(ends) = pem.and_then(|pem| ca::ends_unix_s(&pem)) else {
            let why = format!("{name} cannot be read any more: the member will not start again");
            return Some(Concern::critical(me.clone(), What::CertificateEnds, why, "put the certificate back"));
        };
        let left = (UNIX_EPOCH + Duration::from_secs(ends)).duration_since(now).ok();
        match left {
            None => {
                let why = format!("{name} has ended: no member links to this one any more");
                Some(Concern::critical(me.clone(), What::CertificateEnds, why, remedy))
            }
            Some(left) if left < DAY * u32::try_from(CERTIFICATE_DAYS).unwrap_or(u32::MAX) => {
                let why = format!("{name} ends in {} days", left.as_secs() / DAY.as_secs());
                Some(Concern::warning(me.clone(), What::CertificateEnds, why, remedy))
            }
            Some(_) => None,
        }
    };
    files.iter().filter_map(concern).collect()
}

#[cfg(test)]
mod tests {
    use control::concern::Severity;
    use netio::ca::ClusterCa;

    use super::*;

    fn me() -> Subject {
        Subject::Member { node: 1 }
    }

    fn found(disk: Disk) -> Vec<(Severity, What)> {
        judge_disk(&me(), Path::new("/data"), Ok(disk)).into_iter().map(|c| (c.severity, c.what)).collect()
    }

    #[test]
    fn a_disk_is_measured_and_one_without_room_or_speed_is_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = measure(dir.path()).expect("measured");
        assert!(disk.size_bytes > 0 && disk.free_bytes <= disk.size_bytes, "{disk:?}");
        let good = Disk { free_bytes: 50 << 30, size_bytes: 100 << 30, sync: Duration::from_millis(3) };
        assert_eq!(found(good), []);
        assert_eq!(found(Disk { free_bytes: 900 << 20, ..good }), [(Severity::Warning, What::DiskSpace)]);
        assert_eq!(found(Disk { free_bytes: 63 << 20, ..good }), [(Severity::Critical, What::DiskSpace)]);
        assert_eq!(found(Disk { sync: Duration::from_millis(501), ..good }), [(Severity::Warning, What::StoreSlow)]);
        let small = Disk { free_bytes: 900 << 20, size_bytes: 4 << 30, ..good };
        assert_eq!(found(small), [], "a small disk that is mostly free");
        let missing = judge_disks(&me(), &[dir.path().join("gone")]);
        assert_eq!(missing.iter().map(|c| c.severity).collect::<Vec<_>>(), [Severity::Critical]);
    }

    #[test]
    fn certificates_are_told_of_a_month_before_their_end_and_after_it() {
        let ca = ClusterCa::create("test").expect("ca");
        let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let issued = ca.issue_valid(1, start, start + 100 * DAY).expect("issued");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("node.pem");
        std::fs::write(&file, issued.cert_pem).expect("written");
        let at = |days: u32| {
            let found = judge_certificates(&me(), &[&file], start + DAY * days);
            found.into_iter().map(|c| (c.severity, c.why)).collect::<Vec<_>>()
        };
        assert_eq!(at(69), []);
        assert_eq!(at(71)[0].0, Severity::Warning);
        assert!(at(71)[0].1.ends_with("ends in 29 days"), "{:?}", at(71));
        assert_eq!(at(101)[0].0, Severity::Critical);
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(at(0)[0].0, Severity::Critical);
    }
}
