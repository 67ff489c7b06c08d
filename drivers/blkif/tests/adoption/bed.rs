//! Lives of a kernel one after the other, on memory, grant tables and a disk that stay.

use std::sync::Arc;

use spindle_blkif::abi::Abi;
use spindle_blkif::stats::{RingSnapshot, RingStats};
use spindle_blkif::{Attachment, Claims, Config, Gate, RingCore, RingId, Session, Window};
use spindle_block::{RamDisk, RamQueue};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_kept::{AtWork, JournalPages};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

use crate::guest::{Guest, Kind};
use crate::mortal::{Fate, Mortal};

type Core = RingCore<
    Mortal<RamQueue<&'static FakeBus>>,
    Mortal<&'static FakeGrants<'static>>,
    Mortal<&'static FakeEvents>,
>;

/// Buffers of a core.
const BUFFERS: usize = 64;

/// What outlives the kernel of a ring.
#[derive(Debug)]
struct Kept {
    journal: SharedPages,
    /// The counters, as control notes them from time to time.
    stats: Arc<RingStats>,
    former: RingSnapshot,
}

pub(crate) struct Bed {
    bus: &'static FakeBus,
    grants: &'static FakeGrants<'static>,
    events: &'static FakeEvents,
    pub(crate) fate: &'static Fate,
    disk: RamDisk,
    pub(crate) guests: Vec<Guest>,
    kept: Vec<Kept>,
    at_work: SharedPages,
    core: Option<(Core, Vec<RingId>)>,
    windows: u64,
    pub(crate) lives: usize,
    /// Requests that were done again.
    pub(crate) redone: usize,
    /// The ring that was being served at the last death.
    pub(crate) blamed: Option<u32>,
    /// Rings whose guests broke the protocol.
    pub(crate) halted: Vec<usize>,
    now_ns: u64,
}

/// The ring that may be broken by its guest.
pub(crate) const SPOILT: usize = 2;

/// Two rings of one device, and one each of two others.
const KINDS: [Kind; 4] = [
    Kind {
        domain: DomId(1),
        ring_pages: 1,
        abi: Abi::Native,
        maps: true,
        persistent: true,
        large_blocks: false,
        device: 0,
    },
    Kind {
        domain: DomId(1),
        ring_pages: 2,
        abi: Abi::Native,
        maps: true,
        persistent: true,
        large_blocks: false,
        device: 0,
    },
    Kind {
        domain: DomId(2),
        ring_pages: 1,
        abi: Abi::X86_32,
        maps: false,
        persistent: false,
        large_blocks: false,
        device: 1,
    },
    Kind {
        domain: DomId(3),
        ring_pages: 1,
        abi: Abi::Native,
        maps: true,
        persistent: false,
        large_blocks: true,
        device: 2,
    },
];

fn port(ring: usize) -> Port {
    Port(ring as u32 + 1)
}

impl Bed {
    pub(crate) fn new() -> Self {
        let bus: &FakeBus = Box::leak(Box::default());
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let guests: Vec<_> = KINDS
            .into_iter()
            .enumerate()
            .map(|(at, kind)| Guest::new(grants, kind, at))
            .collect();
        let kept = guests.iter().map(|guest| Kept {
            journal: journal(&guest.front.ring()).pages,
            stats: Arc::default(),
            former: RingSnapshot::default(),
        });
        let mut bed = Self {
            bus,
            grants,
            events: Box::leak(Box::default()),
            fate: Fate::new(),
            disk: RamDisk::new(1 << 20, bus).unwrap(),
            kept: kept.collect(),
            guests,
            at_work: SharedPages::host(1, 0),
            core: None,
            windows: 0,
            lives: 0,
            redone: 0,
            blamed: None,
            halted: Vec::new(),
            now_ns: 0,
        };
        bed.boot();
        bed
    }

    /// A kernel begins, the first or another; it may die of that.
    pub(crate) fn boot(&mut self) {
        self.lives += 1;
        let fate = self.fate;
        let queue = Mortal {
            inner: self.disk.queue(256, self.bus),
            fate,
        };
        let (grants, events) = (self.grants, self.events);
        let config = Config {
            segments: 32,
            ..Config::default()
        };
        let mut core = RingCore::new(
            config,
            vec![queue],
            Mortal {
                inner: grants,
                fate,
            },
            Mortal {
                inner: events,
                fate,
            },
            self.bus.alloc(BUFFERS).unwrap(),
        )
        .unwrap();
        core.note_work(AtWork::at(self.at_work.alias(), 0).unwrap());
        core.hold();
        let mut gates = [2, 1, 1].map(Gate::members);
        let sessions: Vec<_> = (0..self.guests.len())
            .map(|ring| {
                let gate = gates[self.guests[ring].kind.device].remove(0);
                self.session(ring, gate)
            })
            .collect();
        let attached = Fate::live(|| {
            let attach = |session| core.attach(session).unwrap();
            sessions.into_iter().map(attach).collect::<Vec<_>>()
        });
        let Some(rings) = attached else {
            std::mem::forget(core);
            return self.bury();
        };
        self.core = Some((core, rings));
        // Commands of the former life may still be under way.
        let before = fate.submitted.get();
        self.visit();
        self.visit();
        assert_eq!(fate.submitted.get(), before, "given to a disk that is held");
        if let Some((core, _)) = &mut self.core {
            core.begin(0);
        }
    }

