//! A read-only disk and a frontend that does not ask whether it is one: nothing that writes
//! reaches the disk, by no operation, layout or data path.

mod common;

use common::{COPIED, How, INDIRECT, MAPPED, PERSISTENT, Rig, assert_all};
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_block::{Discard, Op};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};

/// Segments of the indirect requests, which is more than others can have.
const MANY: u16 = 12;

fn roomy() -> Rig {
    let mut rig = Rig::with_indirect();
    // It could do all of it, were it not read-only.
    rig.volume.write_cache = true;
    rig.volume.discard = Some(Discard {
        granularity: 512,
        alignment: 0,
        secure: true,
    });
    rig
}

fn pages(front: &Blkfront<'_>, count: usize) -> Vec<GuestPage> {
    (0..count).map(|_| front.page(false)).collect()
}

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

#[test]
fn nothing_that_writes_reaches_a_read_only_disk() {
    for path in [PERSISTENT, COPIED, MAPPED] {
        for abi in [Abi::Native, Abi::X86_32] {
            let mut rig = roomy();
            let how = || How {
                abi,
                indirect: INDIRECT,
                ..path
            };
            // One guest may write the disk, the other may not.
            let (writer, mut owner) = rig.attach(1, how());
            let own = owner.page(false);
            fill(&own.memory, 3);
            owner.push(Operation::WRITE, 0, &[own.segment(0, 7)]);
            owner.publish();
            assert_all(&rig.settle(&mut owner), 1, RspStatus::OKAY);
            rig.volume.read_only = true;
            let (reader, mut front) = rig.attach(2, how());
            rig.disk().submitted.clear();

            let data = pages(&front, MANY.into());
            for (seed, page) in (100..).zip(&data) {
                fill(&page.memory, seed);
            }
            let segments: Vec<_> = data.iter().map(|page| page.segment(0, 7)).collect();
            let list = front.list(&segments);
            type Ask<'a> = &'a dyn Fn(&mut Blkfront<'static>) -> u64;
            let writes: [(&str, Ask<'_>); 8] = [
                ("write", &|f| f.push(Operation::WRITE, 0, &segments[..1])),
                ("long write", &|f| {
                    f.push(Operation::WRITE, 0, &segments[..11])
                }),
                ("barrier", &|f| {
                    f.push(Operation::WRITE_BARRIER, 0, &segments[..1])
                }),
                ("indirect write", &|f| {
                    f.push_indirect(Operation::WRITE, 0, list.gref, MANY)
                }),
                ("short indirect write", &|f| {
                    f.push_indirect(Operation::WRITE, 0, list.gref, 1)
                }),
                ("indirect barrier", &|f| {
                    f.push_indirect(Operation::WRITE_BARRIER, 0, list.gref, MANY)
                }),
                ("discard", &|f| f.push_discard(0, 8, false)),
                ("secure discard", &|f| f.push_discard(0, 8, true)),
            ];
            for (what, ask) in writes {
                ask(&mut front);
                front.publish();
                let answers = rig.settle(&mut front);
                assert_eq!(answers.len(), 1, "{what}");
                assert_eq!(answers[0].status, RspStatus::ERROR, "{what}, {abi:?}");
            }
            assert!(
                rig.disk().submitted.is_empty(),
                "{:?}",
                rig.disk().submitted
            );

            // What reads is served.
            front.push(Operation::READ, 0, &segments[..1]);
            front.push_indirect(Operation::READ, 8, list.gref, MANY);
            front.push(Operation::FLUSH, 0, &[]);
            front.publish();
            assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
            let ops = rig.disk().submitted.iter().map(|(op, ..)| *op);
            assert!(ops.clone().all(|op| matches!(op, Op::Read | Op::Flush)));

            // And the one that may write finds what it wrote.
            let back = owner.page(false);
            owner.push(Operation::READ, 0, &[back.segment(0, 7)]);
            owner.publish();
            assert_all(&rig.settle(&mut owner), 1, RspStatus::OKAY);
            assert!(bytes(&back) == bytes(&own), "{abi:?}");
            let stats = rig.detach(reader).stats.snapshot();
            let counted = (
                stats.writes,
                stats.discards,
                stats.sectors_written,
                stats.errors,
            );
            assert_eq!(counted, (0, 0, 0, 8));
            rig.detach(writer);
            rig.assert_nothing_leaked();
        }
    }
}

/// Pages that a guest granted for reading alone are not written into, whichever request made them
/// known first: they are mapped read-only, and a read into them fails without a trace.
#[test]
fn pages_granted_for_reading_are_never_read_into() {
    for how in [PERSISTENT, COPIED, MAPPED] {
        for order in [[true, false], [false, true]] {
            let mut rig = Rig::new();
            let name = (how.persistent, how.frames.is_some(), order);
            let (ring, mut front) = rig.attach(1, how);
            let page = front.page(true);
            fill(&page.memory, 9);
            let before = bytes(&page);
            for write in order {
                let operation = if write {
                    Operation::WRITE
                } else {
                    Operation::READ
                };
                let sector = if write { 0 } else { 64 };
                front.push(operation, sector, &[page.segment(0, 7)]);
                front.publish();
                let answers = rig.settle(&mut front);
                // A guest that keeps its grants promises to grant them for both.
                if !write || !how.persistent {
                    let status = if write {
                        RspStatus::OKAY
                    } else {
                        RspStatus::ERROR
                    };
                    assert_all(&answers, 1, status);
                }
            }
            assert!(bytes(&page) == before, "{name:?}");
            rig.detach(ring);
            rig.assert_nothing_leaked();
        }
    }
}

/// What is mapped for a write alone is not what a read goes into: that has a mapping of its own.
#[test]
fn a_read_into_a_page_that_is_mapped_for_a_write_does_not_go_into_that_mapping() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, MAPPED);
    let both = front.page(false);
    fill(&both.memory, 4);
    let written = bytes(&both);
    let copies = |rig: &Rig| rig.grants.counts().copies;
    assert_eq!(copies(&rig), 0);
    // Both are taken in one visit, while the disk keeps the write.
    rig.disk().hold = true;
    front.push(Operation::WRITE, 8, &[both.segment(0, 7)]);
    front.push(Operation::READ, 64, &[both.segment(0, 7)]);
    front.publish();
    rig.core.visit(0);
    rig.core.visit(0);
    rig.disk().hold = false;
    assert_eq!(rig.grants.counts().maps, 2);
    assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    assert_eq!(copies(&rig), 0, "nor through a buffer");
    assert_eq!(bytes(&both), [0; 4096], "and arrived");
    let back = front.page(false);
    front.push(Operation::READ, 8, &[back.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    assert!(bytes(&back) == written);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}
