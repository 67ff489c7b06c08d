//! `flush-durable`: as soon as a guest's flushes were answered, the machine is killed, and the write
//! caches of its disks with it. What was flushed must be in the images, and what was not must not:
//! otherwise the first would say nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::rig::{Machine, Mark, disk, outcome};

/// The guest's disks, and the drives behind them.
const DISKS: [(&str, &str); 2] = [("xvda", "lossy"), ("xvdb", "lossy-virtio")];

/// Where the guest's job writes what it flushes, and how much, in bytes; as much behind that it does
/// not flush.
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
    let unflushed = marks.iter().find(|mark| mark.name == "unflushed");
    let images = DISKS.map(|(vdev, drive)| (vdev, machine.image(drive)));
    machine.kill()?;
    let (start, len) = PATTERN;
    for (vdev, image) in images {
        let written = [
            disk::range_sum(&image, start, len)?,
            disk::range_sum(&image, start + len, len)?,
        ];
        let said =
            [Some(&flushed), unflushed].map(|mark| mark.map_or("", |mark: &Mark| mark.get(vdev)));
        if let Some(why) = judge(said, &written) {
            return Ok(Some(format!("{vdev}: {why}")));
        }
    }
    Ok(None)
}

/// What is wrong with a disk where the guest wrote what has these checksums, flushed and unflushed,
/// and the host finds those.
fn judge(said: [&str; 2], found: &[String; 2]) -> Option<String> {
    let [flushed, unflushed] = said;
    if flushed.is_empty() || unflushed.is_empty() {
        return Some("the guest reported no checksums".to_string());
    }
    if found[0] != flushed {
        let found = &found[0];
        return Some(format!(
            "flushed data is lost: {found} instead of {flushed}"
        ));
    }
    let kept = found[1] == unflushed;
    kept.then(|| "all that was not flushed is on the disk, so that this shows nothing".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_data_must_be_there_and_other_data_must_not() {
        let found = ["a".to_string(), "zeroes".to_string()];
        assert_eq!(judge(["a", "b"], &found), None);
        let why = |said| judge(said, &found).expect("it is wrong");
        assert!(why(["c", "b"]).contains("lost"));
        assert!(why(["a", "zeroes"]).contains("shows nothing"));
        assert!(why(["", "b"]).contains("no checksums"));
        assert!(why(["a", ""]).contains("no checksums"));
    }
}
