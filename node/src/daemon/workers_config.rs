//! `workers` and `worker_cpus` of `node.toml`: how many threads judge packets, and where they run. Read by `config`; whether the
//! machine has those processors is found out when the threads start.

use netio::thread::allowed_cpus;
use words::WORKERS_MAX;

/// The workers of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkersConfig {
    /// How many.
    pub count: u16,
    /// Where each runs, in the order of their numbers, over and over; empty: wherever the system likes.
    pub cpus: Vec<usize>,
}

impl Default for WorkersConfig {
    /// One for each processor that this process may use.
    fn default() -> Self {
        let cpus = allowed_cpus().map_or(1, |cpus| cpus.len());
        Self { count: u16::try_from(cpus).unwrap_or(WORKERS_MAX).clamp(1, WORKERS_MAX), cpus: Vec::new() }
    }
}

impl WorkersConfig {
    /// As the file says it.
    ///
    /// # Errors
    /// The field that is wrong, its value, what is wrong, and the remedy.
    pub(super) fn of(count: Option<u16>, cpus: Vec<usize>) -> Result<Self, [String; 4]> {
        let wrong = |field: &str, value: String, problem: &str, remedy: String| {
            Err([field.to_owned(), value, problem.to_owned(), remedy])
        };
        let count = count.unwrap_or(Self::default().count);
        if !(1..=WORKERS_MAX).contains(&count) {
            let remedy = format!("use 1 to {WORKERS_MAX}, or leave it out: one for each processor");
            return wrong("workers", count.to_string(), "is no number of workers", remedy);
        }
        if let Some(cpu) = cpus.iter().find(|cpu| **cpu >= CPUS_MAX) {
            let remedy = "count processors from 0, as `lscpu` does, or leave it out".to_owned();
            return wrong("worker_cpus", cpu.to_string(), "is no processor", remedy);
        }
        Ok(Self { count, cpus })
    }

    /// The processor that a worker is bound to, if it is.
    #[must_use]
    pub fn cpu(&self, worker: u16) -> Option<usize> {
        self.cpus.iter().cycle().nth(worker.into()).copied()
    }
}

/// Beyond it a machine has no processors (CPU_SETSIZE).
const CPUS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_their_processors_in_turn() {
        let config = WorkersConfig { count: 3, cpus: vec![4, 6] };
        assert_eq!([0, 1, 2].map(|worker| config.cpu(worker)), [Some(4), Some(6), Some(4)]);
        assert_eq!(WorkersConfig { count: 3, cpus: Vec::new() }.cpu(1), None);
    }
}
