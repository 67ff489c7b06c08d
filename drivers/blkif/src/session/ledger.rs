//! What a ring has with its disk, as the scheduler counts it, and what it may still send.
//!
//! Most requests are one page with the disk from the moment they are taken to that at which they
//! are answered: those are counted by the slots they take, and only the others here.

/// The counters of a ring.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Slots of requests that did not go straight to the disk as one page.
    others: usize,
    /// Pages of those that the disk has.
    load: u32,
    /// Pages that may go to the disk in this visit.
    credit: u32,
    /// Pages, and what they cost, that went to it since this was last asked.
    sent: u32,
    cost: u32,
}

impl Ledger {
    pub(super) const fn new() -> Self {
        Self {
            others: 0,
            load: 0,
            credit: u32::MAX,
            sent: 0,
            cost: 0,
        }
    }

    #[inline]
    pub(super) fn allow(&mut self, credit: u32) {
        self.credit = credit;
    }

    #[inline]
    pub(super) fn credit(&self) -> u32 {
        self.credit
    }

    #[inline]
    pub(super) fn take_sent(&mut self) -> (u32, u32) {
        let sent = (self.sent, self.cost);
        (self.sent, self.cost) = (0, 0);
        sent
    }

    /// Pages that the disk has, if so many slots are taken.
    #[inline]
    pub(super) fn outstanding(&self, taken: usize) -> u32 {
        (taken - self.others) as u32 + self.load
    }

    /// So many requests of a page each went straight to the disk.
    #[inline]
    pub(super) fn sent_pages(&mut self, count: u32) {
        self.credit = self.credit.saturating_sub(count);
        self.sent += count;
        self.cost += count;
    }

    /// Whether there are none but those.
    #[inline]
    pub(super) fn is_all_sent(&self) -> bool {
        self.others == 0
    }

    /// A request has a slot that does not.
    #[inline]
    pub(super) fn keep(&mut self) {
        self.others += 1;
    }

    /// It is over.
    #[inline]
    pub(super) fn free(&mut self) {
        self.others -= 1;
    }

    /// The disk was given `load` pages of such a request, which count as `cost`.
    #[inline]
    pub(super) fn give(&mut self, load: u32, cost: u32) {
        self.load += load;
        self.credit = self.credit.saturating_sub(cost);
        self.sent += load;
        self.cost += cost;
    }

    /// The disk has answered so many of them.
    #[inline]
    pub(super) fn take(&mut self, load: u32) {
        self.load -= load;
    }
}
