//! Limits of the controller that are smaller after a reset, with commands in flight that were made
//! within those of before.

mod common;

use common::bed::{Bed, SECOND};
use common::{Rig, command, discard};
use spindle_block::{Budget, DiskQueue, IoError, Op, Part, SubmitError, Tag};
use spindle_nvme::{Change, Removal, Status};
use spindle_testkit::nvme::{Config, DiscardConfig, Fault, NamespaceConfig};

#[test]
fn a_reset_to_smaller_limits_fails_what_is_beyond_them_and_nothing_else() {
    // The second time what is in flight is suspected, and tried first.
    for deaths in 1..=2 {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 2);
        let segments = bed.segments();
        rig.disk.hang();
        let large = command(Op::Write, 1, 9, 0, &segments);
        bed.queues[0].submit(&large, Tag(1)).unwrap();
        bed.queues[0].submit(&discard(1, 9, 64, 8), Tag(2)).unwrap();
        bed.queues[0].commit();
        bed.submit(0, Op::Write, 30);
        let two = command(Op::Read, 1, 9, 512, &segments[..2]);
        bed.queues[1].submit(&two, Tag(31)).unwrap();
        bed.queues[1].commit();
        for death in 1..=deaths {
            if death == deaths {
                rig.disk.arm(Fault::Smaller);
            }
            rig.disk.die();
            while rig.disk.resets() < death {
                bed.pass(1_000_000);
            }
            if death < deaths {
                rig.disk.hang();
                for _ in 0..100 {
                    bed.pass(1_000_000);
                }
            }
        }
        bed.settle();
        for _ in 0..20 {
            bed.pass(SECOND / 10);
        }
        bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
        let (aborted, unsupported) = (Err(IoError::Aborted), Err(IoError::Unsupported));
        let expected = [(1, aborted), (2, unsupported), (30, Ok(())), (31, Ok(()))];
        assert_eq!(bed.answers, expected, "{deaths}");
        assert_eq!((bed.lost, rig.disk.resets()), (None, deaths));
        // What is new is made within them.
        let before = rig.disk.commands();
        bed.answers.clear();
        bed.queues[0].submit(&large, Tag(3)).unwrap();
        let discarded = bed.queues[1].submit(&discard(1, 9, 0, 64), Tag(4));
        assert_eq!(discarded, Err(SubmitError::Unsupported));
        bed.queues[0].commit();
        bed.turn();
        assert_eq!(bed.answers, [(3, Ok(()))]);
        assert_eq!(rig.disk.commands() - before, 2);
        rig.obeyed();
    }
}

/// Has the controller be reset, and what waits be done.
fn reset(bed: &mut Bed<'_>) {
    bed.rig.disk.die();
    bed.pass(1_000_000);
    bed.settle();
    for _ in 0..20 {
        bed.pass(SECOND / 10);
    }
    bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
}

fn with_discards(range_blocks: u32) -> Rig {
    Rig::new(Config {
        discards: Some(DiscardConfig {
            ranges: 1,
            range_blocks,
            total_blocks: 0,
        }),
        ..Config::default()
    })
}

#[test]
fn a_discard_in_flight_that_is_beyond_smaller_limits_has_done_what_it_has() {
    let rig = with_discards(64);
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    // One of one command, and one of two.
    bed.queues[0].submit(&discard(1, 9, 0, 64), Tag(1)).unwrap();
    bed.queues[0]
        .submit(&discard(1, 9, 64, 100), Tag(2))
        .unwrap();
    bed.queues[0].commit();
    bed.submit(0, Op::Write, 30);
    rig.disk.arm(Fault::SmallerDiscards(8));
    reset(&mut bed);
    assert_eq!(bed.answers, [(1, Ok(())), (2, Ok(())), (30, Ok(()))]);
    // The controller fails over none of them, so that it is not given up for that.
    assert_eq!(bed.lost, None);
    bed.answers.clear();
    bed.queues[0].submit(&discard(1, 9, 0, 64), Tag(3)).unwrap();
    bed.queues[0].commit();
    bed.turn();
    assert_eq!(bed.answers, [(3, Ok(()))]);
    rig.obeyed();
}

