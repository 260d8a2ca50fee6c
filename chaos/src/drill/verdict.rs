//! The verdict over all runs of a drill with a fault. Called by the command.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fault::Fault;
use super::output::Judged;
use super::run::Outcome;

/// How many untrue answers of one run are spelt out.
const LIES_MAX: usize = 3;

/// Gaps over all runs, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gap {
    /// Half of the runs were better.
    pub median: f64,
    /// Nearest rank.
    pub p99: f64,
    /// The worst run.
    pub max: f64,
}

impl Gap {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(place).copied().unwrap_or(f64::NAN)
        };
        Self { median: rank(50), p99: rank(99), max: rank(100) }
    }
}

/// A drill's verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The drill.
    pub drill: &'static str,
    /// Runs that were carried through.
    pub runs: usize,
    /// Idle connections that still carried a nonce, over all runs.
    pub connections_kept: usize,
    /// Idle connections before the fault, over all runs.
    pub connections: usize,
    /// Idle connections whose public end changed or is gone.
    pub mappings_changed: usize,
    /// Live mappings that share public and remote end with another.
    pub duplicates: usize,
    /// Silence of a flow opened before the fault.
    pub gap_old_ms: Gap,
    /// Silence of flows opened all the while.
    pub gap_new_ms: Gap,
    /// Silence of the old flow when the fault was taken back.
    pub gap_return_ms: Gap,
    /// Elections that the other members counted while the fault lasted.
    pub elections: u64,
    /// The same for each group that the fault left without a leader; 1 is the goal. Nothing if there was no such group.
    pub elections_per_group: Option<f64>,
    /// What the old owner sent after the fault, by kind.
    pub old_owner_sent: BTreeMap<&'static str, u64>,
    /// Downloads with the right digest.
    pub downloads_right: usize,
    /// Longest time from the end of the fault to full redundancy.
    pub whole_again_ms_max: u128,
    /// Answers of `status` while the fault lasted and until all was well again, and how many of them were not true.
    pub statuses: usize,
    /// See `statuses`.
    pub status_lies: usize,
    /// Whether all is well.
    pub pass: bool,
    /// What is not.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// Judges the runs; `broken` says why a run could not be carried through.
    pub(super) fn of(fault: Fault, outcomes: &[Outcome], broken: Vec<String>) -> Self {
        let mut verdict = Self {
            drill: fault.name(),
            runs: outcomes.len(),
            connections_kept: outcomes.iter().map(|one| one.kept).sum(),
            connections: outcomes.iter().map(|one| one.total).sum(),
            mappings_changed: outcomes.iter().map(|one| one.mappings_changed).sum(),
            duplicates: outcomes.iter().map(|one| one.duplicates).sum(),
            gap_old_ms: Gap::of(outcomes.iter().map(|one| one.gap_old_ms)),
            gap_new_ms: Gap::of(outcomes.iter().map(|one| one.gap_new_ms)),
            gap_return_ms: Gap::of(outcomes.iter().map(|one| one.gap_return_ms)),
            elections: outcomes.iter().map(|one| one.elections).sum(),
            elections_per_group: per_group(outcomes),
            old_owner_sent: BTreeMap::new(),
            downloads_right: outcomes.iter().filter(|one| one.download == Ok(true)).count(),
            whole_again_ms_max: outcomes.iter().map(|one| one.whole_again_ms).max().unwrap_or(0),
            statuses: outcomes.iter().map(|one| one.statuses).sum(),
            status_lies: outcomes.iter().map(|one| one.lies.len()).sum(),
            pass: false,
            reasons: broken,
        };
        for (kind, count) in outcomes.iter().flat_map(|one| &one.emissions.counts) {
            *verdict.old_owner_sent.entry(kind).or_default() += count;
        }
        for (number, outcome) in outcomes.iter().enumerate() {
            verdict.reasons.extend(wrongs(outcome).into_iter().map(|wrong| format!("run {}: {wrong}", number + 1)));
        }
        verdict.reasons.extend(too_long(verdict.gap_old_ms, verdict.gap_new_ms, fault.gap_max_ms()));
        if outcomes.is_empty() {
            verdict.reasons.push("no run was carried through".to_owned());
        }
        verdict.pass = verdict.reasons.is_empty();
        verdict
    }
}

