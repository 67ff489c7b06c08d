//! Lives of the kernel in one domain: how one starts, and how it dies and the next one starts in place.

use std::sync::{Arc, Mutex};

use spindle_blkif::abi::MAX_SEGMENTS;
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Worker};
use spindle_blkif::{Config as CoreConfig, RingCore};
use spindle_control::{Control, Cores, Keep, NotedGrants, Runs, Store, Suspect};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_kept::journal::{BadJournal, Journal};
use spindle_kept::layout::{FIXED_PAGES, STORE_PAGE, STORE_PAGES};
use spindle_kept::{AtWork, JournalPlace, Kept, RamRecords, Records};
use spindle_status::orders::UpdateOrder;
use spindle_status::path;
use spindle_testkit::xenstored::Xenstored;
use spindle_xen::store::{KeptStream, Resume, Ring};

use super::calls::CoreGrants;
use super::disks::{Hardware, Queue, Remotes, Table};
use super::machine::{Machine, STORE};
use super::{BACKEND, DomainControl, MS, Setup, World};

/// Pages of kept memory for control and the ring cores: room for the journals of many rings.
const KEPT_PAGES: usize = FIXED_PAGES + 1024;

/// Kept memory of domains that are no more: pages of the host are never freed.
static SPARE: Mutex<Vec<KeptPages>> = Mutex::new(Vec::new());

/// A domain's kept memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeptPages {
    /// What control and the ring cores keep.
    pub(super) serving: &'static SharedPages,
    /// Where the memory of RAM disks is.
    pub(super) ram_disks: &'static SharedPages,
}

impl KeptPages {
    /// As a domain's first life finds it.
    pub(super) fn new() -> Self {
        let host = |pages| &*Box::leak(Box::new(SharedPages::host(pages, 0)));
        let spare = SPARE.lock().unwrap().pop();
        let all = spare.unwrap_or_else(|| Self {
            serving: host(KEPT_PAGES),
            ram_disks: host(1),
        });
        for pages in [all.serving, all.ram_disks] {
            pages.zero(0, pages.len());
        }
        all
    }
}

/// How the life before has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former {
    /// The ring that was at work.
    blame: Option<Suspect>,
}

/// Starts a life of the kernel.
pub(super) fn start(
    machine: &'static Machine,
    setup: &Setup,
    table: Table,
    page: &SharedPages,
    store: &mut Xenstored,
    kept: &'static SharedPages,
    former: Option<Former>,
) -> (DomainControl, Remotes, Hardware) {
    let (mut disks, remotes, hardware) = table.finish();
    let (again, blame) = match former {
        None => (false, None),
        Some(Former { blame }) => (true, blame),
    };
    let kept = if again {
        Kept::open_again(kept)
    } else {
        Kept::open(kept)
    };
    let kept = kept.unwrap();
    let mut cores = Cores::new(machine.cpu(0), MAX_SEGMENTS as u16);
    for number in 1..=setup.cores.max(1) {
        let config = CoreConfig {
            rings: setup.rings,
            ..CoreConfig::default()
        };
        let queues = disks.queues();
        let has = queues.iter().map(|queue| !matches!(queue, Queue::None));
        let has = has.collect();
        let buffers = machine.bus.alloc(16).unwrap();
        let vcpu = if setup.cores == 0 { 0 } else { number };
        let grants = NotedGrants::new(CoreGrants(machine), kept.mappings(), vcpu);
        let mut core = RingCore::new(config, queues, grants, machine.cpu(vcpu), buffers).unwrap();
        core.note_work(AtWork::at(kept.work(), vcpu).unwrap());
        core.record_in(kept.recorder(vcpu));
        if again {
            core.hold();
        }
        let (link, stats) = (Arc::new(Link::default()), Arc::<CoreStats>::default());
        let poll = PollTime::For(50_000);
        let worker = Worker::new(core, Arc::clone(&link), poll, Arc::clone(&stats));
        let runs = if setup.cores == 0 {
            Runs::Here(worker)
        } else {
            let wake = machine.start(worker);
            Runs::Apart { wake }
        };
        cores.add(link, stats, has, runs);
    }
    let stream = kept.pages().view(STORE_PAGE, STORE_PAGES).unwrap();
    let mut ring = Ring::keeping(page.alias(), KeptStream::new(stream), again);
    if again {
        resume(&mut ring, machine, store);
    }
    let link = Store { ring, port: STORE };
    let version = "test".to_string();
    let keep = Keep {
        kept,
        blame,
        stood_still: false,
    };
    let cpu = machine.cpu(0);
    let mut control = Control::new(&setup.config, version, cpu, link, disks, cores, keep);
    control.undo_former();
    machine.forget_former();
    (control, remotes, hardware)
}

