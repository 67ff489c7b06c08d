//! Pages that are mapped for one request, and unmapped before its frontend hears of it.
//!
//! Nothing is looked up that is used once: each segment gets a frame of its own from the stack of free
//! ones, also where two segments are in one page, which Xen maps as often as it is asked to. The frame goes
//! back on the stack with the unmap. The table has none of them.

use alloc::vec::Vec;

use spindle_xen::grant::{GrantRef, MapOp, UnmapOp};

use super::{Frame, GrantCache, HELD, NOT_MAPPED, OTHER, PENDING};

impl GrantCache {
    /// Takes a free frame for the page that `gref` grants, for one request; `None` if there is none. The
    /// operation must be carried out and its outcome handed to [`GrantCache::record`].
    #[inline]
    pub fn map_once(&mut self, gref: u32, read_only: bool) -> Option<(u64, MapOp)> {
        let index = self.free.pop(&self.frames)?;
        *self.frames.get_mut(index)? = Frame {
            gref,
            rest: OTHER | HELD | PENDING,
            ..Frame::EMPTY
        };
        let bus = self.window.bus(index);
        let op = MapOp::new(self.domain, GrantRef(gref), bus, read_only);
        Some((bus, op))
    }

    /// The outcome for a frame is known, and in it.
    #[inline(never)]
    pub(super) fn settle_once(&mut self, index: usize) {
        if let Some(frame) = self.frames.get_mut(index) {
            let ended = frame.rest & HELD == 0;
            frame.rest = OTHER | HELD;
            // It goes back, if its request has ended meanwhile.
            if ended {
                self.let_go_of(index);
            }
        }
    }

    /// Lets go of the page at `bus`, which [`GrantCache::map_once`] gave: see [`GrantCache::sweep`].
    #[inline]
    pub fn let_go(&mut self, bus: u64) {
        self.let_go_of(self.window.frame(bus));
    }

    #[inline]
    fn let_go_of(&mut self, index: usize) {
        let Some(frame) = self.frames.get_mut(index) else {
            return;
        };
        let flags = frame.rest;
        frame.rest &= !HELD;
        if flags & (HELD | PENDING) != HELD {
            return;
        }
        if frame.handle != NOT_MAPPED {
            self.idle.push(&mut self.frames, index);
        } else {
            self.give_back_unmapped(index);
        }
    }

    /// The map failed, or all was taken from the disk.
    #[cold]
    fn give_back_unmapped(&mut self, index: usize) {
        if self.window.is_usable(index) {
            self.free.push(&mut self.frames, index);
        }
    }

    /// Whether there is anything to sweep up.
    #[inline]
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Adds to `ops` the operations that unmap pages whose requests have ended, as many as it has room for. They
    /// must be carried out and their outcome handed to [`GrantCache::swept`].
    pub fn sweep(&mut self, ops: &mut Vec<UnmapOp>) {
        let room = ops.capacity() - ops.len();
        for _ in 0..room.min(self.idle.len()) {
            let Some(index) = self.idle.pop(&self.frames) else {
                return;
            };
            let bus = self.window.bus(index);
            if let Some(frame) = self.frames.get_mut(index)
                && frame.handle != NOT_MAPPED
            {
                let handle = core::mem::replace(&mut frame.handle, NOT_MAPPED);
                ops.push(UnmapOp::new(handle, bus));
            }
        }
    }

    /// Notes the outcome of operations from [`GrantCache::sweep`]: how many failed.
    pub fn swept(&mut self, ops: &[UnmapOp]) -> usize {
        let mut failed = 0;
        for op in ops {
            let index = self.window.frame(op.host_addr);
            if op.status.is_ok() {
                self.free.push(&mut self.frames, index);
            } else {
                self.window.condemn(index);
                failed += 1;
            }
        }
        failed
    }
}
