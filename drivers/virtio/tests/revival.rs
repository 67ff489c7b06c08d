//! A device that was lost, or did not start, and is brought up once more.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::{OPTIONS, Queue, Rig, contents, fill, scattered};
use spindle_block::{
    BlockController, BusMaster, ControllerBack, DiskEvents, DiskQueue, IoError, Op, SubmitError,
    Tag, Unit, UnitChange, Unreachable,
};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::queue::{command, complete, drain};
use spindle_testkit::virtio::{Config, FakeVirtio, Fault, feature};
use spindle_virtio::{Disk, VirtioDisk};

/// Where `device_status` is (4.1.4.3).
const STATUS: usize = 0x14;

/// A clock that its owner moves on, too.
#[derive(Clone, Debug)]
struct Time(Rc<FakeClock>);

impl Clock for Time {
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn relax(&self) {
        self.0.relax();
    }
}

/// The function's bus mastering: it may be refused, and is switched on only when the device is reset.
#[derive(Clone, Debug)]
struct Master {
    device: FakeVirtio,
    masters: Rc<Cell<bool>>,
    can: bool,
}

impl BusMaster for Master {
    fn place(&self) -> u32 {
        8
    }

    fn disable(&mut self) -> bool {
        self.masters.set(false);
        self.can
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        match self.device.is_away() {
            true => Err(Unreachable {
                reason: "no such device".into(),
                absent: true,
            }),
            false => Ok(()),
        }
    }

    fn enable(&mut self) {
        assert_eq!(self.device.read8(STATUS), 0, "it may still reach memory");
        self.masters.set(true);
    }
}

type AnyDisk<'a> = VirtioDisk<FakeVirtio, Time, &'a FakeBus, Master>;

/// A disk as the control core has it, with a queue for each of two cores.
struct Bed<'a> {
    rig: &'a Rig,
    disk: Box<dyn BlockController<Queue> + 'a>,
    queues: Vec<Queue>,
    time: Rc<FakeClock>,
    masters: Rc<Cell<bool>>,
}

impl<'a> Bed<'a> {
    fn new(rig: &'a Rig) -> Self {
        Self::on_bus(rig, true)
    }

    /// `can` says whether the device can be kept from memory.
    fn on_bus(rig: &'a Rig, can: bool) -> Self {
        let time = Rc::new(FakeClock::new(1_000_000));
        let mut device = Disk::new(rig.transport(), Time(time.clone()), &*rig.bus, OPTIONS);
        let started = device.bring_up();
        let masters = Rc::new(Cell::new(started.is_ok()));
        let master = Master {
            device: rig.device.clone(),
            masters: masters.clone(),
            can,
        };
        let notify = rig.device.clone();
        let mut disk: AnyDisk<'a> = VirtioDisk::new(0, device, notify, FakeVirtio::clone, master);
        if let Err(reason) = started {
            disk = disk.not_started(reason);
        }
        let mut disk: Box<dyn BlockController<Queue> + 'a> = Box::new(disk);
        let queues = (0..2).map(|_| disk.create_queue().unwrap()).collect();
        Self {
            rig,
            disk,
            queues,
            time,
            masters,
        }
    }

    /// Attends until nothing is under way, as control does every millisecond; gives what was found.
    fn attend(&mut self) -> DiskEvents {
        for _ in 0..20_000 {
            let events = self.disk.attend();
            if !events.soon {
                return events;
            }
            assert_eq!(
                events,
                DiskEvents {
                    soon: true,
                    ..DiskEvents::default()
                }
            );
            self.time.advance(1_000_000);
        }
        panic!("it never ends");
    }

    /// Finds it lost, and has the cores fail what they have; gives the reason.
    fn lose(&mut self) -> String {
        let lost = self.attend().lost.expect("it is lost");
        assert!(!self.masters.get());
        for queue in &mut self.queues {
            queue.fail_all(|_, result| assert_eq!(result, Err(IoError::Aborted)));
        }
        self.disk.closed();
        lost.reason
    }

    /// Probes it; gives what was found.
    fn probe(&mut self) -> DiskEvents {
        self.disk.probe_again().unwrap();
        self.attend()
    }

