//! Controllers that stay enabled while one driver follows another: what goes on, and what is reset instead.

mod common;

use common::bed::Bed;
use common::{OPTIONS, Queue, Rig, Running};
use proptest::prelude::*;
use spindle_block::{DiskOptions, Op};
use spindle_hw::{Clock, Registers, Retake, SharedPages};
use spindle_nvme::{Change, Controller, Error, Standby};
use spindle_testkit::nvme::{Config, Fault, HostMemoryConfig};
use std::time::Duration;

const WITHIN: Duration = Duration::from_millis(50);
/// An event of changed namespaces.
const NAMESPACES: u32 = 2 | 4 << 16;

/// The driver ends, and so does all that it knows; gives what it has left.
fn leave(rig: &Rig, bed: &mut Bed<'_>) -> (Standby, SharedPages) {
    let standing = bed
        .controller
        .stand_by(WITHIN)
        .expect("nothing is in its way");
    let [read] = Standby::read_all(&standing.words())[..] else {
        panic!("what is written is read");
    };
    assert_eq!(read, standing);
    rig.bus.die();
    let (bus, pages) = read.memory();
    (read, rig.bus.retake(bus, pages).expect("it is there"))
}

fn adopt<'a>(rig: &'a Rig, left: (Standby, SharedPages)) -> Result<Running<'a>, Error> {
    assert!(left.0.is_left(&rig.disk));
    let (clock, bus) = (&rig.clock, &*rig.bus);
    Controller::adopt(rig.disk.clone(), clock, bus, OPTIONS, &left.0, left.1)
}

/// The next driver starts as one that finds nothing left.
fn reset<'a>(rig: &'a Rig) -> Bed<'a> {
    let (clock, bus) = (&rig.clock, &*rig.bus);
    let controller = Controller::start_again(rig.disk.clone(), clock, bus, OPTIONS).unwrap();
    Bed::with(rig, controller, 2)
}

/// Every queue writes and reads.
fn works(bed: &mut Bed<'_>) {
    for queue in 0..bed.queues.len() {
        bed.submit(queue, Op::Write, 3);
        bed.submit(queue, Op::Read, 4);
    }
    bed.turn();
    assert_eq!(bed.answers.len(), 2 * bed.queues.len());
    assert!(bed.answers.iter().all(|(_, result)| result.is_ok()));
    bed.answers.clear();
}

#[test]
fn a_controller_that_stands_by_goes_on_without_a_reset() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    // So often that each place of the queues is where one driver follows another, in both phases.
    for _ in 0..40 {
        works(&mut bed);
        let left = leave(&rig, &mut bed);
        bed = Bed::with(&rig, adopt(&rig, left).unwrap(), 2);
        assert_eq!(bed.controller.identity().serial, "SPINDLE-0001");
        assert_eq!(bed.controller.namespaces().len(), 1);
    }
    works(&mut bed);
    assert_eq!(rig.disk.resets(), 0);
    let Bed {
        controller, queues, ..
    } = bed;
    controller.shutdown(queues).unwrap();
    rig.obeyed();
}

#[test]
fn an_event_comes_whichever_driver_has_asked_for_it() {
    for early in [true, false] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 1);
        let left = leave(&rig, &mut bed);
        if early {
            rig.disk.raise(NAMESPACES);
        }
        rig.disk.resize(1, 4096);
        let mut bed = Bed::with(&rig, adopt(&rig, left).unwrap(), 1);
        assert_eq!(bed.controller.volumes(0, 0)[0].sectors, 4096);
        rig.disk.resize(1, 8192);
        rig.disk.raise(NAMESPACES);
        bed.settle();
        bed.settle();
        let sectors = 8192;
        assert_eq!(bed.changes, [Change::Resized { id: 1, sectors }]);
        assert_eq!((rig.disk.resets(), bed.controller.spurious()), (0, 0));
        rig.obeyed();
    }
}

