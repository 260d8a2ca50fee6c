//! Standard output: whole texts, and quiet when nobody reads them any more, as under `head`.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

/// How answers are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Writes `text`, with an end of line.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| out.write_all(b"\n"));
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value is always representable")
}
