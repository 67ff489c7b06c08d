//! What the control core and the core that owns a queue pair tell each other: orders one way,
//! acknowledgements and late commands the other. Nothing here is touched for a single command.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::discard::DiscardLimits;
use crate::namespace_table::{PLACES, Place};

/// What a queue is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Work; after a stop, submit all that was in flight once more.
    Run,
    /// Touch neither doorbells nor the queues' memory.
    Pause,
    /// Make the memory fit for new queues; the controller does not reach it now.
    Clear,
    /// Take nothing more: the controller is lost. What is in flight stays until
    /// [`spindle_block::DiskQueue::fail_all`]. If the controller comes back, [`Step::Clear`] and
    /// [`Step::Run`] follow.
    Lose,
    /// Submit only what the controller may have failed over more than once, one after the other, and
    /// take nothing new.
    Try,
}

/// What a queue is to think of an order to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A command was not answered.
    Late,
    /// The controller failed, perhaps over one of the commands that it had.
    Failure,
    /// The same, but another queue has the command that it may have failed over.
    Spared,
}

/// A step, and a count that tells it from the same step at another time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order(u32);

impl Order {
    /// The order for `step` that comes after this one.
    pub(crate) fn then(self, step: Step) -> Self {
        Self((self.0 | 7).wrapping_add(1) | step as u32)
    }

    pub(crate) fn step(self) -> Step {
        match self.0 & 7 {
            0 => Step::Run,
            1 => Step::Pause,
            2 => Step::Clear,
            3 => Step::Lose,
            _ => Step::Try,
        }
    }
}

/// Above a command identifier: there is one.
const LATE: u32 = 1 << 16;

/// What the controller takes, as a queue is to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The most bytes in one command.
    pub(crate) limit: u32,
    /// The most entries in a queue.
    pub(crate) depth: u16,
    /// What it takes in one discard, if it knows them.
    pub(crate) discards: Option<DiscardLimits>,
    /// CRDT1 to CRDT3, in units of 100 ms.
    pub(crate) delays: [u16; 3],
    /// Bytes from one doorbell to the next.
    pub(crate) stride: u32,
}

/// [`Terms`] on their way to a queue.
#[derive(Debug, Default)]
struct SharedTerms {
    /// The most bytes in one command.
    limit: AtomicU32,
    depth: AtomicU32,
    stride: AtomicU32,
    /// CRDT1 to CRDT3, 16 bits each.
    delays: AtomicU64,
    /// Ranges in a discard, 0 if there are no discards; blocks in a range; blocks in all ranges.
    ranges: AtomicU32,
    range_blocks: AtomicU32,
    total_blocks: AtomicU64,
}

const WORDS: usize = PLACES / 64;

/// A set of places.
#[derive(Debug, Default)]
struct PlaceSet([AtomicU64; WORDS]);

impl PlaceSet {
    const fn word(place: Place) -> usize {
        place.0 as usize / 64
    }

    const fn bit(place: Place) -> u64 {
        1 << (place.0 % 64)
    }

    fn insert(&self, place: Place, order: Ordering) {
        self.0[Self::word(place)].fetch_or(Self::bit(place), order);
    }

    fn has(&self, place: Place, order: Ordering) -> bool {
        self.0[Self::word(place)].load(order) & Self::bit(place) != 0
    }
}

/// The words between control and one queue, on cache lines that no other queue uses.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Link {
    order: AtomicU32,
    seen: AtomicU32,
    late: AtomicU32,
    /// Commands answered, and failed without an answer, so far.
    answered: AtomicU32,
    failed: AtomicU32,
    released: AtomicBool,
    /// Why there is a [`Step::Pause`], as [`Cause`].
    cause: AtomicU32,
    /// What the controller may have failed over is not to be submitted now.
    withheld: AtomicBool,
    suspects: AtomicBool,
    /// Completions that named no command in flight, so far.
    spurious: AtomicU64,
    /// Namespaces that are gone, by their places.
    gone: PlaceSet,
    /// Those of them whose users submit nothing more, until the queue has seen it.
    closed: PlaceSet,
    terms: SharedTerms,
}

