//! How the loop of a worker waits: for frames, for its bell, or for a moment that is worth more than either.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{PacketLoop, Receiving};
use crate::boottime;
use crate::port::IoError;

impl PacketLoop {
    /// Blocks until frames arrive, the doorbell rings, or `timeout` is over; returns at once if frames wait already, or if
    /// `pending` says that there is other work. `pending` must look at **all** queues whose producers ring the bell; it is
    /// asked after the loop has declared itself asleep, so that no ring is lost. A zero timeout only looks (spinning).
    ///
    /// # Errors
    /// `IoError::Ring` if io_uring itself fails; then the worker cannot go on. Failing links are no error.
    pub fn wait(&mut self, timeout: Duration, pending: impl FnOnce() -> bool) -> Result<(), IoError> {
        self.sleep(timeout, pending, |this, timeout| this.uring.wait(timeout))
    }

    /// The same without an ear for frames: those that arrive meanwhile are there afterwards. `timeout` is short.
    ///
    /// # Errors
    /// As `wait`.
    pub fn rest(&mut self, timeout: Duration, pending: impl FnOnce() -> bool) -> Result<(), IoError> {
        self.sleep(timeout, pending, |this, timeout| {
            let time = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
            let mut bell = [PollFd::from_borrowed_fd(this.bell.as_fd(), PollFlags::IN)];
            match poll(&mut bell, Some(&time)) {
                Ok(_) | Err(Errno::INTR) => this.uring.wait(Duration::ZERO),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn sleep(
        &mut self,
        timeout: Duration,
        pending: impl FnOnce() -> bool,
        wait: impl FnOnce(&mut Self, Duration) -> std::io::Result<()>,
    ) -> Result<(), IoError> {
        let failed = |source| IoError::Ring { op: "waiting", source };
        let timeout = self.arm(timeout).map_err(failed)?;
        self.collect();
        if !self.arrived.is_empty() || timeout.is_zero() {
            self.uring.wait(Duration::ZERO).map_err(failed)?;
        } else {
            self.bell.prepare_sleep();
            let timeout = if pending() { Duration::ZERO } else { timeout };
            let waited = wait(self, timeout);
            self.bell.awake();
            waited.map_err(failed)?;
        }
        self.collect();
        Ok(())
    }

    /// Arms whatever is not armed; says how long to wait at most, so that a socket in trouble is tried again in time.
    fn arm(&mut self, timeout: Duration) -> std::io::Result<Duration> {
        let mut timeout = timeout;
        if !self.bell_armed {
            let bell = self.bell.as_fd().as_raw_fd();
            self.uring.arm_bell(bell)?;
            self.bell_armed = true;
        }
        for socket in (0..self.sockets.len()).filter_map(|socket| u8::try_from(socket).ok()) {
            let Receiving::Idle { retry_at_ns } = self.receiving[usize::from(socket)] else { continue };
            let now_ns = boottime::now_ns();
            if retry_at_ns <= now_ns {
                self.uring.arm_receive(socket)?;
                self.receiving[usize::from(socket)] = Receiving::Armed;
            } else {
                timeout = timeout.min(Duration::from_nanos(retry_at_ns - now_ns));
            }
        }
        Ok(timeout)
    }
}
