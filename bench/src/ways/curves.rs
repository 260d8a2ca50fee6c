//! What arrives over what is offered, by gateway, as drawings. Pure.

use super::{Way, WaysResult};
use crate::numbers::Spread;
use crate::plots::{Curve, Plot, Point, Scale};

/// Loads of all rounds make one point of a curve if the greatest is not above so many times the least.
const NEAR: f64 = 1.2;

/// One for each load that was offered at several rates.
#[must_use]
pub(crate) fn plots(result: &WaysResult) -> Vec<Plot> {
    let samples = || result.rounds.iter().flatten();
    let mut loads: Vec<&str> = Vec::new();
    for sample in samples().filter(|sample| !sample.curve.is_empty()) {
        if !loads.contains(&sample.load.as_str()) {
            loads.push(&sample.load);
        }
    }
    let plot = |(at, load): (usize, &&str)| {
        let curve = |way: Way| {
            let points =
                samples().filter(|sample| sample.way == way && sample.load == **load).flat_map(|sample| &sample.curve);
            let points = curve(points.copied());
            (!points.is_empty()).then(|| Curve { name: way.label(), points })
        };
        Plot {
            file: format!("{}-{}.svg", result.work.name(), at + 1),
            title: (*load).to_owned(),
            over: "offered, thousands a second",
            unit: "arrived, thousands a second",
            scale: Scale::FromZero,
            curves: Way::ALL.into_iter().filter_map(curve).collect(),
        }
    };
    loads.iter().enumerate().map(plot).collect()
}

fn curve(points: impl Iterator<Item = (f64, f64)>) -> Vec<Point> {
    let mut points: Vec<(f64, f64)> = points.filter(|(offered, _)| *offered > 0.0).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut near: Vec<Vec<(f64, f64)>> = Vec::new();
    for point in points {
        match near.last_mut() {
            Some(those) if point.0 <= those[0].0 * NEAR => those.push(point),
            _ => near.push(vec![point]),
        }
    }
    let point = |points: &Vec<(f64, f64)>| {
        let offered = Spread::of(points.iter().map(|point| point.0))?;
        let arrived = Spread::of(points.iter().map(|point| point.1))?;
        Some(Point { at: offered.median, value: arrived.median, least: arrived.min, greatest: arrived.max })
    };
    near.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_that_are_near_each_other_are_one_point_with_its_spread() {
        let points = curve([(100.0, 90.0), (101.0, 100.0), (102.0, 80.0), (1_000.0, 400.0), (0.0, 0.0)].into_iter());
        let told: Vec<_> = points.iter().map(|point| (point.at, point.value, point.least, point.greatest)).collect();
        assert_eq!(told, [(101.0, 90.0, 80.0, 100.0), (1_000.0, 400.0, 400.0, 400.0)]);
    }
}
