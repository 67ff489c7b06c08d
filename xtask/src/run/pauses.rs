//! What a guest notices of deaths of Spindle's kernel: its answered requests over time as a plot of 80
//! columns of plain text, with the deaths marked, and how long each pause was.

use crate::spread::Spread;

/// Columns of the plot, and of the numbers left of it.
const WIDTH: usize = 80;
const MARGIN: usize = 7;
const COLUMNS: usize = WIDTH - MARGIN;
/// Rows of the plot.
const ROWS: usize = 10;
/// Seconds between two numbers below it.
const TICK_S: f64 = 10.0;

/// A time without an answered request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gap {
    /// When it began, in seconds since the load began.
    pub(super) at: f64,
    /// How long it took, in seconds.
    pub(super) took: f64,
}

/// A death that was ordered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OrderedDeath {
    /// When, in seconds since the load began.
    pub(super) at: f64,
    /// Of what, and on which core: `panic-1`.
    pub(super) order: String,
    /// From the death until Spindle served again by its own clock, in seconds.
    pub(super) down: f64,
}

/// What was seen of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pauses {
    /// Seconds of a step.
    pub(super) step: f64,
    /// Requests answered in each step.
    pub(super) counts: Vec<u32>,
    /// The longer times without any.
    pub(super) gaps: Vec<Gap>,
    pub(super) deaths: Vec<OrderedDeath>,
}

impl Pauses {
    /// Seconds that the load took.
    fn total(&self) -> f64 {
        self.step * self.counts.len() as f64
    }

    /// The longest pause that a death has caused: one that had not ended when it was ordered, and began
    /// before the next.
    pub(super) fn after(&self, death: usize) -> Option<Gap> {
        let from = self.deaths.get(death)?.at;
        let to = self
            .deaths
            .get(death + 1)
            .map_or(f64::INFINITY, |next| next.at);
        let within = |gap: &&Gap| gap.at + gap.took > from && gap.at < to;
        longest(self.gaps.iter().filter(within))
    }

    /// The longest pause of all.
    pub(super) fn longest(&self) -> Option<Gap> {
        longest(self.gaps.iter())
    }

    /// The pauses of all deaths, in seconds.
    pub(super) fn spread(&self) -> Option<Spread> {
        let after = (0..self.deaths.len()).filter_map(|death| self.after(death));
        Spread::of(after.map(|gap| gap.took))
    }

    /// The plot: lines of 80 columns at most. A column is `#` as high as its least step, and `:` up to
    /// its average, so that a pause shorter than a column shows as well.
    pub(super) fn plot(&self) -> String {
        let columns = self.columns();
        let highest = columns.iter().map(|column| column.1).fold(0.0, f64::max);
        let scale = round_up(highest);
        let mut text = String::new();
        for row in (1..=ROWS).rev() {
            let bound = scale * (row as f64 - 0.5) / ROWS as f64;
            let label = match row {
                ROWS => format!("{scale:.0}"),
                row if row * 2 == ROWS => format!("{:.0}", scale / 2.0),
                _ => String::new(),
            };
            let bar = |&(least, average): &(f64, f64)| match () {
                () if least >= bound => '#',
                () if average >= bound => ':',
                () => ' ',
            };
            let bars: String = columns.iter().map(bar).collect();
            text += format!("{label:>width$} |{bars}", width = MARGIN - 2).trim_end();
            text += "\n";
        }
        text += &format!(
            "{:>width$} +{}\n",
            0,
            "-".repeat(COLUMNS),
            width = MARGIN - 2
        );
        let ticks = (0..).map(|n| f64::from(n) * TICK_S);
        let ticks = ticks.take_while(|at| *at <= self.total());
        text += &self.line("s", ticks.map(|at| (at, format!("{at:.0}"))));
        let deaths = self.deaths.iter().map(|death| (death.at, "^".to_string()));
        text += &self.line("died", deaths);
        text
    }

    /// Least and average requests a second of each column.
    fn columns(&self) -> Vec<(f64, f64)> {
        let count = self.counts.len();
        let part = |column: usize| {
            let (from, to) = (column * count / COLUMNS, (column + 1) * count / COLUMNS);
            // A load of few steps fills several columns with each.
            self.counts.get(from..to.max(from + 1)).unwrap_or_default()
        };
        let rates = |steps: &[u32]| {
            let least = steps.iter().min().copied().unwrap_or(0);
            let sum: f64 = steps.iter().copied().map(f64::from).sum();
            let average = sum / steps.len().max(1) as f64;
            (f64::from(least) / self.step, average / self.step)
        };
        (0..COLUMNS).map(|column| rates(part(column))).collect()
    }

