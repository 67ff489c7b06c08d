//! An I/O queue served in virtual time: what the driver rang for ends when a disk that works on so
//! many pages at once would be done with it. No data moves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ring::{Entry, Ring};
use super::{Doorbells, FakeNvme};

/// How fast a disk is. Commands begin in the order in which they came.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Pages that it works on at once, of whichever commands.
    pub channels: usize,
    /// What a page takes a channel, on average: up to an eighth more or less.
    pub page_ns: u64,
    /// What a discard takes a channel.
    pub discard_ns: u64,
    /// What a flush takes a channel.
    pub flush_ns: u64,
}

/// The controller's side of one queue pair, of a namespace with blocks of 512 bytes.
#[derive(Debug)]
pub struct TimedNvme {
    ring: Ring,
    doorbells: Doorbells,
    speed: Speed,
    /// When each channel is free.
    channels: BinaryHeap<Reverse<u64>>,
    /// When which command is done.
    busy: BinaryHeap<Reverse<(u64, u64, u16)>>,
    fetched: u64,
    /// A linear congruential generator, so that no two runs differ.
    chance: u64,
}

impl FakeNvme {
    /// As [`FakeNvme::take_over`].
    ///
    /// # Panics
    /// With no channels.
    pub fn take_over_timed(
        &self,
        id: u16,
        doorbells: Doorbells,
        speed: Speed,
    ) -> Option<TimedNvme> {
        assert!(speed.channels > 0);
        let queue = self.0.queues.get(usize::from(id).checked_sub(1)?)?;
        let ring = queue.lock().unwrap().ring.take()?;
        Some(TimedNvme {
            ring,
            doorbells,
            speed,
            channels: (0..speed.channels).map(|_| Reverse(0)).collect(),
            busy: BinaryHeap::new(),
            fetched: 0,
            chance: 1,
        })
    }
}

impl TimedNvme {
    /// Takes what the driver rang for and completes what is done by `now_ns`.
    ///
    /// # Panics
    /// If the driver wrote an impossible index into a doorbell.
    pub fn run(&mut self, now_ns: u64) {
        let (tail, head) = self.doorbells.values();
        assert!(self.ring.set_tail(tail));
        assert!(self.ring.set_completion_head(head));
        while let Some(entry) = self.ring.fetch() {
            let end = self.begin(entry, now_ns);
            self.fetched += 1;
            self.busy.push(Reverse((end, self.fetched, entry.cid())));
        }
        while let Some(&Reverse((end, _, cid))) = self.busy.peek()
            && end <= now_ns
            && self.ring.room() > 0
        {
            self.ring.post(cid, 0, 0);
            self.busy.pop();
        }
    }

    /// When the next command is done.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.busy.peek().map(|Reverse((end, ..))| *end)
    }

    /// Commands taken so far.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.fetched
    }

    /// What the pages of the next command take.
    fn page_ns(&mut self) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        let range = self.speed.page_ns / 4 + 1;
        self.speed.page_ns - range / 2 + (self.chance >> 33) % range
    }

    /// When a command ends that comes at `now_ns`.
    fn begin(&mut self, entry: Entry, now_ns: u64) -> u64 {
        let (steps, each) = match entry.opcode() {
            0 => (1, self.speed.flush_ns),
            1 | 2 => {
                let blocks = u64::from(entry.dword(12) & 0xffff) + 1;
                (blocks.div_ceil(8), self.page_ns())
            }
            _ => (1, self.speed.discard_ns),
        };
        let channels = &mut self.channels;
        let step = |_| {
            let Reverse(free) = channels.pop().unwrap_or(Reverse(0));
            let end = free.max(now_ns) + each;
            channels.push(Reverse(end));
            end
        };
        (0..steps).map(step).max().unwrap_or(now_ns)
    }
}
