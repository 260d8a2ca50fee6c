//! The thread that writes the log. The control actor hands it what an entry did to ports over a bounded queue, and waits if
//! the disk is slow but not if it hangs; the worker hands it mappings over a ring and never waits. What cannot be written is
//! counted, and said: after entries that found no room the log begins anew with all that stands, as soon as there is room.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::port_log::{PortBatch, PortScope};
use engine::sessions::Session;
use netio::boottime::now_ns;
use netio::sync::spsc::{Consumer, Producer};
use words::time::MS;

use super::book::Book;
use super::file::LogFile;
use super::line::{BlockLine, Body, Line, SessionLine, host};

/// Without any progress for so long the disk hangs, and nobody waits for it.
const HANGS_NS: u64 = 1_000_000_000;
/// How often somebody who waits for room looks.
const ROOM_EVERY: Duration = Duration::from_millis(1);
/// Entries of the control log that wait for the disk at most; those that come while it hangs are lost.
const BATCHES_MAX: usize = 256;
/// What stands is asked for again when so few wait.
const BATCHES_FEW: u64 = BATCHES_MAX as u64 / 2;
/// Mappings are fetched this often, and so many at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SESSIONS_AT_ONCE: usize = 4_096;

/// The worker's end of the ring of mappings.
pub type SessionRing = Producer<Session>;

/// What the thread needs.
#[derive(Debug)]
pub struct JournalParts {
    /// The file.
    pub path: PathBuf,
    /// Older files that stay.
    pub kept: u32,
    /// Length from which a file is put by, in octets.
    pub size_max: u64,
    /// This member's name.
    pub name: String,
    /// Whether the remote ends of mappings are kept.
    pub destinations: bool,
    /// Mappings, of each worker, if they are wanted.
    pub sessions: Vec<Consumer<Session>>,
}

/// What has been written, and what could not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalCounts {
    /// Lines in files.
    pub written: u64,
    /// Lines that no file took.
    pub failed: u64,
    /// Lines about ports that found no room on their way to the file.
    pub dropped: u64,
    /// For how long the disk has kept it from going on, in milliseconds; 0 if nothing waits.
    pub waiting_ms: u64,
}

/// The way to the thread. It ends when nobody has this any more.
#[derive(Clone, Debug)]
pub struct Journal {
    batches: SyncSender<PortBatch>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    /// Entries on their way to the thread.
    queued: AtomicU64,
    /// Since when there has been something to do without any progress (CLOCK_BOOTTIME); 0: there is nothing.
    since_ns: AtomicU64,
    /// Entries were lost: what stands has to come whole.
    behind: AtomicBool,
}

impl Counts {
    /// Something is to be done now, if nothing was before.
    fn begin(&self, now_ns: u64) {
        // Whoever came first began it.
        let _first = self.since_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether nothing of what there is to do has been done for long.
    fn hangs(&self, now_ns: u64) -> bool {
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        since_ns != 0 && now_ns.saturating_sub(since_ns) >= HANGS_NS
    }

    /// Something is done.
    fn go_on(&self, now_ns: u64) {
        let since = if self.queued.load(Ordering::Relaxed) == 0 { 0 } else { now_ns };
        self.since_ns.store(since, Ordering::Relaxed);
    }
}

impl Journal {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// If the file cannot be read and written.
    pub fn start(parts: JournalParts) -> io::Result<Self> {
        let (journal, writer, incoming) = Self::open(parts)?;
        std::thread::Builder::new().name("nat-log".to_owned()).spawn(move || writer.run(&incoming))?;
        Ok(journal)
    }

    fn open(parts: JournalParts) -> io::Result<(Self, Writer, Receiver<PortBatch>)> {
        let (batches, incoming) = sync_channel(BATCHES_MAX);
        let counts = Arc::new(Counts::default());
        let writer = Writer::open(parts, Arc::clone(&counts))?;
        Ok((Self { batches, counts }, writer, incoming))
    }

