//! Grants that can always be mapped and copied, at the price of one store. Only what is on the
//! pages that list segments of indirect requests is moved, and only its reading where it is mapped
//! counts.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::Relaxed;

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_xen::Errno;
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, Status, UnmapOp};

use crate::front::Lists;

/// A core's grant operations.
pub(crate) struct FreeGrants {
    handle: Cell<u32>,
    listed: Option<Listed>,
}

/// What it takes to have lists.
struct Listed {
    lists: Lists,
    window: u64,
    /// The reference that each frame of the window shows.
    mapped: RefCell<Vec<u32>>,
    buffers: SharedPages,
    buffers_at: u64,
}

impl FreeGrants {
    /// With a window of so many frames at `window`, and the buffers, which are at `buffers_at`, if
    /// there are lists.
    pub(crate) fn new(
        lists: Option<(Lists, SharedPages)>,
        window: u64,
        frames: usize,
        buffers_at: u64,
    ) -> Self {
        let listed = lists.map(|(lists, buffers)| Listed {
            lists,
            window,
            mapped: RefCell::new(vec![0; frames]),
            buffers,
            buffers_at,
        });
        Self {
            handle: Cell::new(0),
            listed,
        }
    }
}

impl Listed {
    /// Notes what is mapped.
    #[inline(never)]
    fn map_uncounted(&self, ops: &[MapOp]) {
        let mut mapped = self.mapped.borrow_mut();
        for op in ops {
            mapped[self.frame(op.host_addr)] = op.gref;
        }
    }

    /// Copies lists into buffers.
    #[inline(never)]
    fn copy_uncounted(&self, ops: &[CopyOp]) {
        for op in ops {
            if let Some(list) = self.list(op.source.frame as u32) {
                let to = (op.dest.frame as usize) * PAGE_SIZE - self.buffers_at as usize;
                for at in (0..usize::from(op.len)).step_by(8) {
                    let word = self.lists.pages.u64_at(list + at).load(Relaxed);
                    self.buffers.u64_at(to + at).store(word, Relaxed);
                }
            }
        }
    }

    fn frame(&self, at: u64) -> usize {
        (at - self.window) as usize / PAGE_SIZE
    }

    /// Where in the lists what `gref` shows begins.
    fn list(&self, gref: u32) -> Option<usize> {
        let list = gref.checked_sub(self.lists.first)? as usize;
        (list < self.lists.pages.len() / PAGE_SIZE).then_some(list * PAGE_SIZE)
    }
}

impl GrantOps for FreeGrants {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        for op in ops.iter_mut() {
            op.handle = self.handle.replace(self.handle.get() + 1);
            op.status = Status::OKAY;
        }
        if let Some(listed) = &self.listed {
            listed.map_uncounted(ops);
        }
        Ok(())
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        ops.iter_mut().for_each(|op| op.status = Status::OKAY);
        Ok(())
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        ops.iter_mut().for_each(|op| op.status = Status::OKAY);
        if let Some(listed) = &self.listed {
            listed.copy_uncounted(ops);
        }
        Ok(())
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        let Some(listed) = &self.listed else {
            return false;
        };
        let gref = listed.mapped.borrow()[listed.frame(at)];
        let Some(list) = listed.list(gref) else {
            return false;
        };
        listed.lists.pages.load_words(list, words);
        true
    }
}
