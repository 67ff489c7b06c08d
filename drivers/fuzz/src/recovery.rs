//! An NVMe controller with traits that no specification allows, that fails, goes away, comes back and
//! changes its namespaces, under control and two cores that do as the kernel does.
//!
//! Each command must end once, nothing must reach a controller that is not there for it, and all
//! memory must come back in the end.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use spindle_block::{Command, DiskOptions, Op, Unit};
use spindle_hw::DmaAlloc;
use spindle_nvme::{Attention, Change, Controller};
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::nvme::{Config, FakeNvme, Fault, NamespaceConfig, Quirk, Quirks};

use crate::audit::{Audited, pieces};
use crate::steps;

const MS: u64 = 1_000_000;
/// Blocks that a quirk may be about, and commands may begin at.
const BLOCKS: u8 = 16;

#[derive(Arbitrary, Debug)]
struct Setting {
    quirks: [Trait; 3],
    events: bool,
    subsystem: bool,
    out_of_order: bool,
}

/// A trait of the model, or none.
#[derive(Arbitrary, Debug)]
enum Trait {
    None,
    Poison(u8),
    Crash(u8),
    SilentHealth,
    Blind(u8),
    Ready(u8),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Submit {
        queue: bool,
        op: u8,
        namespace: u8,
        block: u8,
        pages: u8,
    },
    Turn {
        ms: u16,
    },
    Seconds(u8),
    Fault(Wrong),
    Die,
    Hang,
    Vanish,
    ComeBack,
    Repair,
    Resize {
        namespace: u8,
        blocks: u8,
    },
    Format {
        namespace: u8,
        large: bool,
    },
    Replace {
        namespace: u8,
        nguid: u8,
    },
    Rescan,
    Health,
}

#[derive(Arbitrary, Debug)]
enum Wrong {
    NeverReady,
    NeverIdle,
    FatalWhenEnabled,
    FailAdmin(u8),
    SwallowAdmin(u8),
    FailIo(bool, u16),
    SwallowIo(bool),
    LoseIo(bool),
    OtherSerial,
    Smaller,
    Shorter,
    Fewer,
    NoAbort,
}

impl Trait {
    fn quirk(&self) -> Option<Quirk> {
        Some(match *self {
            Self::None => return None,
            Self::Poison(block) => Quirk::Poison((block % BLOCKS).into()),
            Self::Crash(block) => Quirk::Crash((block % BLOCKS).into()),
            Self::SilentHealth => Quirk::SilentAdmin(0x02),
            Self::Blind(reads) => Quirk::BlindAfterChange(reads.into()),
            Self::Ready(units) => Quirk::ReadyTimeout(u16::from(units % 8)),
        })
    }
}