/// Brings the streams to and from xenstored into step again.
fn resume(ring: &mut Ring, machine: &'static Machine, store: &mut Xenstored) {
    let mut resume = Resume::new(ring).unwrap();
    while !resume.poll(ring).unwrap() {
        store.set_now(machine.now.get());
        if !store.step() {
            machine.now.set(machine.now.get() + MS);
        }
    }
}

impl World {
    /// The kernel dies, and starts again in its domain. Everything else lives on.
    pub fn die(&mut self) {
        self.die_at(None);
    }

    /// As [`World::die`], while a ring was at work.
    pub fn die_at(&mut self, blame: Option<Suspect>) {
        self.begin_anew(blame, &[]);
    }

    /// Asks for an update, or only what it would keep.
    pub fn ask_for_update(&mut self, check: bool) {
        let path = format!("/local/domain/{BACKEND}/{}", path::UPDATE);
        let (number, grant) = (self.updates as u64 + 1, 0);
        let order = UpdateOrder {
            number,
            grant,
            check,
        };
        self.poke(|store| store.write(&path, order.to_string()));
    }

    /// Updates the kernel; gives how long the domain took for that, in ns, and how long it was drained.
    pub fn update(&mut self) -> (u64, u64) {
        let updates = self.updates + 1;
        self.ask_for_update(false);
        let took = self.until("update", |w| w.updates == updates);
        (took, self.drained_ns)
    }

    /// Begins the next life, if the last one has ended by an update.
    pub(crate) fn follow(&mut self) {
        if let Some(left) = self.handed_over.take() {
            self.updates += 1;
            self.drained_ns = left.drained_ns;
            self.begin_anew(None, &left.standing);
        }
    }

    fn begin_anew(&mut self, blame: Option<Suspect>, standing: &[u64]) {
        (self.control, self.handed_over) = (None, None);
        self.machine.die();
        let table = Table::again(self.machine, &self.hardware, standing);
        let (control, remotes, hardware) = start(
            self.machine,
            &self.setup,
            table,
            &self.page,
            &mut self.store,
            self.kept.serving,
            Some(Former { blame }),
        );
        self.control = Some(control);
        self.remotes = remotes;
        self.hardware = hardware;
    }

    /// Kept memory.
    pub fn kept(&self) -> &'static SharedPages {
        self.kept.serving
    }

    /// Requests that the next life would have to do again if this one ended now.
    pub fn unanswered(&self) -> u32 {
        let kept = self.kept.serving;
        let devices = Records::new(kept).read().devices;
        let queues = devices.iter().flat_map(|device| &device.queues);
        let places = queues.filter_map(|queue| queue.journal);
        let count = |place: JournalPlace| {
            let first = FIXED_PAGES + place.first as usize;
            let pages = || kept.view(first, place.pages as usize).unwrap();
            let room = &mut [0; 1 << 12];
            // The journal says how many slots its ring has.
            let Err((BadJournal::Requests { found: slots, .. }, _)) =
                Journal::recover(pages(), 1, room)
            else {
                return 0;
            };
            let found = Journal::recover(pages(), slots, room);
            found.map_or(0, |(_, unanswered)| unanswered.count())
        };
        places.map(count).sum()
    }

    /// The records of where RAM disks are.
    pub fn ram_records(&self) -> RamRecords {
        RamRecords::begin(self.kept.ram_disks.alias(), true)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing of the domain runs any more that could write there.
        self.control = None;
        self.machine.die();
        self.machine.bus.retire();
        SPARE.lock().unwrap().push(self.kept);
    }
}