    /// Hands on what an entry did; waits for room as long as the disk goes on. Behind one that was lost only what says
    /// everything makes sense.
    pub fn note(&self, batch: PortBatch) {
        let Counts { dropped, queued, behind, .. } = &*self.counts;
        let (lines, whole) = (batch.changes.len() as u64, batch.scope == PortScope::All);
        queued.fetch_add(1, Ordering::Relaxed);
        if (whole || !behind.load(Ordering::Relaxed)) && self.send(batch) {
            self.counts.begin(now_ns());
            behind.fetch_and(!whole, Ordering::Relaxed);
            return;
        }
        queued.fetch_sub(1, Ordering::Relaxed);
        behind.store(true, Ordering::Relaxed);
        // What says everything is asked for again, and says no less then.
        dropped.fetch_add(if whole { 0 } else { lines }, Ordering::Relaxed);
    }

    fn send(&self, mut batch: PortBatch) -> bool {
        loop {
            match self.batches.try_send(batch) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if !self.counts.hangs(now_ns()) => batch = back,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            }
            std::thread::sleep(ROOM_EVERY);
        }
    }

    /// Whether entries were lost and there is room again: then it has to be told all that stands ([`PortScope::All`]).
    #[must_use]
    pub fn needs_all(&self) -> bool {
        self.counts.behind.load(Ordering::Relaxed) && self.counts.queued.load(Ordering::Relaxed) <= BATCHES_FEW
    }

    /// See [`JournalCounts`].
    #[must_use]
    pub fn counts(&self) -> JournalCounts {
        let Counts { written, failed, dropped, since_ns, .. } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let waiting_ms = match read(since_ns) {
            0 => 0,
            since => now_ns().saturating_sub(since) / MS,
        };
        JournalCounts { written: read(written), failed: read(failed), dropped: read(dropped), waiting_ms }
    }
}

#[derive(Debug)]
struct Writer {
    file: LogFile,
    book: Book,
    host: String,
    destinations: bool,
    sessions: Vec<Consumer<Session>>,
    counts: Arc<Counts>,
    /// Lines are missing in the file: the next one begins with all that stands.
    gap: bool,
}

impl Writer {
    fn open(parts: JournalParts, counts: Arc<Counts>) -> io::Result<Self> {
        let JournalParts { path, kept, size_max, name, destinations, sessions } = parts;
        let book = read_book(&path, kept)?;
        let file = LogFile::open(&path, kept, size_max)?;
        Ok(Self { file, book, host: host(&name), destinations, sessions, counts, gap: false })
    }

    fn run(mut self, batches: &Receiver<PortBatch>) {
        let patience = if self.sessions.is_empty() { Duration::MAX } else { LOOK_EVERY };
        loop {
            let next = match patience {
                Duration::MAX => batches.recv().map_err(|_| RecvTimeoutError::Disconnected),
                patience => batches.recv_timeout(patience),
            };
            self.counts.begin(now_ns());
            match next {
                Ok(batch) => {
                    self.take(&batch);
                    self.counts.queued.fetch_sub(1, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_sessions(now_ns(), unix_ms());
                    return;
                }
            }
            self.write_sessions(now_ns(), unix_ms());
            self.counts.go_on(now_ns());
        }
    }

    /// What is in the file already comes again after a restart, and is passed over.
    fn take(&mut self, batch: &PortBatch) {
        let cluster = batch.cluster.iter().fold(String::new(), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        });
        let index = batch.index.0;
        let known = self.book.cluster == cluster;
        if known && index < self.book.index {
            return;
        }
        let lines: Vec<BlockLine> =
            batch.changes.iter().map(|(fate, ports)| BlockLine { fate: *fate, index, ports: ports.clone() }).collect();
        if batch.scope == PortScope::All {
            let mut book = Book::begin(&cluster, index, batch.unix_ms);
            for line in &lines {
                book.note(batch.unix_ms, line);
            }
            if !known || !book.agrees(&self.book) {
                self.book = book;
                self.write(&self.book.lines());
                self.sync();
            }
            return;
        }
        // Of the newest entry a crash may have kept a part.
        if index == self.book.index {
            let mut after = self.book.clone();
            lines.iter().for_each(|line| {
                after.note(batch.unix_ms, line);
            });
            if after.agrees(&self.book) {
                return;
            }
        }
        let mut news = Vec::new();
        for line in lines {
            if self.book.note(batch.unix_ms, &line) {
                news.push(Line { unix_ms: batch.unix_ms, body: Body::Block(line) });
            }
        }
        self.write(&news);
        self.sync();
    }

