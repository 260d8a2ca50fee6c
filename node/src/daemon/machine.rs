//! Looks at this member's machine every ten seconds: the space and the speed of its disks, and how long its certificates
//! last. Each place is looked at by a thread of its own, so that a disk which hangs holds up nothing else; that a look does
//! not end is itself told of. Called by `run`; the answerer asks [`Machine`] for what was found.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::concern::{Concern, Subject, What};
use netio::boottime::now_ns;
use netio::ca;

use super::config::NodeConfig;

const EVERY: Duration = Duration::from_secs(10);
/// Below this share of the file system, and below [`SPACE_LOW_BYTES`], space is said to end.
const SPACE_LOW_PERCENT: u64 = 10;
const SPACE_LOW_BYTES: u64 = 1 << 30;
/// Below this much the store cannot be relied on to grow.
const SPACE_NONE_BYTES: u64 = 64 << 20;
/// A write that takes longer to reach the disk holds up configuration and members that register.
const SYNC_SLOW: Duration = Duration::from_millis(500);
/// A look at a place that takes longer does not seem to end.
const HANGS_NS: u64 = 3_000_000_000;
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

/// What is found of this machine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Machine {
    me: Subject,
    places: Vec<Arc<Place>>,
}

/// A place that a thread looks at again and again.
#[derive(Debug)]
struct Place {
    name: String,
    /// Since when the look under way lasts (CLOCK_BOOTTIME); 0: none is.
    since_ns: AtomicU64,
    found: Mutex<Vec<Concern>>,
}

impl Place {
    fn new(name: String) -> Arc<Self> {
        Arc::new(Self { name, since_ns: AtomicU64::new(0), found: Mutex::default() })
    }

    fn look(&self, look: impl FnOnce() -> Vec<Concern>) {
        self.since_ns.store(now_ns(), Ordering::Relaxed);
        let found = look();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        self.since_ns.store(0, Ordering::Relaxed);
    }

    /// While a look does not end, what the one before it found is old.
    fn concerns(&self, me: &Subject, now_ns: u64) -> Vec<Concern> {
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        let for_ns = if since_ns == 0 { 0 } else { now_ns.saturating_sub(since_ns) };
        if for_ns < HANGS_NS {
            return self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        let why =
            format!("{} has not answered for {} s: reading or writing there hangs", self.name, for_ns / 1_000_000_000);
        let remedy = "look at the disk (`dmesg`, `iostat -x`); what it shall keep waits, packets do not";
        vec![Concern::critical(me.clone(), What::DiskFails, why, remedy)]
    }
}

impl Machine {
    /// What is not as it should be now.
    #[must_use]
    pub fn concerns(&self, now_ns: u64) -> Vec<Concern> {
        self.places.iter().flat_map(|place| place.concerns(&self.me, now_ns)).collect()
    }
}

/// Looks until the process ends, on a thread for each place.
pub(super) fn watch(config: &NodeConfig) -> io::Result<Machine> {
    let me = Subject::Member { node: config.node_id };
    let mut dirs: Vec<PathBuf> = config.nat_log_path().parent().map(Path::to_owned).into_iter().collect();
    dirs.retain(|dir| *dir != config.data_dir);
    dirs.push(config.data_dir.clone());
    let mut places = Vec::new();
    for dir in dirs {
        let about = me.clone();
        places.push(begin(dir.display().to_string(), move || judge_disk(&about, &dir, measure(&dir)))?);
    }
    let (about, cert, ca) = (me.clone(), config.tls.cert.clone(), config.tls.ca.clone());
    let look = move || judge_certificates(&about, &[cert.as_path(), ca.as_path()], SystemTime::now());
    places.push(begin(config.tls.cert.display().to_string(), look)?);
    Ok(Machine { me, places })
}

fn begin(name: String, look: impl Fn() -> Vec<Concern> + Send + 'static) -> io::Result<Arc<Place>> {
    let place = Place::new(name);
    let watched = Arc::clone(&place);
    let again = move || loop {
        watched.look(&look);
        std::thread::sleep(EVERY);
    };
    std::thread::Builder::new().name("machine".to_owned()).spawn(again)?;
    Ok(place)
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
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let (what, remedy) = match full {
                true => (What::DiskSpace, "make room"),
                false => (What::DiskFails, "look at the disk (`dmesg`) and at the rights of the directory"),
            };
            return vec![Concern::critical(me.clone(), what, format!("{dir} cannot be written: {error}"), remedy)];
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
        let gone = dir.path().join("gone");
        let kinds = |found: io::Result<Disk>| {
            judge_disk(&me(), &gone, found).into_iter().map(|c| (c.severity, c.what)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(measure(&gone)), [(Severity::Critical, What::DiskFails)]);
        assert_eq!(kinds(Err(io::ErrorKind::StorageFull.into())), [(Severity::Critical, What::DiskSpace)]);
    }

    #[test]
    fn a_disk_that_hangs_is_told_of_while_it_does() {
        let place = Place::new("/data".to_owned());
        let machine = Machine { me: me(), places: vec![Arc::clone(&place)] };
        let slow = Concern::warning(me(), What::StoreSlow, "slow", "look at it");
        place.look(|| vec![slow.clone()]);
        assert_eq!(machine.concerns(now_ns() + 2 * HANGS_NS), std::slice::from_ref(&slow), "between two looks");
        let (entered, hangs) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            place.look(|| {
                entered.send(()).expect("awaited");
                // It lasts until the test lets go.
                let _let_go = released.recv();
                Vec::new()
            });
        });
        hangs.recv().expect("it looks");
        assert_eq!(machine.concerns(now_ns()), [slow], "a look takes its time");
        let found = machine.concerns(now_ns() + HANGS_NS);
        assert_eq!(
            found.iter().map(|c| (c.severity, c.what)).collect::<Vec<_>>(),
            [(Severity::Critical, What::DiskFails)]
        );
        assert!(found[0].why.starts_with("/data has not answered for 3 s"), "{}", found[0].why);
        release.send(()).expect("it waits");
        thread.join().expect("the look ends");
        assert_eq!(machine.concerns(now_ns() + HANGS_NS), []);
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