    fn session(&mut self, ring: usize, gate: spindle_blkif::Member) -> Session {
        let (guest, kept) = (&self.guests[ring], &mut self.kept[ring]);
        self.windows += 1;
        let base = (1 << 40) + (self.windows << 32);
        let mut volume = self.disk.volume("ram0", 0);
        volume.block_shift = if guest.kind.large_blocks { 12 } else { 9 };
        let claims = guest.kind.large_blocks;
        let attachment = Attachment {
            domain: guest.kind.domain,
            port: port(ring),
            volume,
            abi: guest.kind.abi,
            start: 0,
            window: guest.kind.maps.then(|| Window::new(base, 512).unwrap()),
            persistent: guest.kind.persistent,
            indirect_segments: 32,
            gate,
            claims: claims.then(|| Arc::new(Claims::new().unwrap())),
            losses: Arc::default(),
            journal: JournalPages {
                pages: kept.journal.alias(),
                first: ring as u32,
            },
        };
        let session = if self.lives == 1 {
            Session::new(guest.front.ring(), attachment)
        } else {
            Session::adopt(guest.front.ring(), attachment, &kept.former)
        };
        let session = session.unwrap_or_else(|unfit| panic!("{}", unfit.why));
        self.redone += session.redo();
        kept.stats = session.stats();
        assert_eq!(kept.stats.snapshot(), kept.former, "the counters go on");
        session
    }

    /// The kernel has died.
    fn bury(&mut self) {
        if let Some(core) = self.core.take() {
            // What it has goes without any order.
            std::mem::forget(core);
        }
        for kept in &mut self.kept {
            kept.former = kept.stats.snapshot();
        }
        self.blamed = AtWork::read(&self.at_work, 0);
        self.grants.sweep();
    }

    /// A visit of the core; of the next life's, if there is none.
    pub(crate) fn visit(&mut self) -> bool {
        self.now_ns += 1000;
        let now_ns = self.now_ns;
        let Some((core, _)) = &mut self.core else {
            self.boot();
            return true;
        };
        match Fate::live(|| core.visit(now_ns)) {
            Some(work) => {
                if let Some((ring, _)) = core.next_fault() {
                    let (_, rings) = self.core.as_ref().unwrap();
                    let at = rings.iter().position(|&other| other == ring).unwrap();
                    self.halted.push(at);
                }
                !work.is_idle()
            }
            None => {
                self.bury();
                true
            }
        }
    }

    pub(crate) fn hear(&mut self, ring: usize) {
        let events = self.events.sent(port(ring));
        self.guests[ring].hear(events);
    }

    /// Everything is answered, without another death.
    pub(crate) fn settle(&mut self) {
        self.fate.set(None);
        for _ in 0..20_000 {
            let busy = self.visit();
            for ring in 0..self.guests.len() {
                self.hear(ring);
            }
            if !busy && self.guests.iter().all(|guest| guest.outstanding() == 0) {
                return;
            }
        }
        let left = self.guests.iter().map(Guest::outstanding);
        panic!("lost: {:?}", left.collect::<Vec<_>>());
    }

    /// All rings leave in good order, and nothing is left over.
    pub(crate) fn end(mut self) {
        self.settle();
        let expected: &[usize] = if self.guests[SPOILT].is_hostile() {
            &[SPOILT]
        } else {
            &[]
        };
        assert!(self.halted.iter().all(|ring| expected.contains(ring)));
        let (core, rings) = self.core.as_mut().unwrap();
        for &ring in rings.iter() {
            core.begin_detach(ring);
        }
        for _ in 0..100 {
            core.visit(self.now_ns);
        }
        for &ring in rings.iter() {
            let detached = core.detach(ring).unwrap();
            assert_eq!(detached.window.map_or(0, |window| window.unusable()), 0);
        }
        assert_eq!(self.grants.outstanding(), 0, "grants still mapped");
        assert_eq!(core.free_buffers(), BUFFERS, "buffers lost");
    }
}
