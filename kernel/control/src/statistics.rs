//! The counters, published in xenstore for dom0 to read: one line for each attached disk, summed
//! over its rings, and one for each core.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

use spindle_blkif::stats::{RingSnapshot, RingStats};
use spindle_xen::xenbus::Backend;

use crate::cores::Cores;
use crate::devices::{Device, Devices};
use crate::hypervisor::Hypervisor;
use crate::worker::CoreWorker;

/// How often, as long as a disk is attached. Each round is a trip to xenstored, which has others
/// to serve.
const PERIOD_NS: u64 = 5_000_000_000;

const DISKS: &str = "data/spindle/stat";

/// What was published last, by path.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    published: BTreeMap<String, String>,
    due: u64,
}

impl Statistics {
    /// When the next round is due.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Whether any disk is published.
    pub(crate) fn has_disks(&self) -> bool {
        self.published.keys().any(|path| path.starts_with(DISKS))
    }

    /// Publishes what has changed since the last round, and removes what is of disks gone.
    pub(crate) fn publish<H: Hypervisor, W: CoreWorker>(
        &mut self,
        now: u64,
        devices: &Devices<H>,
        cores: &Cores<H, W>,
        backend: &mut Backend,
    ) {
        self.due = now + PERIOD_NS;
        let disks = devices.connected().map(|device| {
            let Device { id, rings, .. } = device;
            let path = format!("{DISKS}/{}-{}", id.frontend.0, id.device);
            let sum = RingSnapshot::sum(device.stats().map(RingStats::snapshot));
            let rings = rings.len();
            (path, format!("rings={rings} {sum}"))
        });
        let cores = cores.stats().enumerate().map(|(core, stats)| {
            (
                format!("data/spindle/core/{}", core + 1),
                stats.snapshot().to_string(),
            )
        });
        // Not collected, for which the library would sort first: a fiftieth of the kernel.
        let mut now = BTreeMap::new();
        now.extend(disks.chain(cores));
        for (path, line) in &now {
            if self.published.get(path) != Some(line) {
                backend.publish(path.clone(), line.clone());
            }
        }
        for path in self
            .published
            .keys()
            .filter(|path| !now.contains_key(*path))
        {
            backend.unpublish(path.clone());
        }
        self.published = now;
    }
}
