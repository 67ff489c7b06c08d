//! Hypercalls of the ring cores, and what others do in the middle of a core's turn: whoever shares
//! memory with a core acts when it likes, and a turn is one step of the simulation only between two
//! hypercalls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use spindle_xen::grant::{
    CopyEnd, CopyOp, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GrantOps, MapOp, UnmapOp,
};
use spindle_xen::{DomId, Errno};

use super::machine::Machine;

/// A grant: who gives it, and its reference.
pub type Granted = (DomId, u32);

/// How many responses each ring of a guest had, by the reference of its first page.
type Answered = Rc<[(u32, u32)]>;

/// Requests that a frontend has written, and announces in the middle of what a core does, or else after a
/// while.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// When it announces them at the latest.
    pub by: u64,
    /// Whose ring.
    pub domain: DomId,
    /// The reference of its first page.
    pub ring: u32,
    /// The frontend's port.
    pub port: u32,
    /// Requests produced.
    pub produced: u32,
}

/// What hypercalls have touched, and what waits for the next one.
#[derive(Debug, Default)]
pub struct Calls {
    /// For each grant that was used last while its guest's rings had been answered that far: by the
    /// reference of the first page of each.
    used: RefCell<BTreeMap<Granted, Answered>>,
    waiting: RefCell<Vec<Publication>>,
    /// Grants are watched. Only a simulation does, which asks for them again.
    watches: Cell<bool>,
}

impl Calls {
    /// Notes what hypercalls use from now on.
    pub fn watch(&self) {
        self.watches.set(true);
    }

    /// When requests are announced for which no core has done anything until then.
    pub fn next_due(&self) -> Option<u64> {
        self.waiting.borrow().iter().map(|what| what.by).min()
    }

    /// Whether `grant` was mapped, unmapped or copied after response number `index` of a ring was
    /// published; forgets it.
    pub fn was_used_after(&self, grant: Granted, (ring, index): (u32, u32)) -> bool {
        let Some(used) = self.used.borrow_mut().remove(&grant) else {
            return false;
        };
        let mut published = used.iter().filter(|(first, _)| *first == ring);
        published.any(|(_, count)| count.wrapping_sub(index).cast_signed() > 0)
    }
}

impl Machine {
    /// Announces requests at the next hypercall of a core, or when [`Machine::publish`] is called.
    pub fn publish_later(&self, what: Publication) {
        self.calls.waiting.borrow_mut().push(what);
    }

    /// Announces what was to be announced later.
    pub fn publish(&self) {
        if self.calls.waiting.borrow().is_empty() {
            return;
        }
        for what in self.calls.waiting.take() {
            if self.announce(what.domain, what.ring, what.produced) {
                self.notify_from(what.domain, what.port);
            }
        }
    }

    /// A hypercall uses these grants now.
    fn use_grants(&self, grants: impl Iterator<Item = Granted>) {
        self.publish();
        if !self.calls.watches.get() {
            return;
        }
        // Those of a guest come together.
        let mut last: Option<(DomId, Answered)> = None;
        let mut used = self.calls.used.borrow_mut();
        for grant in grants {
            let known = last.take_if(|(domain, _)| *domain == grant.0);
            let (_, answered) = last.insert(known.unwrap_or_else(|| {
                let answered = self.answered(grant.0);
                (grant.0, answered.into())
            }));
            used.insert(grant, Rc::clone(answered));
        }
    }
}

/// The grant operations of ring cores.
#[derive(Clone, Copy)]
pub struct CoreGrants(pub &'static Machine);

impl std::fmt::Debug for CoreGrants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("grants")
    }
}

impl GrantOps for CoreGrants {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        let used = ops.iter().map(|op| (DomId(op.dom), op.gref));
        self.0.use_grants(used);
        (&&self.0.grants).map(ops)
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        let used = ops.iter();
        let used = used.filter_map(|op| self.0.grants.granted_by(op.handle));
        self.0.use_grants(used);
        (&&self.0.grants).unmap(ops)
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        let end = |end: &CopyEnd| (DomId(end.dom), end.frame as u32);
        let used = ops.iter().filter_map(|op| match op.flags {
            flags if flags & GNTCOPY_SOURCE_GREF != 0 => Some(end(&op.source)),
            flags if flags & GNTCOPY_DEST_GREF != 0 => Some(end(&op.dest)),
            _ => None,
        });
        self.0.use_grants(used);
        (&&self.0.grants).copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        (&&self.0.grants).read(at, words)
    }
}