    fn tick(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.tick(1));
    }

    /// Writes and reads by each core.
    fn works(&mut self) {
        let memory = self.rig.memory(1);
        let page = scattered(&memory);
        for (number, queue) in self.queues.iter_mut().enumerate() {
            let block = number as u64 * 8;
            let data = fill(&memory, number as u8);
            assert_eq!(
                complete(queue, &command(Op::Write, block, &page)),
                Ok(Ok(()))
            );
            fill(&memory, 77);
            assert_eq!(
                complete(queue, &command(Op::Read, block, &page)),
                Ok(Ok(()))
            );
            assert_eq!(contents(&memory), data);
        }
        self.rig.bus.free(memory);
    }

    /// No core can submit anything.
    fn is_refused(&mut self) {
        for queue in &mut self.queues {
            let flush = command(Op::Flush, 0, &[]);
            assert_eq!(queue.submit(&flush, Tag(1)), Err(SubmitError::Gone));
            queue.commit();
        }
    }

    fn end(self) {
        self.disk.shutdown(self.queues).unwrap();
        assert_eq!(self.rig.bus.outstanding(), 0);
        self.rig.obeyed();
    }
}

fn back(back: ControllerBack, changes: Vec<UnitChange>) -> DiskEvents {
    DiskEvents {
        wake: true,
        changes,
        back: Some(back),
        ..DiskEvents::default()
    }
}

fn other(serial: &'static str) -> Config {
    Config {
        serial: Some(serial),
        ..Config::default()
    }
}

const UNIT: Unit = Unit(0);

#[test]
fn a_lost_disk_works_again_on_the_queues_that_the_cores_have() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    let before = rig.bus.outstanding();
    for unplugged in [false, true, true, false] {
        bed.works();
        let memory = rig.memory(1);
        let page = scattered(&memory);
        rig.device.arm(Fault::Swallow(0));
        let read = command(Op::Read, 0, &page);
        bed.queues[0].submit(&read, Tag(1)).unwrap();
        bed.queues[0].commit();
        match unplugged {
            true => rig.device.vanish(),
            false => rig.device.die(),
        }
        assert!(!bed.lose().is_empty());
        assert_eq!(bed.queues[0].in_flight(), 0);
        assert_eq!(bed.queues[0].submit(&read, Tag(2)), Err(SubmitError::Gone));
        bed.tick();
        assert_eq!(bed.attend(), DiskEvents::default(), "said once");
        if unplugged {
            assert_eq!(bed.disk.probe_again(), Err("no such device".into()));
            rig.device.come_back();
        }
        assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
        assert!(bed.masters.get());
        // Before a core has looked it takes nothing.
        assert_eq!(bed.queues[0].submit(&read, Tag(3)), Err(SubmitError::Gone));
        bed.tick();
        bed.works();
        rig.bus.free(memory);
        assert_eq!(rig.bus.outstanding(), before, "nothing is left of before");
    }
    assert_eq!(bed.disk.probe_again(), Err("it is not lost".into()));
    bed.end();
}

#[test]
fn a_command_that_was_late_makes_it_come_back_too() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    let memory = rig.memory(1);
    rig.device.arm(Fault::Swallow(0));
    let page = scattered(&memory);
    let read = command(Op::Read, 0, &page);
    let queue = &mut bed.queues[0];
    queue.tick(1);
    assert_eq!(complete(queue, &command(Op::Flush, 0, &[])), Ok(Ok(())));
    queue.submit(&read, Tag(1)).unwrap();
    queue.commit();
    queue.tick(40_000_000_000);
    assert!(bed.lose().contains("no answer"));
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    bed.tick();
    assert_eq!(
        bed.attend(),
        DiskEvents::default(),
        "it is not late any longer"
    );
    bed.works();
    rig.bus.free(memory);
    bed.end();
}

#[test]
fn it_has_another_size_when_it_is_back() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.vanish();
    bed.lose();
    let sectors = 4096;
    rig.device.come_back_as(Config {
        sectors,
        ..Config::default()
    });
    let unit = UNIT;
    let resized = UnitChange::Resized { unit, sectors };
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![resized]));
    bed.tick();
    bed.works();
    bed.end();
}

