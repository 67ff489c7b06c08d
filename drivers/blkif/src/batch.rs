//! Batches of grant operations, filled during a visit and carried out in one hypercall.

use alloc::vec::Vec;

use spindle_block::Tag;
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, Status, UnmapOp};

/// How often operations that Xen answered with `GNTST_eagain` are tried again. The page is being
/// paged in; if that takes longer, the request fails rather than the core waits.
const EAGAIN_RETRIES: usize = 8;

/// Repeats `call` over the runs of operations that ended with `GNTST_eagain`, a bounded number
/// of times. What still ends so counts as failed.
fn retry<T>(ops: &mut [T], status: fn(&T) -> Status, mut call: impl FnMut(&mut [T])) {
    for _ in 0..EAGAIN_RETRIES {
        let mut again = false;
        let mut rest = &mut *ops;
        while let Some(start) = rest.iter().position(|op| status(op) == Status::EAGAIN) {
            let (_, tail) = rest.split_at_mut(start);
            let end = tail.iter().position(|op| status(op) != Status::EAGAIN);
            let (run, after) = tail.split_at_mut(end.unwrap_or(tail.len()));
            call(run);
            again = true;
            rest = after;
        }
        if !again {
            return;
        }
    }
}

/// Grants to be mapped for one ring.
#[derive(Debug)]
pub struct MapBatch {
    ops: Vec<MapOp>,
}

impl MapBatch {
    /// A batch of at most `capacity` operations.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            ops: Vec::with_capacity(capacity),
        }
    }

    /// How many more operations fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.ops.capacity() - self.ops.len()
    }

    /// Whether there is nothing to do.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds an operation; there must be room.
    pub fn push(&mut self, op: MapOp) {
        debug_assert!(self.room() > 0);
        self.ops.push(op);
    }

    /// Carries the batch out. Each operation's own status tells what came of it, whatever the
    /// hypercall as a whole returned (XSA-361).
    pub fn execute(&mut self, grants: &impl GrantOps) {
        // The statuses say all that the hypercall's own error says, and more.
        let _ = grants.map(&mut self.ops);
        // Most succeed, which one look tells.
        let statuses = self.ops.iter().fold(0, |all, op| all | op.status.0);
        if !Status(statuses).is_ok() {
            self.execute_again(grants);
        }
    }

    /// Some did not succeed.
    #[cold]
    fn execute_again(&mut self, grants: &impl GrantOps) {
        retry(
            &mut self.ops,
            |op| op.status,
            |run| {
                let _ = grants.map(run);
            },
        );
    }

    /// The operations, with their outcome once executed.
    #[must_use]
    pub fn ops(&self) -> &[MapOp] {
        &self.ops
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.ops.clear();
    }
}

/// Grants to be unmapped, for all rings of a core.
#[derive(Debug)]
pub struct UnmapBatch {
    ops: Vec<UnmapOp>,
    /// Where the operations of each ring end, and the ring.
    ends: Vec<(u32, u16)>,
}

impl UnmapBatch {
    /// A batch of at most `capacity` operations.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            ops: Vec::with_capacity(capacity),
            ends: Vec::with_capacity(capacity),
        }
    }

    /// Has `add` add operations on behalf of a ring, to which no other may be added in between: as many as
    /// there is room for.
    pub fn add(&mut self, ring: u16, add: impl FnOnce(&mut Vec<UnmapOp>)) {
        let before = self.ops.len();
        add(&mut self.ops);
        // There are no more rings than operations.
        if self.ops.len() > before && self.ends.len() < self.ends.capacity() {
            self.ends.push((self.ops.len() as u32, ring));
        }
    }

    /// Carries the batch out in one hypercall, if there is anything in it, and empties it; hands
    /// each ring's operations, with their outcome, to `done`.
    pub fn execute(&mut self, grants: &impl GrantOps, mut done: impl FnMut(u16, &[UnmapOp])) {
        if self.ops.is_empty() {
            return;
        }
        // As in `MapBatch::execute`.
        let _ = grants.unmap(&mut self.ops);
        let mut start = 0;
        for &(end, ring) in &self.ends {
            done(ring, self.ops.get(start..end as usize).unwrap_or_default());
            start = end as usize;
        }
        self.ops.clear();
        self.ends.clear();
    }
}

/// Copies between granted pages and buffers, for all rings of a core.
#[derive(Debug)]
pub struct CopyBatch {
    ops: Vec<CopyOp>,
    /// Where the operations of each request end, and its tag.
    ends: Vec<(u32, Tag)>,
}