    /// Some of each worker's in turn, until there are none.
    fn write_sessions(&mut self, boot_ns: u64, unix_ms: u64) {
        loop {
            let mut lines = Vec::new();
            let (book, destinations) = (&self.book, self.destinations);
            let mut fetched = 0;
            for ring in &mut self.sessions {
                fetched += ring.pop_batch(SESSIONS_AT_ONCE, |session| {
                    let age_ms = boot_ns.saturating_sub(session.at_ns) / MS;
                    let body = session_line(&session, book, destinations).map(Body::Session);
                    lines.extend(body.map(|body| Line { unix_ms: unix_ms.saturating_sub(age_ms), body }));
                });
            }
            if fetched == 0 {
                return;
            }
            self.write(&lines);
        }
    }

    fn write(&mut self, lines: &[Line]) {
        if lines.is_empty() {
            return;
        }
        let mut text = String::new();
        let head = if self.gap { self.book.lines() } else { Vec::new() };
        for line in head.iter().chain(lines) {
            line.write(&self.host, &mut text);
        }
        let mut written = self.file.append(&text);
        if written.is_ok() && self.file.is_full() {
            let mut head = String::new();
            self.book.lines().iter().for_each(|line| line.write(&self.host, &mut head));
            written = self.file.rotate(&head);
        }
        let count = if written.is_ok() { &self.counts.written } else { &self.counts.failed };
        count.fetch_add(lines.len() as u64, Ordering::Relaxed);
        if let Err(error) = &written
            && !self.gap
        {
            tracing::error!(%error, "the address-translation log cannot be written: it has a gap from here");
        }
        self.gap = written.is_err();
    }

    /// What a failed sync loses nobody knows: the next line begins with all that stands.
    fn sync(&mut self) {
        if let Err(error) = self.file.sync() {
            tracing::error!(%error, "the address-translation log is not on the disk: it may have a gap here");
            self.gap = true;
        }
    }
}

fn session_line(session: &Session, book: &Book, destinations: bool) -> Option<SessionLine> {
    let (public, inside) = (&session.public, session.inside.endpoint);
    // The block is in the control log before anything stands on it; it may not have come this way yet.
    let holder = book.holder(session.public_ip, public.port);
    Some(SessionLine {
        fate: session.fate,
        proto: public.proto as u8,
        inside: (inside.addr.ipv4()?, inside.port),
        public: (session.public_ip, public.port),
        remote: public.remote.addr.ipv4().filter(|_| destinations).map(|ip| (ip, public.remote.port)),
        network: holder.map(|ports| ports.network.clone()).unwrap_or_default(),
        backend: holder.map(|ports| ports.backend.clone()).unwrap_or_default(),
    })
}

/// What stands according to the newest file that says so; a crash may have left one without its beginning.
fn read_book(path: &Path, kept: u32) -> io::Result<Book> {
    for path in super::file::files(path, kept) {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut book = None;
        for text in BufReader::new(file).split(b'\n') {
            let text = text?;
            let Some(line) = std::str::from_utf8(&text).ok().and_then(Line::parse) else { continue };
            match (line.body, &mut book) {
                (Body::All { cluster, index, .. }, _) => book = Some(Book::begin(&cluster, index, line.unix_ms)),
                (Body::Block(block), Some(book)) => {
                    book.note(line.unix_ms, &block);
                }
                (Body::Block(_) | Body::Session(_), _) => {}
            }
        }
        if let Some(book) = book {
            return Ok(book);
        }
    }
    Ok(Book::default())
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
