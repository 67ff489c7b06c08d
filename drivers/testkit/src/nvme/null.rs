//! An I/O queue served by nothing but the queue: no lock, no memory behind it, no check of what
//! the driver does. For benchmarks, where the disk must cost next to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use spindle_hw::{Registers, SharedPages};

use super::FakeNvme;
use super::ring::Ring;

/// The doorbells of one queue pair, on a cache line of their own. They only note what was written.
#[derive(Clone, Debug, Default)]
pub struct Doorbells(Arc<Pair>);

/// Submission tail and completion head.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Pair([AtomicU32; 2]);

impl Doorbells {
    /// Submission tail and completion head.
    pub(super) fn values(&self) -> (u32, u32) {
        let [tail, head] = self.0.0.each_ref();
        (tail.load(Ordering::Acquire), head.load(Ordering::Acquire))
    }
}

impl Registers for Doorbells {
    fn len(&self) -> usize {
        0x4000
    }

    fn read32(&self, _offset: usize) -> u32 {
        u32::MAX
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        // Submission and completion doorbells alternate (3.1.16, 3.1.17).
        self.0.0[offset >> 2 & 1].store(value, Ordering::Release);
    }
}

/// Where the controller finds what was rung.
#[derive(Debug)]
enum Bells {
    Own(Doorbells),
    /// Registers in memory, with the pair at this offset.
    Memory(SharedPages, usize),
}

impl Bells {
    fn values(&self) -> (u32, u32) {
        match self {
            Self::Own(doorbells) => doorbells.values(),
            Self::Memory(registers, at) => {
                let value = |at| registers.u32_at(at).load(Ordering::Acquire);
                (value(*at), value(*at + size_of::<u32>()))
            }
        }
    }
}

/// The controller's side of one queue pair.
#[derive(Debug)]
pub struct NullNvme {
    ring: Ring,
    doorbells: Bells,
}

impl FakeNvme {
    /// Takes I/O queue `id` over from the controller, which brought it up; its driver must ring
    /// `doorbells`. `None` if there is no such queue.
    pub fn take_over(&self, id: u16, doorbells: Doorbells) -> Option<NullNvme> {
        self.take_over_bells(id, Bells::Own(doorbells))
    }

    /// As [`FakeNvme::take_over`], of a driver whose registers are this memory, of two pages: the
    /// doorbells of a controller with a stride of 0 (3.1.16).
    pub fn take_over_memory(&self, id: u16, registers: SharedPages) -> Option<NullNvme> {
        let at = 0x1000 + 2 * size_of::<u32>() * usize::from(id);
        self.take_over_bells(id, Bells::Memory(registers, at))
    }

    fn take_over_bells(&self, id: u16, doorbells: Bells) -> Option<NullNvme> {
        let queue = self.0.queues.get(usize::from(id).checked_sub(1)?)?;
        let ring = queue.lock().unwrap().ring.take()?;
        Some(NullNvme { ring, doorbells })
    }
}

impl NullNvme {
    /// Completes everything that the driver rang for, and returns how much that was.
    ///
    /// # Panics
    /// If the driver wrote an impossible index into a doorbell.
    pub fn run(&mut self) -> usize {
        let (tail, head) = self.doorbells.values();
        assert!(self.ring.set_tail(tail));
        assert!(self.ring.set_completion_head(head));
        let mut count = 0;
        while self.ring.room() > 0
            && let Some(entry) = self.ring.fetch()
        {
            self.ring.post(entry.cid(), 0, 0);
            count += 1;
        }
        count
    }
}
