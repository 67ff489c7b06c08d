//! The hypervisor and the disk of a kernel that may die at any call that it makes to them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use spindle_block::{Budget, Command, DiskQueue, IoResult, Part, RamQueue, SubmitError, Tag};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::FakeBus;
use spindle_xen::Errno;
use spindle_xen::event::{Notify, Port};
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, UnmapOp};

/// The kernel's end.
struct Died;

/// When the kernel dies, and what it did.
#[derive(Debug)]
pub(crate) struct Fate {
    /// Calls until it does; `None` if it lives on.
    left: Cell<Option<usize>>,
    /// Commands that a disk was given.
    pub(crate) submitted: Cell<usize>,
}

impl Fate {
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            left: Cell::new(None),
            submitted: Cell::new(0),
        }))
    }

    /// Has it die in so many calls.
    pub(crate) fn set(&self, calls: Option<usize>) {
        self.left.set(calls);
    }

    /// Before and after each call: a call may have been carried out or not.
    fn tick(&self) {
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                resume_unwind(Box::new(Died));
            }
            left => self.left.set(left.map(|left| left - 1)),
        }
    }

    /// Lets it do something; `None` if it has died of that.
    pub(crate) fn live<T>(act: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(act)).map_or_else(
            |cause| match cause.downcast::<Died>() {
                Ok(_) => None,
                Err(cause) => resume_unwind(cause),
            },
            Some,
        )
    }
}

/// What it calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mortal<T> {
    pub(crate) inner: T,
    pub(crate) fate: &'static Fate,
}

impl<T> Mortal<T> {
    fn call<R>(&self, call: impl FnOnce(&T) -> R) -> R {
        self.fate.tick();
        let result = call(&self.inner);
        self.fate.tick();
        result
    }
}

impl GrantOps for Mortal<&'static FakeGrants<'static>> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        self.call(|grants| grants.map(ops))
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        self.call(|grants| grants.unmap(ops))
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        self.call(|grants| grants.copy(ops))
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.call(|grants| grants.read(at, words))
    }
}

impl Notify for Mortal<&'static FakeEvents> {
    fn notify(&self, port: Port) {
        self.call(|events| events.notify(port));
    }
}

impl DiskQueue for Mortal<RamQueue<&'static FakeBus>> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.fate.tick();
        let result = self.inner.submit(command, tag);
        self.fate.submitted.set(self.fate.submitted.get() + 1);
        self.fate.tick();
        result
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        self.fate.tick();
        let result = self.inner.submit_part(command, from, budget, tag);
        self.fate.submitted.set(self.fate.submitted.get() + 1);
        self.fate.tick();
        result
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn commit(&mut self) {
        self.fate.tick();
        self.inner.commit();
    }

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let fate = self.fate;
        self.inner.poll(|tag, result| {
            fate.tick();
            done(tag, result);
            fate.tick();
        })
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn is_working(&self) -> bool {
        self.inner.is_working()
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        self.inner.fail_all(done);
    }
}
