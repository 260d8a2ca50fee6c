//! Results as JSON and as Markdown tables.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::engine::{self, EngineResult};
use crate::flows::FlowsResult;
use crate::hold::HoldResult;
use crate::malformed::{Fate, MalformedResult};
use crate::numbers::{Percentile, Spread, loss_free};
use crate::plots;
use crate::printing::{Output, Printing};
use crate::steps::{self, Step, column};
use crate::ways::concurrent::{ConcurrentResult, plots as concurrent, rows};
use crate::ways::curves;
use crate::ways::{WaysResult, tables as ways};
use crate::workers::{self, WorkersResult};

/// Loss below which a rate counts as carried.
const LOSS: f64 = 0.005;

/// Arguments of `qnat-bench report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stored results.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The rows that the README has of results of `bulk`, `rtt`, `pps`, `between`, `concurrent` and their like.
    #[arg(long)]
    rows: bool,
    /// Also draw results of `concurrent`, `offered`, `direct` and `million`, in this directory.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

/// A result as it is stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stored {
    /// Of `hold`.
    Hold(HoldResult),
    /// Of `flows`.
    Flows(FlowsResult),
    /// Of `bulk`.
    Bulk(WaysResult),
    /// Of `rtt`.
    Rtt(WaysResult),
    /// Of `pps`.
    Pps(WaysResult),
    /// Of `between`.
    Between(WaysResult),
    /// Of `offered`.
    Offered(WaysResult),
    /// Of `direct`.
    Direct(WaysResult),
    /// Of `million`.
    Million(WaysResult),
    /// Of `crew`.
    Crew(WaysResult),
    /// Of `malformed`.
    Malformed(MalformedResult),
    /// Of `engine`.
    Engine(EngineResult),
    /// Of `workers`.
    Workers(WorkersResult),
    /// Of `concurrent`.
    Concurrent(ConcurrentResult),
}

impl Stored {
    /// What `qnat-bench bulk`, `rtt` and their like have measured.
    const fn ways(&self) -> Option<&WaysResult> {
        match self {
            Self::Bulk(ways)
            | Self::Rtt(ways)
            | Self::Pps(ways)
            | Self::Between(ways)
            | Self::Offered(ways)
            | Self::Direct(ways)
            | Self::Million(ways)
            | Self::Crew(ways) => Some(ways),
            Self::Hold(_)
            | Self::Flows(_)
            | Self::Malformed(_)
            | Self::Engine(_)
            | Self::Workers(_)
            | Self::Concurrent(_) => None,
        }
    }
}

impl Stored {
    /// Draws it into a directory, if one is wanted and it is a result that has drawings: `concurrent`, and what was offered at several
    /// rates.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn draw(&self, dir: Option<&Path>) -> Result<()> {
        let Some(dir) = dir else { return Ok(()) };
        let drawn = if let Self::Concurrent(result) = self {
            concurrent::plots(result)
        } else {
            self.ways().map(curves::plots).unwrap_or_default()
        };
        for file in plots::draw(&drawn, dir)? {
            eprintln!("{}", file.display());
        }
        Ok(())
    }

    /// The rows of the README's table, of those that have some.
    fn readme_rows(&self) -> Option<Vec<String>> {
        if let Self::Concurrent(result) = self {
            Some(rows::readme_rows(result))
        } else {
            self.ways().map(ways::readme_rows)
        }
    }
}

/// Offered and delivered per second over all rounds: the medians of the two may be of different rounds.
fn whole_of(steps: &[&Step]) -> (f64, f64) {
    let mean = |value: fn(&Step) -> f64| steps.iter().map(|step| value(step)).sum::<f64>() / steps.len() as f64;
    (mean(|step| step.offered), mean(|step| step.delivered))
}