impl Wrong {
    fn fault(&self) -> Fault {
        let io = |write: bool| if write { 1 } else { 2 };
        // Opcodes of all admin commands that there are.
        let admin = |which: u8| {
            [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0c][usize::from(which) % 9]
        };
        match *self {
            Self::NeverReady => Fault::NeverReady,
            Self::NeverIdle => Fault::NeverIdle,
            Self::FatalWhenEnabled => Fault::FatalWhenEnabled,
            Self::FailAdmin(which) => Fault::FailAdmin(admin(which), 0x06),
            Self::SwallowAdmin(which) => Fault::SwallowAdmin(admin(which)),
            Self::FailIo(write, status) => Fault::FailIo(io(write), status & 0x7fff),
            Self::SwallowIo(write) => Fault::SwallowIo(io(write)),
            Self::LoseIo(write) => Fault::LoseIo(io(write)),
            Self::OtherSerial => Fault::OtherSerial,
            Self::Smaller => Fault::Smaller,
            Self::Shorter => Fault::Shorter,
            Self::Fewer => Fault::Fewer,
            Self::NoAbort => Fault::NoAbort,
        }
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
    let quirks: Vec<Quirk> = setting.quirks.iter().filter_map(Trait::quirk).collect();
    let bus = Arc::new(FakeBus::new());
    let memory = bus.alloc(8).expect("the bus has memory");
    let config = Config {
        timeout: 1,
        queues: 2,
        namespaces: [(1, 64), (2, 64), (3, 0)]
            .map(|(id, blocks)| NamespaceConfig::new(id, blocks, 9))
            .into(),
        out_of_order: setting.out_of_order,
        subsystem_reset: setting.subsystem,
        quirks: Quirks::from(quirks),
        ..Config::default()
    };
    let disk = FakeNvme::new(Arc::clone(&bus), config);
    let clock = FakeClock::new(MS);
    if !setting.events {
        disk.arm(Fault::FailAdmin(0x0c, 0x4002));
    }
    let options = DiskOptions {
        queues: 2,
        depth: 8,
        timeout: Duration::from_secs(30),
    };
    let Ok(mut controller) = Controller::start(disk.clone(), &clock, &*bus, options) else {
        return;
    };
    let queue = |_| Audited::new(controller.create_queue(disk.clone()).expect("a queue"));
    let mut queues = [0, 1].map(queue);
    // log2 of the block size by which commands for each namespace are made, as long as there is one.
    let mut shifts = [None; 4];
    for namespace in controller.namespaces() {
        shifts[namespace.id as usize] = Some(namespace.block_shift);
    }
    let (mut now, mut lost) = (0, false);
    let mut pass = |ns: u64,
                    queues: &mut [Audited<_>; 2],
                    controller: &mut Controller<_, _, _>,
                    shifts: &mut [Option<u8>; 4]|
     -> bool {
        now += ns;
        clock.advance(ns);
        for audited in queues.iter_mut() {
            audited.poll();
            audited.queue_tick(now);
            audited.check();
        }
        controller.closed();
        let attention: Attention = controller.attend();
        for change in attention.changes {
            match change {
                Change::Added(id) => {
                    let found = controller.namespaces().iter().find(|n| n.id == id);
                    let found = found.map(|n| n.block_shift);
                    shifts[id as usize] = found;
                }
                Change::Removed { id, .. } => shifts[id as usize] = None,
                Change::Resized { .. } => {}
            }
        }
        if attention.lost.is_some() {
            assert!(!attention.soon, "nothing is left to do");
            queues.iter_mut().for_each(Audited::fail_all);
            lost = true;
        }
        if attention.back.is_some() {
            lost = false;
            queues.iter_mut().for_each(Audited::come_back);
        }
        lost
    };
    let mut is_lost = false;
    for (tag, step) in steps(&mut input, 200) {
        match step {
            Step::Submit {
                queue,
                op,
                namespace,
                block,
                pages,
            } => {
                let id = usize::from(namespace) % 3 + 1;
                let op = [Op::Read, Op::Write, Op::WriteThrough, Op::Flush][usize::from(op) % 4];
                let Some(block_shift) = shifts[id] else {
                    continue;
                };
                let segments = match op {
                    Op::Flush => Vec::new(),
                    _ => pieces(&memory, pages % 2, 4096),
                };
                let command = Command {
                    op,
                    unit: Unit(id as u32),
                    block_shift,
                    block: (block % BLOCKS).into(),
                    blocks: 0,
                    segments: &segments,
                };
                let audited = &mut queues[usize::from(queue)];
                audited.submit(&command, tag);
                audited.commit();
            }
            Step::Turn { ms } => {
                is_lost = pass(
                    u64::from(ms) * MS,
                    &mut queues,
                    &mut controller,
                    &mut shifts,
                );
            }
            Step::Seconds(seconds) => {
                for _ in 0..seconds % 64 {
                    is_lost = pass(1000 * MS, &mut queues, &mut controller, &mut shifts);
                }
            }
            Step::Fault(wrong) => disk.arm(wrong.fault()),
            Step::Die => disk.die(),
            Step::Hang => disk.hang(),
            Step::Vanish => {
                // Noticed, before it can come back.
                disk.vanish();
                for _ in 0..100 {
                    is_lost = pass(1000 * MS, &mut queues, &mut controller, &mut shifts);
                }
                assert!(is_lost, "it is gone");
            }
            Step::ComeBack if is_lost => {
                disk.come_back();
                let _ = controller.probe_again();
            }
            Step::ComeBack => {}
            Step::Repair => disk.repair(),
            Step::Resize { namespace, blocks } => {
                disk.resize(u32::from(namespace) % 3 + 1, blocks.into());
            }
            Step::Format { namespace, large } => {
                disk.reformat(u32::from(namespace) % 3 + 1, if large { 12 } else { 9 });
            }
            Step::Replace { namespace, nguid } => {
                disk.replace(u32::from(namespace) % 3 + 1, [nguid; 16]);
            }
            Step::Rescan => controller.rescan(),
            Step::Health => {
                controller.ask_health();
            }
        }
    }
    queues.iter_mut().for_each(Audited::fail_all);
    let ended = controller.shutdown(queues.map(|audited| audited.queue));
    if ended.is_ok() {
        assert_eq!(bus.outstanding(), memory.len() / 4096, "memory lost");
    }
    let violations = disk.violations();
    assert!(violations.is_empty(), "{violations:?}");
}
