//! The watch over this member's threads: one that makes no turn for its bound, while the process as a whole runs, ends this
//! life, so that a new one begins. A member that is half alive would otherwise stay so for ever.
//!
//! What counts is only turns of the watch itself that came in time: a process that was stopped, or a machine that stood
//! still, is late here as everywhere, and goes on when it thaws. Started by `run`; must never wait for anything.

use std::time::Duration;

use netio::boottime::now_ns;
use netio::pulse::Pulse;
use netio::thread::prefer_current;

/// Between two looks.
const EVERY_NS: u64 = 50_000_000;
/// A look that is later than this proves nothing.
const LATE_NS: u64 = 25_000_000;
/// For threads that wait for nothing but work.
const BOUND_NS: u64 = 1_000_000_000;
/// For threads that may wait for a disk: those of clouds stand still for seconds, and a new life would wait for the same.
const DISK_BOUND_NS: u64 = 10_000_000_000;
/// For the thread that walks over the whole control state: no packet and no heartbeat waits for it.
const WALK_BOUND_NS: u64 = 60_000_000_000;

/// The signs of life of a member's threads.
#[derive(Clone, Debug)]
pub struct Pulses {
    /// The workers, in the order of their numbers.
    pub workers: Vec<Pulse>,
    /// The flow actor's thread.
    pub flow: Pulse,
    /// The control actor's thread.
    pub control: Pulse,
    /// The thread that walks over the whole control state.
    pub clerk: Pulse,
    /// The main thread, which answers the API.
    pub main: Pulse,
    /// The thread that asks backends how they are.
    pub prober: Pulse,
}

impl Pulses {
    /// Of a member with so many workers.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        let pulse = Pulse::default;
        let workers = (0..workers).map(|_| pulse()).collect();
        Self { workers, flow: pulse(), control: pulse(), clerk: pulse(), main: pulse(), prober: pulse() }
    }

    /// When the loop of the worker that is last passed last: no lease of this member lasts beyond that + V (L1), whosever shard
    /// it is; 0 before all have begun.
    #[must_use]
    pub fn workers_turned_ns(&self) -> u64 {
        self.workers.iter().map(Pulse::last_ns).min().unwrap_or(0)
    }

    fn watched(&self) -> Vec<Watched> {
        let one = |name: &str, pulse: &Pulse, bound_ns| Watched {
            name: name.to_owned(),
            pulse: pulse.clone(),
            bound_ns,
            last_ns: 0,
            still: 0,
        };
        let workers = self.workers.iter().enumerate();
        let workers = workers.map(|(number, pulse)| one(&format!("worker-{number}"), pulse, BOUND_NS));
        let others = [
            one("flow", &self.flow, BOUND_NS),
            one("control", &self.control, DISK_BOUND_NS),
            one("clerk", &self.clerk, WALK_BOUND_NS),
            one("main", &self.main, DISK_BOUND_NS),
            one("prober", &self.prober, DISK_BOUND_NS),
        ];
        workers.chain(others).collect()
    }
}

#[derive(Debug)]
struct Watched {
    name: String,
    pulse: Pulse,
    bound_ns: u64,
    last_ns: u64,
    /// Looks in time since the stamp moved.
    still: u64,
}

/// The judgement, without a thread.
#[derive(Debug)]
struct Watch {
    threads: Vec<Watched>,
    due_ns: u64,
}

impl Watch {
    fn new(pulses: &Pulses, now_ns: u64) -> Self {
        Self { threads: pulses.watched(), due_ns: now_ns + EVERY_NS }
    }

    /// One look. Says which thread hangs, if one does.
    fn look(&mut self, now_ns: u64) -> Option<String> {
        let in_time = now_ns <= self.due_ns + LATE_NS;
        self.due_ns = now_ns + EVERY_NS;
        for thread in &mut self.threads {
            let last_ns = thread.pulse.last_ns();
            // One that has not begun is nobody's matter yet.
            if last_ns != thread.last_ns || last_ns == 0 {
                (thread.last_ns, thread.still) = (last_ns, 0);
            } else if in_time {
                thread.still += 1;
            }
            if thread.still * EVERY_NS >= thread.bound_ns {
                let ms = now_ns.saturating_sub(last_ns) / 1_000_000;
                return Some(format!("the {} thread has made no turn for {ms} ms while this process ran", thread.name));
            }
        }
        None
    }
}