/// Stores and prints a result.
///
/// # Errors
/// If it cannot be written.
pub fn finish(result: &Stored, printing: &Printing) -> Result<()> {
    let json = serde_json::to_string_pretty(result)?;
    if let Some(path) = &printing.out {
        std::fs::write(path, format!("{json}\n")).with_context(|| path.display().to_string())?;
    }
    let text = if printing.output == Output::Json { json } else { table(result) };
    writeln!(std::io::stdout(), "{text}").context("standard output")
}

/// Prints the tables of stored results.
///
/// # Errors
/// If a file is no result.
pub fn run(args: &Args) -> Result<()> {
    for path in &args.files {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(name)?;
        let result: Stored = serde_json::from_str(&text).with_context(name)?;
        let rows = result.readme_rows().filter(|_| args.rows);
        let text = rows.map_or_else(|| table(&result) + "\n", |rows| rows.join("\n"));
        writeln!(std::io::stdout(), "{text}").context("standard output")?;
        result.draw(args.plot.as_deref())?;
    }
    Ok(())
}

fn table(result: &Stored) -> String {
    match result {
        Stored::Engine(result) => engine::table(result),
        Stored::Workers(result) => workers::table(result),
        Stored::Concurrent(result) => rows::table(result),
        Stored::Hold(hold) => hold_table(hold),
        Stored::Flows(flows) => flows_table(flows),
        Stored::Bulk(result)
        | Stored::Rtt(result)
        | Stored::Pps(result)
        | Stored::Offered(result)
        | Stored::Direct(result)
        | Stored::Million(result)
        | Stored::Crew(result)
        | Stored::Between(result) => ways::table(result),
        Stored::Malformed(set) => malformed_table(set),
    }
}

fn malformed_table(set: &MalformedResult) -> String {
    let mut table = markdown(&["packet", "sent", "masquerade", "qnat", "qnat's reason"]);
    let word = |fate| match fate {
        Fate::Dropped => "dropped",
        Fate::Passed => "passed",
        Fate::Leaked => "LEAKED",
    };
    for row in &set.rows {
        let reason = row.reason.clone().unwrap_or_default();
        table.add_row([row.packet.clone(), row.sent.clone(), word(row.kernel).into(), word(row.qnat).into(), reason]);
    }
    let mut text = format!("{}\n\n{table}\n", set.machine.place());
    let of = |name: &str, fate_of: fn(&crate::malformed::Row) -> Fate| {
        let count = |sound, fate| set.count(fate_of, sound, fate);
        let (sound, bad) =
            (set.rows.iter().filter(|row| row.sound).count(), set.rows.iter().filter(|row| !row.sound).count());
        format!(
            "\n{name}: of {bad} packets to drop {} dropped, {} passed translated, {} leaked untranslated; {} of {sound} sound ones passed",
            count(false, Fate::Dropped),
            count(false, Fate::Passed),
            count(false, Fate::Leaked),
            count(true, Fate::Passed)
        )
    };
    text += &of("masquerade", |row| row.kernel);
    text + &of("qnat", |row| row.qnat)
}

fn markdown(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header.to_vec());
    table
}

fn hold_table(hold: &HoldResult) -> String {
    let mut table = markdown(&["µs", "p50", "p99"]);
    let within = |p: &Percentile| {
        let end = p.below_us.map_or_else(|| "∞".to_owned(), |us| format!("{us:.0}"));
        format!("{:.0} ({:.0}–{end})", p.us, p.above_us)
    };
    table.add_row(vec!["hold".to_owned(), within(&hold.hold_p50), within(&hold.hold_p99)]);
    table.add_row(vec!["proposal to commit".to_owned(), within(&hold.commit_p50), within(&hold.commit_p99)]);
    let (first, later) = (&hold.first, &hold.later);
    for (name, p50, p99) in [
        ("round trip, first packet", first.p50_us, first.p99_us),
        ("round trip, second packet", later.p50_us, later.p99_us),
        ("difference", first.p50_us - later.p50_us, first.p99_us - later.p99_us),
    ] {
        table.add_row(vec![name.to_owned(), format!("{p50:.0}"), format!("{p99:.0}")]);
    }
    format!(
        "{table}\n\n{} new flows at {}/s, {} without answer, {} elections, mean hold {:.0} µs. In brackets: the bucket that \
         the percentile was interpolated in. {}.",
        hold.flows,
        hold.rate,
        hold.lost,
        hold.elections,
        hold.hold_mean_us,
        hold.machine.place()
    )
}

