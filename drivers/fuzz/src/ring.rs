//! A frontend that writes anything into its ring at any time, on a core that it shares with
//! another guest.

use std::sync::atomic::Ordering::SeqCst;

use arbitrary::{Arbitrary, Unstructured};
use spindle_blkif::abi::{
    Abi, NativeRequest, Operation, RING_HEADER, RawSegment, RspStatus, X86_32Request,
};
use spindle_blkif::ring::{Index, RingMemory};
use spindle_blkif::{Attachment, Config, Gate, RingCore, RingId, Session, Window};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_testkit::blkfront::{Blkfront, fill};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;
use spindle_xen::grant::GrantRef;
use zerocopy::IntoBytes;

use crate::disk::{SmallDisk, volume};
use crate::steps;

const EVIL: DomId = DomId(1);
const GOOD: DomId = DomId(2);
/// Pages that the hostile guest has granted, by references from 8 on.
const PAGES: u8 = 16;

/// What the core and the hostile ring are like.
#[derive(Arbitrary, Debug)]
struct Setting {
    frames: u8,
    order: u8,
    start: u32,
    buffers: u8,
    depth: u8,
    budget: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A request that may pass for one, in the next slot.
    Request(Request),
    /// A word anywhere in the ring.
    Word(u16, u64),
    /// Announces what was written; or something else.
    Publish,
    ReqProd(u32),
    RspEvent(u32),
    Visit(u8),
    Arm,
    Hold(bool),
    Revoke(u8),
    Reattach(Setting),
    Neighbour(u8),
}

/// Mostly sound, so that what comes after the first check is reached as well.
#[derive(Debug)]
struct Request {
    native: NativeRequest,
    publish: bool,
    visit: bool,
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut byte = || u8::arbitrary(input);
        let (kind, count, sector) = (byte()?, byte()?, byte()?);
        let count = usize::from(count % 14);
        let mut native = NativeRequest {
            operation: Operation(if kind < 200 { kind % 2 } else { kind % 8 }),
            nr_segments: count as u8,
            id: byte()?.into(),
            sector_number: match sector {
                255 => u64::MAX - 3,
                _ => (sector % 72).into(),
            },
            ..NativeRequest::default()
        };
        for segment in native.segments.iter_mut().take(count) {
            let (page, sectors) = (byte()?, byte()?);
            let (first, last) = (sectors & 7, sectors >> 3 & 7);
            *segment = RawSegment {
                gref: 8 + u32::from(page % (PAGES + 1)),
                first_sect: first,
                last_sect: match sectors {
                    ..=239 => last.max(first),
                    // Before the first, or beyond the page.
                    240..=247 => first.wrapping_sub(1),
                    _ => 8 + first,
                },
                pad: 0,
            };
        }
        if native.operation == Operation::DISCARD && count < 12 {
            // How many sectors lies there, of which there are few.
            let sectors = u64::from(native.segments[0].first_sect) * 8;
            native.segments[0] = RawSegment::from_word(sectors);
        }
        if native.operation == Operation::INDIRECT {
            // The inner operation, and how many; then a page with a list.
            native.nr_segments = (sector >> 6) % 3;
            native.handle = u16::from(byte()? % 24);
            native.segments[0].first_sect = 8 + byte()? % (PAGES + 1);
            native.segments[0] =
                RawSegment::from_word(u64::from(native.segments[0].first_sect) << 32);
        }
        let then = byte()?;
        Ok(Self {
            native,
            publish: then & 1 == 0,
            visit: then & 2 == 0,
        })
    }
}

/// The hostile frontend: no books, no manners.
struct Evil {
    abi: Abi,
    ring: SharedPages,
    slots: u32,
    req_prod: u32,
    id: RingId,
}

