//! Waking a consumer that sleeps in the kernel: an eventfd behind `sync::doorbell`'s flag, so that the system call is made
//! only when it is needed. One `Doorbell` per consumer (a worker's loop, an actor's thread); `Ringer`s go to its producers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::sync::doorbell::SleepFlag;

#[derive(Debug)]
struct Shared {
    flag: SleepFlag,
    fd: OwnedFd,
}

impl Shared {
    fn signal(&self) {
        match rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
            // EAGAIN: the counter is at its maximum, so the consumer is signalled as it is.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => unreachable!("writing an open eventfd: {error}"),
        }
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

/// A producer's end.
#[derive(Clone, Debug)]
pub struct Ringer {
    shared: Arc<Shared>,
}

impl Doorbell {
    /// A new bell.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { shared: Arc::new(Shared { flag: SleepFlag::new(), fd }) })
    }

    /// An end for a producer.
    #[must_use]
    pub fn ringer(&self) -> Ringer {
        Ringer { shared: self.shared.clone() }
    }

    /// Before sleeping. Afterwards look at **all** queues again, and sleep only if they are empty.
    pub fn prepare_sleep(&self) {
        self.shared.flag.prepare_sleep();
    }

    /// After sleeping, or after having found work after all.
    pub fn awake(&self) {
        self.shared.flag.awake();
    }

    /// Hands the bell to the current tokio runtime, which then tells when it is rung.
    ///
    /// # Errors
    /// When the runtime cannot watch another descriptor.
    pub fn watch(self) -> io::Result<tokio::io::unix::AsyncFd<Self>> {
        // SAFETY: the bell owns its descriptor until it is dropped, and `as_raw_fd` always names that one.
        let watched = unsafe { tokio::io::unix::AsyncFd::register_with_interest(self, tokio::io::Interest::READABLE) };
        watched.map_err(io::Error::from)
    }

    /// Takes the signal back, so that the descriptor is not readable any more. Whether there was one.
    pub fn clear(&self) -> bool {
        let mut count = [0_u8; 8];
        rustix::io::read(&self.shared.fd, &mut count).is_ok()
    }
}

impl AsFd for Doorbell {
    /// Readable when signalled; for poll, epoll and io_uring.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Doorbell {
    /// For tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.shared.fd)
    }
}

impl Ringer {
    /// After having published an item: wakes the consumer if it sleeps. Once per batch, not per item.
    pub fn ring(&self) {
        if self.shared.flag.needs_wake() {
            self.shared.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Doorbell;
    use std::os::fd::AsFd;

    #[test]
    fn a_busy_consumer_is_not_signalled_and_a_sleeping_one_is() {
        let bell = Doorbell::new().expect("eventfd");
        let ringer = bell.ringer();
        ringer.ring();
        assert!(!bell.clear(), "the consumer was awake");
        bell.prepare_sleep();
        let thread = std::thread::spawn(move || ringer.ring());
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(bell.as_fd(), rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1));
        bell.awake();
        thread.join().expect("ringer");
        assert!(bell.clear());
        assert!(!bell.clear(), "one signal only");
    }
}