/// As in OpenVMM #2833: what an old write wrote late would undo what a new one has written.
#[test]
fn nothing_that_the_former_driver_has_submitted_is_carried_out_later() {
    let rig = Rig::new(Config {
        manual: true,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 2);
    bed.memory.write_bytes(0, &[1; 4096]);
    bed.submit(0, Op::Write, 3);
    let left = leave(&rig, &mut bed);
    let mut bed = Bed::with(&rig, adopt(&rig, left).unwrap(), 2);
    bed.memory.write_bytes(0, &[2; 4096]);
    bed.submit(1, Op::Write, 3);
    rig.disk.run_queue(2, 1);
    rig.disk.run();
    bed.turn();
    assert_eq!(bed.answers, [(3, Ok(()))]);
    assert_eq!(rig.disk.contents(1)[3 * 4096..4 * 4096], [2; 4096]);
    rig.obeyed();
}

#[test]
fn one_that_was_reset_or_has_failed_in_between_is_not_as_it_was_left() {
    let disable = |rig: &Rig| {
        rig.disk.write32(0x14, 0x46_0000);
        rig.disk.read32(0x1c);
    };
    let power = |rig: &Rig| {
        rig.disk.vanish();
        rig.disk.come_back();
    };
    let other_queue = |rig: &Rig| rig.disk.write32(0x28, 0x1000);
    let changes: [&dyn Fn(&Rig); 5] = [
        &disable,
        &power,
        &other_queue,
        &|rig| rig.disk.die(),
        &|rig| rig.disk.vanish(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let rig = Rig::new(Config::default());
        let (standing, memory) = leave(&rig, &mut Bed::new(&rig, 2));
        assert!(standing.is_left(&rig.disk));
        change(&rig);
        assert!(!standing.is_left(&rig.disk), "change {number}");
        let (clock, bus) = (&rig.clock, &*rig.bus);
        let disk = rig.disk.clone();
        let adopted = Controller::adopt(disk, clock, bus, OPTIONS, &standing, memory);
        let why = if number == 4 {
            Error::Gone
        } else {
            Error::Restarted
        };
        assert_eq!(adopted.err(), Some(why), "change {number}");
    }
}

#[test]
fn one_that_does_not_behave_is_reset_and_works_then() {
    let identify = 0x06;
    let cases = [
        (Fault::SwallowAdmin(identify), None),
        (Fault::FailAdmin(identify, 0x4006), None),
        (Fault::OtherSerial, Some(Error::Changed("identity"))),
    ];
    for (fault, expected) in cases {
        let rig = Rig::new(Config::default());
        let left = leave(&rig, &mut Bed::new(&rig, 2));
        rig.disk.arm(fault);
        let since = rig.clock.now_ns();
        let why = adopt(&rig, left).unwrap_err();
        assert!(expected.is_none_or(|expected| expected == why), "{why}");
        let took = rig.clock.now_ns() - since;
        assert!(took < 1_000_000_000, "{fault:?}: {took} ns");
        assert_eq!((rig.disk.resets(), rig.bus.outstanding()), (1, 0));
        works(&mut reset(&rig));
        rig.obeyed();
    }
}

/// It says that it is as it was left, and has begun its queue anew.
#[test]
fn one_that_lies_is_given_nothing_of_what_it_did_before() {
    for rounds in 0..18 {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 2);
        for _ in 0..rounds {
            bed.controller.ask_health();
            bed.settle();
        }
        let left = leave(&rig, &mut bed);
        for cc in [0x46_0000, 0x46_0001] {
            rig.disk.write32(0x14, cc);
            rig.disk.read32(0x1c);
        }
        match adopt(&rig, left) {
            // Both happen to be at the same place.
            Ok(controller) => works(&mut Bed::with(&rig, controller, 2)),
            Err(_) => works(&mut reset(&rig)),
        }
        let mut violations = rig.disk.violations();
        violations.retain(|violation| violation != "the admin completion queue is not clear");
        assert!(violations.is_empty(), "{violations:?}");
    }
}

#[test]
fn one_with_anything_else_to_do_does_not_stand_by() {
    let lent = Config {
        host_memory: Some(HostMemoryConfig {
            preferred: 8,
            least: 4,
            piece: 0,
            pieces: 0,
        }),
        ..Config::default()
    };
    let rig = Rig::new(lent);
    let mut bed = Bed::new(&rig, 1);
    bed.controller.lend(1 << 20).unwrap();
    let refused = |controller: &mut Running<'_>| controller.stand_by(WITHIN).unwrap_err();
    assert!(refused(&mut bed.controller).contains("memory of this domain"));

    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.hold_admin();
    bed.controller.ask_health();
    assert!(refused(&mut bed.controller).contains("something else"));

    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    // It has not been seen yet.
    rig.disk.raise(NAMESPACES);
    let why = refused(&mut bed.controller);
    assert!(why.contains("just said something"), "{why}");

    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.die();
    bed.pass(1);
    assert!(refused(&mut bed.controller).contains("reset"));

    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    bed.queues.truncate(1);
    assert!(refused(&mut bed.controller).contains("no core"));
}

#[test]
fn one_put_in_again_since_it_was_looked_at_is_given_no_command() {
    type Way = fn(&Rig, Bed<'_>);
    let ways: [(&str, Way); 3] = [
        ("stand by", |rig, mut bed| {
            rig.disk.come_back();
            let why = bed.controller.stand_by(WITHIN).unwrap_err();
            assert_eq!(why, "it has just failed");
        }),
        ("ask for its health", |rig, mut bed| {
            rig.disk.come_back();
            bed.controller.ask_health();
        }),
        ("shut down", |rig, bed| {
            rig.disk.come_back();
            let since = rig.clock.now_ns();
            let ended = bed.controller.shutdown(bed.queues);
            assert_eq!(ended, Err(Error::Restarted));
            let took = rig.clock.now_ns() - since;
            assert!(took < 1_000_000_000, "{took} ns");
        }),
    ];
    for (name, way) in ways {
        let rig = Rig::new(Config::default());
        let bed = Bed::new(&rig, 2);
        rig.disk.vanish();
        way(&rig, bed);
        let violations = rig.disk.violations();
        assert!(violations.is_empty(), "{name}: {violations:?}");
    }
}

#[test]
fn what_the_controller_does_not_do_in_time_holds_nothing_up() {
    for opcode in [0x00, 0x04] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 2);
        rig.disk.arm(Fault::SwallowAdmin(opcode));
        let since = rig.clock.now_ns();
        bed.controller.stand_by(WITHIN).unwrap_err();
        let took = rig.clock.now_ns() - since;
        assert!(took <= 60_000_000, "{took} ns");
        works(&mut reset(&rig));
    }
}

