//! The log from end to end but for its thread: batches in, files, answers out.

use super::super::who::{Question, who};
use super::*;
use control::port_log::{PortFate, PortUse};
use engine::ids::{ControlIndex, FrontendId, VnetId};
use engine::record::{Addr, Endpoint, InsideKey, Proto, PublicKey};
use engine::sessions::SessionFate;
use netio::sync::spsc::ring;
use serde_json::Value;
use std::net::Ipv4Addr;
use tempfile::TempDir;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const KEPT: u32 = 3;

struct Bed {
    dir: TempDir,
    writer: Writer,
}

impl Bed {
    fn new() -> Self {
        Self::with(1 << 20, false, None)
    }

    fn with(size_max: u64, destinations: bool, sessions: impl IntoIterator<Item = Consumer<Session>>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let writer = open(&dir, size_max, destinations, sessions);
        Self { dir, writer }
    }

    /// Another life of the member.
    fn reopen(&mut self) {
        self.writer = open(&self.dir, 1 << 20, false, None);
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("nat.log")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).expect("there")
    }

    fn who(&self, port: u16, at: Option<u64>) -> Value {
        let question = Question { ip: PUBLIC, port, at_unix_ms: at };
        let answer = who(&super::super::files(&self.path(), KEPT), question).expect("readable");
        serde_json::to_value(answer).expect("plain data")
    }

    fn holder(&self, port: u16, at: u64) -> Option<String> {
        self.who(port, Some(at))["holder"]["backend"].as_str().map(ToOwned::to_owned)
    }
}

fn open(
    dir: &TempDir,
    size_max: u64,
    destinations: bool,
    sessions: impl IntoIterator<Item = Consumer<Session>>,
) -> Writer {
    let path = dir.path().join("nat.log");
    let parts = JournalParts {
        path,
        kept: KEPT,
        size_max,
        name: "node 1".into(),
        destinations,
        sessions: sessions.into_iter().collect(),
    };
    Writer::open(parts, Arc::default()).expect("opens")
}

fn ports(fate: PortFate, first: u16, last: u16, backend: &str) -> (PortFate, PortUse) {
    let inside = Ipv4Addr::new(10, 0, 1, 1);
    (fate, PortUse { public: PUBLIC, first, last, network: "vnet1".into(), inside, backend: backend.into() })
}

/// An entry at second `index`.
fn batch(index: u64, scope: PortScope, changes: Vec<(PortFate, PortUse)>) -> PortBatch {
    PortBatch { cluster: [7; 16], index: ControlIndex(index), unix_ms: index * 1_000, scope, changes }
}

fn history() -> Vec<PortBatch> {
    use PortFate::{Draining, Granted, Released};
    vec![
        batch(1, PortScope::All, vec![]),
        batch(5, PortScope::Changes, vec![ports(Granted, 1024, 2047, "a")]),
        batch(9, PortScope::Changes, vec![ports(Draining, 1536, 2047, "a")]),
        batch(12, PortScope::Changes, vec![ports(Released, 1536, 2047, "a"), ports(Granted, 1536, 1791, "b")]),
    ]
}

#[test]
fn the_log_tells_who_had_a_port_at_every_time() {
    let mut bed = Bed::new();
    history().iter().for_each(|batch| bed.writer.take(batch));
    let at = |seconds: u64| bed.holder(1600, seconds * 1_000);
    assert_eq!((at(4), bed.holder(1600, 4_999), bed.holder(1600, 5_000)), (None, None, Some("a".into())));
    assert_eq!((at(11), bed.holder(1600, 11_999)), (Some("a".into()), Some("a".into())), "what drains is still its");
    assert_eq!((at(12), at(1_000)), (Some("b".into()), Some("b".into())));
    assert_eq!((bed.holder(1800, 11_000), bed.holder(1800, 13_000)), (Some("a".into()), None));
    assert_eq!((bed.holder(1023, 9_000), bed.holder(2048, 9_000)), (None, None));
    let answer = bed.who(1600, Some(10_000));
    let holder = &answer["holder"];
    assert_eq!(holder["since"], "1970-01-01T00:00:05.000Z");
    assert_eq!(holder["draining_since"], "1970-01-01T00:00:09.000Z");
    assert_eq!(holder["until"], "1970-01-01T00:00:12.000Z");
    assert_eq!((&holder["inside"], &holder["control_index"]), (&Value::from("10.0.1.1"), &Value::from(5)));
    assert_eq!(bed.who(1600, None)["holder"]["backend"], "b", "now");
    assert_eq!(bed.text().lines().count(), 1 + 4);
    assert!(bed.text().lines().all(|line| line.contains(" node-1 NAT - PB")));
}

