//! RAM disks: those of the last life, and new ones.

use alloc::format;

use super::probe::Probe;

/// Makes the RAM disks that the options ask for.
pub(super) fn probe(probe: &mut Probe<'_>) {
    let wanted = &probe.config.ram_disks;
    probe.ram.keep_only(wanted);
    for disk in wanted {
        let made = probe.ram.make(*disk, probe.bus);
        probe.note_made(format!("ram{}", disk.number), made);
    }
}