fn flows_table(flows: &FlowsResult) -> String {
    let (table, curve) = steps_table(&flows.summary, &flows.qnat);
    let without = if flows.without_cache.is_empty() {
        String::new()
    } else {
        format!(
            "\n\nWithout the kernel's fast path:\n\n{}",
            steps_table(&flows.summary_without_cache, &flows.without_cache).0
        )
    };
    format!(
        "{table}{without}\n\n{} rounds of {} s per rate, {} datagrams a flow, alternating with the kernel's masquerade; median (least–greatest), \
         delivered % of all rounds. Largest rate with less than {} % loss: {:.0}/s. {}.",
        flows.qnat.len(),
        flows.seconds,
        flows.packets,
        LOSS * 100.0,
        loss_free(&curve, LOSS),
        flows.machine.place()
    )
}

/// The table, and what was offered and delivered.
fn steps_table(rows: &[steps::Row], rounds: &[Vec<Step>]) -> (Table, Vec<(f64, f64)>) {
    let mut table = markdown(&[
        "offered/s",
        "committed/s",
        "delivered/s",
        "delivered %",
        "hold p50 µs",
        "hold p99 µs",
        "cores of members",
        "flows/entry",
        "datagrams/entry",
        "wake-ups/entry",
        "beside p99 µs",
        "beside lost",
        "elections",
        "drops",
        "offered to the kernel/s",
        "kernel/s",
        "cores busy",
        "kernel: cores busy",
    ]);
    let whole = |s: &Spread| format!("{:.0} ({:.0}–{:.0})", s.median, s.min, s.max);
    let fine = |s: &Spread| format!("{:.2} ({:.2}–{:.2})", s.median, s.min, s.max);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let curve: Vec<(f64, f64)> = (0..rows.len()).map(|at| whole_of(&column(rounds, at))).collect();
    for (row, (offered, delivered)) in rows.iter().zip(&curve) {
        let drops = row.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ");
        table.add_row(vec![
            format!("{:.0}", row.offered.median),
            whole(&row.committed),
            whole(&row.delivered),
            format!("{:.2}", delivered / offered * 100.0),
            or_none(row.hold_p50_us.as_ref().map(whole)),
            or_none(row.hold_p99_us.as_ref().map(whole)),
            fine(&row.members),
            or_none(row.flows_per_entry.as_ref().map(fine)),
            or_none(row.datagrams_per_entry.as_ref().map(fine)),
            or_none(row.wakes_per_entry.as_ref().map(fine)),
            or_none(row.beside_p99_us.as_ref().map(whole)),
            format!("{} of {}", row.beside_lost.0, row.beside_lost.1),
            row.elections.to_string(),
            drops,
            or_none(row.kernel_offered.as_ref().map(whole)),
            or_none(row.kernel.as_ref().map(whole)),
            fine(&row.busy),
            or_none(row.kernel_busy.as_ref().map(fine)),
        ]);
    }
    (table, curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_rows_of_the_stored_results_and_no_others() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
        for name in ["bulk", "rtt", "pps", "offered", "direct", "million", "crew", "between"] {
            // Who has not measured claims nothing.
            let stored = std::fs::read_to_string(root.join(format!("bench/results/{name}.json"))).ok();
            let rows = stored.map_or_else(Vec::new, |stored| {
                let stored: Stored = serde_json::from_str(&stored).expect("a result");
                ways::readme_rows(stored.ways().expect("one of these"))
            });
            let command = format!("| `qnat-bench {name} ");
            let there: Vec<&str> = readme.lines().filter(|line| line.contains(&command)).collect();
            assert_eq!(there, rows, "qnat-bench report --rows bench/results/{name}.json writes them");
        }
    }
}
