//! The hot path on the host: rings, grant cache and NVMe queues against a software disk.

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::rig::Mark;
use crate::{root, ui};

/// Runs the benchmark of `spindle-testkit`, which prints a line `bench name=... key=value ...`
/// for each case, and the same under callgrind where valgrind is installed.
pub(super) fn run() -> Result<Vec<Mark>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    ui::step("bench", "the hot path on the host");
    let output = cmd!(
        sh,
        "cargo bench --quiet -p spindle-testkit --bench hot_path"
    )
    .quiet()
    .read()
    .context("the benchmark of the hot path failed")?;
    let marks: Vec<Mark> = output
        .lines()
        .filter_map(Mark::parse)
        .filter(|mark| mark.name == "bench")
        .collect();
    ensure!(
        !marks.is_empty(),
        "the benchmark of the hot path says nothing"
    );
    Ok(marks)
}
