//! The flow actor's ends of the workers' rings: what is queued for each worker, and what all of them say. Never waits, and loses
//! nothing: what finds no room waits here, in order.

use std::collections::VecDeque;

use netio::bell::Ringer;
use netio::sync::spsc::{Consumer, Producer, PushError};

use super::life::end_life;
use super::questions::Query;
use super::room::Unread;
use super::worker_thread::ToWorker;
use member::crew::{Crew, Taker};
use member::flow_member::WorkerInput;
use member::turn::FromWorker;

/// Octets of inputs that a worker may leave unread before its life is ended: it hangs, and F3 forbids to lose one.
const UNREAD_BYTES_MAX: usize = 512 << 20;
/// Inputs that may wait for a worker that sleeps. Above that it is woken, lest a takeover finds much to do.
const QUIET_MAX: usize = 64;

/// The ends of one worker's rings.
#[derive(Debug)]
pub struct WorkerEnds {
    /// To the worker.
    pub inputs: Producer<ToWorker>,
    /// Octets on their way to it.
    pub unread: Unread,
    /// Wakes the worker.
    pub ringer: Ringer,
    /// From the worker.
    pub outputs: Consumer<FromWorker>,
}

#[derive(Debug)]
struct Line {
    ends: WorkerEnds,
    backlog: VecDeque<ToWorker>,
    /// Handed over since the worker was woken last.
    quiet: usize,
    /// Something of it cannot wait.
    urgent: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Lines {
    crew: Crew,
    lines: Vec<Line>,
    /// Where the next look begins.
    next: usize,
}

impl Lines {
    /// To each worker, in the order of their numbers.
    #[must_use]
    pub fn new(ends: Vec<WorkerEnds>) -> Self {
        let crew = Crew::new(u16::try_from(ends.len()).expect("few workers"));
        let line = |ends| Line { ends, backlog: VecDeque::new(), quiet: 0, urgent: false };
        let lines = ends.into_iter().map(line).collect();
        Self { crew, lines, next: 0 }
    }

    /// Queues an input for whom it concerns.
    pub fn hand(&mut self, input: WorkerInput) {
        let wakes = self.crew.wakes(&input);
        match self.crew.taker(&input) {
            Taker::One(worker) => self.lines[usize::from(worker)].hand(ToWorker::Input(input), wakes),
            Taker::All => self.lines.iter_mut().for_each(|line| line.hand(ToWorker::Input(input.clone()), wakes)),
        }
    }

    /// Puts a question to the worker of this number.
    pub fn ask(&mut self, worker: u16, query: Query) {
        // Nobody answers for one that is not there.
        if let Some(line) = self.lines.get_mut(usize::from(worker)) {
            line.hand(ToWorker::Query(query), true);
        }
    }

    /// Pushes what finds room, and wakes whoever was told something that cannot wait.
    pub fn feed(&mut self) {
        self.lines.iter_mut().for_each(Line::feed);
    }

    /// What a worker said next.
    pub fn said(&mut self) -> Option<FromWorker> {
        // Behind the one that spoke last: none keeps the others from being heard.
        let count = self.lines.len();
        let begin = self.next;
        for place in (0..count).map(|step| (begin + step) % count) {
            let worker = u16::try_from(place).expect("few workers");
            while let Some(said) = self.lines[place].ends.outputs.pop() {
                if let Some(said) = self.crew.heard(worker, said) {
                    self.next = place + 1;
                    return Some(said);
                }
            }
        }
        None
    }

    /// Whether nobody has said anything more.
    pub fn are_silent(&mut self) -> bool {
        self.lines.iter_mut().all(|line| line.ends.outputs.is_empty())
    }
}

impl Line {
    fn hand(&mut self, input: ToWorker, wakes: bool) {
        self.urgent |= wakes;
        self.quiet += 1;
        let unread = self.ends.unread.add(input.octets());
        if unread > UNREAD_BYTES_MAX {
            end_life(&format!("a worker does not read its events: {unread} octets wait, {UNREAD_BYTES_MAX} may"));
        }
        self.backlog.push_back(input);
    }

    fn feed(&mut self) {
        while let Some(next) = self.backlog.pop_front() {
            match self.ends.inputs.push(next) {
                Ok(()) => {}
                Err(PushError::Full(back)) => {
                    self.backlog.push_front(back);
                    // It has something to read, and has perhaps not been woken for it.
                    self.urgent = true;
                    break;
                }
                Err(PushError::Closed(_)) => break,
            }
        }
        if self.urgent || self.quiet > QUIET_MAX {
            (self.urgent, self.quiet) = (false, 0);
            self.ends.ringer.ring();
        }
    }
}
