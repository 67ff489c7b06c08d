//! Instructions of turns, counted by callgrind.

use std::process::Command;

use crate::case::Case;
use crate::lane::{Lane, measured_turn};

/// Turns counted.
const TURNS: u32 = 256;

/// Runs the turns that callgrind counts.
pub(crate) fn child(case: Case) {
    let mut lanes: Vec<Lane> = (0..case.cores).map(|_| Lane::new(case)).collect();
    for _ in 0..TURNS {
        for lane in &mut lanes {
            lane.turn(measured_turn);
        }
    }
}

/// Instructions of an I/O; `None` without valgrind.
pub(crate) fn count(case: Case) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*measured_turn*")
        // Inside of a turn, which is left out.
        .arg("--toggle-collect=*uncounted*")
        .arg(std::env::current_exe().ok()?)
        .args(["--count", &case.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    let instructions: f64 = collected.1.trim().parse().ok()?;
    let requests = f64::from(TURNS) * f64::from(case.requests()) * case.cores as f64;
    Some(instructions / requests)
}
