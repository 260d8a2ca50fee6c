//! The results as a table for people, and as rows of the README, which holds no figure that is not in a stored result.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::{Carried, ConcurrentResult, Idling, PACED, Probed, Rejoining, SizeRow};
use crate::numbers::{Spread, grouped};

/// Everything.
#[must_use]
pub fn table(result: &ConcurrentResult) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "flows",
        "resident, MiB",
        "octets per flow",
        "new flows a second",
        "opened at once",
        "cache off, kpps",
        &format!("arrived of {}", paced()),
        "cache on, kpps",
        &format!("arrived of {}", paced()),
    ]);
    let none = || "–".to_owned();
    for row in &result.sizes {
        let cache = row.cache.as_ref();
        table.add_row([
            grouped(row.flows),
            mib(row.memory.resident),
            octets(result, row),
            format!("{:.0}", row.opening.per_second),
            percent(row.opening.at_once),
            whole(&row.worker.kpps),
            percent(row.worker.paced_share.median),
            cache.map_or_else(none, |cache| whole(&cache.kpps)),
            cache.map_or_else(none, |cache| percent(cache.paced_share.median)),
        ]);
    }
    let (before, after) = result.load_average;
    let mut text = format!(
        "{table}\n\nOne member alone, without a switch; {} rounds of {} s for each, medians (least–greatest). Without flows it has {} MiB. \
         New flows begin at 100,000 a second, and fewer than that are there before a pace is found. Load average {before:.1} before, {after:.1} after. {}.",
        result.rounds,
        result.seconds,
        mib(result.empty.resident),
        result.machine.place()
    );
    let idle = result.idling.as_ref().map(|idle| format!("{}: {}", idling_name(idle), idling(idle)));
    let rejoin = result.rejoining.as_ref().map(|back| format!("{}: {}", rejoining_name(back), rejoining(back)));
    for said in [idle, rejoin].into_iter().flatten() {
        write!(text, "\n\n{said}.").expect("writing to a string cannot fail");
    }
    text
}

/// The rows of the README's table.
#[must_use]
pub fn readme_rows(result: &ConcurrentResult) -> Vec<String> {
    let flows: Vec<String> = result.sizes.iter().map(|row| row.flows.to_string()).collect();
    let idle = if result.idling.is_some() { " --idle" } else { "" };
    let rejoin = result.rejoining.as_ref().map_or_else(String::new, |back| format!(" --rejoin {}", back.flows));
    let (flows, seconds, rounds) = (flows.join(","), result.seconds, result.rounds);
    let command = format!("qnat-bench concurrent --flows {flows} --seconds {seconds} --rounds {rounds}{idle}{rejoin}");
    let row = |what: String, said: String| format!("| {what} | `{command}` | {said} |");
    let size = |row_of: &SizeRow| {
        let carried = |name: &str, carried: &Carried| {
            let share = percent(carried.paced_share.median);
            format!("{name} {} kpps, and {share} of {}", whole(&carried.kpps), paced())
        };
        let cache = row_of.cache.as_ref().map(|cache| carried("; cache on", cache)).unwrap_or_default();
        row(
            format!("{} flows at once on a member without a switch", grouped(row_of.flows)),
            format!(
                "{} octets per flow resident; {:.0} new flows/s; {}{cache}",
                octets(result, row_of),
                row_of.opening.per_second,
                carried("cache off", &row_of.worker)
            ),
        )
    };
    let idle = result.idling.as_ref().map(|idle| row(idling_name(idle), idling(idle)));
    let rejoin = result.rejoining.as_ref().map(|back| row(rejoining_name(back), rejoining(back)));
    result.sizes.iter().map(size).chain(idle).chain(rejoin).collect()
}

fn idling_name(idle: &Idling) -> String {
    format!("{} flows go idle at once", grouped(idle.flows))
}

fn idling(idle: &Idling) -> String {
    let [before, closing, freeing] = &idle.probed;
    format!(
        "none after {:.1} s, and none of their ports held after {:.1} s more; resident then {} MiB. Round trips of another flow before: {}; \
         while they end: {}; while their ports are held and freed: {}",
        idle.closed_s,
        idle.freed_s,
        mib(idle.memory.resident),
        probed(before),
        probed(closing),
        probed(freeing)
    )
}

fn rejoining_name(back: &Rejoining) -> String {
    format!("a member of three comes back to {} flows of one shard", grouped(back.flows))
}

fn rejoining(back: &Rejoining) -> String {
    let [before, away, during] = &back.probed;
    format!(
        "{:.0} new flows/s while they are opened; all replicas in step {:.1} s after its start; resident then {} MiB. Round trips of one of \
         the flows before: {}; without the member: {}; while it comes back: {}",
        back.opening.per_second,
        back.whole_s,
        mib(back.memory.resident),
        probed(before),
        probed(away),
        probed(during)
    )
}

fn probed(probed: &Probed) -> String {
    let times = &probed.times;
    let (lost, all) = (probed.lost, times.count + probed.lost);
    let (p50, p99, max) = (times.p50_us / 1e3, times.p99_us / 1e3, times.max_us / 1e3);
    format!("p50 {p50:.2} ms, p99 {p99:.2} ms, at most {max:.1} ms, {lost} of {all} without an answer")
}

fn paced() -> String {
    format!("{} a second", grouped(PACED))
}

/// Below a few octets of a few flows, what a member takes anyhow moves by more.
fn octets(result: &ConcurrentResult, row: &SizeRow) -> String {
    format!("{:.0}", result.octets_per_flow(row))
}

fn mib(octets: u64) -> String {
    (octets >> 20).to_string()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn whole(value: &Spread) -> String {
    format!("{:.0} ({:.0}–{:.0})", value.median, value.min, value.max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::Stored;

    /// As it is stored.
    pub(crate) const STORED: &str = include_str!("stored_for_tests.json");

    pub(crate) fn stored() -> ConcurrentResult {
        let Stored::Concurrent(result) = serde_json::from_str(STORED).expect("a result") else {
            panic!("the result of another command")
        };
        result
    }

    #[test]
    fn a_stored_result_has_a_line_for_each_number_of_flows_and_says_what_was_not_measured() {
        let result = stored();
        let text = table(&result);
        let line = |flows: &str| text.lines().find(|line| line.starts_with(&format!("| {flows} "))).expect("its line");
        assert!(line("1,000,000").contains(" 150 "), "octets beyond the empty member's: {text}");
        assert!(line("10,000,000").contains('–'), "no room in the kernel: {text}");
        assert!(text.contains("10,000,000 flows go idle at once: none after 12.5 s"), "{text}");
        let rows = readme_rows(&result);
        assert_eq!(rows.len(), result.sizes.len() + 2);
        assert!(rows.iter().all(|row| row.matches(" | ").count() == 2), "three columns: {rows:?}");
    }
}
