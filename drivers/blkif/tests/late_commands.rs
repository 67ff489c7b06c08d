//! Commands of a former life of the kernel that its disk carries out late.
//!
//! Such a write, done again by the next life, is reported; the guest then writes something newer to the
//! same place, which is reported as well; and only then the first one lands and undoes it. OpenVMM found
//! that the hard way (<https://github.com/microsoft/openvmm/pull/2833>). So no command goes to
//! *any* queue of a disk before every command of the former life to it has ended, or its controller was
//! disabled: `RingCore::hold`.

use std::cell::RefCell;
use std::rc::Rc;

use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::stats::RingSnapshot;
use spindle_blkif::{Attachment, BlockAccess, Config, Gate, RingCore, Session};
use spindle_block::{
    Budget, Command, DiskQueue, IoResult, Op, Part, RamDisk, ReadError, SubmitError, Tag, Unit,
    Volume,
};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_kept::JournalPages;
use spindle_testkit::blkfront::{Blkfront, GuestPage};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

/// What is in the first byte of each block, and commands that are not carried out yet.
#[derive(Debug, Default)]
struct Medium {
    bytes: [u8; 8],
    late: Vec<(usize, u8)>,
    submitted: usize,
}

/// A queue on it, which may be late.
#[derive(Debug)]
struct LateQueue {
    medium: Rc<RefCell<Medium>>,
    bus: &'static FakeBus,
    late: bool,
    done: Vec<Tag>,
}

impl DiskQueue for LateQueue {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let medium = &mut *self.medium.borrow_mut();
        medium.submitted += 1;
        let (block, mut byte) = (command.block as usize / 8, [0]);
        // The disk has fetched its data.
        assert!(self.bus.read(command.segments[0].bus(), &mut byte));
        match (self.late, command.op) {
            (true, _) => medium.late.push((block, byte[0])),
            (false, Op::Write) => medium.bytes[block] = byte[0],
            _ => {}
        }
        if !self.late {
            self.done.push(tag);
        }
        Ok(())
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        _: u64,
        _: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        self.submit(command, tag)?;
        Ok(Part {
            blocks: command.total_blocks(),
            commands: 1,
        })
    }

    fn depth(&self) -> usize {
        32
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let tags = self.done.drain(..);
        tags.map(|tag| done(tag, Ok(()))).count()
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

type Core = RingCore<LateQueue, &'static FakeGrants<'static>, &'static FakeEvents>;

struct Bed {
    medium: Rc<RefCell<Medium>>,
    bus: &'static FakeBus,
    grants: &'static FakeGrants<'static>,
    events: &'static FakeEvents,
    volume: Volume,
}

impl Bed {
    fn new() -> Self {
        let bus: &FakeBus = Box::leak(Box::default());
        Self {
            medium: Rc::default(),
            bus,
            grants: Box::leak(Box::new(FakeGrants::new(bus))),
            events: Box::leak(Box::default()),
            volume: RamDisk::new(1 << 20, bus).unwrap().volume("late", 0),
        }
    }

    fn core(&self, late: bool) -> Core {
        let queue = LateQueue {
            medium: self.medium.clone(),
            bus: self.bus,
            late,
            done: Vec::new(),
        };
        let buffers = self.bus.alloc(16).unwrap();
        let core = RingCore::new(
            Config::default(),
            vec![queue],
            self.grants,
            self.events,
            buffers,
        );
        core.unwrap()
    }

    fn attachment(&self, pages: &SharedPages) -> Attachment {
        Attachment {
            domain: DomId(1),
            port: Port(1),
            volume: self.volume.clone(),
            abi: Abi::Native,
            start: 0,
            window: None,
            persistent: false,
            indirect_segments: 0,
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: JournalPages {
                pages: pages.alias(),
                first: 0,
            },
        }
    }

    fn submitted(&self) -> usize {
        self.medium.borrow().submitted
    }

    /// Commands that were late are carried out.
    fn land(&self) {
        let medium = &mut *self.medium.borrow_mut();
        for (block, byte) in medium.late.drain(..) {
            medium.bytes[block] = byte;
        }
    }
}

fn write(core: &mut Core, front: &mut Blkfront<'_>, page: &GuestPage, byte: u8) {
    page.memory.write_bytes(0, &[byte]);
    front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    front.publish();
    visit(core);
}

fn visit(core: &mut Core) {
    for now_ns in 0..4 {
        core.visit(now_ns);
    }
}

/// What is on the disk in the end, whether or not the next life waits for the end of the late command.
fn race(waits: bool) -> u8 {
    let bed = Bed::new();
    let mut front = Blkfront::new(bed.grants, DomId(1), 1, 0);
    let page = front.page(false);
    let kept = journal(&front.ring()).pages;
    let mut core = bed.core(true);
    let session = Session::new(front.ring(), bed.attachment(&kept)).unwrap();
    core.attach(session).unwrap();
    write(&mut core, &mut front, &page, 1);
    assert_eq!(bed.submitted(), 1);
    drop(core);

    let mut core = bed.core(false);
    if waits {
        core.hold();
    }
    let stats = RingSnapshot::default();
    let session = Session::adopt(front.ring(), bed.attachment(&kept), &stats).unwrap();
    assert_eq!(session.redo(), 1);
    core.attach(session).unwrap();
    if waits {
        // Neither what was adopted nor a new ring nor control gets at the disk.
        let mut other = Blkfront::new(bed.grants, DomId(2), 1, 0);
        let kept = journal(&other.ring()).pages;
        let session = Session::new(other.ring(), bed.attachment(&kept)).unwrap();
        let ring = core.attach(session).unwrap();
        other.push(Operation::READ, 8, &[other.page(false).segment(0, 7)]);
        other.publish();
        let read = BlockAccess {
            token: 1,
            op: Op::Read,
            disk: 0,
            unit: Unit::NONE,
            block_shift: 9,
            block: 8,
            bytes: 4096,
            page: bed.bus.alloc(1),
            outcome: Err(ReadError::Pending),
        };
        core.begin_access(Box::new(read)).unwrap();
        visit(&mut core);
        assert!(core.attend_access().is_none());
        assert!(core.arm() && !core.has_work(), "nothing to stay awake for");
        core.begin_detach(ring);
        assert!(core.detach(ring).is_ok());
        assert_eq!(bed.submitted(), 1);
        bed.land();
        core.begin(0);
        assert!(core.has_work());
        assert!(core.attend_access().is_none() && bed.submitted() == 2);
        visit(&mut core);
        assert!(
            core.attend_access()
                .is_some_and(|read| read.outcome.is_ok())
        );
    }
    visit(&mut core);
    write(&mut core, &mut front, &page, 2);
    let answers = front.answers();
    assert_eq!(answers.len(), 2);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == RspStatus::OKAY)
    );
    bed.land();
    bed.medium.borrow().bytes[0]
}

#[test]
fn no_new_command_goes_to_any_queue_before_every_old_one_is_over() {
    assert_eq!(race(true), 2);
}

#[test]
fn without_that_rule_a_newer_write_would_be_undone() {
    assert_eq!(race(false), 1);
}