#[test]
fn another_disk_is_reached_only_when_nothing_is_submitted_for_the_first_one() {
    let features = Config::default().features;
    for config in [
        other("another"),
        Config {
            block_size: 4096,
            ..Config::default()
        },
        // Those who use it do not flush, or do so in vain; or write, in vain.
        Config {
            features: features & !feature::FLUSH,
            ..Config::default()
        },
        Config {
            features: features | feature::RO,
            ..Config::default()
        },
    ] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig);
        rig.device.vanish();
        bed.lose();
        rig.device.come_back_as(config);
        let removed = bed.probe();
        let [UnitChange::Removed { unit: UNIT, reason }] = &removed.changes[..] else {
            panic!("{removed:?}");
        };
        assert_eq!(reason, "another disk is in its place");
        assert_eq!(removed.back, None);
        bed.tick();
        assert_eq!(bed.attend(), DiskEvents::default());
        bed.is_refused();
        assert_eq!(bed.disk.volumes(0), [], "it has no name yet");
        bed.disk.closed();
        let added = UnitChange::Added(UNIT);
        assert_eq!(bed.attend(), back(ControllerBack::Other, vec![added]));
        bed.disk.rename(4);
        assert_eq!(bed.disk.name(), "vde");
        let volumes = bed.disk.volumes(0);
        assert_eq!(volumes[0].name, "vde");
        bed.tick();
        if volumes[0].block_shift == 9 && !volumes[0].read_only {
            bed.works();
        }
        bed.end();
    }
}

#[test]
fn another_disk_that_is_lost_before_it_was_reported_is_still_another_one() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.vanish();
    bed.lose();
    rig.device.come_back_as(other("second"));
    assert_eq!(bed.probe().changes.len(), 1);
    rig.device.vanish();
    assert!(bed.attend().lost.unwrap().again);
    bed.disk.closed();
    // Even if it is the first one again: its name is closed.
    rig.device.come_back_as(Config::default());
    let added = UnitChange::Added(UNIT);
    assert_eq!(bed.probe(), back(ControllerBack::Other, vec![added]));
    bed.tick();
    bed.works();
    bed.end();
}

#[test]
fn without_a_serial_number_a_disk_is_known_by_its_size_if_it_was_always_there() {
    let nameless = |sectors| Config {
        serial: None,
        sectors,
        ..Config::default()
    };
    for (away, sectors, is_same) in [
        (false, 2048, true),
        (false, 4096, false),
        (true, 2048, false),
    ] {
        let rig = Rig::new(nameless(2048));
        let mut bed = Bed::new(&rig);
        rig.device.die();
        bed.lose();
        if away {
            rig.device.vanish();
            assert!(bed.disk.probe_again().is_err());
            rig.device.come_back();
        }
        rig.device.resize(sectors);
        let events = bed.probe();
        assert_eq!(events.back.is_some(), is_same, "{away} {sectors}");
        assert_eq!(events.changes.is_empty(), is_same);
        bed.disk.closed();
        bed.attend();
        bed.end();
    }
}

#[test]
fn what_does_not_come_up_stays_lost_and_takes_no_more_memory_each_time() {
    let rig = Rig::new(Config::default());
    for fault in [
        Fault::NeverResets,
        Fault::RefusesFeatures,
        Fault::Restless,
        Fault::Swallow(8),
    ] {
        for can in [true, false] {
            let mut bed = Bed::on_bus(&rig, can);
            let before = rig.bus.outstanding();
            rig.device.die();
            bed.lose();
            for _ in 0..5 {
                rig.device.arm(fault);
                let lost = bed.probe().lost.expect("it is lost");
                assert!(lost.again);
                assert_eq!(lost.disabled, can);
                assert!(!bed.masters.get());
                assert!(rig.bus.outstanding() <= before);
                bed.tick();
                bed.is_refused();
            }
            if fault == Fault::NeverResets {
                assert_eq!(rig.bus.outstanding(), before, "it may reach that");
            }
            rig.device.repair(fault);
            assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
            bed.tick();
            bed.works();
            bed.end();
        }
    }
}

#[test]
fn a_probe_waits_for_nothing() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.die();
    bed.lose();
    let before = bed.time.now_ns();
    rig.device.arm(Fault::NeverResets);
    bed.disk.probe_again().unwrap();
    assert!(bed.disk.attend().soon);
    assert_eq!(bed.time.now_ns(), before);
    // It is given time.
    let reason = bed.attend().lost.unwrap().reason;
    assert_eq!(reason, "device did not reset within 5s");
    let waited = bed.time.now_ns() - before;
    assert!(Duration::from_nanos(waited) > Duration::from_secs(5));
    rig.device.repair(Fault::NeverResets);
    bed.probe();
    bed.end();
}

