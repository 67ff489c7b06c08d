//! What can be attached and who has it, published in xenstore for dom0 to read: a node for each
//! disk, with a line for the disk and for each of its partitions.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

use spindle_block::Targets;
use spindle_xen::xenbus::{Backend, DeviceId};

const PATH: &str = "data/spindle/targets";

/// What was published last, by disk.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    published: BTreeMap<String, String>,
}

impl Listing {
    /// Publishes what has changed since the last time.
    pub(crate) fn publish(&mut self, targets: &Targets<DeviceId>, backend: &mut Backend) {
        self.published.retain(|disk, _| {
            let is_there = targets.disks().any(|volume| volume.name == *disk);
            if !is_there {
                backend.unpublish(format!("{PATH}/{disk}"));
            }
            is_there
        });
        for (_, disk, text) in targets.lists() {
            if self.published.get(disk) != Some(&text) {
                backend.publish(format!("{PATH}/{disk}"), text.clone());
                self.published.insert(disk.to_string(), text);
            }
        }
    }
}
