//! The host memory buffer: how much is given, in which pieces, and how long it stays.

mod common;

use common::{OPTIONS, Queue, Rig, Running, command};
use spindle_block::{DiskQueue, Op, Segment, Tag};
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE};
use spindle_nvme::{Error, Status};
use spindle_testkit::nvme::{Config, Fault, HostMemoryConfig};

const WANTED: HostMemoryConfig = HostMemoryConfig {
    preferred: 64,
    least: 16,
    piece: 0,
    pieces: 0,
};
const PLENTY: u64 = 1 << 20;
const SET_FEATURES: u8 = 0x09;

fn asking(host_memory: HostMemoryConfig) -> Rig {
    Rig::new(Config {
        host_memory: Some(host_memory),
        ..Config::default()
    })
}

/// Bytes in each piece, as pages.
fn lent(rig: &Rig) -> Vec<usize> {
    rig.disk.lent().iter().map(|b| b / PAGE_SIZE).collect()
}

/// Offers a controller `most` bytes while no more than `free` pages are left besides its list, if that
/// is given; it gets pieces of so many pages, and all memory comes back.
fn gets(rig: &Rig, most: u64, free: Option<usize>, expected: Vec<usize>) {
    let mut controller = rig.start().unwrap();
    let before = rig.bus.outstanding();
    if let Some(free) = free {
        rig.bus.set_limit(before + 1 + free);
    }
    let bytes = controller.lend(most).unwrap();
    assert_eq!(
        (bytes / PAGE_SIZE, lent(rig)),
        (expected.iter().sum(), expected)
    );
    if bytes == 0 {
        assert_eq!(rig.bus.outstanding(), before);
    }
    controller.shutdown([] as [Queue; 0]).unwrap();
    assert_eq!(rig.bus.outstanding(), 0);
    rig.obeyed();
}

/// Writes a block and reads it.
fn works(rig: &Rig, queue: &mut Queue) {
    let data = rig.memory(1);
    let segments = [Segment::new(data.bus(), 512)];
    for op in [Op::Write, Op::Read] {
        let command = command(op, 1, 9, 0, &segments);
        queue.submit(&command, Tag(1)).unwrap();
        queue.commit();
        let mut answers = 0;
        queue.poll(|_, result| {
            result.unwrap();
            answers += 1;
        });
        assert_eq!(answers, 1);
    }
    rig.bus.free(data);
}

#[test]
fn a_controller_gets_what_it_asks_for_and_gives_it_back_before_it_is_shut_down() {
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    assert_eq!(controller.lend(PLENTY), Ok(64 * PAGE_SIZE));
    assert_eq!(lent(&rig), [64]);
    assert_eq!(controller.lend(PLENTY), Ok(0), "once");
    let mut queue = controller.create_queue(rig.disk.clone()).unwrap();
    works(&rig, &mut queue);
    controller.shutdown([queue]).unwrap();
    assert_eq!((lent(&rig), rig.bus.outstanding()), (vec![], 0));
    rig.obeyed();
}

#[test]
fn one_that_asks_for_nothing_gets_nothing() {
    let rig = Rig::new(Config::default());
    let mut controller = rig.start().unwrap();
    let before = rig.bus.outstanding();
    assert_eq!(controller.lend(PLENTY), Ok(0));
    assert_eq!(rig.bus.outstanding(), before);
    rig.obeyed();
}

#[test]
fn no_more_is_given_than_may_be_and_nothing_if_that_is_not_enough() {
    let page = PAGE_SIZE as u64;
    let cases = [
        (20 * page, vec![20]),
        (17 * page - 1, vec![16]),
        (16 * page - 1, vec![]),
        (0, vec![]),
        (u64::MAX, vec![64]),
    ];
    for (most, expected) in cases {
        gets(&asking(WANTED), most, None, expected);
    }
}

#[test]
fn memory_in_several_places_is_given_in_as_few_pieces_as_it_can_be() {
    let cases = [
        // (least in a piece, most pieces, free pages besides the list, what is given)
        (0, 0, 40, vec![32, 8]),
        (0, 0, 39, vec![32, 4, 2, 1]),
        (0, 3, 39, vec![32, 4, 2]),
        (16, 0, 40, vec![32]),
        (0, 1, 40, vec![32]),
        (0, 0, 15, vec![]),
        (33, 0, 40, vec![]),
        (0, 0, 0, vec![]),
    ];
    for (piece, pieces, free, expected) in cases {
        let rig = asking(HostMemoryConfig {
            piece,
            pieces,
            ..WANTED
        });
        gets(&rig, PLENTY, Some(free), expected);
    }
}

