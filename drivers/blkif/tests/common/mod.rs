//! A ring core on a RAM disk that misbehaves on demand, and frontends on it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use spindle_blkif::abi::{Abi, RspStatus};
use spindle_blkif::{
    Attachment, Claims, Config, Detached, Gate, Losses, RingCore, RingId, Session, Window,
};
use spindle_block::{
    Budget, Command, DiskQueue, IoError, IoResult, Op, Part, RamDisk, RamQueue, SubmitError, Tag,
    Unit, Volume,
};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Answer, Blkfront};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

/// The queue of a RAM disk, with counters and faults.
#[derive(Debug)]
pub struct TestDisk {
    inner: RamQueue<&'static FakeBus>,
    /// Doorbells.
    pub commits: u64,
    /// What was submitted, in order.
    pub submitted: Vec<(Op, u64, usize)>,
    /// For which part of the disk the last command was.
    pub unit: Option<Unit>,
    /// Whether `submitted` is kept.
    pub record: bool,
    /// Discards are taken.
    pub discards: bool,
    /// Blocks of each discard that was submitted.
    pub discarded: Vec<u64>,
    /// Writes can be forced to the medium.
    pub write_through: bool,
    /// Completions are kept back.
    pub hold: bool,
    /// It is back as soon as it is given up.
    pub back: bool,
    /// Every command is refused.
    pub refuse: Option<SubmitError>,
    /// Commands whose memory is above this address are refused as scattered.
    pub scattered_above: u64,
    /// Commands of more pieces of memory than this are taken in parts only.
    pub most_pieces: usize,
    /// What is left of a command after its first part is refused as scattered.
    pub scattered_rest: bool,
    /// Parts of a command after the first are taken only while it has fewer commands than this.
    pub most_parts: usize,
    /// The most pieces that were taken at once.
    pub largest: usize,
    /// Results to give instead of the real ones.
    pub results: VecDeque<IoResult>,
    /// Where what happens is noted.
    pub log: Option<Log>,
    /// Commands noted and not done.
    in_log: BTreeMap<u32, (Op, u64)>,
}

/// What happened to a command, for all disks that share a [`Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Submitted(Op, u64),
    Done(Op, u64),
}

pub type Log = Arc<Mutex<Vec<Event>>>;

impl TestDisk {
    pub fn new(inner: RamQueue<&'static FakeBus>) -> Self {
        Self {
            inner,
            commits: 0,
            submitted: Vec::new(),
            unit: None,
            record: true,
            discards: true,
            discarded: Vec::new(),
            write_through: true,
            hold: false,
            back: false,
            refuse: None,
            scattered_above: u64::MAX,
            most_pieces: usize::MAX,
            scattered_rest: false,
            most_parts: usize::MAX,
            largest: 0,
            results: VecDeque::new(),
            log: None,
            in_log: BTreeMap::new(),
        }
    }

    fn note(&mut self, command: &Command<'_>, tag: Tag) {
        if let Some(log) = &self.log {
            let what = (command.op, command.block);
            log.lock().unwrap().push(Event::Submitted(what.0, what.1));
            let before = self.in_log.insert(tag.0, what);
            assert!(
                before.is_none() || self.most_pieces < usize::MAX,
                "a tag in use"
            );
        }
    }
}

