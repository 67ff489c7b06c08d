//! Starts the ring cores: vCPUs 1 and up, each with a worker of its own. In a domain with one vCPU
//! the only worker runs inside control's loop.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use log::{error, warn};
use spindle_blkif::abi::MAX_INDIRECT_SEGMENTS;
use spindle_blkif::pacer::PollTime;
use spindle_blkif::pool::share;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::Link;
use spindle_blkif::{Config as CoreConfig, Counted};
use spindle_config::Config;
use spindle_control::{CONTROLS_SHARE, Cores, Disks, Hypervisor, NotedGrants, Runs, run_core};
use spindle_datapath::{Core as RingCore, Grants, Queue, RingWorker};
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE};
use spindle_kept::{AtWork, Kept};
use spindle_xen::event::Port;

use crate::hypervisor::XenCpu;
use crate::mm::{self, Memory};
use crate::restart;
use crate::xen::{time::CoreClock, vcpus};

/// Rings that one core takes.
const MAX_RINGS: usize = 256;

/// Gives every vCPU but the first a worker and starts it. A core that does not start, or for
/// which there is no memory, is reported and left out.
///
/// # Errors
/// With the reason, if not even one worker can be had.
pub(crate) fn start(
    config: &Config,
    memory: &Memory,
    hypervisor: XenCpu,
    kept: &Kept,
    disks: &mut Disks<Queue>,
) -> Result<Cores<XenCpu, RingWorker>, String> {
    let wanted = wanted(config);
    let free = memory.dma.free_bytes() / PAGE_SIZE as u64;
    let pages = share(usize::try_from(free).unwrap_or(usize::MAX), wanted);
    let segments = pages.min(MAX_INDIRECT_SEGMENTS);
    let mut cores = Cores::new(hypervisor, segments as u16);
    let poll = config.poll.ns().map_or(PollTime::Always, PollTime::For);
    let sizes = CoreConfig {
        rings: MAX_RINGS,
        segments,
        ..CoreConfig::default()
    };
    // What the last core took of the heap.
    let mut taken = 0;
    for vcpu in 1..=wanted {
        let room = mm::heap_free();
        // As much as for control is for rings.
        let buffers = if room >= taken + 2 * CONTROLS_SHARE {
            memory.dma.alloc(pages)
        } else {
            None
        };
        let Some(buffers) = buffers else {
            warn!("no memory for ring cores from vCPU {vcpu} on; raise memory= to use them");
            break;
        };
        let link = Arc::new(Link::default());
        let queues = disks.queues();
        let has = queues
            .iter()
            .map(|queue| !matches!(queue, Queue::None))
            .collect();
        let stats = Arc::<CoreStats>::default();
        let caller = if vcpus::count() > 1 { vcpu } else { 0 };
        let grants = NotedGrants::new(*hypervisor.grants(), kept.mappings(), caller);
        let grants: Grants = Box::new(grants);
        let grants = Counted::new(grants, Arc::clone(&stats));
        let events = Box::new(hypervisor.events);
        let mut core = RingCore::new(sizes, queues, grants, events, buffers)
            .map_err(|error| error.to_string())?;
        if let Some(at_work) = AtWork::at(kept.work(), caller) {
            core.note_work(at_work);
        }
        core.record_in(kept.recorder(caller));
        if restart::is_again() {
            // Until control has seen that no command of the last life is under way.
            core.hold();
        }
        let worker = RingWorker::new(core, Arc::clone(&link), poll, Arc::clone(&stats));
        let runs = if vcpus::count() > 1 {
            match launch(vcpu, worker, hypervisor) {
                Ok(wake) => Runs::Apart { wake },
                Err(reason) => {
                    error!("vCPU {vcpu} does not serve rings: {reason}");
                    continue;
                }
            }
        } else {
            Runs::Here(worker)
        };
        cores.add(link, stats, has, runs);
        taken = room.saturating_sub(mm::heap_free());
    }
    if cores.is_empty() {
        return Err("no ring core could be started".to_string());
    }
    Ok(cores)
}

/// How many ring cores there are to be.
pub(crate) fn wanted(config: &Config) -> usize {
    config.ring_cores(vcpus::count())
}

/// Starts `worker` on `vcpu`; gives the port that wakes it.
fn launch(vcpu: usize, mut worker: RingWorker, hypervisor: XenCpu) -> Result<Port, String> {
    let wake = hypervisor
        .events
        .bind_ipi(vcpu)
        .map_err(|error| format!("no event channel: {error}"))?;
    let main = move |clock: &'static CoreClock| {
        let hypervisor = XenCpu {
            clock,
            ..hypervisor
        };
        let mut watcher = restart::Watcher::new(vcpu);
        while run_core(&mut worker, hypervisor, wake) {
            restart::obey(vcpu);
            watcher.turn(clock.now_ns());
        }
    };
    match vcpus::start(vcpu, Box::new(main)) {
        Ok(()) => Ok(wake),
        Err(error) => {
            if let Err(error) = hypervisor.events.close(wake) {
                warn!("cannot close event channel {}: {error}", wake.0);
            }
            Err(error.to_string())
        }
    }
}