/// Has control and the only core go on until the controller works again.
fn recover(rig: &Rig, controller: &mut Running<'_>, queue: &mut Queue) {
    for _ in 0..10_000 {
        let attention = controller.attend();
        assert_eq!(attention.lost, None);
        rig.clock.advance(1_000_000);
        queue.poll(|_, _| {});
        queue.tick(rig.clock.now_ns());
        if !attention.soon {
            return;
        }
    }
    panic!("no end of it");
}

#[test]
fn after_a_reset_it_gets_the_same_memory_again() {
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    controller.lend(PLENTY).unwrap();
    let mut queue = controller.create_queue(rig.disk.clone()).unwrap();
    let outstanding = rig.bus.outstanding();
    for resets in 1..=3 {
        works(&rig, &mut queue);
        rig.disk.die();
        recover(&rig, &mut controller, &mut queue);
        assert_eq!(rig.disk.resets(), resets);
        assert_eq!((lent(&rig), rig.bus.outstanding()), (vec![64], outstanding));
        works(&rig, &mut queue);
    }
    controller.shutdown([queue]).unwrap();
    assert_eq!(rig.bus.outstanding(), 0);
    rig.obeyed();
}

#[test]
fn one_that_does_not_take_it_works_without() {
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    let before = rig.bus.outstanding();
    let refusal = Status::INVALID_FIELD;
    rig.disk.arm(Fault::FailAdmin(SET_FEATURES, refusal.0));
    let refused = controller.lend(PLENTY);
    assert!(matches!(refused, Err(Error::Command { .. })), "{refused:?}");
    assert_eq!(rig.bus.outstanding(), before);
    let mut queue = controller.create_queue(rig.disk.clone()).unwrap();
    works(&rig, &mut queue);
    controller.shutdown([queue]).unwrap();
    assert_eq!(rig.bus.outstanding(), 0);
    rig.obeyed();
}

#[test]
fn memory_that_it_may_use_stays_until_it_is_disabled() {
    // It has not said whether it has taken it.
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    let mut queue = controller.create_queue(rig.disk.clone()).unwrap();
    let before = rig.bus.outstanding();
    rig.disk.arm(Fault::SwallowAdmin(SET_FEATURES));
    let silent = controller.lend(PLENTY);
    assert!(matches!(silent, Err(Error::Timeout { .. })), "{silent:?}");
    assert_eq!(rig.bus.outstanding(), before + 65);
    recover(&rig, &mut controller, &mut queue);
    assert_eq!((lent(&rig), rig.disk.resets()), (vec![64], 1));
    // It does not say that it has stopped, and is disabled.
    rig.disk.arm(Fault::SwallowAdmin(SET_FEATURES));
    let ended = controller.shutdown([queue]);
    assert!(matches!(ended, Err(Error::Timeout { .. })), "{ended:?}");
    assert_eq!(rig.bus.outstanding(), 0);
    // It does not stop at all.
    let rig = asking(WANTED);
    let mut controller = rig.start_with(OPTIONS).unwrap();
    controller.lend(PLENTY).unwrap();
    let before = rig.bus.outstanding();
    rig.disk.arm(Fault::NeverIdle);
    assert!(controller.shutdown([] as [Queue; 0]).is_err());
    assert_eq!(rig.bus.outstanding(), before);
}

#[test]
fn one_that_does_not_answer_works_before_there_are_queues() {
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    rig.disk.arm(Fault::SwallowAdmin(SET_FEATURES));
    assert!(matches!(
        controller.lend(PLENTY),
        Err(Error::Timeout { .. })
    ));
    assert_eq!(controller.recover(), Ok(()));
    assert_eq!((lent(&rig), rig.disk.resets()), (vec![64], 1));
    let mut queue = controller.create_queue(rig.disk.clone()).unwrap();
    works(&rig, &mut queue);
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
    // Or says why it does not.
    let rig = asking(WANTED);
    let mut controller = rig.start().unwrap();
    rig.disk.arm(Fault::SwallowAdmin(SET_FEATURES));
    rig.disk.arm(Fault::NeverReady);
    assert!(controller.lend(PLENTY).is_err());
    assert!(matches!(controller.recover(), Err(Error::NotReady(_))));
    assert_eq!(controller.recover(), Err(Error::NotRunning), "nor later");
    controller.shutdown([] as [Queue; 0]).unwrap_err();
    assert_eq!(rig.bus.outstanding(), 0);
}
