//! The console ring that a guest shares with xenconsoled (`public/io/console.h`,
//! `struct xencons_interface`).

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::SharedPages;

/// Bytes of output that the ring holds.
pub const OUT_SIZE: usize = 2048;
const OUT: usize = 1024;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// The guest's end of a console ring. Input is left where it is.
#[derive(Debug)]
pub struct ConsoleRing {
    page: SharedPages,
}

impl ConsoleRing {
    /// The ring in `page`.
    #[must_use]
    pub const fn new(page: SharedPages) -> Self {
        Self { page }
    }

    /// Bytes that can be written now; none while the other end's index makes no sense.
    #[must_use]
    pub fn room(&self) -> usize {
        OUT_SIZE.saturating_sub(self.unread())
    }

    /// Bytes that the other end has not taken yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        let cons = self.page.u32_at(OUT_CONS).load(Acquire);
        let prod = self.page.u32_at(OUT_PROD).load(Relaxed);
        prod.wrapping_sub(cons) as usize
    }

    /// Writes as much of `bytes` as there is room for and returns how much that was. The caller
    /// notifies the other end, and lets only one core write at a time.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let prod = self.page.u32_at(OUT_PROD).load(Relaxed);
        let at = prod as usize % OUT_SIZE;
        let (first, second) = bytes[..count].split_at(count.min(OUT_SIZE - at));
        self.page.write_bytes(OUT + at, first);
        self.page.write_bytes(OUT, second);
        self.page
            .u32_at(OUT_PROD)
            .store(prod.wrapping_add(count as u32), Release);
        count
    }
}
