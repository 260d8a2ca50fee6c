//! The thread on which walks over the whole control state are done (`member::control_member::Job`), with ordinary priority: the
//! control thread has heartbeats to send. It decides nothing, and has one job at a time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use actix::Recipient;
use control::state::State;
use netio::boottime::now_ns;
use netio::pulse::Pulse;

use super::control_actor::JobDone;
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
}

impl Clerk {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there is none to be had.
    pub fn start(pulse: Pulse) -> std::io::Result<Self> {
        let (orders, taken) = sync_channel(ORDERS_MAX);
        std::thread::Builder::new().name("clerk".to_owned()).spawn(move || work(&taken, &pulse))?;
        Ok(Self { orders })
    }

    /// Has the job done; `reply` hears of it.
    pub fn have_done(&self, job: Box<Job>, reply: Recipient<JobDone>) {
        self.order(Order::Do { job, reply });
    }

    /// Frees what a job has left.
    pub fn free(&self, state: Arc<State>) {
        self.order(Order::Free(state));
    }

    fn order(&self, order: Order) {
        // There is one job at a time, and as much to be freed: there is room, and a panic of the thread ends the process.
        self.orders.send(order).expect("the clerk's thread runs as long as orders can come");
    }
}

fn work(orders: &Receiver<Order>, pulse: &Pulse) {
    loop {
        pulse.beat(now_ns());
        match orders.recv_timeout(BEAT_EVERY) {
            Ok(Order::Do { job, reply }) => reply.do_send(JobDone(job.run())),
            Ok(Order::Free(state)) => drop(state),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
