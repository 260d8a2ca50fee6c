//! A command that is run while something else goes on. Called by `awake` and `stalls`.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

/// Runs it to its end. The exit code is the command's, and 1 if a signal ended it.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn run(command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("a command")?;
    let status = Command::new(program).args(arguments).status().with_context(|| program.clone())?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