#[test]
fn a_core_takes_no_queue_of_a_device_that_is_lost_again() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.die();
    bed.lose();
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    // Only one core looks before it is lost again.
    bed.queues[1].tick(1);
    rig.device.die();
    assert!(bed.attend().lost.is_some());
    // The other core must not take it now, and the device must not be touched before that one is done.
    bed.queues[0].tick(1);
    assert_eq!(
        bed.queues[0].submit(&command(Op::Flush, 0, &[]), Tag(1)),
        Err(SubmitError::Gone)
    );
    let held = "a core still has a queue of the device";
    assert_eq!(bed.disk.probe_again(), Err(held.into()));
    bed.queues[1].fail_all(|_, _| ());
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    bed.tick();
    bed.works();
    bed.end();
}

#[test]
fn one_with_fewer_queues_than_cores_have_is_not_taken() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.vanish();
    bed.lose();
    let queues = |queues| Config {
        queues,
        ..Config::default()
    };
    rig.device.come_back_as(queues(1));
    let reason = bed.probe().lost.unwrap().reason;
    assert_eq!(
        reason,
        "device has 1 queues, and cores have 2; after a restart of this domain only 1 of them use it"
    );
    rig.device.come_back_as(queues(3));
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    bed.tick();
    bed.works();
    bed.end();
}

#[test]
fn a_device_that_did_not_start_is_refused_and_comes_later() {
    let rig = Rig::new(Config::default());
    rig.device.arm(Fault::RefusesFeatures);
    let mut bed = Bed::new(&rig);
    assert_eq!(rig.bus.outstanding(), 0);
    assert_eq!(bed.disk.volumes(0), []);
    let [(name, reason)] = &bed.disk.refused()[..] else {
        panic!("it is refused");
    };
    assert!(
        name == "vda" && reason.contains("refuses features"),
        "{reason}"
    );
    assert!(
        bed.disk.create_queue().is_err(),
        "as many as were asked for"
    );
    let lost = bed.attend().lost.unwrap();
    assert!(!lost.again && lost.reason == *reason);
    assert_eq!(bed.disk.refused(), []);
    assert_eq!(drain(&mut bed.queues[0]), []);
    bed.tick();
    bed.is_refused();
    assert!(bed.probe().lost.unwrap().again);
    rig.device.repair(Fault::RefusesFeatures);
    let added = UnitChange::Added(UNIT);
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![added]));
    let volumes = bed.disk.volumes(3);
    assert_eq!((volumes[0].name.as_str(), volumes[0].disk), ("vda", 3));
    bed.tick();
    bed.works();
    bed.end();
}

#[test]
fn what_is_submitted_as_soon_as_the_queue_is_back_is_not_late() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    // The domain has been up for ten minutes.
    bed.time.advance(600_000_000_000);
    let tick = |bed: &mut Bed| {
        let now = bed.time.now_ns();
        bed.queues.iter_mut().for_each(|queue| queue.tick(now));
    };
    tick(&mut bed);
    rig.device.die();
    bed.lose();
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    rig.device.hold();
    let memory = rig.memory(1);
    let page = scattered(&memory);
    // One visit: tick, then submit, then commit.
    tick(&mut bed);
    bed.queues[0]
        .submit(&command(Op::Read, 0, &page), Tag(1))
        .unwrap();
    bed.queues[0].commit();
    // The next one, 10 us later.
    bed.time.advance(10_000);
    tick(&mut bed);
    assert_eq!(bed.attend().lost, None);
}

#[test]
fn another_disk_without_a_serial_number_between_two_looks_is_another_one() {
    let plain = || Config {
        serial: None,
        ..Config::default()
    };
    let rig = Rig::new(plain());
    let mut bed = Bed::new(&rig);
    rig.device.die();
    bed.lose();
    // Within the second (later: the minute) before the next look.
    rig.device.vanish();
    rig.device.come_back_as(plain());
    assert_ne!(bed.probe(), back(ControllerBack::Same, vec![]));
}

#[test]
fn a_disk_that_fails_to_give_its_serial_number_is_tried_again() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig);
    rig.device.die();
    bed.lose();
    rig.device.arm(Fault::Fail(8, 1));
    let failed = bed.probe();
    assert_eq!((failed.back, failed.changes), (None, vec![]));
    assert!(failed.lost.is_some_and(|lost| lost.again));
    rig.device.repair(Fault::Fail(8, 1));
    assert_eq!(bed.probe(), back(ControllerBack::Same, vec![]));
    bed.tick();
    bed.works();
}
