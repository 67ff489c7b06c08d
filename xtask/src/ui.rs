//! What the user sees while a task runs: steps with the time since the start, a spinner
//! for the step under way, and tables at the end.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// Tables fit into a terminal of so many columns; long cells take several lines.
const WIDTH: u16 = 80;

fn started() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Prints one finished or starting step: `[  12.3s] area: text`.
pub(crate) fn step(area: &str, text: &str) {
    eprintln!(
        "[{:6.1}s] {area}: {text}",
        started().elapsed().as_secs_f64()
    );
}

/// A step that takes a while: a spinner on a terminal, one line otherwise.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Starts the step and says so.
    pub(crate) fn start(area: &str, text: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            step(area, text);
            return Self(None);
        }
        let bar = ProgressBar::new_spinner()
            .with_message(format!("{area}: {text}"))
            .with_style(
                ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// An empty table with these headings.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = report();
    table.set_header(headings);
    table
}

/// An empty table without headings.
pub(crate) fn report() -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table
}