#[test]
fn entries_that_come_again_after_a_restart_are_not_written_again() {
    let mut bed = Bed::new();
    history().iter().for_each(|batch| bed.writer.take(batch));
    let before = bed.text();
    // The control log begins anew at its last snapshot.
    for from in 0..history().len() {
        bed.reopen();
        let standing = [batch(1, PortScope::All, vec![])].into_iter().chain(history().into_iter().skip(from.max(1)));
        standing.for_each(|batch| bed.writer.take(&batch));
        assert_eq!(bed.text(), before, "from entry {from}");
    }
    bed.writer.take(&batch(20, PortScope::Changes, vec![ports(PortFate::Released, 1536, 1791, "b")]));
    assert_eq!(bed.text().lines().count(), before.lines().count() + 1);
}

#[test]
fn a_member_that_missed_entries_says_what_stands_and_what_it_does_not_know() {
    let mut bed = Bed::new();
    history().iter().take(2).for_each(|batch| bed.writer.take(batch));
    bed.reopen();
    let standing = vec![ports(PortFate::Granted, 1024, 1535, "a"), ports(PortFate::Granted, 1536, 1791, "b")];
    bed.writer.take(&batch(30, PortScope::All, standing));
    assert_eq!((bed.holder(1600, 29_000), bed.holder(1600, 30_000)), (Some("a".into()), Some("b".into())));
    assert_eq!((bed.holder(1800, 29_000), bed.holder(1800, 30_000)), (Some("a".into()), None));
    assert_eq!(bed.who(1024, Some(40_000))["holder"]["since"], "1970-01-01T00:00:05.000Z", "it had it all along");
}

#[test]
fn another_cluster_s_log_is_not_taken_for_this_one_s() {
    let mut bed = Bed::new();
    history().iter().for_each(|batch| bed.writer.take(batch));
    bed.reopen();
    let other = |b: PortBatch| PortBatch { cluster: [8; 16], ..b };
    bed.writer.take(&other(batch(1, PortScope::All, vec![])));
    bed.writer.take(&other(batch(2, PortScope::Changes, vec![ports(PortFate::Granted, 1024, 2047, "c")])));
    assert_eq!(bed.who(1600, None)["holder"]["backend"], "c");
}

#[test]
fn a_torn_line_is_passed_over_and_its_entry_is_written_again() {
    let mut bed = Bed::new();
    let entries = history();
    entries.iter().for_each(|batch| bed.writer.take(batch));
    let whole = bed.text();
    let second_of_last = whole.trim_end().rfind('\n').expect("lines") + 20;
    std::fs::write(bed.path(), &whole[..second_of_last]).expect("written");
    bed.reopen();
    bed.writer.take(&entries[3]);
    assert_eq!(bed.who(1600, None)["holder"]["backend"], "b");
    assert_eq!(bed.holder(1600, 11_000), Some("a".into()));
}