impl Evil {
    /// Writes a request, if the backend would take one more.
    fn request(&mut self, request: &NativeRequest) {
        let answered = self.ring.load(Index::RspProd, SeqCst);
        if self.req_prod.wrapping_sub(answered) >= self.slots {
            return;
        }
        let slot = (self.req_prod % self.slots) as usize;
        let at = RING_HEADER + self.abi.slot_bytes() * slot;
        match self.abi {
            Abi::Native => self.ring.write_bytes(at, request.as_bytes()),
            Abi::X86_32 => {
                let request = X86_32Request::from(*request);
                self.ring.write_bytes(at, request.as_bytes());
            }
        }
        self.req_prod = self.req_prod.wrapping_add(1);
    }
}

struct Host<'g> {
    grants: &'g FakeGrants<'g>,
    core: RingCore<SmallDisk<'g>, &'g FakeGrants<'g>, &'g FakeEvents>,
    /// Segments of the largest request.
    segments: u16,
    windows: u64,
    now: u64,
}

impl<'g> Host<'g> {
    fn visit(&mut self) -> bool {
        self.now += 1000;
        let idle = self.core.visit(self.now).is_idle();
        while self.core.next_fault().is_some() {}
        idle
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.visit() {
                return;
            }
        }
        panic!("requests never settle");
    }

    fn attach(&mut self, front: &Blkfront<'_>, domain: DomId, frames: u8) -> RingId {
        self.windows += 1;
        let base = (1 << 40) + (self.windows << 32);
        let attachment = Attachment {
            domain,
            port: Port(domain.0.into()),
            volume: volume((domain.0 - EVIL.0).into()),
            abi: front.abi(),
            start: front.produced(),
            window: (frames > 0).then(|| Window::new(base, frames.into()).unwrap()),
            persistent: !frames.is_multiple_of(3),
            indirect_segments: self.segments * u16::from(frames.is_multiple_of(2)),
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&front.ring()),
        };
        let session = Session::new(front.ring(), attachment).expect("the ring's size is right");
        self.core.attach(session).expect("there is room")
    }

    fn attach_evil(&mut self, setting: &Setting) -> Evil {
        // Made by a frontend, so that the indices start where they should.
        let abi = if setting.order < 0x80 {
            Abi::Native
        } else {
            Abi::X86_32
        };
        let pages = 1 << (setting.order % 3);
        let front = Blkfront::with_abi(self.grants, EVIL, pages, setting.start, abi);
        Evil {
            abi,
            ring: front.ring(),
            slots: front.free(),
            req_prod: setting.start,
            id: self.attach(&front, EVIL, setting.frames % 40),
        }
    }

    fn detach(&mut self, ring: RingId) {
        let disk = self.core.queue_mut(0).expect("the disk is there");
        let held = core::mem::take(&mut disk.hold);
        self.core.begin_detach(ring);
        self.settle();
        assert!(self.core.is_drained(ring));
        let detached = self.core.detach(ring).expect("it is drained");
        assert_eq!(detached.window.map_or(0, |window| window.unusable()), 0);
        self.core.queue_mut(0).expect("the disk is there").hold = held;
    }

    /// The other guest writes and reads back.
    fn serve(&mut self, good: &mut Blkfront<'_>, sector: u8, seed: u64) {
        let disk = self.core.queue_mut(0).expect("the disk is there");
        let held = core::mem::take(&mut disk.hold);
        let (out, back) = (good.page(false), good.page(false));
        fill(&out.memory, seed);
        for (operation, page) in [(Operation::WRITE, &out), (Operation::READ, &back)] {
            good.push(operation, u64::from(sector) % 56, &[page.segment(0, 7)]);
            good.publish();
            self.settle();
            let answers = good.answers();
            assert_eq!(answers.len(), 1);
            assert_eq!(answers[0].status, RspStatus::OKAY);
        }
        let mut bytes = [[0; 4096]; 2];
        out.memory.read_bytes(0, &mut bytes[0]);
        back.memory.read_bytes(0, &mut bytes[1]);
        assert_eq!(bytes[0], bytes[1], "the neighbour's data");
        self.core.queue_mut(0).expect("the disk is there").hold = held;
    }
}

