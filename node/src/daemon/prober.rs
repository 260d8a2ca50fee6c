//! The thread that asks backends how they are, for the shards that this member owns (S22), and has what changes committed.
//!
//! Between `probing`, which knows what to ask and how, and the workers, by which each packet goes (`probe_ends`): a worker
//! judges them as what comes in, and hands over what a backend answers. What an attempt shows counts only if this member
//! held the lease from its beginning to its end. It decides nothing about flows, and nobody waits for it; a worker never
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::Recipient;
use control::command::CommandBody;
use control::parts::Cut;
use engine::event::DropReason;
use engine::ids::{Incarnation, ShardId, Term};
use engine::probes::Failing;
use engine::snapshot::Snapshot;
use netio::bell::{Doorbell, Ringer};
use netio::boottime::now_ns;
use netio::lease_table::WordsReader;
use netio::pulse::Pulse;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;
use words::time::SECOND_NS;
use words::{LeaseWords as _, SplitMix};

use super::messages::Submit;
use super::probe_ends::{ProbeNews, ProbePacket, ProberEnd};
use crate::probing::{Attempt, Book, Due, Key, Lease, Question};

/// Attempts under way at most; whoever is due beyond that is asked later.
const ATTEMPTS_MAX: usize = 4096;
/// Attempts that one turn begins.
const BEGUN_PER_TURN: usize = 64;
/// Ports that they have in turn.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// Longest sleep: so long after a change of owner the new one begins.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// A lease that lapsed for a moment is not another owner's.
const LAPSE_NS: u64 = SECOND_NS;

/// What the prober counts, for metrics.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts {
    /// Backends that this member asks now, each once for each probe.
    pub targets: usize,
    /// Attempts under way.
    pub under_way: usize,
    /// Attempts by what came of them.
    pub ended: BTreeMap<&'static str, u64>,
    /// Attempts that were begun late, since too many were under way.
    pub late: u64,
    /// Changes of health that were proposed, and entries that they were proposed in.
    pub changes: u64,
    /// See `changes`.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct Shared {
    newest: Mutex<Option<Arc<Snapshot>>>,
    counts: Mutex<ProbeCounts>,
}

/// Tells the prober and asks it; cheap to clone.
#[derive(Clone, Debug)]
pub struct ProbeDesk {
    shared: Arc<Shared>,
    ringer: Ringer,
}

impl ProbeDesk {
    /// One, and the bell that it rings.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> std::io::Result<(Self, Doorbell)> {
        let bell = Doorbell::new()?;
        Ok((Self { shared: Arc::default(), ringer: bell.ringer() }, bell))
    }

    /// A newer configuration, or newer health.
    pub fn configure(&self, snapshot: Arc<Snapshot>) {
        *self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        self.ringer.ring();
    }

    /// Wakes it.
    #[must_use]
    pub fn ringer(&self) -> Ringer {
        self.ringer.clone()
    }

    /// What it counts.
    #[must_use]
    pub fn counts(&self) -> ProbeCounts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What it is driven with.
#[derive(Debug)]
pub struct ProberParts {
    /// Where configurations come.
    pub desk: ProbeDesk,
    /// Its bell.
    pub bell: Doorbell,
    /// Who commits changes.
    pub control: Recipient<Submit>,
    /// Its sign of life.
    pub pulse: Pulse,
    /// For the numbers that connections begin with.
    pub seed: u64,
}

/// See the module.
struct Prober {
    parts: ProberParts,
    me: Incarnation,
    words: WordsReader,
    workers: Vec<ProberEnd>,
    snapshot: Option<Arc<Snapshot>>,
    owned: BTreeMap<ShardId, Term>,
    book: Book,
    attempts: BTreeMap<u16, Running>,
    /// When a turn of each is due.
    due: BTreeSet<(u64, u16)>,
    next_port: u16,
    drawn: SplitMix,
    counts: ProbeCounts,
}

struct Running {
    attempt: Attempt,
    key: Key,
    lease: Lease,
    due_ns: u64,
    /// The worker did not send: what comes of it says nothing.
    void: bool,
    /// It is known what came of it; the connection is still to end.
    ended: bool,
}

