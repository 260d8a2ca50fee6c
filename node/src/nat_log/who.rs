//! Who had a public port at a time, from the files. It reads them from the oldest on; it holds nothing but the answer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;

use crate::answers::{Holder, Session, Who};
use control::port_log::{PortFate, PortUse};
use engine::sessions::SessionFate;

use super::line::{BlockLine, Body, Line, SessionLine, proto_name, time_text};

/// Mappings that an answer names at most; the newest stay.
const SESSIONS_MAX: usize = 1_000;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The public address.
    pub ip: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// When; `None`: as of the log's end.
    pub at_unix_ms: Option<u64>,
}

/// Reads the files of a log, `files` newest first. `reaches_back` in the answer is the oldest time that they tell of.
///
/// # Errors
/// If a file that is there cannot be read.
pub fn who(files: &[impl AsRef<Path>], question: Question) -> io::Result<Who> {
    let mut search = Search::new(question);
    for path in files.iter().rev() {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for text in BufReader::new(file).split(b'\n') {
            if let Some(line) = std::str::from_utf8(&text?).ok().and_then(Line::parse) {
                search.take(line);
            }
        }
    }
    Ok(search.answer())
}

/// A backend that had the port.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tenure {
    ports: PortUse,
    index: u64,
    since_ms: u64,
    draining_ms: Option<u64>,
    until_ms: Option<u64>,
}

/// A mapping on it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    line: SessionLine,
    opened_ms: u64,
    closed_ms: Option<u64>,
}

struct Search {
    question: Question,
    at_ms: u64,
    oldest_ms: Option<u64>,
    /// Who had it last, at the time in question or before; `until_ms` may come later.
    tenure: Option<Tenure>,
    /// The holder named by the lines read now.
    current: bool,
    /// Lines that are left of a list of all that stands, and whether it named the port.
    list: Option<(usize, u64, bool)>,
    sessions: VecDeque<Seen>,
}

impl Search {
    fn new(question: Question) -> Self {
        let at_ms = question.at_unix_ms.unwrap_or(u64::MAX);
        Self { question, at_ms, oldest_ms: None, tenure: None, current: false, list: None, sessions: VecDeque::new() }
    }

    fn take(&mut self, line: Line) {
        match line.body {
            Body::All { count, .. } => {
                // A list's own time: what it lists may be older, but nothing else from before it is known.
                self.oldest_ms.get_or_insert(line.unix_ms);
                self.list = Some((count, line.unix_ms, false));
                self.end_list();
            }
            Body::Block(block) => {
                let named = block.ports.public == self.question.ip
                    && (block.ports.first..=block.ports.last).contains(&self.question.port);
                if named {
                    self.take_block(line.unix_ms, block);
                }
                if let Some((left, _, seen)) = &mut self.list {
                    *left = left.saturating_sub(1);
                    *seen |= named;
                    self.end_list();
                }
            }
            Body::Session(session) if session.public == (self.question.ip, self.question.port) => {
                self.take_session(line.unix_ms, session);
            }
            Body::Session(_) => {}
        }
    }

    /// A whole list that does not name the port says that nobody has it.
    fn end_list(&mut self) {
        if let Some((0, unix_ms, seen)) = self.list {
            self.list = None;
            if !seen {
                self.end(unix_ms);
            }
        }
    }

    fn end(&mut self, unix_ms: u64) {
        if let Some(tenure) = self.tenure.as_mut().filter(|_| std::mem::take(&mut self.current)) {
            tenure.until_ms.get_or_insert(unix_ms);
        }
    }

    fn take_block(&mut self, unix_ms: u64, block: BlockLine) {
        let same = self.current
            && self
                .tenure
                .as_ref()
                .is_some_and(|t| (&t.ports.backend, t.ports.inside) == (&block.ports.backend, block.ports.inside));
        match block.fate {
            PortFate::Released => self.end(unix_ms),
            PortFate::Granted | PortFate::Draining => {
                let drains = block.fate == PortFate::Draining;
                if !same {
                    self.end(unix_ms);
                    // Whoever came after the time in question is not asked for.
                    if unix_ms > self.at_ms {
                        return;
                    }
                    let BlockLine { index, ports, .. } = block;
                    self.tenure = Some(Tenure { ports, index, since_ms: unix_ms, draining_ms: None, until_ms: None });
                    self.current = true;
                }
                if let Some(tenure) = self.tenure.as_mut().filter(|_| drains) {
                    tenure.draining_ms.get_or_insert(unix_ms);
                }
            }
        }
    }

    fn take_session(&mut self, unix_ms: u64, line: SessionLine) {
        match line.fate {
            SessionFate::Opened if unix_ms <= self.at_ms => {
                self.sessions.push_back(Seen { line, opened_ms: unix_ms, closed_ms: None });
                if self.sessions.len() > SESSIONS_MAX {
                    self.sessions.pop_front();
                }
            }
            SessionFate::Opened => {}
            SessionFate::Closed => {
                let key = |l: &SessionLine| (l.proto, l.network.clone(), l.inside, l.remote);
                let mut open = self.sessions.iter();
                let Some(at) = open.position(|s| s.closed_ms.is_none() && key(&s.line) == key(&line)) else { return };
                if unix_ms <= self.at_ms {
                    self.sessions.remove(at);
                } else {
                    self.sessions[at].closed_ms = Some(unix_ms);
                }
            }
        }
    }

    fn answer(self) -> Who {
        let at_ms = self.at_ms;
        let then = |until: Option<u64>| until.is_none_or(|until| until > at_ms);
        let held = self.tenure.filter(|tenure| then(tenure.until_ms));
        let time = |ms: Option<u64>| ms.map(time_text);
        let session = |s: &Seen| Session {
            proto: proto_name(s.line.proto).to_owned(),
            network: s.line.network.clone(),
            inside: format!("{}:{}", s.line.inside.0, s.line.inside.1),
            remote: s.line.remote.map(|(ip, port)| format!("{ip}:{port}")),
            opened: time_text(s.opened_ms),
            closed: time(s.closed_ms),
        };
        Who {
            node: 0,
            public: false,
            silent: Vec::new(),
            ip: self.question.ip,
            port: self.question.port,
            at: time(self.question.at_unix_ms),
            reaches_back: time(self.oldest_ms),
            holder: held.map(|t| Holder {
                backend: t.ports.backend,
                inside: t.ports.inside,
                network: t.ports.network,
                ports: format!("{}-{}", t.ports.first, t.ports.last),
                control_index: t.index,
                since: time_text(t.since_ms),
                draining_since: time(t.draining_ms),
                until: time(t.until_ms),
            }),
            sessions: self.sessions.iter().map(session).collect(),
        }
    }
}
