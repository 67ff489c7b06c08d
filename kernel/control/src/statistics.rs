//! The counters, published in xenstore for dom0 to read: two lines for each attached disk, summed
//! over its rings, and one for each core.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use spindle_kept::Kept;
use spindle_kept::layout::CALLERS;
use spindle_status::path;
use spindle_status::stats::{DelayLine, DeviceLine, RingSnapshot, RingStats};
use spindle_status::trace::TraceEvent;
use spindle_xen::xenbus::Backend;

use crate::cores::Cores;
use crate::devices::Devices;
use crate::hypervisor::Hypervisor;
use crate::published::{Published, PublishedNode, Subject};
use crate::worker::CoreWorker;

/// How often, as long as a disk is attached. Each round is a trip to xenstored, which has others
/// to serve.
const PERIOD_NS: u64 = 5_000_000_000;

/// What was published last.
#[derive(Debug)]
pub(crate) struct Statistics {
    published: Published,
    /// How many events of each vCPU were recorded when they were published last.
    traced: [u64; CALLERS],
    due: u64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            published: Published::default(),
            traced: [0; CALLERS],
            due: 0,
        }
    }
}

impl Statistics {
    /// When the next round is due.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Whether any disk is published.
    pub(crate) fn has_disks(&self) -> bool {
        let mut subjects = self.published.subjects();
        subjects.any(|subject| matches!(subject, Subject::Device(_)))
    }

    /// Publishes what has changed since the last round, and removes what is of disks gone.
    pub(crate) fn publish<H: Hypervisor, W: CoreWorker>(
        &mut self,
        now: u64,
        devices: &Devices<H>,
        cores: &Cores<H, W>,
        kept: &Kept,
        backend: &mut Backend,
    ) {
        self.due = now + PERIOD_NS;
        let mut nodes = Vec::new();
        for device in devices.connected() {
            let id = device.id;
            let counters = RingSnapshot::sum(device.stats().map(RingStats::snapshot)).completed();
            let rings = device.rings.len() as u64;
            let (guest, number) = (id.frontend.0, id.device);
            let mut add = |path, text| {
                nodes.push(PublishedNode {
                    subject: Subject::Device(id),
                    path,
                    text,
                });
            };
            let line = DeviceLine { rings, counters };
            add(path::stat(guest, number), line.to_string());
            add(path::delays(guest, number), DelayLine(counters).to_string());
        }
        for (core, stats) in cores.stats() {
            nodes.push(PublishedNode {
                subject: Subject::Core(core),
                path: path::core(core),
                text: stats.snapshot().to_string(),
            });
        }
        self.published.update(nodes, backend);
        self.publish_events(kept, backend);
    }

    /// Publishes the last events of each vCPU that has had any since.
    fn publish_events(&mut self, kept: &Kept, backend: &mut Backend) {
        for (caller, traced) in self.traced.iter_mut().enumerate() {
            let recorder = kept.recorder(caller);
            if recorder.count() == core::mem::replace(traced, recorder.count()) {
                continue;
            }
            let mut line = String::new();
            for event in recorder.events() {
                // A string takes everything.
                let _ = write!(line, "{} ", TraceEvent::from_words(event));
            }
            backend.publish(path::trace(caller), line);
        }
    }
}
