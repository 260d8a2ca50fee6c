//! The live picture of `qnat lab up`: who owns what, twice a second, until Ctrl-C.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::{tables, views};
use anyhow::Result;
use qnat_lab::LabStatus;

/// A frozen or starved member must not hold up the picture.
const LOOK_TIMEOUT: Duration = Duration::from_millis(400);

/// Shows the lab in `dir` until the lab is told to end, then takes it down. On a terminal the picture replaces itself under
/// `header`; elsewhere it is written when it has changed.
pub(super) fn watch(dir: &Path, header: &str) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    qnat_lab::watch(dir, |status| {
        let picture = picture(dir, status);
        if picture == last {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        // Without a reader the lab goes on all the same: it is ended by a signal.
        let _unread = if terminal {
            write!(out, "\x1b[H\x1b[2J{header}\n{picture}\nCtrl-C takes the lab down.\n")
        } else {
            writeln!(out, "{picture}")
        };
        let _unread = out.flush();
        last = picture;
        Ok(())
    })
}

fn picture(dir: &Path, status: &LabStatus) -> String {
    let mut text = tables::lab_processes(status);
    match views::merged_status(dir, status, LOOK_TIMEOUT) {
        Some(cluster) => text += &tables::owners(&cluster),
        None => text += "\nno member answers\n",
    }
    text
}
