//! A controller that lies: completions for nothing, twice, late, without end; or that goes away.

mod common;

use common::{OPTIONS, Rig, command};
use proptest::prelude::*;
use spindle_block::{DiskOptions, DiskQueue, Op, Tag};
use spindle_testkit::nvme::Config;
use spindle_testkit::queue::{complete, drain, pages};

#[test]
fn completions_for_nothing_are_counted_and_ignored() {
    let rig = Rig::new(Config::default());
    let (_controller, mut queue) = rig.running(OPTIONS);
    for cid in [0, 5, 15, 16, 0x7fff, 0xffff] {
        rig.disk.post(1, cid, 0);
    }
    assert_eq!(drain(&mut queue), []);
    assert_eq!(queue.spurious(), 6);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    let read = command(Op::Read, 1, 9, 0, &segments);
    assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
}

#[test]
fn a_flood_of_completions_does_not_keep_the_core() {
    let rig = Rig::new(Config::default());
    let (_controller, mut queue) = rig.running(OPTIONS);
    // The model overwrites its queue; the driver looks at one turn of it at most.
    for cid in 0..16 {
        rig.disk.post(1, cid, 0);
    }
    assert_eq!(drain(&mut queue), []);
    assert_eq!(queue.spurious(), 16);
}

#[test]
fn successes_are_handed_over_first_and_the_rest_by_the_next_poll() {
    let rig = Rig::new(Config::default());
    let (_controller, mut queue) = rig.running(DiskOptions {
        depth: 8,
        ..OPTIONS
    });
    let memory = rig.memory(1);
    let segments = pages(&memory);
    for _ in 0..100 {
        for tag in 0..5 {
            // One of them is beyond the end.
            let block = if tag == 2 { 1 << 60 } else { 0 };
            let read = command(Op::Read, 1, 9, block, &segments);
            queue.submit(&read, Tag(tag)).unwrap();
        }
        queue.commit();
        let mut ended = Vec::new();
        assert_eq!(queue.poll_successes(|tag| ended.push((tag.0, true))), 2);
        let rest = queue.poll(|tag, result| ended.push((tag.0, result.is_ok())));
        assert_eq!((rest, queue.in_flight()), (3, 0));
        assert_eq!(ended, [0, 1, 2, 3, 4].map(|tag| (tag, tag != 2)));
    }
    assert_eq!(queue.spurious(), 0);
}

#[test]
fn commands_to_a_controller_that_went_away_stay_until_given_up() {
    let rig = Rig::new(Config::default());
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    rig.disk.vanish();
    for tag in 0..15 {
        let read = command(Op::Read, 1, 9, 0, &segments);
        queue.submit(&read, Tag(tag)).unwrap();
    }
    queue.commit();
    assert_eq!(drain(&mut queue), []);
    let mut count = 0;
    queue.fail_all(|_, _| count += 1);
    assert_eq!(count, 15);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// Whatever is posted between true completions, each command is answered once, and nothing
    /// panics.
    #[test]
    fn each_command_is_answered_at_most_once(
        posts in prop::collection::vec(
            (any::<u16>(), any::<u16>(), 1..4u32, any::<bool>()), 1..200),
    ) {
        let rig = Rig::new(Config { manual: true, mdts: 1, ..Config::default() });
        let (_controller, mut queue) = rig.running(DiskOptions { depth: 8, ..OPTIONS });
        let memory = rig.memory(4);
        let segments = pages(&memory);
        let mut next = 0;
        let mut awaited = std::collections::BTreeSet::new();
        for (cid, status, pages, short) in posts {
            let read = command(Op::Read, 1, 9, 0, &segments[..pages as usize]);
            if queue.submit(&read, Tag(next)).is_ok() {
                awaited.insert(next);
                next += 1;
            }
            queue.commit();
            rig.disk.post(1, cid & 0x3f, status & 0x7fff);
            let mut twice = false;
            if short {
                queue.poll_successes(|tag| twice |= !awaited.remove(&tag.0));
            }
            queue.poll(|tag, _| twice |= !awaited.remove(&tag.0));
            prop_assert!(!twice);
            prop_assert_eq!(queue.in_flight(), awaited.len());
        }
    }
}
