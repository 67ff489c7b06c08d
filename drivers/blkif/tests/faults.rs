//! Grant operations that fail, as Xen or the other domain may make them.

mod common;

use common::{COPIED, How, MAPPED, PERSISTENT, Rig, Sizes, assert_all};
use spindle_blkif::abi::{Operation, RawSegment, RspStatus};
use spindle_testkit::blkfront::{Answer, Blkfront, GuestPage};
use spindle_testkit::grants::{Call, Fault};
use spindle_xen::Errno;
use spindle_xen::grant::Status;

/// Three reads of one page each.
fn three_reads(rig: &mut Rig, front: &mut Blkfront<'_>, pages: &[GuestPage]) -> Vec<RspStatus> {
    for page in &pages[..3] {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    }
    front.publish();
    let mut answers: Vec<Answer> = rig.settle(front);
    answers.sort_by_key(|answer| answer.id);
    answers.iter().map(|answer| answer.status).collect()
}

const OK: RspStatus = RspStatus::OKAY;
const ERROR: RspStatus = RspStatus::ERROR;

#[test]
fn a_grant_that_cannot_be_mapped_is_copied() {
    for fault in [
        Fault::Operation(Status::GENERAL_ERROR),
        Fault::Operation(Status(99)),
        Fault::Hypercall(Errno::ENOMEM),
        Fault::Hypercall(Errno::EFAULT),
    ] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
        rig.grants.inject(Call::Map, 1, fault);
        assert_eq!(three_reads(&mut rig, &mut front, &pages), [OK; 3]);
        assert!(rig.grants.counts().copies > 0);
        // What failed was forgotten, and is tried again.
        assert_eq!(three_reads(&mut rig, &mut front, &pages), [OK; 3]);
        assert_eq!(rig.grants.outstanding(), 3);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_reference_to_nothing_fails_its_request_whole_and_no_other() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
        let nowhere = RawSegment {
            gref: 4000,
            ..pages[0].segment(0, 7)
        };
        for operation in [Operation::READ, Operation::WRITE] {
            front.push(operation, 0, &[pages[0].segment(0, 7)]);
            let mixed = [pages[1].segment(0, 7), nowhere, pages[2].segment(0, 7)];
            let bad = front.push(operation, 64, &mixed);
            front.push(operation, 0, &[pages[2].segment(0, 7)]);
            front.publish();
            for answer in rig.settle(&mut front) {
                let expected = if answer.id == bad { ERROR } else { OK };
                assert_eq!(answer.status, expected);
            }
        }
        // A write that failed never reached the disk.
        assert!(
            rig.disk()
                .submitted
                .iter()
                .all(|&(op, block, _)| block == 0 || op == spindle_block::Op::Read)
        );
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_page_that_is_paged_out_is_asked_for_again_a_few_times() {
    for (how, call) in [(PERSISTENT, Call::Map), (COPIED, Call::Copy)] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
        rig.grants.inject_eagain(call, 5);
        assert_eq!(three_reads(&mut rig, &mut front, &pages), [OK; 3]);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_page_that_stays_paged_out_fails_its_request_in_bounded_time() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, COPIED);
    let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
    rig.grants.inject_eagain(Call::Copy, 100);
    assert_eq!(three_reads(&mut rig, &mut front, &pages), [ERROR; 3]);
    assert!(rig.grants.counts().copy_calls < 20);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_copy_that_fails_fails_its_request_and_no_other() {
    for (fault, statuses) in [
        (Fault::Operation(Status::BAD_GNTREF), [OK, ERROR, OK]),
        // Those that Xen never reached read as failed too.
        (Fault::Hypercall(Errno::EFAULT), [OK, ERROR, ERROR]),
    ] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, COPIED);
        let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
        rig.grants.inject(Call::Copy, 1, fault);
        assert_eq!(three_reads(&mut rig, &mut front, &pages), statuses);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_frame_that_cannot_be_unmapped_is_never_used_again() {
    for (fault, lost) in [
        (Fault::Operation(Status::GENERAL_ERROR), 1),
        (Fault::Hypercall(Errno::EFAULT), 2),
    ] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
        three_reads(&mut rig, &mut front, &pages);
        rig.grants.inject(Call::Unmap, 1, fault);
        let window = rig.detach(ring).window.unwrap();
        assert_eq!(window.unusable(), lost);
        assert_eq!(rig.grants.outstanding(), lost);
        assert_eq!(window.frames() - window.unusable(), 512 - lost);
    }
}