    /// A line of texts at their times, those left out that have no room.
    fn line(&self, label: &str, marks: impl Iterator<Item = (f64, String)>) -> String {
        let mut line = format!("{label:>width$}  ", width = MARGIN - 2);
        for (at, mark) in marks {
            let column = (at / self.total() * COLUMNS as f64) as usize;
            let place = MARGIN + column.min(COLUMNS - 1);
            let has_room = line.len() <= place && place + mark.len() <= WIDTH;
            if has_room {
                line += &" ".repeat(place - line.len());
                line += &mark;
            }
        }
        line + "\n"
    }
}

fn longest<'a>(gaps: impl Iterator<Item = &'a Gap>) -> Option<Gap> {
    gaps.copied().max_by(|a, b| a.took.total_cmp(&b.took))
}

/// The least of 1, 2 and 5 times a power of ten that is no smaller.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(at: f64) -> OrderedDeath {
        OrderedDeath {
            at,
            order: "panic-1".into(),
            down: 0.25,
        }
    }

    fn pauses() -> Pauses {
        // A minute with 150 answers in each fifth of a second, and two pauses.
        let mut counts = vec![150; 300];
        counts[48..58].fill(0);
        counts[200] = 0;
        Pauses {
            step: 0.2,
            counts,
            gaps: vec![
                Gap {
                    at: 5.0,
                    took: 0.15,
                },
                Gap {
                    at: 9.55,
                    took: 2.05,
                },
                Gap {
                    at: 20.0,
                    took: 0.1,
                },
                Gap {
                    at: 39.95,
                    took: 0.3,
                },
            ],
            deaths: vec![death(10.0), death(40.0)],
        }
    }

    #[test]
    fn the_plot_has_eighty_columns_and_shows_pauses_where_deaths_are_marked() {
        let text = pauses().plot();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 3);
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
        assert!(
            lines[0].starts_with(" 1000 |") && lines[ROWS / 2].starts_with("  500 |"),
            "{text}"
        );
        let at = |line: &str, column: usize| line.chars().nth(MARGIN + column).unwrap_or(' ');
        // 750 a second of 1000: three rows are empty.
        assert!(!lines[1].contains('#') && lines[3].contains('#'), "{text}");
        let bottom = lines[ROWS - 1];
        assert_eq!(bottom.chars().count(), WIDTH, "{text}");
        // The long pause fills a column, the short one is a part of its column.
        assert_eq!(
            (at(bottom, 10), at(bottom, 11), at(bottom, 12)),
            ('#', ':', ' '),
            "{text}"
        );
        assert_eq!((at(bottom, 48), at(bottom, 49)), (':', '#'), "{text}");
        let marks = lines[ROWS + 2];
        assert_eq!((at(marks, 12), at(marks, 48)), ('^', '^'), "{text}");
        assert_eq!(marks.matches('^').count(), 2);
        assert!(lines[ROWS + 1].contains("0           10"), "{text}");
    }

    #[test]
    fn each_death_has_the_longest_pause_from_then_to_the_next() {
        let pauses = pauses();
        assert_eq!(pauses.after(0).map(|gap| gap.at), Some(9.55));
        assert_eq!(pauses.after(1).map(|gap| gap.at), Some(39.95));
        assert_eq!(pauses.after(2), None);
        assert_eq!(pauses.longest().map(|gap| gap.took), Some(2.05));
        let spread = pauses.spread().expect("two");
        assert_eq!((spread.min, spread.max), (0.3, 2.05));
        // A longer one after the second death is none of the first's.
        let mut later = pauses.clone();
        later.gaps[3] = Gap {
            at: 40.2,
            took: 3.0,
        };
        assert_eq!(later.after(0), pauses.after(0));
        // One that was over before the death is none of it.
        let mut early = pauses.clone();
        early.gaps.truncate(1);
        assert_eq!((early.after(0), early.spread().is_none()), (None, true));
    }

    #[test]
    fn a_load_that_answered_nothing_or_took_moments_is_drawn_as_well() {
        for counts in [vec![], vec![0], vec![7], vec![1; 20], vec![u32::MAX; 1000]] {
            let pauses = Pauses {
                counts,
                deaths: vec![death(1.0), death(1e9), death(0.0)],
                ..pauses()
            };
            let text = pauses.plot();
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        }
    }

    #[test]
    fn scales_are_round_numbers() {
        for (value, round) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (3.0, 5.0),
            (750.0, 1000.0),
            (1001.0, 2000.0),
        ] {
            assert_eq!(round_up(value), round);
        }
    }
}