/// Begins it on a thread of its own.
///
/// # Errors
/// If there is no thread to be had.
pub fn start(parts: ProberParts, me: Incarnation, words: WordsReader, workers: Vec<ProberEnd>) -> std::io::Result<()> {
    let mut prober = Prober {
        drawn: SplitMix::new(parts.seed),
        parts,
        me,
        words,
        workers,
        snapshot: None,
        owned: BTreeMap::new(),
        book: Book::default(),
        attempts: BTreeMap::new(),
        due: BTreeSet::new(),
        next_port: PORTS.start,
        counts: ProbeCounts::default(),
    };
    std::thread::Builder::new().name("prober".to_owned()).spawn(move || prober.run()).map(drop)
}

impl Prober {
    /// Runs until the workers are gone.
    fn run(&mut self) {
        while !self.workers.iter().any(ProberEnd::is_over) {
            let now = now_ns();
            self.parts.pulse.beat(now);
            self.look_around(now);
            self.hear(now);
            self.go_on(now);
            self.begin(now);
            self.tell(now);
            self.workers.iter_mut().for_each(ProberEnd::ring);
            self.publish();
            self.sleep();
        }
    }

    /// What is to be asked: by the newest configuration, of the backends of the shards that are owned now.
    fn look_around(&mut self, now: u64) {
        let newest = self.parts.desk.shared.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut changed = newest.is_some();
        if let Some(newest) = newest {
            self.snapshot = Some(newest);
        }
        let Some(snapshot) = &self.snapshot else { return };
        let mut owned = BTreeMap::new();
        for shard in snapshot.shards.keys() {
            let word = self.words.word(*shard);
            if word.incarnation == self.me && now < word.lease_until_ns.saturating_add(LAPSE_NS) {
                owned.insert(*shard, word.term);
            }
        }
        changed |= owned != self.owned;
        self.owned = owned;
        if changed {
            self.book.configure(now, snapshot, |shard| self.owned.get(&shard).copied());
        }
    }

    fn holds(&self, lease: Lease, now: u64) -> bool {
        self.words.word(lease.shard).lease_runs_for(self.me, lease.term, now)
    }

    /// What workers hand over.
    fn hear(&mut self, now: u64) {
        for worker in 0..self.workers.len() {
            while let Some(told) = self.workers[worker].take() {
                match told {
                    ProbeNews::Answer(answer) => {
                        if let Some(running) = self.attempts.get_mut(&answer.port)
                            && running.key.1 == answer.backend
                        {
                            running.attempt.receive(answer.packet);
                            self.reschedule(answer.port, now);
                        }
                    }
                    ProbeNews::NotSent { port, reason } => self.not_sent(port, reason, now),
                }
            }
        }
    }

    /// A packet of an attempt was not sent.
    fn not_sent(&mut self, port: u16, reason: DropReason, now: u64) {
        let Some(running) = self.attempts.get_mut(&port) else { return };
        if reason != DropReason::SecurityRule {
            running.void = true;
            return;
        }
        running.attempt.give_up(now);
        if !running.ended {
            self.conclude(port, Err(Failing::Denied), now);
        }
        self.forget(port);
    }

    /// Attempts that have a turn now.
    fn go_on(&mut self, now: u64) {
        while let Some((due_ns, port)) = self.due.first().copied() {
            if due_ns > now {
                return;
            }
            self.turn(port, now);
        }
    }

    fn turn(&mut self, port: u16, now: u64) {
        let Some(running) = self.attempts.get_mut(&port) else { return };
        let ended = running.attempt.turn(now);
        self.send(port);
        if let Some(ended) = ended {
            self.conclude(port, ended, now);
        }
        if self.attempts.get(&port).is_some_and(|running| running.attempt.is_over()) {
            self.forget(port);
        } else {
            self.reschedule(port, now);
        }
    }

    fn send(&mut self, port: u16) {
        let Some(running) = self.attempts.get_mut(&port) else { return };
        let count = self.workers.len().max(1);
        let worker = &mut self.workers[usize::from(running.lease.shard.0) % count];
        while let Some(frame) = running.attempt.take() {
            if !worker.send(ProbePacket { backend: running.key.1, port, frame }) {
                running.void = true;
            }
        }
    }

