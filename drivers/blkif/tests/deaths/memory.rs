//! Memory of a ring and of its journal in which the kernel can die before any store, and journals that
//! are kept in a wrong way.

use std::cell::{Cell, RefCell};

use spindle_blkif::abi::{Abi, RING_HEADER};
use spindle_blkif::ring::{Index, RingMemory};
use spindle_kept::journal::JournalMemory;
use std::sync::atomic::Ordering;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nothing.
    No,
    /// What was taken is noted only when something is published.
    ConsumedLate,
    /// It is noted before the request is copied.
    ConsumedBeforeCopy,
    /// The frontend learns of responses before the journal does.
    PublishedLate,
    /// A response counts as published as soon as it is about to be written.
    PublishedEarly,
    /// The places of answered requests are not noted.
    OrderLost,
    /// The place of an answered request is used again before the response is published.
    FreedWhenAnswered,
    /// A request that is done again is read from the ring.
    ReadFromRing,
    /// Request number 0 is taken for none (spdk#3766).
    ZeroIsNone,
    /// What is published is read from the ring.
    RingBelieved,
}

impl Broken {
    /// All that are wrong.
    pub(crate) const ALL: [Self; 9] = [
        Self::ConsumedLate,
        Self::ConsumedBeforeCopy,
        Self::PublishedLate,
        Self::PublishedEarly,
        Self::OrderLost,
        Self::FreedWhenAnswered,
        Self::ReadFromRing,
        Self::ZeroIsNone,
        Self::RingBelieved,
    ];
}

/// More than there ever are.
const MANY: usize = 1 << 20;

thread_local! {
    /// Stores until the kernel dies, and [`MANY`].
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Has the kernel make so many stores in `act` and die then. What `act` does after that has no effect.
/// Returns how many it would have made.
pub(crate) fn with_stores(count: usize, act: impl FnOnce()) -> usize {
    let most = count.min(MANY);
    // Stores beyond are still counted.
    LEFT.set(MANY + most);
    act();
    MANY + most - LEFT.replace(usize::MAX)
}

/// Whether the next store of the kernel is made.
fn spend() -> bool {
    let left = LEFT.get();
    if left == usize::MAX {
        return true;
    }
    LEFT.set(left - 1);
    left > MANY
}

/// Words that are stored one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Words(Vec<u64>);

impl Words {
    fn get(&self, offset: usize, bytes: usize) -> u64 {
        self.0[offset / 8] >> (offset % 8 * 8) & (u64::MAX >> (64 - 8 * bytes))
    }

    fn set(&mut self, offset: usize, bytes: usize, value: u64) {
        let (shift, mask) = (offset % 8 * 8, u64::MAX >> (64 - 8 * bytes));
        let word = &mut self.0[offset / 8];
        *word = *word & !(mask << shift) | value << shift;
    }
}

/// Memory with words that the kernel stores.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    words: RefCell<Words>,
    broken: Broken,
    /// What is to be stored later, where that is wrong.
    late: Cell<Option<(usize, u32)>>,
}

const CONSUMED: usize = 16;
const PUBLISHED: usize = 20;

impl Memory {
    /// For a ring of so many slots, or its journal.
    pub(crate) fn new(slots: usize, broken: Broken) -> Self {
        let bytes = RING_HEADER + slots * Abi::Native.slot_bytes() + 128;
        Self {
            words: Words(vec![0; bytes / 8]).into(),
            broken,
            late: Cell::new(None),
        }
    }

    /// All of it, to tell states apart.
    pub(crate) fn contents(&self) -> (Vec<u64>, Option<(usize, u32)>) {
        (self.words.borrow().0.clone(), self.late.get())
    }

    /// Reads as the guest does.
    pub(crate) fn peek(&self, offset: usize, bytes: usize) -> u64 {
        self.words.borrow().get(offset, bytes)
    }

    /// Writes as the guest does.
    pub(crate) fn poke(&self, offset: usize, bytes: usize, value: u64) {
        self.words.borrow_mut().set(offset, bytes, value);
    }

    /// What is wrong with it.
    pub(crate) fn broken(&self) -> Broken {
        self.broken
    }

    /// What is late is not stored any more.
    pub(crate) fn forget_late(&self) {
        self.late.set(None);
    }

    /// Stores what is late.
    pub(crate) fn catch_up(&self) {
        if let Some((offset, value)) = self.late.take() {
            self.kernel(offset, 4, value.into());
        }
    }

    fn kernel(&self, offset: usize, bytes: usize, value: u64) {
        if spend() {
            self.poke(offset, bytes, value);
        }
    }
}

impl RingMemory for Memory {
    fn bytes(&self) -> usize {
        self.words.borrow().0.len() * 8
    }

    fn load(&self, index: Index, _: Ordering) -> u32 {
        self.peek(index as usize, 4) as u32
    }

    fn store(&self, index: Index, value: u32, _: Ordering) {
        self.kernel(index as usize, 4, value.into());
    }

    fn fence(&self) {}

    fn read(&self, offset: usize) -> u64 {
        self.peek(offset, 8)
    }

    fn write(&self, offset: usize, value: u64) {
        self.kernel(offset, 8, value);
    }

    fn read_half(&self, offset: usize) -> u32 {
        self.peek(offset, 4) as u32
    }

    fn write_half(&self, offset: usize, value: u32) {
        self.kernel(offset, 4, value.into());
    }
}

impl JournalMemory for Memory {
    fn size(&self) -> usize {
        self.bytes()
    }

    fn word(&self, offset: usize) -> u64 {
        self.peek(offset, 8)
    }

    fn set_word(&self, offset: usize, value: u64) {
        self.kernel(offset, 8, value);
    }

    fn index(&self, offset: usize) -> u32 {
        match self.late.get() {
            Some((late, value)) if late == offset => value,
            _ => self.peek(offset, 4) as u32,
        }
    }

    fn set_index(&self, offset: usize, value: u32) {
        match (self.broken, offset) {
            (Broken::ConsumedLate, CONSUMED) | (Broken::PublishedLate, PUBLISHED) => {
                self.late.set(Some((offset, value)));
            }
            (Broken::ConsumedLate, PUBLISHED) => {
                self.kernel(offset, 4, value.into());
                self.catch_up();
            }
            _ => self.kernel(offset, 4, value.into()),
        }
    }

    fn place(&self, offset: usize) -> u16 {
        self.peek(offset, 2) as u16
    }

    fn set_place(&self, offset: usize, place: u16) {
        match self.broken {
            Broken::OrderLost => {}
            Broken::PublishedEarly => {
                let next = self.index(PUBLISHED).wrapping_add(1);
                self.kernel(offset, 2, place.into());
                self.kernel(PUBLISHED, 4, next.into());
            }
            _ => self.kernel(offset, 2, place.into()),
        }
    }

    fn set_entry(&self, group: usize, words: [u64; 4]) {
        if self.broken == Broken::ConsumedBeforeCopy {
            let next = self.index(CONSUMED).wrapping_add(1);
            self.kernel(CONSUMED, 4, next.into());
        }
        for (at, word) in words.into_iter().enumerate() {
            self.set_word((group * 4 + at) * 8, word);
        }
    }
}
