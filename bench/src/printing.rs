//! How a measurement's result leaves: printed, and stored if that was asked for.

use std::path::PathBuf;

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Output {
    /// Markdown.
    Table,
    /// JSON.
    Json,
}

/// Arguments that all measurements share.
#[derive(Clone, Debug, clap::Args)]
pub struct Printing {
    /// How to print the result.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Also store it, as JSON.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
