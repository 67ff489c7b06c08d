//! `flush-durable`: as soon as a guest's flush was answered, the machine is killed; what
//! was flushed must be in the disk image.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::rig::{Machine, disk, outcome};

/// Where the guest's job writes its pattern, and how much, in bytes.
const PATTERN: (u64, u64) = (32 << 20, 8 << 20);

/// Runs the scenario; the machine does not survive it. Gives why it failed, if it did.
///
/// # Errors
/// The machine died by itself or does not answer.
pub(super) fn run(mut machine: Machine, timeout: Duration) -> Result<Option<String>> {
    machine.start("flush-durable", timeout)?;
    let mut marks = Vec::new();
    let deadline = Instant::now() + timeout;
    let flushed = match machine.wait("flushed", deadline, &mut marks) {
        Ok(flushed) => flushed,
        Err(error) => return Ok(Some(format!("{:#}", outcome::why(error, &marks)))),
    };
    let image = machine.nvme.clone();
    machine.kill()?;
    let found = disk::range_sum(&image, PATTERN.0, PATTERN.1)?;
    let expected = flushed.get("sum");
    Ok((found != expected).then(|| format!("flushed data is lost: {found} instead of {expected}")))
}