/// What is wrong with the gaps of old and new flows, whose median and 99th percentile have a limit.
pub(super) fn too_long(old: Gap, new: Gap, (median_max, p99_max): (f64, f64)) -> Vec<String> {
    // Written so that a gap that is no number is too long.
    let is_good = |gap: &Gap| gap.median <= median_max && gap.p99 <= p99_max;
    let long = [("old", old), ("new", new)].into_iter().filter(|(_, gap)| !is_good(gap));
    let reason = |(what, gap): (&str, Gap)| {
        format!(
            "gap of {what} flows: median {:.1} ms, p99 {:.1} ms; at most {median_max} and {p99_max} are wanted",
            gap.median, gap.p99
        )
    };
    long.map(reason).collect()
}

/// Elections for each group that lost its leader, over all runs.
#[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn per_group(outcomes: &[Outcome]) -> Option<f64> {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>() as f64;
    let groups = sum(|one| one.groups);
    (groups > 0.0).then(|| sum(|one| one.elections) / groups)
}

/// What is wrong with one run, gaps aside.
fn wrongs(outcome: &Outcome) -> Vec<String> {
    let mut wrongs = Vec::new();
    let mut expect_none = |count: u64, what: &str| {
        if count > 0 {
            wrongs.push(format!("{count} {what}"));
        }
    };
    let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    expect_none(wide(outcome.total - outcome.kept), "connections lost");
    expect_none(wide(outcome.mappings_changed), "mappings changed");
    expect_none(wide(outcome.duplicates), "duplicate mappings");
    expect_none(outcome.untranslated, "frames with an inside address outside");
    expect_none(outcome.wrong_port, "packets with a port outside every lease");
    expect_none(outcome.emissions.forbidden, "forbidden emissions of the old owner");
    expect_none(outcome.emissions.vmac_moves.saturating_sub(1), "moves of the vMAC beside the takeover");
    wrongs.extend(outcome.emissions.first_forbidden.iter().map(|first| format!("first forbidden: {first}")));
    if outcome.total > outcome.kept {
        wrongs.push(format!("first loss: {}", outcome.first_loss.as_deref().unwrap_or("unknown")));
    }
    wrongs.extend(outcome.lies.iter().take(LIES_MAX).cloned());
    match &outcome.download {
        Ok(true) => {}
        Ok(false) => wrongs.push("the download's digest is wrong".to_owned()),
        Err(error) => wrongs.push(format!("download: {error}")),
    }
    wrongs
}

impl Judged for Verdict {
    fn drill(&self) -> &'static str {
        self.drill
    }

    fn reasons(&self) -> &[String] {
        &self.reasons
    }

    fn table(verdicts: &[Self]) -> String {
        table(verdicts)
    }
}

fn table(verdicts: &[Verdict]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "drill",
        "runs",
        "kept",
        "changed",
        "dup",
        "gap old ms\nmed/p99/max",
        "gap new ms\nmed/p99/max",
        "gap return\nmed/p99/max",
        "elections\n(per group)",
        "sha256",
        "old owner sent",
        "status\nuntrue",
        "verdict",
    ]);
    for one in verdicts {
        let gap = |gap: Gap| format!("{:.1}/{:.1}/{:.1}", gap.median, gap.p99, gap.max);
        let sent: Vec<String> = one.old_owner_sent.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        table.add_row([
            one.drill.to_owned(),
            one.runs.to_string(),
            format!("{}/{}", one.connections_kept, one.connections),
            one.mappings_changed.to_string(),
            one.duplicates.to_string(),
            gap(one.gap_old_ms),
            gap(one.gap_new_ms),
            gap(one.gap_return_ms),
            one.elections_per_group.map_or_else(|| "-".to_owned(), |each| format!("{} ({each:.2})", one.elections)),
            format!("{}/{}", one.downloads_right, one.runs),
            if sent.is_empty() { "nothing".to_owned() } else { sent.join("\n") },
            format!("{} of {}", one.status_lies, one.statuses),
            if one.pass { "pass" } else { "FAIL" }.to_owned(),
        ]);
    }
    let reasons = verdicts.iter().flat_map(|one| one.reasons.iter().map(move |why| format!("\n{}: {why}", one.drill)));
    format!("{table}{}", reasons.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest_and_nothing_has_no_gap() {
        let gap = Gap::of((1..=100).rev().map(f64::from));
        assert_eq!((gap.median, gap.p99, gap.max), (50.0, 99.0, 100.0));
        assert!(Gap::of(std::iter::empty()).median.is_nan());
        assert!(!Verdict::of(Fault::KillOwner, &[], Vec::new()).pass);
    }
}
