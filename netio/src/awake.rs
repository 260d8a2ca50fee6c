//! Processors that do not halt. One of a virtual machine that halts is given to others by its host, which may give it back too
//! late: threads that sleep between two packets then stand still for longer than a lease lasts, on a machine that has time to spare.
//!
//! One thread on each processor spins, and gives way to whatever else wants to run: in a process of its own, since the kernel
//! gives each session an equal share of a processor, so that only a session can give way to other ones and to the kernel's own
//! threads ([`crate::session`]). It costs what processors cost that are never idle, on the host and in electricity.

use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{session, thread};

/// The process that spins; dropping this ends it, and so does the end of this process, whatever ended that.
#[derive(Debug)]
pub struct Spinner(Child);

impl Spinner {
    /// Begins this very program again with arguments that make it call [`spin_until_told`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped());
        session::lead_session(&mut command);
        Ok(Self(command.spawn()?))
    }

    /// The process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

/// Spins on every processor that this process may use, until standard input ends.
///
/// # Errors
/// When the system refuses to bind a thread or to let it give way.
pub fn spin_until_told() -> io::Result<()> {
    // A kernel without groups of sessions looks at the threads alone.
    let _weighed = session::spare_session();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let spinning = thread::allowed_cpus()?.into_iter().map(|cpu| scope.spawn(move || spin(cpu, over)));
        let spinning: Vec<_> = spinning.collect();
        let told = io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
        for one in spinning {
            one.join().map_err(|_| io::Error::other("a thread panicked"))??;
        }
        told.map(drop)
    })
}

/// Takes what others leave of one processor until all is over.
fn spin(cpu: usize, over: &AtomicBool) -> io::Result<()> {
    thread::pin_current(cpu)?;
    thread::spare_current()?;
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Whether this machine is a virtual one, by what its processors say.
#[must_use]
pub fn is_virtual() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| says_hypervisor(&text))
}

fn says_hypervisor(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "hypervisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_machine_is_known_by_its_processors_flags() {
        assert!(says_hypervisor("model name\t: x\nflags\t\t: fpu hypervisor lahf_lm\n"));
        assert!(!says_hypervisor("model name\t: hypervisor\nflags\t\t: fpu lahf_lm\n"));
    }
}