impl Link {
    /// Control: gives an order.
    pub(crate) fn give(&self, order: Order) {
        // Release: what control did before, to the controller or for it, comes first.
        self.order.store(order.0, Ordering::Release);
    }

    /// Control: why the next order to stop comes.
    pub(crate) fn give_cause(&self, cause: Cause) {
        // The order that follows releases it.
        self.cause.store(cause as u32, Ordering::Relaxed);
    }

    /// Queue: why the order to stop came.
    pub(crate) fn cause(&self) -> Cause {
        match self.cause.load(Ordering::Relaxed) {
            0 => Cause::Late,
            1 => Cause::Failure,
            _ => Cause::Spared,
        }
    }

    /// Control: whether what the controller may have failed over is not to be submitted now.
    pub(crate) fn withhold(&self, withheld: bool) {
        self.withheld.store(withheld, Ordering::Relaxed);
    }

    /// Queue: the same.
    pub(crate) fn withholds(&self) -> bool {
        self.withheld.load(Ordering::Relaxed)
    }

    /// Control: how many commands were answered so far, and how many failed without an answer.
    pub(crate) fn progress(&self) -> (u32, u32) {
        let load = |word: &AtomicU32| word.load(Ordering::Relaxed);
        (load(&self.answered), load(&self.failed))
    }

    /// Queue: reports its progress.
    pub(crate) fn tell_progress(&self, (answered, failed): (u32, u32)) {
        self.answered.store(answered, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
    }

    /// Control: whether there are commands that the controller may have failed over more than once.
    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects.load(Ordering::Relaxed)
    }

    /// Queue: reports such commands.
    pub(crate) fn tell_suspects(&self, any: bool) {
        // Before it says that an order is followed, which releases it.
        self.suspects.store(any, Ordering::Relaxed);
    }

    /// Control: how many completions have named no command in flight so far.
    pub(crate) fn spurious(&self) -> u64 {
        self.spurious.load(Ordering::Relaxed)
    }

    /// Queue: reports such completions.
    pub(crate) fn report_spurious(&self, count: u64) {
        self.spurious.store(count, Ordering::Relaxed);
    }

