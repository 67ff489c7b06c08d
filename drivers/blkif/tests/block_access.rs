//! Blocks that a core reads for control, whatever becomes of the disk meanwhile.

mod common;

use common::Rig;
use spindle_blkif::BlockAccess;
use spindle_block::{Op, ReadError, SubmitError, Unit};
use spindle_hw::{DmaAlloc, SharedPages};

fn read(rig: &Rig, block: u64) -> (Box<BlockAccess>, SharedPages) {
    let page = rig.bus.alloc(1).unwrap();
    let read = BlockAccess {
        token: 7,
        op: Op::Read,
        disk: 0,
        unit: rig.volume.unit,
        block_shift: 9,
        block,
        bytes: 1024,
        page: Some(page.alias()),
        outcome: Err(ReadError::Pending),
    };
    (Box::new(read), page)
}

/// A rig that has begun to read, with a queue that has taken the command or has no room for it.
fn begun(taken: bool) -> Rig {
    let mut rig = Rig::new();
    rig.disk().hold = true;
    rig.disk().refuse = (!taken).then_some(SubmitError::Full);
    let (read, page) = read(&rig, 8);
    page.write_bytes(0, &[7; 4096]);
    rig.core.begin_access(read).unwrap();
    assert!(rig.core.attend_access().is_none() && rig.core.is_reading());
    let expected: &[_] = if taken { &[(Op::Read, 8, 1)] } else { &[] };
    assert_eq!(rig.disk().submitted, expected);
    rig
}

/// Lets the disk work until the read has ended.
fn ended(rig: &mut Rig) -> Box<BlockAccess> {
    let disk = rig.disk();
    (disk.hold, disk.refuse) = (false, None);
    for _ in 0..10 {
        rig.core.visit(0);
        if let Some(read) = rig.core.attend_access() {
            assert!(!rig.core.is_reading() && read.token == 7);
            return read;
        }
    }
    panic!("it does not end");
}

#[test]
fn a_read_waits_for_room_and_then_has_the_blocks() {
    for taken in [false, true] {
        let mut rig = begun(taken);
        let read = ended(&mut rig);
        assert_eq!(read.outcome, Ok(()));
        let mut bytes = [1; 1025];
        read.page.unwrap().read_bytes(0, &mut bytes);
        assert!(bytes[..1024] == [0; 1024] && bytes[1024] == 7);
        assert_eq!(rig.disk().submitted, [(Op::Read, 8, 1)]);
    }
}

#[test]
fn a_core_has_one_read_at_a_time() {
    let mut rig = begun(true);
    let (other, _) = read(&rig, 16);
    let other = rig.core.begin_access(other).expect_err("it has one");
    assert_eq!(other.block, 16);
    assert_eq!(ended(&mut rig).block, 8);
    rig.core.begin_access(other).unwrap();
    assert_eq!(ended(&mut rig).block, 16);
}

/// The page may be used for something else only when the disk does not write to it any more.
#[test]
fn what_the_disk_has_taken_ends_with_its_answer_though_the_unit_is_removed() {
    let mut rig = begun(true);
    let unit = rig.volume.unit;
    rig.core.remove(0, unit);
    assert!(rig.core.attend_access().is_none(), "the disk has the page");
    assert_eq!(ended(&mut rig).outcome, Ok(()));
}

#[test]
fn what_waits_for_room_is_not_sent_to_a_unit_that_was_removed() {
    let mut rig = begun(false);
    let Unit(unit) = rig.volume.unit;
    // Others are no matter.
    rig.core.remove(0, Unit(unit + 1));
    rig.core.remove(1, Unit(unit));
    assert!(rig.core.attend_access().is_none());
    rig.core.remove(0, Unit(unit));
    let read = ended(&mut rig);
    assert_eq!(read.outcome, Err(SubmitError::Gone.into()));
    assert!(read.page.is_some() && rig.disk().submitted.is_empty());
}

#[test]
fn of_a_disk_that_may_still_write_the_page_is_given_up_if_it_has_it() {
    for taken in [false, true] {
        let mut rig = begun(taken);
        rig.core.cut_off(1);
        assert!(rig.core.attend_access().is_none(), "another disk");
        rig.core.cut_off(0);
        let read = ended(&mut rig);
        assert!(read.outcome.is_err());
        assert_eq!(read.page.is_some(), !taken);
    }
}
