//! `virtio-blk`: what a guest wrote to a virtio disk, and what it discarded, as the host sees it.

use anyhow::Result;

use crate::rig::{Machine, Outcome, disk};

/// Where the guest's pattern is, in bytes; as many behind it were discarded.
const PATTERN: (u64, u64) = (32 << 20, 8 << 20);

/// SHA-256 of 8 MiB of zeroes.
const NOTHING: &str = "2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74";

/// Looks at the disk after the scenario; gives what is wrong with it.
///
/// # Errors
/// The image cannot be read.
pub(super) fn look(machine: &Machine, outcome: &Outcome) -> Result<Option<String>> {
    let image = machine.image("virtio");
    let (start, len) = PATTERN;
    let expected = outcome.mark("pattern").map_or("", |mark| mark.get("sum"));
    let found = disk::range_sum(&image, start, len)?;
    if found != expected {
        return Ok(Some(format!(
            "the host finds {found} instead of {expected}"
        )));
    }
    let discarded = disk::range_sum(&image, start + len, len)? == NOTHING;
    Ok((!discarded).then(|| "the host finds data where the guest discarded it".to_string()))
}
