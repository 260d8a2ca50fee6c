//! The thread on which walks over the whole control state are done (`member::control_member::Job`), with ordinary priority: the
//! control thread has heartbeats to send. It decides nothing, and has one job at a time.
//!
//! It also frees what is as large as the cluster: versions of the configuration, of which workers and the flow thread must never
//! drop the last reference.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::Recipient;
use control::state::State;
use engine::snapshot::Snapshot;
use netio::boottime::now_ns;
use netio::pulse::Pulse;

use super::messages::JobDone;
use member::control_member::Job;

/// A job, and what is left of the one before.
const ORDERS_MAX: usize = 4;
/// Between two signs of life without a job.
const BEAT_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Order {
    Do {
        job: Box<Job>,
        reply: Recipient<JobDone>,
    },
    /// Nobody needs this any more; to free it takes as long as a walk.
    Free(Arc<State>),
}

/// See the module. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Clerk {
    orders: SyncSender<Order>,
    versions: Arc<Versions>,
}

/// Versions of the configuration that somebody else may use, each until nobody does.
#[derive(Debug, Default)]
struct Versions(Mutex<Vec<Arc<Snapshot>>>);

impl Versions {
    fn keep(&self, version: Arc<Snapshot>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(version);
    }

    fn free_unused(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that only stands here nobody can get any more.
        let unused: Vec<_> = kept.extract_if(.., |version| Arc::strong_count(version) == 1).collect();
        drop(kept);
        drop(unused);
    }
}

impl Clerk {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there is none to be had.
    pub fn start(pulse: Pulse) -> std::io::Result<Self> {
        let (orders, taken) = sync_channel(ORDERS_MAX);
        let versions = Arc::new(Versions::default());
        let to_free = Arc::clone(&versions);
        std::thread::Builder::new().name("clerk".to_owned()).spawn(move || work(&taken, &to_free, &pulse))?;
        Ok(Self { orders, versions })
    }

    /// Has the job done; `reply` hears of it.
    pub fn have_done(&self, job: Box<Job>, reply: Recipient<JobDone>) {
        self.order(Order::Do { job, reply });
    }

    /// Frees what a job has left.
    pub fn free(&self, state: Arc<State>) {
        self.order(Order::Free(state));
    }

    /// Keeps a version that is handed out for as long as others have it, and frees it.
    pub fn keep(&self, version: Arc<Snapshot>) {
        self.versions.keep(version);
    }

    fn order(&self, order: Order) {
        // There is one job at a time, and as much to be freed: there is room, and a panic of the thread ends the process.
        self.orders.send(order).expect("the clerk's thread runs as long as orders can come");
    }
}

fn work(orders: &Receiver<Order>, versions: &Versions, pulse: &Pulse) {
    loop {
        pulse.beat(now_ns());
        match orders.recv_timeout(BEAT_EVERY) {
            Ok(Order::Do { job, reply }) => reply.do_send(JobDone(job.run())),
            Ok(Order::Free(state)) => drop(state),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        versions.free_unused();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_kept_as_long_as_somebody_has_it_and_no_longer() {
        let (versions, in_use) = (Versions::default(), Arc::new(Snapshot::default()));
        let [used, unused] = [Arc::clone(&in_use), Arc::new(Snapshot::default())].map(|version| {
            let seen = Arc::downgrade(&version);
            versions.keep(version);
            seen
        });
        assert!(unused.upgrade().is_some(), "whoever had it last has freed nothing");
        versions.free_unused();
        assert!(unused.upgrade().is_none());
        drop(in_use);
        assert!(used.upgrade().is_some());
        versions.free_unused();
        assert!(used.upgrade().is_none());
    }
}
