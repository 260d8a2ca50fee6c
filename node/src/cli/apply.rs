//! `qnat apply`: reads the file, asks whoever sits at a terminal where the members want a yes, and gives the order. What wants one
//! they decide, not this.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, ensure};

use super::asking::Asking;
use super::exit::EXIT_FAILED;
use crate::client::ClientError;
use crate::daemon::request::{DryRun, Failure, NEEDS_YES, Request};

/// `qnat apply`.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// The file (TOML); - for standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Also if it ends live flows, removes more resources than it adds, or declares none at all; without it a terminal is asked,
    /// and nobody else.
    #[arg(long, alias = "allow-empty")]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn perform(args: &ApplyArgs) -> Result<ExitCode> {
    let ApplyArgs { file, dry_run, yes, asking } = args;
    let from_standard_input = file.as_os_str() == "-";
    let dry_run = if *dry_run { DryRun::Yes } else { DryRun::No };
    let (file, text) = read_resources(file)?;
    let request = Request::Apply { file: file.clone(), text: text.clone(), dry_run, yes: *yes, plan: None };
    let answer = match asking.target.call(&request) {
        Err(error) if dry_run == DryRun::No && !from_standard_input && std::io::stdin().is_terminal() => {
            let Some(plan) = wanted(&error).map(|failure| failure.plan.clone()) else { return Err(error) };
            if !says_yes(&error)? {
                writeln!(std::io::stderr(), "qnat: nothing was changed")?;
                return Ok(ExitCode::from(EXIT_FAILED));
            }
            asking.target.call(&Request::Apply { file, text, dry_run, yes: true, plan })?
        }
        other => other?,
    };
    asking.show(&request, &answer)
}

/// What was refused for want of a yes.
fn wanted(error: &Error) -> Option<&Failure> {
    error.chain().find_map(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(failure)) if failure.code.as_deref() == Some(NEEDS_YES) => Some(failure),
        Some(_) | None => None,
    })
}

/// Whether whoever sits there means it.
fn says_yes(error: &Error) -> Result<bool> {
    let mut screen = std::io::stderr();
    write!(screen, "{error:#}\napply it all the same? [y/N] ")?;
    screen.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The name of a file of resources, for messages, and its text.
pub(super) fn read_resources(file: &Path) -> Result<(String, String)> {
    let bound = u64::try_from(control::limits::FILE_LEN_MAX)?;
    let mut text = String::new();
    let (name, source): (String, Box<dyn std::io::Read>) = if file.as_os_str() == "-" {
        ("standard input".to_owned(), Box::new(std::io::stdin()))
    } else {
        let name = file.display().to_string();
        let opened = std::fs::File::open(file).with_context(|| name.clone())?;
        (name, Box::new(opened))
    };
    source.take(bound + 1).read_to_string(&mut text).with_context(|| name.clone())?;
    ensure!(u64::try_from(text.len())? <= bound, "{name}: longer than {bound} bytes");
    Ok((name, text))
}
