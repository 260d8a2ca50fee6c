//! The results as drawings: what a flow takes, what is carried and how fast flows open, over how many there are. Judges nothing.

use super::ConcurrentResult;
use crate::plots::{Curve, Plot, Point, Scale};

const OVER: &str = "flows at once";

/// All of them.
#[must_use]
pub(crate) fn plots(result: &ConcurrentResult) -> Vec<Plot> {
    let single = |name, of: &dyn Fn(&super::SizeRow) -> f64| {
        let point = |row: &super::SizeRow| {
            let value = of(row);
            Point { at: row.flows.into(), value, least: value, greatest: value }
        };
        vec![Curve { name, points: result.sizes.iter().map(point).collect() }]
    };
    let carried = |name, of: &dyn Fn(&super::SizeRow) -> Option<super::Carried>| {
        let point = |row: &super::SizeRow| {
            let kpps = of(row)?.kpps;
            Some(Point { at: row.flows.into(), value: kpps.median, least: kpps.min, greatest: kpps.max })
        };
        Curve { name, points: result.sizes.iter().filter_map(point).collect() }
    };
    vec![
        Plot {
            file: "memory.svg".to_owned(),
            title: "Resident memory of a member, by the flows that it holds".to_owned(),
            over: OVER,
            unit: "MiB",
            scale: Scale::FromZero,
            curves: single("", &|row| (row.memory.resident >> 20) as f64),
        },
        Plot {
            file: "octets-per-flow.svg".to_owned(),
            title: "Resident memory beyond that of an empty member, by flow".to_owned(),
            over: OVER,
            unit: "octets per flow",
            scale: Scale::Logarithmic,
            curves: single("", &|row| result.octets_per_flow(row).max(1.0)),
        },
        Plot {
            file: "carried.svg".to_owned(),
            title: "Datagrams of 60 octets that arrive, flows hit in turn".to_owned(),
            over: OVER,
            unit: "thousands a second",
            scale: Scale::FromZero,
            curves: vec![
                carried("worker alone", &|row| Some(row.worker)),
                carried("kernel's fast path", &|row| row.cache),
            ],
        },
        Plot {
            file: "new-flows.svg".to_owned(),
            title: "New flows, by how many there are then".to_owned(),
            over: OVER,
            unit: "thousands a second",
            scale: Scale::FromZero,
            curves: single("", &|row| row.opening.per_second / 1e3),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::stored;
    use super::*;

    #[test]
    fn a_stored_result_is_drawn_with_all_of_its_points() {
        let result = stored();
        for plot in plots(&result) {
            let text = plot.svg().expect("drawn");
            let points: usize = plot.curves.iter().map(|curve| curve.points.len()).sum();
            assert_eq!(text.matches("<circle").count(), points, "{}", plot.file);
            assert!(text.contains("10,000,000") && text.contains(plot.unit) && text.contains(&plot.title), "{text}");
        }
    }
}