impl DiskQueue for TestDisk {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        if let Some(error) = self.refuse {
            return Err(error);
        }
        if command
            .segments
            .iter()
            .any(|s| s.bus() > self.scattered_above)
        {
            return Err(SubmitError::Scattered);
        }
        for segment in command.segments {
            assert!(segment.bus() % 4096 + u64::from(segment.bytes()) <= 4096);
        }
        if command.op == Op::WriteThrough && !self.write_through {
            return Err(SubmitError::Unsupported);
        }
        if matches!(command.op, Op::Discard | Op::SecureDiscard) {
            if !self.discards {
                return Err(SubmitError::Unsupported);
            }
            assert!(command.blocks > 0 && command.segments.is_empty());
        } else {
            assert_eq!(command.blocks, 0);
        }
        if command.segments.len() > self.most_pieces {
            return Err(SubmitError::Full);
        }
        self.inner.submit(command, tag)?;
        self.largest = self.largest.max(command.segments.len());
        if command.blocks > 0 {
            self.discarded.push(command.blocks);
        }
        self.note(command, tag);
        self.unit = Some(command.unit);
        if self.record {
            self.submitted
                .push((command.op, command.block, command.segments.len()));
        }
        Ok(())
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        if from > 0 && self.in_flight() >= self.most_parts {
            return Err(SubmitError::Full);
        }
        if from > 0 && self.scattered_rest {
            return Err(SubmitError::Scattered);
        }
        let (mut first, mut bytes) = (0, 0);
        while bytes < from << command.block_shift {
            bytes += u64::from(command.segments[first].bytes());
            first += 1;
        }
        assert_eq!(bytes, from << command.block_shift, "pieces are taken whole");
        let rest = &command.segments[first..];
        let most = self.most_pieces.min(budget.commands).min(rest.len());
        let part = Command {
            block: command.block + from,
            segments: &rest[..most],
            ..*command
        };
        self.submit(&part, tag)?;
        Ok(Part {
            blocks: part.total_blocks(),
            commands: 1,
        })
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn is_working(&self) -> bool {
        self.inner.is_working()
    }

    fn commit(&mut self) {
        self.commits += 1;
        self.inner.commit();
    }

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        if self.hold {
            return 0;
        }
        let (results, log, in_log) = (&mut self.results, &self.log, &mut self.in_log);
        self.inner.poll(|tag, result| {
            if let (Some(log), Some((op, block))) = (log, in_log.remove(&tag.0)) {
                log.lock().unwrap().push(Event::Done(op, block));
            }
            done(tag, results.pop_front().unwrap_or(result));
        })
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        if self.back {
            while self.in_flight() > 0 {
                self.inner.poll(|tag, _| done(tag, Err(IoError::Aborted)));
            }
            return;
        }
        self.refuse = Some(SubmitError::Gone);
        self.inner
            .fail_all(|tag, _| done(tag, Err(IoError::Aborted)));
    }
}

/// Sizes of a rig.
pub struct Sizes {
    /// Disks, with the same contents unless they are apart.
    pub disks: usize,
    pub apart: bool,
    pub depth: usize,
    pub buffers: usize,
    pub config: Config,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            disks: 1,
            apart: false,
            depth: 256,
            buffers: 64,
            config: Config::default(),
        }
    }
}

/// Segments of the largest indirect request, where there are such.
pub const INDIRECT: u16 = 32;

/// How a frontend is attached.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Frames of its window; none without persistent grants.
    pub frames: Option<usize>,
    pub ring_pages: usize,
    pub start: u32,
    pub abi: Abi,
    /// Whether its grants stay mapped.
    pub persistent: bool,
    /// Most segments of an indirect request; 0 = there may be none.
    pub indirect: u16,
}

pub const COPIED: How = How {
    frames: None,
    ring_pages: 1,
    start: 0,
    abi: Abi::Native,
    persistent: false,
    indirect: 0,
};

pub const PERSISTENT: How = How {
    frames: Some(512),
    ring_pages: 1,
    start: 0,
    abi: Abi::Native,
    persistent: true,
    indirect: 0,
};

/// Mapped for each request.
pub const MAPPED: How = How {
    persistent: false,
    ..PERSISTENT
};

pub struct Rig {
    pub bus: &'static FakeBus,
    pub grants: &'static FakeGrants<'static>,
    pub events: &'static FakeEvents,
    pub volume: Volume,
    /// Of the rings attached from now on.
    pub claims: Option<Arc<Claims>>,
    /// The same, if they are of one device.
    pub losses: Option<Arc<Losses>>,
    pub core: RingCore<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>,
    buffers: usize,
    windows: u64,
}

impl Rig {
    pub fn new() -> Self {
        Self::sized(&Sizes::default())
    }

    /// Tests leak their fakes, which spares them the lifetimes.
    /// One whose requests may have [`INDIRECT`] segments.
    pub fn with_indirect() -> Self {
        Self::sized(&Sizes {
            config: Config {
                segments: INDIRECT.into(),
                ..Config::default()
            },
            ..Sizes::default()
        })
    }

