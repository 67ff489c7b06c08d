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

/// Compares the instructions of each case with what they may be. Gives what was not checked if there is
/// no valgrind to count them with.
pub(super) fn bounds() -> Result<Option<String>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    if cmd!(sh, "valgrind --version").quiet().read().is_err() {
        let what = String::from("the instructions of the hot path: there is no valgrind");
        ui::step("bench", &format!("NOT RUN: {what}"));
        return Ok(Some(what));
    }
    ui::step("bench", "the instructions of the hot path");
    cmd!(
        sh,
        "cargo bench --quiet -p spindle-testkit --bench hot_path -- bounds"
    )
    .quiet()
    .run()
    .context("the hot path takes more instructions than it may")?;
    Ok(None)
}
