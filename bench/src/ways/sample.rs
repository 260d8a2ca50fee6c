//! Samples, and what is made of them: medians, spreads, ratios. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::numbers::Spread;

/// By which gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The cluster, its fast path on, and the client's subnet behind a security group.
    Grouped,
    /// The cluster, its fast path on.
    Cache,
    /// The same, though what leaves goes by the device's own egress, where a pair's far end is in reach.
    ByDevice,
    /// The cluster, each packet by a worker.
    Worker,
    /// A cluster of one member that has two workers, each packet by one of them.
    TwoWorkers,
    /// The same with one.
    OneWorker,
    /// The kernel's masquerade.
    Nftables,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Grouped, Self::Cache, Self::ByDevice, Self::Worker, Self::TwoWorkers, Self::OneWorker, Self::Nftables];

    /// In tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Grouped => "cache on, behind rules",
            Self::Cache => "cache on",
            Self::ByDevice => "cache on, by the device",
            Self::Worker => "cache off",
            Self::TwoWorkers => "two workers",
            Self::OneWorker => "one worker",
            Self::Nftables => "nftables",
        }
    }
}

/// Of a figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Payload, Gbit/s.
    Gbit,
    /// Median of round trips, microseconds.
    MicrosP50,
    /// All but a hundredth of the round trips are shorter, microseconds.
    MicrosP99,
    /// Thousand datagrams a second that arrived; of several loads at that of which most did.
    Kpps,
    /// Thousand datagrams a second that were sent then.
    KppsOffered,
    /// Thousand datagrams a second, the most of which all but one in 200 arrived.
    KppsWhole,
    /// Changes of the configuration a second that were in force meanwhile.
    Changes,
}

impl Unit {
    /// In tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gbit => "Gbit/s",
            Self::MicrosP50 => "µs p50",
            Self::MicrosP99 => "µs p99",
            Self::Kpps => "kpps",
            Self::KppsOffered => "kpps offered",
            Self::KppsWhole => "kpps without loss",
            Self::Changes => "changes/s",
        }
    }
}

/// A value with its unit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Its unit.
    pub unit: Unit,
    /// The value.
    pub value: f64,
}

/// One way under one load, once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// By which gateway.
    pub way: Way,
    /// What was sent.
    pub load: String,
    /// What came of it.
    pub figures: Vec<Figure>,
    /// How busy each processor was, 0 to 1, without what runs at a low priority: both ends and the switches included.
    pub cores: Vec<f64>,
    /// Share of all processors that the host took.
    pub stolen: f64,
    /// Of the cluster's ways: share of the frames that the kernel carried.
    pub carried: Option<f64>,
    /// Of loads that the kernel makes: what was offered and what arrived, thousand datagrams a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, f64)>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}:", self.load, self.way.label())?;
        for Figure { unit, value } in &self.figures {
            write!(f, " {value:.2} {}", unit.label())?;
        }
        Ok(())
    }
}

/// A figure over all rounds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Under which load.
    pub load: String,
    /// Its unit.
    pub unit: Unit,
    /// By way.
    pub ways: Vec<WayRow>,
}

/// One way's figure over all rounds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WayRow {
    /// By which gateway.
    pub way: Way,
    /// Over the rounds.
    pub value: Spread,
    /// This divided by what the last way of [`Way::ALL`] that was measured had in the same round, over the rounds.
    pub ratio: Spread,
    /// Busy processors, each for itself; medians.
    pub cores: Vec<f64>,
    /// Share of the processors that the host took; greatest.
    pub stolen_max: f64,
    /// Share of the frames that the kernel carried; least.
    pub carried_min: Option<f64>,
}

/// Medians by load and unit.
#[must_use]
pub(super) fn summary(rounds: &[Vec<Sample>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for sample in rounds.first().into_iter().flatten() {
        for figure in &sample.figures {
            if !rows.iter().any(|row| row.load == sample.load && row.unit == figure.unit) {
                rows.push(row(rounds, &sample.load, figure.unit));
            }
        }
    }
    rows
}

fn row(rounds: &[Vec<Sample>], load: &str, unit: Unit) -> Row {
    let of = |round: &'_ [Sample], way: Way| -> Option<f64> {
        let sample = round.iter().find(|sample| sample.load == load && sample.way == way)?;
        sample.figures.iter().find(|figure| figure.unit == unit).map(|figure| figure.value)
    };
    let there = |way: &Way| rounds.first().is_some_and(|round| of(round, *way).is_some());
    let against = Way::ALL.into_iter().rfind(there);
    let ways = Way::ALL.into_iter().filter_map(|way| {
        let samples = || rounds.iter().flatten().filter(move |sample| sample.load == load && sample.way == way);
        let ratio = rounds.iter().filter_map(|round| Some(of(round, way)? / of(round, against?)?));
        let cores = samples().map(|sample| sample.cores.len()).min().unwrap_or(0);
        let core = |at: usize| Spread::of(samples().map(|sample| sample.cores[at])).map_or(0.0, |spread| spread.median);
        Some(WayRow {
            way,
            value: Spread::of(rounds.iter().filter_map(|round| of(round, way)))?,
            ratio: Spread::of(ratio)?,
            cores: (0..cores).map(core).collect(),
            stolen_max: samples().map(|sample| sample.stolen).fold(0.0, f64::max),
            carried_min: samples().filter_map(|sample| sample.carried).reduce(f64::min),
        })
    });
    Row { load: load.to_owned(), unit, ways: ways.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(way: Way, value: f64, carried: Option<f64>) -> Sample {
        let figures = vec![Figure { unit: Unit::Gbit, value }];
        Sample {
            way,
            load: "one".to_owned(),
            figures,
            cores: vec![value / 10.0, 1.0],
            stolen: value / 100.0,
            carried,
            curve: Vec::new(),
        }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_its_median_not_that_of_the_medians() {
        let round = |cache, nftables| {
            vec![sample(Way::Nftables, nftables, None), sample(Way::Cache, cache, Some(cache / 10.0))]
        };
        let rows = summary(&[round(2.0, 1.0), round(6.0, 2.0), round(4.0, 4.0)]);
        let [Row { load, unit: Unit::Gbit, ways }] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(load, "one");
        let [cache, nftables] = &ways[..] else { panic!("{ways:?}") };
        assert_eq!((cache.way, cache.value), (Way::Cache, Spread { median: 4.0, min: 2.0, max: 6.0 }));
        assert_eq!(cache.ratio, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!((cache.cores.clone(), cache.stolen_max, cache.carried_min), (vec![0.4, 1.0], 0.06, Some(0.2)));
        assert_eq!((nftables.ratio.median, nftables.carried_min), (1.0, None));
    }

    #[test]
    fn without_a_peer_the_fast_path_is_held_against_the_worker() {
        let rows = summary(&[vec![sample(Way::Cache, 6.0, None), sample(Way::Worker, 3.0, None)]]);
        let ratios: Vec<f64> = rows[0].ways.iter().map(|way| way.ratio.median).collect();
        assert_eq!(ratios, [2.0, 1.0]);
    }
}