    /// Control: whether the last order has been followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.order.load(Ordering::Relaxed)
    }

    /// Control: whether the controller reaches none of the memory of what is in flight on this
    /// queue, and never will.
    pub(crate) fn release(&self, released: bool) {
        self.released.store(released, Ordering::Release);
    }

    /// Control: what the controller takes from the next order to go on.
    pub(crate) fn tell_terms(&self, of: Terms) {
        let (ranges, range_blocks, total_blocks) =
            of.discards.map_or((0, 0, 0), DiscardLimits::numbers);
        let [first, second, third] = of.delays.map(u64::from);
        let terms = &self.terms;
        // The order that follows releases all of it.
        terms.limit.store(of.limit, Ordering::Relaxed);
        terms.depth.store(of.depth.into(), Ordering::Relaxed);
        terms.stride.store(of.stride, Ordering::Relaxed);
        let delays = first | second << 16 | third << 32;
        terms.delays.store(delays, Ordering::Relaxed);
        terms.ranges.store(ranges, Ordering::Relaxed);
        terms.range_blocks.store(range_blocks, Ordering::Relaxed);
        terms.total_blocks.store(total_blocks, Ordering::Relaxed);
    }

    /// Queue: what [`Self::tell_terms`] stored.
    pub(crate) fn terms(&self) -> Terms {
        let terms = &self.terms;
        let load = |word: &AtomicU32| word.load(Ordering::Relaxed);
        let total_blocks = terms.total_blocks.load(Ordering::Relaxed);
        let ranges = load(&terms.ranges);
        let discards = DiscardLimits::of_numbers(ranges, load(&terms.range_blocks), total_blocks);
        let delays = terms.delays.load(Ordering::Relaxed);
        let delays = [0, 16, 32].map(|shift| (delays >> shift) as u16);
        Terms {
            limit: load(&terms.limit),
            depth: load(&terms.depth) as u16,
            discards,
            delays,
            stride: load(&terms.stride),
        }
    }

    /// Control: the identifier of a command that has been in flight for too long.
    pub(crate) fn late(&self) -> Option<u16> {
        let late = self.late.load(Ordering::Relaxed);
        (late & LATE != 0).then_some(late as u16)
    }

    /// Control: the namespace at `place` is gone. What has its number after it may have other blocks,
    /// so that nothing that was made for it may be submitted again.
    pub(crate) fn tell_gone(&self, place: Place) {
        self.gone.insert(place, Ordering::Relaxed);
    }

    /// Control: nothing more is submitted for the namespace at `place`, which is gone, until it is
    /// offered anew.
    pub(crate) fn tell_closed(&self, place: Place) {
        self.closed.insert(place, Ordering::Release);
    }

    /// Control: whether the queue has still to see that.
    pub(crate) fn is_closing(&self, place: Place) -> bool {
        self.closed.has(place, Ordering::Acquire)
    }

    /// Queue: calls `mark` with what identifies the namespaces whose users submit nothing more, if there
    /// are any. Once it has marked all that is in flight for these, they are not gone any longer.
    pub(crate) fn see_closed(&self, mark: impl FnOnce(&dyn Fn(Place) -> bool)) {
        let load = |word: &AtomicU64| word.load(Ordering::Acquire);
        let closed = self.closed.0.each_ref().map(load);
        if closed == [0; WORDS] {
            return;
        }
        mark(&|place| closed[PlaceSet::word(place)] & PlaceSet::bit(place) != 0);
        for ((gone, word), bits) in self.gone.0.iter().zip(&self.closed.0).zip(closed) {
            gone.fetch_and(!bits, Ordering::Relaxed);
            word.fetch_and(!bits, Ordering::Release);
        }
    }

    /// Queue: whether the namespace at `place` is gone.
    pub(crate) fn is_gone(&self, place: Place) -> bool {
        self.gone.has(place, Ordering::Relaxed)
    }

    /// Queue: the order in force.
    #[inline]
    pub(crate) fn order(&self) -> Order {
        Order(self.order.load(Ordering::Acquire))
    }

    /// Queue: whether all that is in flight may fail.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Queue: `order` has been followed.
    pub(crate) fn followed(&self, order: Order) {
        self.seen.store(order.0, Ordering::Release);
    }

    /// Queue: tells of a late command, or that there is none.
    pub(crate) fn tell_late(&self, cid: Option<u16>) {
        let word = cid.map_or(0, |cid| LATE | u32::from(cid));
        self.late.store(word, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_differs_from_the_one_before_and_keeps_its_step() {
        let mut order = Order(u32::MAX - 40);
        let steps = [Step::Pause, Step::Clear, Step::Try, Step::Run, Step::Lose];
        for step in steps.repeat(4) {
            let next = order.then(step);
            assert_ne!(next, order);
            assert_ne!(order.then(step), next.then(step), "another time");
            assert_eq!(next.step(), step);
            order = next;
        }
        assert_eq!(Order::default().step(), Step::Run);
    }

    #[test]
    fn the_terms_come_as_they_were_told() {
        let link = Link::default();
        for of in [
            Terms::default(),
            Terms {
                limit: 0x1234_5678,
                depth: 0x8001,
                discards: DiscardLimits::of_numbers(3, 0xfedc_ba98, 1 << 40),
                delays: [0x8001, 0x0203, 0xc005],
                stride: 1 << 20,
            },
        ] {
            link.tell_terms(of);
            assert_eq!(link.terms(), of);
        }
    }
}
