//! Drawings of results: values with their spreads over a logarithmic axis, as SVG. Judges nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::numbers::grouped;

/// Width and height, pixels.
const SIZE: (u32, u32) = (840, 480);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x45);
const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
/// Told apart by those who confuse red and green too.
const COLOURS: [RGBColor; 4] =
    [RGBColor(0x00, 0x6d, 0xb0), RGBColor(0xe0, 0x7b, 0x00), RGBColor(0x3b, 0xa9, 0x9c), RGBColor(0x80, 0x86, 0x8f)];

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A drawing.
#[derive(Debug)]
pub(crate) struct Plot {
    /// Its file's name.
    pub(crate) file: String,
    /// Above it.
    pub(crate) title: String,
    /// What the logarithmic axis has.
    pub(crate) over: &'static str,
    /// Of the values.
    pub(crate) unit: &'static str,
    /// Of the values.
    pub(crate) scale: Scale,
    /// At most as many as there are colours.
    pub(crate) curves: Vec<Curve>,
}

/// Of values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    FromZero,
    Logarithmic,
}

/// Values by what they are over.
#[derive(Debug)]
pub(crate) struct Curve {
    /// Empty if there is one alone.
    pub(crate) name: &'static str,
    /// From left to right.
    pub(crate) points: Vec<Point>,
}

/// A value, and the least and the greatest of the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) at: f64,
    pub(crate) value: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

/// Draws into a directory, which is made if it is not there; the files.
///
/// # Errors
/// If one cannot be written.
pub(crate) fn draw(plots: &[Plot], dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let file = |plot: &Plot| {
        let path = dir.join(&plot.file);
        std::fs::write(&path, plot.svg()?).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    plots.iter().map(file).collect()
}

impl Plot {
    /// As a file.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area())
            .map_err(|why| anyhow!("{}: {why}", self.file))?;
        Ok(text)
    }

    /// Where nothing is: above what begins at nothing and rises, else below.
    fn names_at(&self) -> SeriesLabelPosition {
        let (first, last) = self
            .curves
            .iter()
            .filter_map(|curve| Some((curve.points.first()?, curve.points.last()?)))
            .fold((0.0, 0.0), |(firsts, lasts), (first, last)| (firsts + first.value, lasts + last.value));
        if first * 2.0 < last { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerLeft }
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
        let over = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.at);
        let (first, last) = (over().fold(f64::INFINITY, f64::min), over().fold(1.0, f64::max));
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 20).into_font().color(&INK))
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
            .x_desc(self.over)
            .y_desc(self.unit)
            // Of more, those of a logarithmic scale stand upon each other.
            .y_labels(6)
            .x_label_formatter(&|at| thousands(*at))
            .y_label_formatter(&|value| thousands(*value))
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS) {
            let line = curve.points.iter().map(|point| (point.at, point.value));
            let drawn = chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
            if !curve.name.is_empty() {
                let mark = move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], colour.stroke_width(3));
                drawn.label(curve.name).legend(mark);
            }
            // From the least to the greatest of the rounds.
            let spread = |point: &Point| {
                let ends = vec![(point.at, point.least), (point.at, point.greatest)];
                PathElement::new(ends, colour.stroke_width(1))
            };
            chart.draw_series(curve.points.iter().map(spread))?;
            chart.draw_series(line.map(|at| Circle::new(at, 4, colour.filled())))?;
        }
        if self.curves.len() > 1 {
            let mut names = chart.configure_series_labels();
            names.position(self.names_at()).margin(16).border_style(GRID).background_style(WHITE);
            names.label_font(text()).draw()?;
        }
        area.present()
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    digits.parse().map_or(digits, grouped)
}