/// Fills a page with a list of segments, as an indirect request names it; some are bad.
fn write_list(page: &SharedPages, number: u8) {
    for at in 0..24u32 {
        let segment = RawSegment {
            gref: 8 + (at * 5 + u32::from(number)) % u32::from(PAGES + u8::from(number == 3)),
            first_sect: (number % 3) & at as u8,
            last_sect: if number == 7 { at as u8 } else { 7 },
            pad: 0,
        };
        page.write_bytes(at as usize * 8, segment.as_bytes());
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setting) = Setting::arbitrary(&mut input) else {
        return;
    };
    let bus = FakeBus::new();
    let grants = FakeGrants::new(&bus);
    let events = FakeEvents::default();
    let buffers = 11 + usize::from(setting.buffers) % 8;
    let memory = bus.alloc(buffers).expect("the bus has memory");
    let config = Config {
        rings: 4,
        budget: u32::from(setting.budget) % 40,
        segments: buffers,
        ..Config::default()
    };
    let disk = SmallDisk::new(&bus, 1 + usize::from(setting.depth) % 20);
    let core = RingCore::new(config, vec![disk], &grants, &events, memory);
    let mut host = Host {
        grants: &grants,
        core: core.expect("the buffers suffice"),
        segments: buffers as u16,
        windows: 0,
        now: 0,
    };
    let mut good = Blkfront::new(&grants, GOOD, 1, 0);
    // Either path must hold up.
    let frames = if setting.depth & 32 == 0 { 64 } else { 0 };
    let good_ring = host.attach(&good, GOOD, frames);
    let mut evil = host.attach_evil(&setting);
    for page in 0..PAGES {
        let memory = SharedPages::host(1, 0);
        write_list(&memory, page);
        let gref = GrantRef(8 + u32::from(page));
        grants.grant_as(EVIL, gref, &memory, page % 5 == 4);
    }
    for (turn, step) in steps(&mut input, 200) {
        match step {
            Step::Request(request) => {
                evil.request(&request.native);
                if request.publish {
                    evil.ring.store(Index::ReqProd, evil.req_prod, SeqCst);
                }
                if request.visit {
                    host.visit();
                }
            }
            Step::Word(at, word) => {
                let at = usize::from(at) * 8 % evil.ring.len();
                evil.ring.u64_at(at).store(word, SeqCst);
            }
            Step::Publish => evil.ring.store(Index::ReqProd, evil.req_prod, SeqCst),
            Step::ReqProd(index) => evil.ring.store(Index::ReqProd, index, SeqCst),
            Step::RspEvent(index) => evil.ring.store(Index::RspEvent, index, SeqCst),
            Step::Visit(times) => {
                for _ in 0..=times % 4 {
                    host.visit();
                }
            }
            Step::Arm => {
                // It may sleep only with nothing in flight.
                let asleep = host.core.arm();
                let disk = host.core.queue_mut(0).expect("the disk is there");
                assert!(!asleep || spindle_block::DiskQueue::in_flight(disk) == 0);
            }
            Step::Hold(hold) => {
                host.core.queue_mut(0).expect("the disk is there").hold = hold;
            }
            Step::Revoke(page) => {
                let _ = grants.revoke(EVIL, GrantRef(8 + u32::from(page % PAGES)));
            }
            Step::Reattach(setting) => {
                host.detach(evil.id);
                evil = host.attach_evil(&setting);
            }
            Step::Neighbour(sector) => host.serve(&mut good, sector, turn.into()),
        }
    }
    host.core.queue_mut(0).expect("the disk is there").hold = false;
    host.serve(&mut good, 8, 1000);
    host.detach(evil.id);
    host.detach(good_ring);
    assert_eq!(grants.outstanding(), 0, "grants still mapped");
    assert_eq!(host.core.free_buffers(), buffers, "buffers lost");
}