#[test]
fn a_driver_that_goes_on_nevertheless_has_it_reset() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    bed.controller.stand_by(WITHIN).unwrap();
    bed.pass(1);
    bed.settle();
    assert_eq!(rig.disk.resets(), 1);
    works(&mut bed);
    rig.obeyed();
}

#[test]
fn another_number_of_queues_takes_a_reset() {
    let rig = Rig::new(Config::default());
    let left = leave(&rig, &mut Bed::new(&rig, 2));
    let options = DiskOptions {
        queues: 3,
        ..OPTIONS
    };
    let (clock, bus) = (&rig.clock, &*rig.bus);
    let adopted = Controller::adopt(rig.disk.clone(), clock, bus, options, &left.0, left.1);
    assert_eq!(adopted.unwrap_err(), Error::Changed("number of queues"));
    assert_eq!(rig.disk.resets(), 1);
}

#[test]
fn a_driver_knows_no_more_queues_than_were_granted() {
    let rig = Rig::new(Config {
        queues: 1,
        ..Config::default()
    });
    let left = leave(&rig, &mut Bed::new(&rig, 1));
    let mut controller = adopt(&rig, left).unwrap();
    let queue: Queue = controller.create_queue(rig.disk.clone()).unwrap();
    let none = controller.create_queue(rig.disk.clone()).unwrap_err();
    assert_eq!(none, Error::NoQueue { granted: 1 });
    controller.shutdown([queue]).unwrap();
}

proptest! {
    #[test]
    fn whatever_words_are_read_as_one_is_written_in_the_same_words(
        words in proptest::collection::vec(any::<u64>(), 0..12),
        state in any::<[u8; 4]>(),
    ) {
        let mut words = words;
        if words.len() >= 5 {
            // More often than by chance it makes sense.
            words[0] <<= 12;
            words[1] = u64::from(u32::from_le_bytes(state.map(|byte| byte & 1))) | 3 << 32 | 2 << 48;
        }
        let read = Standby::read_all(&words);
        let again: Vec<u64> = read.iter().flat_map(Standby::words).collect();
        prop_assert!(read.is_empty() || again == words);
    }
}
