//! How much each guest has with the disk, reckoned from what the queue takes and answers: while the
//! honest guest has work, no other may be given more than a window; and none may ever have more than
//! one flush and one discard, by however many rings.

use std::collections::BTreeMap;

use spindle_block::{Op, Tag};

use super::hostile::SEGMENTS;
use super::layout::GUESTS;

/// How long a guest without work is certain to count as one that has some.
const RECENTLY_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Pages that a guest may have with the disk.
    most: u64,
    now_ns: u64,
    /// When a visit last ended with requests of the guest under way.
    busy_ns: [Option<u64>; GUESTS],
    /// Pages that are with the disk.
    pages: [u64; GUESTS],
    /// By tag: whose, and how many.
    tags: BTreeMap<u32, (usize, u64)>,
    /// The flush and the discard that each guest has with the disk.
    single: [[Option<u32>; 2]; GUESTS],
}

impl Shares {
    /// For a queue of so many places.
    pub(super) fn new(depth: usize) -> Self {
        // The largest window, and what one request may be more than its credit. Rings that find a
        // short queue full take turns instead.
        let window = if depth < 16 {
            u64::MAX
        } else {
            (depth - depth / 4 + SEGMENTS) as u64
        };
        Self {
            most: window,
            ..Self::default()
        }
    }

    /// A visit begins.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// A visit has ended; a guest has requests under way.
    pub(super) fn saw(&mut self, guest: usize) {
        self.busy_ns[guest] = Some(self.now_ns);
    }

    /// A ring of a guest has gone, and what is known of it perhaps with it.
    pub(super) fn forget(&mut self, guest: usize) {
        self.busy_ns[guest] = None;
    }

    /// The queue has taken so many pages.
    pub(super) fn took(&mut self, guest: usize, tag: Tag, pages: u64) {
        self.pages[guest] += pages;
        self.tags.entry(tag.0).or_insert((guest, 0)).1 += pages;
        let recently = |at: Option<u64>| at.is_some_and(|at| self.now_ns - at < RECENTLY_NS);
        if guest > 0 && recently(self.busy_ns[0]) && recently(self.busy_ns[guest]) {
            assert!(
                self.pages[guest] <= self.most,
                "guest {guest} has {} pages with the disk, of {}",
                self.pages[guest],
                self.most
            );
        }
    }

    /// The queue has taken a command that moves no data.
    pub(super) fn took_single(&mut self, guest: usize, tag: Tag, op: Op) {
        let place = &mut self.single[guest][usize::from(op != Op::Flush)];
        let before = place.replace(tag.0);
        assert_eq!(
            before, None,
            "guest {guest} has two of {op:?} with the disk"
        );
    }

    /// The queue has answered a command. If it was a part of a request, the others are no longer
    /// counted: less than there is, never more.
    pub(super) fn answered(&mut self, tag: Tag) {
        if let Some((guest, pages)) = self.tags.remove(&tag.0) {
            self.pages[guest] -= pages;
        }
        for place in self.single.as_flattened_mut() {
            place.take_if(|single| *single == tag.0);
        }
    }
}
