//! The results as drawings: what a flow takes, what is carried and how fast flows open, over how many there are. Judges nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::ConcurrentResult;
use super::rows::grouped;

/// Width and height, pixels.
const SIZE: (u32, u32) = (840, 480);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x45);
const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
/// Told apart by those who confuse red and green too.
const COLOURS: [RGBColor; 2] = [RGBColor(0x00, 0x6d, 0xb0), RGBColor(0xe0, 0x7b, 0x00)];

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A drawing.
struct Plot {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    scale: Scale,
    curves: Vec<Curve>,
}

/// Of values; that of flows is always logarithmic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    FromZero,
    Logarithmic,
}

/// Values by numbers of flows.
struct Curve {
    name: &'static str,
    points: Vec<Point>,
}

struct Point {
    flows: f64,
    value: f64,
    least: f64,
    greatest: f64,
}

/// Draws into a directory, which is made if it is not there; the files.
///
/// # Errors
/// If one cannot be written.
pub fn draw(result: &ConcurrentResult, dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let file = |plot: &Plot| {
        let path = dir.join(plot.file);
        std::fs::write(&path, plot.svg()?).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    plots(result).iter().map(file).collect()
}

fn plots(result: &ConcurrentResult) -> [Plot; 4] {
    let single = |name, of: &dyn Fn(&super::SizeRow) -> f64| {
        let point = |row: &super::SizeRow| {
            let value = of(row);
            Point { flows: row.flows.into(), value, least: value, greatest: value }
        };
        vec![Curve { name, points: result.sizes.iter().map(point).collect() }]
    };
    let carried = |name, of: &dyn Fn(&super::SizeRow) -> Option<super::Carried>| {
        let point = |row: &super::SizeRow| {
            let kpps = of(row)?.kpps;
            Some(Point { flows: row.flows.into(), value: kpps.median, least: kpps.min, greatest: kpps.max })
        };
        Curve { name, points: result.sizes.iter().filter_map(point).collect() }
    };
    [
        Plot {
            file: "memory.svg",
            title: "Resident memory of a member, by the flows that it holds",
            unit: "MiB",
            scale: Scale::FromZero,
            curves: single("", &|row| (row.memory.resident >> 20) as f64),
        },
        Plot {
            file: "octets-per-flow.svg",
            title: "Resident memory beyond that of an empty member, by flow",
            unit: "octets per flow",
            scale: Scale::Logarithmic,
            curves: single("", &|row| result.octets_per_flow(row).max(1.0)),
        },
        Plot {
            file: "carried.svg",
            title: "Datagrams of 60 octets that arrive, flows hit in turn",
            unit: "thousands a second",
            scale: Scale::FromZero,
            curves: vec![
                carried("worker alone", &|row| Some(row.worker)),
                carried("kernel's fast path", &|row| row.cache),
            ],
        },
        Plot {
            file: "new-flows.svg",
            title: "New flows, by how many there are then",
            unit: "thousands a second",
            scale: Scale::FromZero,
            curves: single("", &|row| row.opening.per_second / 1e3),
        },
    ]
}

impl Plot {
    fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area())
            .map_err(|why| anyhow!("{}: {why}", self.file))?;
        Ok(text)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let least = points().map(|point| point.least).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.greatest).fold(1.0, f64::max);
        match self.scale {
            Scale::FromZero => self.draw_over(area, 0.0..most * 1.15),
            Scale::Logarithmic => self.draw_over(area, (least.min(most) / 1.5..most * 1.5).log_scale()),
        }
    }

    fn draw_over<B: DrawingBackend, Y: Ranged<ValueType = f64> + ValueFormatter<f64>>(
        &self,
        area: &DrawingArea<B, Shift>,
        values: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    ) -> Drawn<B> {
        let flows = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.flows);
        let (first, last) = (flows().fold(f64::INFINITY, f64::min), flows().fold(1.0, f64::max));
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 20).into_font().color(&INK))
            .margin(16)
            .margin_right(40)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d((first.min(last) * 0.7..last * 1.4).log_scale(), values)?;
        let text = || (FONT, 14).into_font().color(&INK);
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc("flows at once")
            .y_desc(self.unit)
            // Of more, those of a logarithmic scale stand upon each other.
            .y_labels(6)
            .x_label_formatter(&|flows| thousands(*flows))
            .y_label_formatter(&|value| thousands(*value))
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS) {
            let line = curve.points.iter().map(|point| (point.flows, point.value));
            let drawn = chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
            if !curve.name.is_empty() {
                let mark = move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], colour.stroke_width(3));
                drawn.label(curve.name).legend(mark);
            }
            // From the least to the greatest of the rounds.
            let spread = |point: &Point| {
                let ends = vec![(point.flows, point.least), (point.flows, point.greatest)];
                PathElement::new(ends, colour.stroke_width(1))
            };
            chart.draw_series(curve.points.iter().map(spread))?;
            chart.draw_series(line.map(|at| Circle::new(at, 4, colour.filled())))?;
        }
        if self.curves.len() > 1 {
            let mut names = chart.configure_series_labels();
            // What is carried stays well above nothing.
            names.position(SeriesLabelPosition::LowerLeft).margin(16).border_style(GRID).background_style(WHITE);
            names.label_font(text()).draw()?;
        }
        area.present()
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    digits.parse().map_or(digits, grouped)
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
            assert!(text.contains("10,000,000") && text.contains(plot.unit) && text.contains(plot.title), "{text}");
        }
    }
}
