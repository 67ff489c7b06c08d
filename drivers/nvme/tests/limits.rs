//! `io_timeout`: a command is aborted when that time has passed, and the controller is reset when
//! it has passed again, neither sooner nor much later.

mod common;

use std::time::Duration;

use common::{OPTIONS, Rig, command};
use spindle_block::{DiskOptions, DiskQueue, Op, Tag};
use spindle_testkit::nvme::{Config, Fault};
use spindle_testkit::queue::pages;

const READ: u8 = 2;
const SECOND: u64 = 1_000_000_000;
/// From one look at the clock to the next.
const STEP: u64 = SECOND / 10;

/// When a read is answered that the controller does not answer by itself, in nanoseconds from its
/// submission; and when the controller was reset, if it was.
fn play(timeout: u64, fault: Fault) -> (u64, Option<u64>) {
    let rig = Rig::new(Config::default());
    let options = DiskOptions {
        timeout: Duration::from_secs(timeout),
        ..OPTIONS
    };
    let (mut controller, mut queue) = rig.running(options);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    queue.tick(0);
    let before = rig.disk.resets();
    rig.disk.arm(fault);
    queue
        .submit(&command(Op::Read, 1, 9, 0, &segments), Tag(1))
        .unwrap();
    queue.commit();
    let (mut now, mut reset, mut answered) = (0, None, None);
    while answered.is_none() {
        now += STEP;
        rig.clock.advance(STEP);
        queue.poll(|tag, result| {
            assert_eq!((tag, result), (Tag(1), Ok(())));
            answered = Some(now);
        });
        queue.tick(now);
        assert_eq!(controller.attend().lost, None);
        if rig.disk.resets() > before {
            reset = reset.or(Some(now));
        }
        assert!(now < 10 * timeout * SECOND, "never answered");
    }
    (answered.unwrap_or(now), reset)
}

/// Control looks at the queues once in a while, and ages are counted in epochs: it may be late by
/// that much.
#[track_caller]
fn assert_at(what: &str, at: u64, due: u64) {
    let (from, to) = (due * SECOND - STEP, due * SECOND + 3 * SECOND / 2);
    assert!(
        (from..to).contains(&at),
        "{what} after {at} ns, not {due} s"
    );
}

#[test]
fn a_command_is_aborted_after_the_limit() {
    for timeout in [1, 2, 5, 30, 60] {
        // It is neither carried out nor answered, until it is aborted.
        let (answered, reset) = play(timeout, Fault::SwallowIo(READ));
        assert_at("answered", answered, timeout);
        assert_eq!(reset, None, "an abort was enough");
    }
}

#[test]
fn the_controller_is_reset_after_the_limit_again_and_not_at_once() {
    for timeout in [1, 2, 5, 30, 60] {
        // There is nothing to abort: the answer is lost.
        let (answered, reset) = play(timeout, Fault::LoseIo(READ));
        let reset = reset.expect("a reset");
        assert_at("reset", reset, 2 * timeout);
        // A reset takes as many looks as the controller takes steps.
        assert!(
            (reset..reset + 5 * SECOND).contains(&answered),
            "{answered}"
        );
    }
}
