//! The plot of the idle policies' page: for each machine and disk a panel, in it a point for each policy, the
//! further left the less processor time and the lower the sooner a request is answered.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::idle::{HOSTS, POLICIES};
use crate::rig::Mark;

/// The disks that are shown, at this think time.
const DISKS: [&str; 4] = ["fixed-10", "fixed-80", "exponential-80", "bimodal-80-1000"];
const THINK: &str = "105";

/// One colour for each of [`POLICIES`], which the colour-blind can tell apart too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(150, 150, 150),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 158, 115),
];

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (320, 240);

type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// Draws to `path`.
pub(super) fn draw(record: &[Mark], path: &Path) -> Result<()> {
    let (columns, rows) = (u32::try_from(DISKS.len())?, u32::try_from(HOSTS.len())?);
    let size = (PANEL.0 * columns, PANEL.1 * rows);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(failure)?;
    let panels = area.split_evenly((HOSTS.len(), DISKS.len()));
    let cases = HOSTS
        .iter()
        .flat_map(|(host, _)| DISKS.iter().map(move |disk| (*host, *disk)));
    for (panel, (host, disk)) in panels.iter().zip(cases) {
        draw_panel(panel, record, host, disk).map_err(failure)?;
    }
    area.present().map_err(failure)
}

fn draw_panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    record: &[Mark],
    host: &str,
    disk: &str,
) -> Result<(), Failure<'a>> {
    let point = |policy: &str| {
        let mark = record.iter().find(|mark| {
            mark.get("host") == host
                && mark.get("disk") == disk
                && mark.get("think") == THINK
                && mark.get("policy") == policy
        })?;
        Some((mark.number("cpu_us")?, mark.number("mean_us")?))
    };
    let points: Vec<_> = POLICIES
        .iter()
        .zip(COLOURS)
        .filter_map(|(&(name, title), colour)| Some((point(name)?, title, colour)))
        // Spindle's own is drawn over others.
        .rev()
        .collect();
    let most =
        |of: fn(&(f64, f64)) -> f64| points.iter().map(|(at, ..)| of(at)).fold(1.0, f64::max);
    let (cpu, mean) = (most(|at| at.0), most(|at| at.1));
    let least = points.iter().map(|(at, ..)| at.1).fold(mean, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{host}, {disk}"), ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(32)
        .y_label_area_size(40)
        .build_cartesian_2d(
            -0.03 * cpu..1.1 * cpu,
            0.9 * least..mean + 0.4 * (mean - least),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(5)
        .y_labels(5)
        .x_desc("CPU, us a request")
        .y_desc("mean, us")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (at, title, colour) in points {
        chart
            .draw_series([Circle::new(at, 5, colour.filled())])?
            .label(title)
            .legend(move |(x, y)| Circle::new((x + 6, y), 4, colour.filled()));
    }
    if (host, disk) == (HOSTS[0].0, DISKS[0]) {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 10))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    Ok(())
}

fn failure(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the plot: {error}")
}
