//! The plot of the page on limits: the IOPS of three tenants over time.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::rig::Mark;

/// The tenants: key, title, and a colour that the colour-blind can tell from the others too.
const TENANTS: [(&str, &str, RGBColor); 3] = [
    ("one", "weight 8", RGBColor(0, 114, 178)),
    (
        "two",
        "weight 16, from 600 ms on 50,000 IOPS",
        RGBColor(213, 94, 0),
    ),
    (
        "four",
        "weight 32, pauses from 200 to 400 ms",
        RGBColor(0, 158, 115),
    ),
];

/// Draws to `path`.
pub(super) fn draw(record: &[Mark], path: &Path) -> Result<()> {
    let failure = |error| anyhow!("draw the plot: {error:?}");
    let area = SVGBackend::new(path, (960, 320)).into_drawing_area();
    area.fill(&WHITE).map_err(failure)?;
    draw_chart(record, &area).map_err(failure)?;
    area.present().map_err(failure)
}

type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw_chart<'a>(
    record: &[Mark],
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
) -> Result<(), Failure<'a>> {
    let of = |key: &str| -> Vec<(f64, f64)> {
        let rows = record.iter().filter(|mark| mark.get("table") == "time");
        rows.filter_map(|mark| Some((mark.number("ms")?, mark.number(key)? / 1000.0)))
            .collect()
    };
    let all = TENANTS.map(|(key, ..)| of(key));
    let points = || all.iter().flatten();
    let last = points().map(|at| at.0).fold(1.0, f64::max);
    let most = points().map(|at| at.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last, 0.0..most * 1.3)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ms")
        .y_desc("thousand IOPS")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for ((_, title, colour), points) in TENANTS.into_iter().zip(all) {
        let style = colour.stroke_width(2);
        chart
            .draw_series([PathElement::new(points, style)])?
            .label(title)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
}