#[test]
fn the_rest_of_a_discard_that_is_beyond_smaller_limits_is_left_out() {
    // Sent so far when the limits shrink: as much as is in reach of the new ones, and more.
    for (sent, blocks_left) in [(1, true), (7, true), (8, false)] {
        let rig = with_discards(64);
        let mut bed = Bed::new(&rig, 1);
        let all = discard(1, 9, 0, 500);
        let budget = Budget {
            commands: 1,
            bytes: u32::MAX,
        };
        let mut from = 0;
        for tag in 0..sent {
            let part = bed.queues[0].submit_part(&all, from, budget, Tag(tag));
            from += part.unwrap().blocks;
            bed.queues[0].commit();
            bed.turn();
        }
        assert_eq!(from < all.blocks, blocks_left);
        rig.disk.arm(Fault::SmallerDiscards(8));
        reset(&mut bed);
        let mut tag = 100;
        while from < all.blocks {
            let part = bed.queues[0].submit_part(&all, from, budget, Tag(tag));
            let Ok(Part { blocks, commands }) = part else {
                panic!("{sent} parts sent: {part:?}");
            };
            assert_eq!(commands, 1);
            from += blocks;
            tag += 1;
            bed.queues[0].commit();
            bed.turn();
        }
        assert!(tag - 100 <= 8);
        assert!(bed.answers.iter().all(|(_, result)| result.is_ok()));
        assert_eq!(bed.answers.len(), (sent + tag - 100) as usize);
        rig.obeyed();
    }
}

#[test]
fn the_rest_of_a_discard_is_refused_where_there_are_none_any_longer() {
    let rig = with_discards(64);
    let mut bed = Bed::new(&rig, 1);
    let all = discard(1, 9, 0, 500);
    let budget = Budget {
        commands: 1,
        bytes: u32::MAX,
    };
    let part = bed.queues[0].submit_part(&all, 0, budget, Tag(1)).unwrap();
    rig.disk.arm(Fault::Smaller);
    reset(&mut bed);
    let rest = bed.queues[0].submit_part(&all, part.blocks, budget, Tag(2));
    assert_eq!(rest, Err(SubmitError::Unsupported));
    rig.obeyed();
}

/// Numbers that a table of 128 or 256 places could take for each other.
const ALIKE: [u32; 3] = [1, 129, 257];

fn alike(shifts: [u8; 3]) -> Rig {
    let namespaces = ALIKE.into_iter().zip(shifts);
    Rig::new(Config {
        namespaces: namespaces
            .map(|(id, shift)| NamespaceConfig::new(id, 2048, shift))
            .collect(),
        ..Config::default()
    })
}

#[test]
fn what_fits_smaller_limits_is_done_whatever_the_numbers_of_namespaces() {
    for shifts in [[9, 12, 12], [12, 9, 12], [12, 12, 9]] {
        let rig = alike(shifts);
        let mut bed = Bed::new(&rig, 1);
        let segments = bed.segments();
        rig.disk.hang();
        for (id, shift) in ALIKE.into_iter().zip(shifts) {
            for pages in [2, 4] {
                let write = command(Op::Write, id, shift, 64, &segments[..pages]);
                let tag = Tag(10 * id + pages as u32);
                bed.queues[0].submit(&write, tag).unwrap();
            }
        }
        bed.queues[0].commit();
        rig.disk.arm(Fault::Smaller);
        reset(&mut bed);
        assert_eq!(bed.answers.len(), 6);
        for &(tag, result) in &bed.answers {
            let expected = match tag % 10 {
                2 => Ok(()),
                _ => Err(IoError::Aborted),
            };
            assert_eq!(result, expected, "{tag}, {shifts:?}");
        }
        rig.obeyed();
    }
}

#[test]
fn what_waits_for_another_try_does_so_whichever_other_namespace_is_removed() {
    for removed in ALIKE {
        let rig = alike([9; 3]);
        let mut bed = Bed::new(&rig, 1);
        for _ in 0..4 {
            rig.disk.arm(Fault::FailIo(1, Status::NOT_READY.0));
        }
        for id in ALIKE {
            bed.submit_to(0, Op::Write, id, 9, id);
        }
        bed.turn();
        bed.closes = false;
        rig.disk.resize(removed, 0);
        for _ in 0..3 {
            bed.pass(SECOND);
        }
        let reason = Removal::Gone;
        let id = removed;
        assert_eq!(bed.changes, [Change::Removed { id, reason }]);
        bed.closes = true;
        for _ in 0..20 {
            bed.pass(SECOND);
        }
        for other in ALIKE.into_iter().filter(|id| *id != removed) {
            let answer = bed.answers.iter().find(|(tag, _)| *tag == other);
            assert_eq!(answer, Some(&(other, Ok(()))), "{removed} was removed");
        }
        rig.obeyed();
    }
}
