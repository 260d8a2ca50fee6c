//! `qnat-chaos awake`: keeps the processors of a virtual machine from going idle while a command runs. A processor that halts
//! is given to others by its host, which may give it back too late: members that sleep between two packets then stand still
//! for longer than a lease lasts, on a machine that has time to spare. One thread on each processor spins, and gives way to
//! whatever else wants to run: in a process of its own, since the kernel gives each session an equal share of a processor, so that
//! only a session can give way to other ones and to the kernel's own threads (`netio::session`).

use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use netio::thread;

use crate::command;

/// Arguments of `awake`.
#[derive(Clone, Debug, clap::Args)]
pub struct AwakeArgs {
    /// Only spin, until standard input ends.
    #[arg(long, hide = true)]
    pub spin: bool,
    /// A command to run meanwhile; its exit code is this one's.
    #[arg(last = true, required_unless_present = "spin")]
    pub command: Vec<String>,
}

/// The process that spins; dropping this ends it, and so does the end of this process, whatever ended that.
struct Spinner(Child);

impl Spinner {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["awake", "--spin"]).stdin(Stdio::piped());
        netio::session::lead_session(&mut command);
        Ok(Self(command.spawn().context("a process that spins")?))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

/// Runs a command while no processor goes idle. The exit code is the command's.
///
/// # Errors
/// If it cannot be started, or the system refuses the threads.
pub fn run(args: &AwakeArgs) -> Result<ExitCode> {
    if args.spin {
        return spin_until_told();
    }
    let _spinner = Spinner::start()?;
    command::run(&args.command)
}

fn spin_until_told() -> Result<ExitCode> {
    // A kernel without groups of sessions looks at the threads alone.
    let _weighed = netio::session::spare_session();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let spinning = thread::allowed_cpus()?.into_iter().map(|cpu| scope.spawn(move || spin(cpu, over)));
        let spinning: Vec<_> = spinning.collect();
        let told = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
        for one in spinning {
            one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        told.context("standard input").map(|_| ExitCode::SUCCESS)
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
