//! Datagrams that are counted where they are sent: a stream over one mapping, and flows of one datagram each. They run in a
//! backend's namespace until they are told that all is over. Called by the soak and by drills without a fault.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use qnat_lab::Host;
use qnat_lab::inet::{make_room, raise_end};

use super::canary::echo;

/// Between two datagrams of a stream.
const STREAM_EVERY: Duration = Duration::from_millis(1);
/// How long an answer may take before it counts as lost.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits for threads and takes what they found.
pub(super) fn joined<T>(tasks: Vec<ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    tasks.into_iter().map(|task| task.join().map_err(|_| anyhow::anyhow!("a canary panicked"))?).collect()
}

/// Runs `work` in the namespace of a backend.
pub(super) fn in_backend<T: Send>(dir: &Path, backend: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    qnat_lab::in_host(dir, Host::Backend(backend), work)?
}

/// A stream of datagrams over one mapping.
pub(super) struct StreamCount {
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// The longest time without an answer to what was asked, and when it was over.
    pub(super) silence: Duration,
    pub(super) silence_over: Option<SystemTime>,
    /// The longest time that the sender itself stood still: nothing was asked then.
    pub(super) pause: Duration,
}

/// Silences of a stream, as its sender sees them when it looks for answers before each datagram: from the first datagram that
/// was looked for in vain. What arrives while the sender stands still is there when it looks again.
#[derive(Debug, Default)]
struct Silences {
    /// When the first datagram went out that has no answer yet.
    asked: Option<Instant>,
    longest: Duration,
    /// When that was noticed last.
    over: Option<Instant>,
}

impl Silences {
    fn sent(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    fn looked(&mut self, now: Instant, answers: u64) {
        if answers > 0 {
            self.asked = None;
        } else if let Some(silence) = self.asked.map(|asked| now - asked).filter(|silence| *silence > self.longest) {
            (self.longest, self.over) = (silence, Some(now));
        }
    }
}

/// Sends until `over`, then waits for the last answers.
pub(super) fn stream(over: &AtomicBool) -> Result<StreamCount> {
    let _as_far_as_allowed = raise_end();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    make_room(&socket)?;
    socket.connect(echo(0))?;
    socket.set_nonblocking(true)?;
    let mut count =
        StreamCount { sent: 0, answered: 0, silence: Duration::ZERO, silence_over: None, pause: Duration::ZERO };
    let (mut silences, mut next) = (Silences::default(), Instant::now());
    while !over.load(Ordering::Relaxed) {
        silences.looked(Instant::now(), count.receive(&socket)?);
        if socket.send(&count.sent.to_be_bytes()).is_ok() {
            count.sent += 1;
            silences.sent(Instant::now());
        }
        next += STREAM_EVERY;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        count.pause = count.pause.max(next.elapsed());
    }
    silences.looked(Instant::now(), count.receive(&socket)?);
    count.silence = silences.longest;
    count.silence_over = silences.over.map(|over| SystemTime::now() - over.elapsed());
    std::thread::sleep(ANSWER_TIMEOUT);
    count.receive(&socket)?;
    Ok(count)
}

impl StreamCount {
    /// Takes what has arrived. Returns how many answers.
    fn receive(&mut self, socket: &UdpSocket) -> Result<u64> {
        let before = self.answered;
        loop {
            match socket.recv(&mut [0; 16]) {
                Ok(_) => self.answered += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.answered - before),
                // A former datagram was refused: not an answer.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("echo"),
            }
        }
    }
}

/// Flows of one datagram each.
pub(super) struct FlowCount {
    pub(super) opened: u64,
    pub(super) lost: u64,
    /// First round trips, in ms.
    pub(super) trips_ms: Vec<f64>,
}

/// Opens one flow to each of two remotes every `every`, until `over`.
pub(super) fn new_flows(over: &AtomicBool, every: Duration) -> Result<FlowCount> {
    let _as_far_as_allowed = raise_end();
    let mut count = FlowCount { opened: 0, lost: 0, trips_ms: Vec::new() };
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        for remote in 0..2 {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(echo(remote))?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            let sent = Instant::now();
            socket.send(b"canary")?;
            count.opened += 1;
            match socket.recv(&mut [0; 16]) {
                Ok(_) => count.trips_ms.push(sent.elapsed().as_secs_f64() * 1e3),
                Err(late_or_refused) => {
                    let (from, to) = (socket.local_addr()?, echo(remote));
                    eprintln!("new flow {from} -> {to}, {:.1} s ago: {late_or_refused}", sent.elapsed().as_secs_f64());
                    count.lost += 1;
                }
            }
        }
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(count)
}

/// The 99th percentile and the maximum of the first round trips of all.
pub(super) fn trips(flows: &[FlowCount]) -> (f64, f64) {
    let mut trips: Vec<f64> = flows.iter().flat_map(|one| one.trips_ms.iter().copied()).collect();
    trips.sort_by(f64::total_cmp);
    let p99 = trips.get(trips.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    (p99, trips.last().copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_what_was_asked_and_not_answered_and_no_pause_of_the_sender() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut silences = Silences::default();
        for ms in 0..60 {
            silences.looked(at(ms), u64::from(ms > 0 && !(20..50).contains(&ms)));
            silences.sent(at(ms));
        }
        // From what was sent at 19 ms to the last look in vain.
        assert_eq!(silences.longest, Duration::from_millis(30));
        let mut paused = Silences::default();
        paused.sent(at(0));
        paused.looked(at(140), 1);
        assert_eq!(paused.longest, Duration::ZERO, "the answer was there");
        paused.sent(at(141));
        paused.looked(at(142), 0);
        paused.looked(at(242), 0);
        assert_eq!(paused.longest, Duration::from_millis(101), "it was not");
    }
}
