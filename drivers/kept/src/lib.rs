//! What outlives a death of the kernel inside its own domain.
//!
//! Xen keeps a domain's event channels, grant mappings and xenstore connection as long as the
//! domain lives, whatever its kernel does. What the next life of the kernel has to know beyond
//! that is written into *kept memory*: pages that no start of the kernel clears. This crate has
//! the formats of what is written there.
//!
//! - `layout`: what lies where.
//! - [`journal`]: for each ring, which of its requests have no response yet; [`AtWork`]: which ring a
//!   core is serving.
//! - `records`: what control knows of its devices and their rings.
//! - `mappings`: which grants are mapped, and where.
//! - `ram_disks`: where the memory of RAM disks is.
//! - `image`: the image of a kernel that is to follow, in an update.
//! - `death`: why and where the last lives ended.
//! - `log_tail`: the last lines of their logs; [`Recorder`]: the last events of each core.
//! - `word_note`: what else the next life is told, and can do without.
//!
//! Kept memory is read by a kernel that may be of another version than the one that wrote it, after
//! a death that may have been caused by a stray write. Nothing read from it is trusted before it
//! is checked.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod at_work;
mod checked;
pub mod death;
pub mod image;
pub mod journal;
pub mod layout;
mod log_tail;
mod mappings;
mod ram_disks;
mod recorder;
mod records;
mod rooms;
mod word_note;

use spindle_hw::SharedPages;

pub use at_work::AtWork;
use death::Lives;
use image::UpdateNote;
pub use journal::{Journal, JournalPages};
use layout::TooSmall;
pub use log_tail::LogTail;
pub use mappings::{MOST_IN_CALL, Mappings};
pub use ram_disks::{RAM_DISKS, RAM_RUNS, RamRecord, RamRecords};
pub use recorder::{KEPT_EVENTS, Recorder};
pub use records::{
    DeviceRecord, FormerRecords, JournalPlace, LimitRecord, OpeningRecord, QueueRecord, Records,
};
pub use rooms::JournalRooms;
pub use word_note::WordNote;

/// Kept memory, in the hands of one life.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pages: &'static SharedPages,
    life: u64,
}

impl Kept {
    /// Begins a life with what the former ones have left in `pages`: the same pages in each life,
    /// and zero in the first.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn open(pages: &'static SharedPages) -> Result<Self, TooSmall> {
        Self::begin(pages, false)
    }

    /// The same where it is known that there was a life before, whatever the pages hold.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn open_again(pages: &'static SharedPages) -> Result<Self, TooSmall> {
        Self::begin(pages, true)
    }

    fn begin(pages: &'static SharedPages, again: bool) -> Result<Self, TooSmall> {
        let life = layout::begin(pages, again)?;
        Lives::new(pages).count();
        Ok(Self { pages, life })
    }

    /// The number of this life: 1 for the first.
    #[must_use]
    pub const fn life(&self) -> u64 {
        self.life
    }

    /// The lives so far.
    #[must_use]
    pub const fn lives(&self) -> Lives {
        Lives::new(self.pages)
    }

    /// The last update, if there was one.
    #[must_use]
    pub fn update(&self) -> Option<UpdateNote> {
        UpdateNote::read(self.pages)
    }

    /// Notes an update, in place of the one before.
    pub fn note_update(&self, note: &UpdateNote) {
        note.write(self.pages);
    }

    /// The pages.
    #[must_use]
    pub const fn pages(&self) -> &'static SharedPages {
        self.pages
    }

    /// What is known of devices.
    #[must_use]
    pub const fn records(&self) -> Records {
        Records::new(self.pages)
    }

    /// Which grants are mapped.
    #[must_use]
    pub const fn mappings(&self) -> Mappings {
        Mappings::new(self.pages)
    }

    /// The page where cores say which ring they are serving ([`AtWork`]).
    ///
    /// # Panics
    /// Never: [`Kept::open`] has seen that it is there.
    #[must_use]
    pub fn work(&self) -> SharedPages {
        let page = self.pages.view(layout::WORK_PAGE, 1);
        page.unwrap_or_else(|| unreachable!("kept memory has its fixed pages"))
    }

    /// Where vCPU number `caller` records events.
    #[must_use]
    pub fn recorder(&self, caller: usize) -> Recorder {
        Recorder::at(self.pages, caller)
    }

    /// The pages of a ring's journal; `None` if there are no such.
    #[must_use]
    pub fn journal(&self, place: JournalPlace) -> Option<SharedPages> {
        let first = layout::FIXED_PAGES.checked_add(place.first as usize)?;
        self.pages.view(first, place.pages as usize)
    }
}

/// FNV-1a with 64 bits: a byte that differs always gives another sum, since each step takes
/// different states to different ones.
#[must_use]
pub fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mut sum = Fnv::default();
    bytes.into_iter().for_each(|byte| sum.step(byte));
    sum.value()
}

/// The same over bytes that come in parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    const fn step(&mut self, byte: u8) {
        self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.step(*byte));
    }

    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}
