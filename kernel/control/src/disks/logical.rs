//! Logical volumes, as the disks have them together: whenever a disk has been read, all are put together
//! anew.

use log::{error, info, warn};
use spindle_block::{MayGrow, Redescribed};

use super::Disks;

/// Refused volumes that the log names.
const MOST_LOGGED: usize = 32;

impl<Q> Disks<Q> {
    /// Takes in the logical volumes on what is known of all disks, and reports those in the log that are
    /// not as they were. Gives what has changed.
    pub(super) fn look_for_logical(&mut self, may_grow: MayGrow<'_>) -> Redescribed {
        let Some(found) = self.physical.logical(&self.targets) else {
            error!("there is no memory to look for logical volumes: those that were served stay");
            return Redescribed::default();
        };
        for volume in &found.volumes {
            if self.targets.volumes().any(|known| known == volume) {
                continue;
            }
            let (name, mib) = (&volume.name, volume.sectors >> 11);
            match &volume.map {
                None => info!("volume {name}: {mib} MiB from block {}", volume.start),
                Some(map) => {
                    let pieces = map.runs().count();
                    info!("volume {name}: {mib} MiB in {pieces} pieces");
                }
            }
        }
        let mut more = found.surplus;
        for (index, (name, reason)) in found.refused.iter().enumerate() {
            match self.targets.refusal(name) {
                Some(known) if known == reason => {}
                _ if index >= MOST_LOGGED => more += 1,
                _ => warn!("volume {name} is not served: {reason}"),
            }
        }
        if more > 0 {
            warn!("{more} volumes more are not served");
        }
        self.targets.set_logical(found, may_grow)
    }
}
