//! The results as tables for people, and as rows of the README, which holds no figure that is not in a stored result.

use comfy_table::{Table, presets};

use super::sample::{Row, Unit, WayRow};
use super::{Way, WaysResult, Work};
use crate::lab::NODES;
use crate::numbers::Spread;

/// Everything.
#[must_use]
pub fn table(result: &WaysResult) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "load",
        "",
        "by",
        "median (least–greatest)",
        "ratio",
        "busy, each processor",
        "stolen at most",
        "in the kernel at least",
    ]);
    for row in &result.summary {
        for way in &row.ways {
            let cores: Vec<String> = way.cores.iter().map(|core| format!("{core:.2}")).collect();
            table.add_row([
                row.load.clone(),
                row.unit.label().to_owned(),
                way.way.label().to_owned(),
                spread(&way.value, digits(row.unit)),
                spread(&way.ratio, 2),
                cores.join(" "),
                format!("{:.1} %", way.stolen_max * 100.0),
                way.carried_min.map_or_else(|| "–".to_owned(), |carried| format!("{:.1} %", carried * 100.0)),
            ]);
        }
    }
    let (before, after) = result.load_average;
    format!(
        "{table}\n\n{} rounds of {} s each; ratio: to the last one of a load in the same round. {} elections; load average \
         {before:.1} before, {after:.1} after. {}.",
        result.rounds.len(),
        result.seconds,
        result.elections,
        result.machine.place()
    )
}

/// The rows of the README's table.
#[must_use]
pub fn readme_rows(result: &WaysResult) -> Vec<String> {
    let command = result.work.name();
    let rows = result.summary.iter().filter(|row| row.unit != Unit::KppsOffered);
    let (seconds, rounds) = (result.seconds, result.rounds.len());
    let rules = if result.rules > 0 { format!(" --rules {}", result.rules) } else { String::new() };
    let is_told = result.nodes != NODES && result.work != Work::Crew && !result.work.is_direct();
    let nodes = if !is_told { String::new() } else { format!(" --nodes {}", result.nodes) };
    rows.map(|row| {
        let (load, unit, value) = (&row.load, row.unit.label(), value(row));
        format!(
            "| {load}, {unit} | `qnat-bench {command} --seconds {seconds} --rounds {rounds}{rules}{nodes}` | {value} |"
        )
    })
    .collect()
}

fn value(row: &Row) -> String {
    let of = |way: &WayRow| spread(&way.value, digits(row.unit));
    let against = row.ways.last().filter(|way| matches!(way.way, Way::Nftables | Way::OneWorker));
    let ways = row.ways.iter().map(|way| {
        let ratio =
            against.filter(|against| against.way != way.way).map(|_| format!(": {} times", spread(&way.ratio, 2)));
        format!("{} {}{}", way.way.label(), of(way), ratio.unwrap_or_default())
    });
    ways.collect::<Vec<_>>().join("; ")
}

fn digits(unit: Unit) -> usize {
    match unit {
        Unit::Gbit | Unit::MicrosP50 | Unit::MicrosP99 => 1,
        Unit::Kpps | Unit::KppsOffered | Unit::KppsWhole | Unit::Changes => 0,
    }
}

fn spread(value: &Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}–{:.digits$})", value.median, value.min, value.max)
}