/// Watches until the process ends.
///
/// # Errors
/// If there is no thread to be had.
pub fn start(pulses: &Pulses) -> std::io::Result<()> {
    let mut watch = Watch::new(pulses, now_ns());
    let body = move || {
        let _as_urgent_as_a_worker = prefer_current();
        loop {
            std::thread::sleep(Duration::from_nanos(watch.due_ns.saturating_sub(now_ns())));
            if let Some(why) = watch.look(now_ns()) {
                super::life::start_again(why);
            }
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    use words::time::MS;

    /// Looks every 50 ms from `from_ms` to `to_ms`; `turn` moves the stamps before each.
    fn looks(watch: &mut Watch, (from_ms, to_ms): (u64, u64), turn: impl Fn(u64)) -> Option<(u64, String)> {
        (from_ms..=to_ms).step_by(50).find_map(|ms| {
            turn(ms * MS);
            Some((ms, watch.look(ms * MS)?))
        })
    }

    #[test]
    fn a_thread_that_makes_no_turn_for_a_second_ends_the_life_and_is_named() {
        let pulses = Pulses::new(2);
        let mut watch = Watch::new(&pulses, 0);
        pulses.workers[1].beat(1);
        let (ms, why) = looks(&mut watch, (50, 3_000), |now| pulses.flow.beat(now)).expect("it hangs");
        assert_eq!(ms, 1_050);
        assert!(why.contains("the worker-1 thread"), "{why}");
    }

    #[test]
    fn the_worker_that_is_last_bounds_the_leases_and_nothing_is_leased_before_all_have_begun() {
        let pulses = Pulses::new(2);
        pulses.workers[0].beat(5);
        assert_eq!(pulses.workers_turned_ns(), 0);
        pulses.workers[1].beat(3);
        assert_eq!(pulses.workers_turned_ns(), 3);
        pulses.workers[1].beat(9);
        assert_eq!(pulses.workers_turned_ns(), 5);
    }

    #[test]
    fn threads_that_turn_or_have_not_begun_are_left_alone() {
        let pulses = Pulses::new(2);
        let mut watch = Watch::new(&pulses, 0);
        let found = looks(&mut watch, (50, 60_000), |now| {
            pulses.flow.beat(now);
            // Just in time.
            if now % (1_000 * MS) == 0 {
                pulses.workers[1].beat(now);
            }
        });
        assert_eq!(found, None);
    }

    #[test]
    fn a_thread_that_waits_for_a_disk_has_longer() {
        let pulses = Pulses::new(2);
        let mut watch = Watch::new(&pulses, 0);
        pulses.control.beat(1);
        let (ms, why) = looks(&mut watch, (50, 60_000), |_| {}).expect("it hangs");
        assert_eq!(ms, 10_050);
        assert!(why.contains("control thread"), "{why}");
    }

    #[test]
    fn a_process_that_was_stopped_as_a_whole_goes_on_when_it_thaws() {
        let pulses = Pulses::new(2);
        let mut watch = Watch::new(&pulses, 0);
        pulses.workers[1].beat(1);
        assert_eq!(looks(&mut watch, (50, 950), |_| {}), None);
        // SIGSTOP for ten seconds; the watch wakes first.
        assert_eq!(watch.look(11_000 * MS), None);
        pulses.workers[1].beat(11_001 * MS);
        assert_eq!(looks(&mut watch, (11_050, 11_950), |_| {}), None);
        // A machine that gives it a processor now and then only.
        pulses.workers[1].beat(11_951 * MS);
        let mut at = 12_000;
        for _ in 0..100 {
            at += 200;
            assert_eq!(watch.look(at * MS), None);
        }
    }
}
