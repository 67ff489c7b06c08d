//! The plot of the results page: each backend's throughput and processor efficiency as a
//! multiple of the Linux driver domain's, with the spread.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::plan::{BASELINE, JOBS, VARIANTS};
use super::samples::{Sample, Samples};

type Figure = fn(&Sample) -> f64;

/// The panels: their title and what they show.
const PANELS: [(&str, Figure); 2] = [
    ("IOPS, Linux driver domain = 1", |sample| sample.iops),
    (
        "I/Os per second of backend processor time, Linux driver domain = 1",
        |sample| sample.per_cpu,
    ),
];

/// One colour for each of [`VARIANTS`], which the colour-blind can tell apart too.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(150, 150, 150),
    RGBColor(0, 158, 115),
];

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (960, 280);

/// Room for the legend right of the bars, in jobs.
const LEGEND: f64 = 1.2;

/// Draws to `path`.
pub(super) fn draw(samples: &Samples, path: &Path) -> Result<()> {
    let queues = samples.queues();
    let rows = u32::try_from(queues.len() * PANELS.len())?;
    let area = SVGBackend::new(path, (PANEL.0, PANEL.1 * rows)).into_drawing_area();
    area.fill(&WHITE).map_err(failure)?;
    let panels = area.split_evenly((rows as usize, 1));
    let cases = queues
        .iter()
        .flat_map(|&queues| PANELS.iter().map(move |panel| (queues, panel)));
    for (panel, (queues, &(title, figure))) in panels.iter().zip(cases) {
        let title = match queues {
            1 => format!("{title}; 1 queue"),
            _ => format!("{title}; {queues} queues"),
        };
        draw_panel(panel, samples, queues, &title, figure).map_err(failure)?;
    }
    area.present().map_err(failure)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw_panel<'a>(
    area: &Area<'a>,
    samples: &Samples,
    queues: u32,
    title: &str,
    figure: Figure,
) -> Result<(), Failure<'a>> {
    let ratio = |variant: &str, job: &str| samples.ratio(variant, job, queues, figure);
    let highest = VARIANTS
        .iter()
        .flat_map(|variant| JOBS.iter().filter_map(|job| ratio(variant.name, job)))
        .fold(1.0, |highest: f64, spread| highest.max(spread.max));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(48)
        .build_cartesian_2d(-0.5..JOBS.len() as f64 - 0.5 + LEGEND, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(JOBS.len() * 2)
        .x_label_formatter(&|at| label(*at))
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    let shown: Vec<usize> = (0..VARIANTS.len())
        .filter(|&at| {
            JOBS.iter()
                .any(|job| ratio(VARIANTS[at].name, job).is_some())
        })
        .collect();
    let width = 0.8 / shown.len().max(1) as f64;
    for (place, &at) in shown.iter().enumerate() {
        let left = |job: usize| job as f64 - 0.4 + place as f64 * width;
        draw_variant(&mut chart, at, width, left, |job| {
            ratio(VARIANTS[at].name, job)
        })?;
    }
    let one = [(-0.5, 1.0), (JOBS.len() as f64 - 0.5, 1.0)];
    chart.draw_series([PathElement::new(one, BLACK.mix(0.5))])?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// A variant's bars, each with a line from its least to its greatest value.
fn draw_variant<'a>(
    chart: &mut Plane<'_, 'a>,
    at: usize,
    width: f64,
    left: impl Fn(usize) -> f64,
    ratio: impl Fn(&str) -> Option<crate::spread::Spread>,
) -> Result<(), Failure<'a>> {
    let colour = COLOURS[at];
    let values: Vec<_> = JOBS
        .iter()
        .enumerate()
        .filter_map(|(job, name)| Some((left(job), ratio(name)?)))
        .collect();
    let bars = values.iter().map(|(left, spread)| {
        Rectangle::new(
            [(*left, 0.0), (left + width * 0.9, spread.median)],
            colour.filled(),
        )
    });
    chart
        .draw_series(bars)?
        .label(VARIANTS[at].title)
        .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    if VARIANTS[at].name != BASELINE {
        chart.draw_series(values.iter().map(|(left, spread)| {
            let middle = left + width * 0.45;
            PathElement::new([(middle, spread.min), (middle, spread.max)], BLACK)
        }))?;
    }
    Ok(())
}

/// The job at a place of the horizontal axis.
fn label(at: f64) -> String {
    let job = at.round();
    if (at - job).abs() > 0.01 || job < 0.0 {
        return String::new();
    }
    JOBS.get(job as usize)
        .copied()
        .unwrap_or_default()
        .to_string()
}

fn failure(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the plot: {error}")
}
