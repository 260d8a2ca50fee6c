//! `qnat-chaos awake`: keeps the processors of a virtual machine from going idle while a command runs. A processor that halts
//! is given to others by its host, which may give it back too late: members that sleep between two packets then stand still
//! for longer than a lease lasts, on a machine that has time to spare. One thread on each processor spins, and gives way to
//! whatever else wants to run.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use netio::thread;

use crate::command;

/// Arguments of `awake`.
#[derive(Clone, Debug, clap::Args)]
pub struct AwakeArgs {
    /// A command to run meanwhile; its exit code is this one's.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Runs a command while no processor goes idle. The exit code is the command's.
///
/// # Errors
/// If it cannot be started, or the system refuses the threads.
pub fn run(args: &AwakeArgs) -> Result<ExitCode> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let spinning = thread::allowed_cpus()?.into_iter().map(|cpu| scope.spawn(move || spin(cpu, over)));
        let spinning: Vec<_> = spinning.collect();
        let code = command::run(&args.command);
        over.store(true, Ordering::Relaxed);
        for one in spinning {
            one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        code
    })
}

/// Takes what others leave of one processor until all is over.
fn spin(cpu: usize, over: &AtomicBool) -> Result<()> {
    thread::pin_current(cpu)?;
    thread::spare_current()?;
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_processor_is_idle_while_the_command_runs_and_its_exit_code_counts() {
        let ours: Vec<String> = thread::allowed_cpus().expect("ours").iter().map(|cpu| format!("cpu{cpu} ")).collect();
        let idle = || -> u64 {
            let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
            let lines = stat.lines().filter(|line| ours.iter().any(|cpu| line.starts_with(cpu)));
            lines
                .map(|line| line.split_whitespace().nth(4).and_then(|ticks| ticks.parse::<u64>().ok()).expect("idle"))
                .sum()
        };
        let before = idle();
        let code = run(&AwakeArgs { command: ["sh", "-c", "sleep 0.5; exit 3"].map(str::to_owned).to_vec() });
        let idled = idle() - before;
        assert_eq!(format!("{:?}", code.expect("there is a shell")), format!("{:?}", ExitCode::from(3)));
        // Hundredths of a second, of which one processor alone has fifty.
        assert!(idled <= 10, "idle for {idled} ticks");
    }
}