impl CopyBatch {
    /// A batch of at most `capacity` operations.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            ops: Vec::with_capacity(capacity),
            ends: Vec::with_capacity(capacity),
        }
    }

    /// How many more operations fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.ops.capacity().min(self.ends.capacity()) - self.ops.len()
    }

    /// Adds an operation on behalf of the request `tag`; there must be room.
    #[inline]
    pub fn push(&mut self, op: CopyOp, tag: Tag) {
        debug_assert!(self.room() > 0);
        self.ops.push(op);
        self.ends.push((self.ops.len() as u32, tag));
    }

    /// The same for several operations; there must be room for all.
    #[inline]
    pub fn push_all(&mut self, tag: Tag, ops: impl Iterator<Item = CopyOp>) {
        self.ops.extend(ops);
        self.ends.push((self.ops.len() as u32, tag));
        debug_assert!(self.ops.len() <= self.ends.capacity());
    }

    /// Carries the batch out in one hypercall, if there is anything in it, and empties it; calls
    /// `failed` with the tag of every request of which an operation failed, once or more often.
    pub fn execute(&mut self, grants: &impl GrantOps, mut failed: impl FnMut(Tag)) {
        if self.ops.is_empty() {
            return;
        }
        // As in `MapBatch::execute`.
        let _ = grants.copy(&mut self.ops);
        // Most succeed, which one look tells.
        let statuses = self.ops.iter().fold(0, |all, op| all | op.status.0);
        if !Status(statuses).is_ok() {
            self.execute_again(grants, &mut failed);
        }
        self.ops.clear();
        self.ends.clear();
    }

    /// Some did not succeed.
    #[cold]
    fn execute_again(&mut self, grants: &impl GrantOps, failed: &mut impl FnMut(Tag)) {
        retry(
            &mut self.ops,
            |op| op.status,
            |run| {
                let _ = grants.copy(run);
            },
        );
        let mut start = 0;
        for &(end, tag) in &self.ends {
            let ops = self.ops.get(start..end as usize);
            if ops.is_some_and(|ops| ops.iter().any(|op| !op.status.is_ok())) {
                failed(tag);
            }
            start = end as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use spindle_hw::{DmaAlloc, SharedPages};
    use spindle_testkit::grants::FakeGrants;
    use spindle_testkit::mem::FakeBus;
    use spindle_xen::DomId;
    use spindle_xen::grant::{CopyEnd, GrantRef};

    use super::*;

    /// Nothing is allocated on the data path: a batch that is full says so, each time.
    #[test]
    fn batches_have_the_room_that_was_asked_for_and_again_once_they_are_carried_out() {
        let bus = FakeBus::new();
        let grants = FakeGrants::new(&bus);
        let (mut maps, mut copies) = (MapBatch::new(3), CopyBatch::new(3));
        let mut unmaps = UnmapBatch::new(3);
        for _ in 0..2 {
            let all = [maps.room(), copies.room()];
            assert!(all.iter().all(|&room| room >= 3) && maps.is_empty());
            for left in (0..all[0]).rev() {
                maps.push(MapOp::new(DomId(1), GrantRef(1), 1 << 40, false));
                assert_eq!(maps.room(), left);
            }
            for left in (0..all[1]).rev() {
                let granted = CopyEnd::granted(DomId(1), GrantRef(1), 0);
                copies.push(CopyOp::from_grant(granted, 0, 512), Tag(left as u32));
                assert_eq!(copies.room(), left);
            }
            unmaps.add(7, |ops| {
                while ops.len() < ops.capacity() {
                    ops.push(UnmapOp::new(1, 1 << 40));
                }
            });
            // There is no such grant.
            maps.execute(&&grants);
            assert!(maps.ops().iter().all(|op| !op.status.is_ok()));
            maps.clear();
            let mut failed = 0;
            copies.execute(&&grants, |_| failed += 1);
            assert_eq!(failed, all[1]);
            let mut unmapped = 0;
            unmaps.execute(&&grants, |ring, ops| {
                unmapped += ops.len();
                assert!(ring == 7 && ops.iter().all(|op| !op.status.is_ok()));
            });
            assert!(unmapped >= 3);
            assert_eq!([maps.room(), copies.room()], all, "no other memory");
        }
    }

    #[test]
    fn a_request_fails_if_any_of_its_copies_does_and_no_other_with_it() {
        let bus = FakeBus::new();
        let grants = FakeGrants::new(&bus);
        let (page, own) = (SharedPages::host(1, 0), bus.alloc(1).unwrap());
        let good = grants.grant(DomId(1), &page, false);
        let copy = |gref| CopyOp::from_grant(CopyEnd::granted(DomId(1), gref, 0), own.bus(), 512);
        let (good, bad) = (copy(good), copy(GrantRef(1000)));
        let mut copies = CopyBatch::new(16);
        let mut outcome = |requests: &[&[CopyOp]]| {
            for (tag, ops) in (0..).zip(requests) {
                copies.push_all(Tag(tag), ops.iter().copied());
            }
            let mut failed = Vec::new();
            copies.execute(&&grants, |tag| failed.push(tag.0));
            failed.dedup();
            failed
        };
        assert_eq!(outcome(&[&[good; 3], &[good]]), []);
        assert_eq!(outcome(&[&[good, bad, bad], &[good; 2], &[bad]]), [0, 2]);
        assert_eq!(outcome(&[&[good; 4], &[good, bad]]), [1]);
        assert_eq!(outcome(&[&[good]]), []);
    }
}