    pub fn sized(sizes: &Sizes) -> Self {
        let bus: &FakeBus = Box::leak(Box::new(FakeBus::new()));
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let events: &FakeEvents = Box::leak(Box::default());
        let disk = RamDisk::new(1 << 20, bus).unwrap();
        let queues = (0..sizes.disks).map(|_| {
            let own = sizes.apart.then(|| RamDisk::new(1 << 20, bus).unwrap());
            TestDisk::new(own.as_ref().unwrap_or(&disk).queue(sizes.depth, bus))
        });
        let queues = queues.collect();
        let buffers = bus.alloc(sizes.buffers).unwrap();
        Self {
            bus,
            grants,
            events,
            volume: disk.volume("ram0", 0),
            claims: None,
            losses: None,
            core: RingCore::new(sizes.config, queues, grants, events, buffers).unwrap(),
            buffers: sizes.buffers,
            windows: 0,
        }
    }

    pub fn disk(&mut self) -> &mut TestDisk {
        self.nth(0)
    }

    pub fn nth(&mut self, disk: usize) -> &mut TestDisk {
        self.core.queue_mut(disk).unwrap()
    }

    /// Attaches a frontend of domain `dom`, which notifies on port `dom`.
    pub fn attach(&mut self, dom: u16, how: How) -> (RingId, Blkfront<'static>) {
        let (session, front) = self.session(dom, how);
        (self.core.attach(session).unwrap(), front)
    }

    /// A frontend as [`Rig::attach`] makes it, and the session for its ring.
    pub fn session(&mut self, dom: u16, how: How) -> (Session, Blkfront<'static>) {
        let (attachment, front) = self.attachment(dom, &how);
        (Session::new(front.ring(), attachment).unwrap(), front)
    }

    /// What makes a session of the ring of such a frontend.
    pub fn attachment(&mut self, dom: u16, how: &How) -> (Attachment, Blkfront<'static>) {
        let (pages, start, abi) = (how.ring_pages, how.start, how.abi);
        let front = Blkfront::with_abi(self.grants, DomId(dom), pages, start, abi);
        self.windows += 1;
        let base = (1 << 40) + (self.windows << 32);
        let attachment = Attachment {
            domain: DomId(dom),
            port: Port(dom.into()),
            volume: self.volume.clone(),
            abi,
            start,
            window: how.frames.map(|frames| Window::new(base, frames).unwrap()),
            persistent: how.persistent,
            indirect_segments: how.indirect,
            gate: Gate::members(1).remove(0),
            claims: self.claims.clone(),
            losses: self.losses.clone().unwrap_or_default(),
            journal: journal(&front.ring()),
        };
        (attachment, front)
    }

    /// Visits until no request is under way, then collects the answers.
    pub fn settle(&mut self, front: &mut Blkfront<'_>) -> Vec<Answer> {
        self.visit_until_idle(10_000);
        front.answers()
    }

    /// Visits until no ring has anything under way, so many times at most.
    pub fn visit_until_idle(&mut self, most: usize) {
        let idle = (0..most).any(|_| self.core.visit(0).is_idle());
        assert!(idle, "requests never settle");
    }

    /// Detaches a ring in good order; whatever happened before, nothing may be left over.
    pub fn detach(&mut self, ring: RingId) -> Detached {
        self.core.begin_detach(ring);
        for _ in 0..1000 {
            self.core.visit(0);
            if self.core.is_drained(ring) {
                break;
            }
        }
        assert!(self.core.is_drained(ring));
        self.core.detach(ring).unwrap()
    }

    pub fn assert_nothing_leaked(&self) {
        assert_eq!(self.grants.outstanding(), 0, "grants still mapped");
        assert_eq!(self.core.free_buffers(), self.buffers, "buffers lost");
    }
}

/// Asserts that there are `count` answers, all with `status`.
#[track_caller]
pub fn assert_all(answers: &[Answer], count: usize, status: RspStatus) {
    assert_eq!(answers.len(), count);
    assert!(answers.iter().all(|a| a.status == status), "{answers:?}");
}