#[test]
fn each_file_begins_with_what_stands_and_the_oldest_goes() {
    let mut bed = Bed::with(2_000, false, None);
    bed.writer.take(&history()[0]);
    bed.writer.take(&history()[1]);
    for index in 10..200 {
        let fate = if index % 2 == 0 { PortFate::Granted } else { PortFate::Released };
        bed.writer.take(&batch(index, PortScope::Changes, vec![ports(fate, 4096, 4103, "b")]));
    }
    let there: Vec<_> = super::super::files(&bed.path(), KEPT + 1);
    assert_eq!(there.iter().map(|path| path.exists()).collect::<Vec<_>>(), [true, true, true, true, false]);
    for path in &there[..4] {
        let text = std::fs::read_to_string(path).expect("there");
        assert!(text.len() < 3_500, "{}", text.len());
        assert!(text.lines().next().is_some_and(|line| line.contains(" PBALL ")), "{text}");
        assert!(
            text.lines().nth(1).is_some_and(|line| line.contains("1970-01-01T00:00:05.000Z") && line.contains("\"a\""))
        );
    }
    assert_eq!(bed.holder(1500, 199_000), Some("a".into()), "granted in a file that is gone");
    assert_eq!((bed.holder(4096, 198_500), bed.holder(4096, 199_000)), (Some("b".into()), None));
    bed.reopen();
    bed.writer.take(&batch(150, PortScope::Changes, vec![ports(PortFate::Granted, 4096, 4103, "b")]));
    assert_eq!(bed.holder(4096, 199_000), None, "an old entry");
}

fn session(fate: SessionFate, at_ms: u64, remote_port: u16) -> Session {
    let end = |ip: Ipv4Addr, port| Endpoint { addr: Addr::from(ip), port };
    let remote = end(Ipv4Addr::new(198, 51, 100, 7), remote_port);
    Session {
        at_ns: at_ms * MS,
        fate,
        public_ip: PUBLIC,
        public: PublicKey { proto: Proto::Tcp, frontend: FrontendId(1), port: 1600, remote },
        inside: InsideKey { vnet: VnetId(1), endpoint: end(Ipv4Addr::new(10, 0, 1, 1), 40_000) },
    }
}

#[test]
fn mappings_are_told_with_the_time_of_their_commit_and_without_destinations_unless_asked_for() {
    for destinations in [false, true] {
        let (mut to, from) = ring(64);
        let mut bed = Bed::with(1 << 20, destinations, Some(from));
        history().iter().take(2).for_each(|batch| bed.writer.take(batch));
        for event in [
            session(SessionFate::Opened, 7_000, 443),
            session(SessionFate::Opened, 7_500, 80),
            session(SessionFate::Closed, 8_000, 443),
        ] {
            to.push(event).expect("room");
        }
        // The machine has run for 10 s, and it is second 100.
        bed.writer.write_sessions(10_000 * MS, 100_000);
        let open = |at: u64| bed.who(1600, Some(at))["sessions"].as_array().expect("a list").len();
        assert_eq!([96_999, 97_000, 97_999, 98_000].map(open), [0, 1, 2, 1]);
        assert_eq!(bed.who(1600, Some(97_200))["sessions"][0]["closed"], "1970-01-01T00:01:38.000Z");
        assert_eq!(bed.text().contains("198.51.100.7"), destinations);
        assert_eq!(bed.text().matches(" SADD [nsess SSUBIX=\"vnet1\"").count(), 2, "{}", bed.text());
        assert_eq!(bed.holder(1600, 97_000), Some("a".into()));
    }
}

#[test]
fn what_an_entry_did_is_synced_and_after_a_failed_sync_what_stands_is_written_again() {
    let mut bed = Bed::new();
    history().iter().take(2).for_each(|batch| bed.writer.take(batch));
    assert!(!bed.writer.gap);
    // It takes whatever is written, and refuses to sync it.
    let unsyncable = LogFile::open(Path::new("/dev/null"), 0, 1 << 20).expect("opens");
    let good = std::mem::replace(&mut bed.writer.file, unsyncable);
    bed.writer.take(&history()[2]);
    assert!(bed.writer.gap, "the sync was asked for, and its failure seen");
    bed.writer.file = good;
    bed.writer.take(&history()[3]);
    assert!(!bed.writer.gap);
    assert_eq!(bed.holder(1600, 13_000), Some("b".into()), "what the disk lost stands in the beginning of the next");
}