#[test]
fn eviction_makes_room_and_a_frame_lost_by_it_is_counted() {
    let mut rig = Rig::new();
    let frames = Some(2);
    let (ring, mut front) = rig.attach(
        1,
        How {
            frames,
            ..PERSISTENT
        },
    );
    let pages: Vec<_> = (0..3).map(|_| front.page(false)).collect();
    let mut read = |rig: &mut Rig, page: usize| {
        front.push(Operation::READ, 0, &[pages[page].segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, OK);
    };
    for page in [0, 1, 2] {
        read(&mut rig, page);
    }
    let copies = rig.grants.counts().copies;
    assert_eq!(copies, 1, "both were used a moment ago");
    // As many uses as make a round, twice: page 1 is not used in the second.
    let mut rounds = |rig: &mut Rig, wanted: usize| {
        for _ in 0..2 {
            (0..40).for_each(|_| read(rig, 0));
            read(rig, wanted);
        }
        read(rig, 0);
    };
    rounds(&mut rig, 2);
    let counts = rig.grants.counts();
    assert_eq!((counts.maps, counts.unmaps, counts.copies), (3, 1, 2));
    let fault = Fault::Operation(Status::GENERAL_ERROR);
    rig.grants.inject(Call::Unmap, 0, fault);
    rounds(&mut rig, 1);
    let counts = rig.grants.counts();
    assert_eq!((counts.maps, counts.unmaps), (3, 2));
    assert_eq!(counts.copies, 4, "the frame was lost: copied");
    let left = rig.detach(ring);
    let stats = left.stats.snapshot();
    assert_eq!((stats.grants_evicted, stats.frames_lost), (1, 1));
    assert_eq!(left.window.unwrap().unusable(), 1);
    assert_eq!(rig.grants.outstanding(), 1);
}

#[test]
fn memory_that_the_disk_will_not_take_is_copied_and_order_is_kept() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    rig.disk().scattered_above = 1 << 40;
    for sector in [8, 16, 24] {
        front.push(Operation::WRITE, sector, &[page.segment(0, 7)]);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 3, OK);
    let blocks: Vec<_> = rig.disk().submitted.iter().map(|&(_, at, _)| at).collect();
    assert_eq!(blocks, [8, 16, 24]);
    // A disk that takes no memory at all gets no third try.
    rig.disk().scattered_above = 0;
    front.push(Operation::WRITE, 8, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, ERROR);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_request_that_must_be_copied_after_all_gets_the_buffers_of_those_behind_it() {
    let mut rig = Rig::sized(&Sizes {
        buffers: 11,
        ..Sizes::default()
    });
    let frames = Some(11);
    let (ring, mut front) = rig.attach(
        1,
        How {
            frames,
            ..PERSISTENT
        },
    );
    let pages: Vec<_> = (0..14).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    // The first fills the cache, so the others are copied; then the disk refuses the first.
    rig.disk().scattered_above = 1 << 40;
    front.push(Operation::WRITE, 8, &segments[..11]);
    for (sector, segment) in [96, 104, 112].into_iter().zip(&segments[11..]) {
        front.push(Operation::WRITE, sector, &[*segment]);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 4, OK);
    let blocks: Vec<_> = rig.disk().submitted.iter().map(|&(_, at, _)| at).collect();
    assert_eq!(blocks, [8, 96, 104, 112]);
    // The same where a map fails.
    rig.disk().scattered_above = u64::MAX;
    let others: Vec<_> = (0..11).map(|_| front.page(false).segment(0, 7)).collect();
    let fault = Fault::Operation(Status::GENERAL_ERROR);
    rig.grants.inject(Call::Map, 0, fault);
    front.push(Operation::WRITE, 8, &others);
    front.push(Operation::WRITE, 96, &segments[11..12]);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, OK);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_disk_that_may_still_write_is_cut_off_before_its_requests_fail() {
    let sizes = Sizes {
        buffers: 11,
        ..Sizes::default()
    };
    for how in [PERSISTENT, MAPPED, COPIED] {
        let copied = how.frames.is_none();
        let mut rig = Rig::sized(&sizes);
        let (ring, mut front) = rig.attach(1, how);
        let pages: Vec<_> = (0..4).map(|_| front.page(false)).collect();
        let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
        front.push(Operation::READ, 0, &segments);
        front.push(Operation::WRITE, 64, &segments[..3]);
        front.push(Operation::READ, 0, &segments[..1]);
        front.publish();
        rig.disk().hold = true;
        for _ in 0..3 {
            rig.core.visit(0);
        }
        assert_eq!(rig.core.in_flight(), 3);
        rig.core.cut_off(0);
        assert_eq!(
            rig.grants.outstanding(),
            0,
            "it reaches no page of the guest"
        );
        assert_all(&rig.settle(&mut front), 3, ERROR);
        // What it was given for copies is never used again.
        assert_eq!(rig.core.free_buffers(), if copied { 3 } else { 11 });
        // And what will never fit is not waited for.
        front.push(Operation::WRITE, 0, &segments);
        front.push(Operation::READ, 0, &segments[..2]);
        front.push(Operation::WRITE, 0, &segments[..1]);
        front.publish();
        assert_all(&rig.settle(&mut front), 3, ERROR);
        assert_eq!(rig.grants.outstanding(), 0);
        let window = rig.detach(ring).window;
        assert!(window.is_none_or(|window| window.unusable() == window.frames()));
    }
}