    fn conclude(&mut self, port: u16, ended: crate::probing::Ended, now: u64) {
        let Some(running) = self.attempts.get_mut(&port) else { return };
        running.ended = true;
        let Some(running) = self.attempts.get(&port) else { return };
        let label = match ended {
            _ if running.void || !self.holds(running.lease, now) => "void",
            Ok(()) => "success",
            Err(failing) => failing.label(),
        };
        *self.counts.ended.entry(label).or_default() += 1;
        if label != "void" {
            self.book.ended(&running.key, running.lease, ended);
        }
    }

    fn reschedule(&mut self, port: u16, now: u64) {
        let Some(running) = self.attempts.get_mut(&port) else { return };
        self.due.remove(&(running.due_ns, port));
        // A turn that asks for another one at once has it in the next round: packets leave between them.
        running.due_ns = running.attempt.due_ns().max(now.saturating_add(1));
        self.due.insert((running.due_ns, port));
    }

    fn forget(&mut self, port: u16) {
        if let Some(running) = self.attempts.remove(&port) {
            self.due.remove(&(running.due_ns, port));
        }
    }

    /// Asks whoever is due.
    fn begin(&mut self, now: u64) {
        for _ in 0..BEGUN_PER_TURN {
            if self.attempts.len() >= ATTEMPTS_MAX {
                self.counts.late += u64::from(self.book.due_ns() <= now);
                return;
            }
            let Some(due) = self.book.take_due(now) else { return };
            if self.holds(due.lease, now) {
                self.ask(due, now);
            }
        }
    }

    fn ask(&mut self, due: Due, now: u64) {
        let from_port = self.free_port();
        let Due { key, to, ask, timeout_ns, lease } = due;
        let question = Question { to, from_port, ask: &ask, timeout_ns, seed: self.drawn.draw() };
        let attempt = Attempt::new(now, &question);
        self.attempts.insert(from_port, Running { attempt, key, lease, due_ns: now, void: false, ended: false });
        self.due.insert((now, from_port));
        self.turn(from_port, now);
    }

    /// The next port that no attempt has: there are more than attempts.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
            if !self.attempts.contains_key(&port) {
                return port;
            }
        }
    }

    /// Has changes committed. What is lost on the way is proposed again, so nobody waits for the outcome.
    fn tell(&mut self, now: u64) {
        let changes = self.book.take_changes(now);
        if changes.is_empty() {
            return;
        }
        self.counts.changes += changes.len() as u64;
        self.counts.entries += 1;
        for change in &changes {
            tracing::info!(probe = %change.probe, backend = %change.backend, health = ?change.health, "health changes");
        }
        let (reply, _) = oneshot::channel();
        self.parts.control.do_send(Submit { command: Cut::Whole(CommandBody::HealthChanged(changes)), reply });
    }

    fn publish(&mut self) {
        self.counts.targets = self.book.len();
        self.counts.under_way = self.attempts.len();
        *self.parts.desk.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
    }

    fn sleep(&mut self) {
        let due = self.due.first().map_or(u64::MAX, |(due_ns, _)| *due_ns).min(self.book.due_ns());
        let wait = Duration::from_nanos(due.saturating_sub(now_ns())).min(SLEEP_MAX);
        self.parts.bell.prepare_sleep();
        let news = self.parts.desk.shared.newest.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !wait.is_zero() && !news && self.workers.iter_mut().all(ProberEnd::is_idle) {
            let mut fds = [PollFd::from_borrowed_fd(self.parts.bell.as_fd(), PollFlags::IN)];
            let nanoseconds = i64::from(wait.subsec_nanos());
            // Interrupted or not: the next turn looks at everything.
            let _woken = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: nanoseconds }));
        }
        self.parts.bell.awake();
        self.parts.bell.clear();
    }
}

const _: () = assert!(SLEEP_MAX.as_secs() == 0 && SLEEP_MAX.as_nanos() < LAPSE_NS as u128);
const _: () = assert!(ATTEMPTS_MAX < (PORTS.end - PORTS.start) as usize);