#[test]
fn what_cannot_be_written_is_counted_and_the_next_line_begins_with_what_stands() {
    let mut bed = Bed::new();
    history().iter().take(2).for_each(|batch| bed.writer.take(batch));
    let good =
        std::mem::replace(&mut bed.writer.file, LogFile::open(Path::new("/dev/full"), 0, 1 << 20).expect("opens"));
    bed.writer.take(&history()[2]);
    assert_eq!((bed.writer.counts.failed.load(Ordering::Relaxed), bed.writer.gap), (1, true));
    bed.writer.file = good;
    bed.writer.take(&history()[3]);
    assert!(!bed.writer.gap);
    assert_eq!(bed.holder(1600, 13_000), Some("b".into()));
    assert_eq!(bed.text().matches(" PBALL ").count(), 2);
}

#[test]
fn a_log_whose_disk_hangs_holds_up_nobody_counts_what_is_lost_and_says_since_when() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("nat.log");
    let parts = JournalParts {
        path: path.clone(),
        kept: KEPT,
        size_max: 1 << 20,
        name: "n1".into(),
        destinations: false,
        sessions: Vec::new(),
    };
    // The thread does not run: it hangs at its first write.
    let (journal, writer, incoming) = Journal::open(parts).expect("opens");
    let note = |index: u64, fate: PortFate| {
        journal.note(batch(index, PortScope::Changes, vec![ports(fate, 1024, 2047, "a")]));
    };
    journal.note(batch(1, PortScope::All, vec![]));
    assert_eq!(journal.counts().waiting_ms, 0);
    for index in 2..=BATCHES_MAX as u64 {
        note(index, PortFate::Granted);
    }
    assert_eq!((journal.counts().dropped, journal.needs_all()), (0, false));
    note(300, PortFate::Draining);
    note(301, PortFate::Released);
    assert_eq!(journal.counts().dropped, 2, "the queue is full");
    assert!(!journal.needs_all(), "there is no room yet");
    assert!(journal.counts().waiting_ms >= 1_000, "it is given up after a second, and says so");
    // The disk comes back.
    let began = std::time::Instant::now();
    let thread = std::thread::spawn(move || writer.run(&incoming));
    while !journal.needs_all() || journal.counts().waiting_ms != 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not go on: {:?}", journal.counts());
        std::thread::yield_now();
    }
    note(302, PortFate::Granted);
    assert_eq!(journal.counts().dropped, 3, "what does not follow on what was lost would be wrong");
    journal.note(batch(303, PortScope::All, vec![ports(PortFate::Granted, 1024, 2047, "b")]));
    assert!(!journal.needs_all());
    journal.note(batch(304, PortScope::Changes, vec![ports(PortFate::Draining, 1024, 2047, "b")]));
    drop(journal);
    thread.join().expect("it ends with the last way to it");
    let holder = |at_s: u64| {
        let question = Question { ip: PUBLIC, port: 1024, at_unix_ms: Some(at_s * 1_000) };
        let answer = who(&super::super::files(&path, KEPT), question).expect("readable");
        serde_json::to_value(answer).expect("plain data")["holder"]["backend"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!((holder(200), holder(303), holder(400)), (Some("a".into()), Some("b".into()), Some("b".into())));
}

#[test]
fn a_slow_disk_is_waited_for_and_nothing_is_lost() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("nat.log");
    let parts = JournalParts {
        path,
        kept: KEPT,
        size_max: 1 << 20,
        name: "n1".into(),
        destinations: false,
        sessions: Vec::new(),
    };
    let journal = Journal::start(parts).expect("starts");
    journal.note(batch(1, PortScope::All, vec![]));
    // Each is synced: more of them come than there is room for.
    let entries = 4 * BATCHES_MAX as u64;
    for index in 2..2 + entries {
        let fate = if index % 2 == 0 { PortFate::Granted } else { PortFate::Released };
        journal.note(batch(index, PortScope::Changes, vec![ports(fate, 1024, 2047, "a")]));
    }
    let began = std::time::Instant::now();
    while journal.counts().written <= entries {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", journal.counts());
        std::thread::yield_now();
    }
    assert_eq!((journal.counts().dropped, journal.needs_all()), (0, false));
}
