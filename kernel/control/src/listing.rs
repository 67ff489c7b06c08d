//! What can be attached and who has it, published in xenstore for dom0 to read: a node for each
//! disk, with a line for the disk and for each of its partitions and volumes, and further nodes if those are many.

use spindle_block::Targets;
use spindle_status::path;
use spindle_xen::xenbus::{Backend, DeviceId};

use crate::published::{Published, PublishedNode, Subject};

/// What was published last.
#[derive(Debug, Default)]
pub(crate) struct Listing(Published);

impl Listing {
    /// Publishes what has changed since the last time.
    pub(crate) fn publish(&mut self, targets: &Targets<DeviceId>, backend: &mut Backend) {
        let nodes = targets.lists().flat_map(|(disk, name, pages)| {
            let pages = pages.into_iter().enumerate();
            pages.map(move |(page, text)| PublishedNode {
                subject: Subject::Disk(disk),
                path: path::targets(name, page),
                text,
            })
        });
        self.0.update(nodes.collect(), backend);
    }
}
