//! How many pages a disk is given at once while rings compete for it: what keeps all of it busy,
//! and not so many that what comes next waits long.
//!
//! By Little's law the pages with a disk, times the time, over the pages that it finished in it,
//! are how long it has each. With as few as one for each ring that is what a page takes alone, or
//! beside what other cores do; this is tried now and then. Given more, a disk finishes more in the
//! same time up to the number that it works on at once, and from then on takes longer for each.
//! The window is held where a page takes one and a half to two times as long as it must: disks do
//! not come to their limit at once, and less would leave much of them idle. It grows only if it is what rings
//! wait for most of the time: one that their limits let send now and then does without a larger one, and
//! those beside it would wait for all that it sends at once.
//! Whatever mix the rings ask for, the same mix is compared.

/// The window to begin with.
const FIRST: u32 = 32;

/// How long the window is used before it is tried again how long a page takes alone.
const RUN_NS: u64 = 500_000_000;

/// A measurement ends after so long, or after so many pages for each that may be with the disk.
const EPOCH_NS: u64 = 20_000_000;
const EPOCH_PAGES: u64 = 4;

/// Fewer pages than this say little.
const LEAST_PAGES: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The window is used, and adapted, until this time.
    Run { until_ns: u64 },
    /// What is too much for a trial is waited for.
    Drain,
    /// A page for each ring is with the disk.
    Probe,
}

/// The window of one disk.
#[derive(Debug)]
pub(crate) struct Depth {
    window: u32,
    most: u32,
    rings: u32,
    phase: Phase,
    /// What a page takes, in nanoseconds, with a page for each ring; 0 = not known yet.
    alone_ns: u64,
    /// Since this time there were so many page-nanoseconds, and pages finished.
    began_ns: u64,
    area: u64,
    finished: u64,
    /// For so long of that more would have been sent.
    crowded_ns: u64,
    /// Pages with the disk since the last look, and when that was.
    load: u32,
    looked_ns: u64,
}

impl Depth {
    /// For a queue with so many places.
    pub(crate) fn new(places: usize) -> Self {
        // A full window leaves places for the rings that have less than their share.
        let most = u32::try_from(places - places / 4)
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            window: FIRST.min(most),
            most,
            rings: 0,
            // Nothing is known yet: it is tried after the first measurement.
            phase: Phase::Run { until_ns: 0 },
            alone_ns: 0,
            began_ns: 0,
            area: 0,
            finished: 0,
            crowded_ns: 0,
            load: 0,
            looked_ns: 0,
        }
    }

    /// Pages that may be with the disk at once.
    #[inline]
    pub(crate) fn pages(&self) -> u32 {
        match self.phase {
            Phase::Run { .. } => self.window,
            Phase::Drain | Phase::Probe => self.rings.max(1),
        }
    }

    /// `load` pages are with the disk from now on.
    pub(crate) fn note(&mut self, load: u32, now_ns: u64) {
        let time = now_ns.saturating_sub(core::mem::replace(&mut self.looked_ns, now_ns));
        self.area = self.area.saturating_add(u64::from(self.load) * time);
        self.load = load;
    }

    /// The disk has finished what it had beyond `load` pages. So many rings compete for it, some
    /// of which had no room for more, if it was `crowded`.
    pub(crate) fn observe(&mut self, load: u32, rings: u32, crowded: bool, now_ns: u64) {
        self.finished += u64::from(self.load.saturating_sub(load));
        if crowded {
            self.crowded_ns += now_ns.saturating_sub(self.looked_ns);
        }
        self.note(load, now_ns);
        self.rings = rings;
        let time = now_ns.saturating_sub(self.began_ns);
        let pages = u64::from(self.pages());
        let enough = match self.phase {
            Phase::Drain => u64::from(load) <= pages,
            _ => self.finished >= (pages * EPOCH_PAGES).max(LEAST_PAGES),
        };
        if !enough && time < EPOCH_NS {
            return;
        }
        let each_ns = self.area / self.finished.max(1);
        let phase = self.phase;
        match phase {
            Phase::Drain => self.enter(Phase::Probe, now_ns),
            Phase::Probe => {
                if self.finished > 0 {
                    self.alone_ns = match self.alone_ns {
                        0 => each_ns,
                        known => known.midpoint(each_ns),
                    };
                }
                let until_ns = now_ns.saturating_add(RUN_NS);
                self.enter(Phase::Run { until_ns }, now_ns);
            }
            Phase::Run { until_ns } => {
                if self.finished >= LEAST_PAGES && self.alone_ns > 0 {
                    self.adapt(each_ns, self.crowded_ns * 2 > time);
                }
                let over = now_ns >= until_ns;
                self.enter(if over { Phase::Drain } else { phase }, now_ns);
            }
        }
    }

    /// A page took so long; `crowded` if more would have been sent for most of the time.
    fn adapt(&mut self, each_ns: u64, crowded: bool) {
        let step = (self.window / 8).max(1);
        if each_ns > self.alone_ns * 2 {
            let least = (self.rings + 1).min(self.most);
            self.window = self.window.saturating_sub(step).max(least);
        } else if crowded && each_ns * 2 <= self.alone_ns * 3 {
            self.window = (self.window + step).min(self.most);
        }
    }

    fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        self.began_ns = now_ns;
        (self.area, self.finished, self.crowded_ns) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For two rings, past the first trial, in which a page took `alone_ns`, and before the next.
    fn known(alone_ns: u64) -> Depth {
        let mut depth = Depth::new(1024);
        depth.rings = 2;
        depth.alone_ns = alone_ns;
        depth.phase = Phase::Run { until_ns: u64::MAX };
        depth
    }

    /// Has the disk finish a measurement's worth of pages, each of which it had for `each_ns`.
    fn measure(depth: &mut Depth, each_ns: u64, crowded: bool) {
        let pages = u64::from(depth.pages());
        let count = (pages * EPOCH_PAGES).max(LEAST_PAGES);
        let rings = depth.rings;
        for _ in 0..count {
            // A page alone with the disk for so long, then another: by Little's law that is it.
            let now_ns = depth.looked_ns;
            depth.note(1, now_ns);
            depth.observe(0, rings, crowded, now_ns + each_ns);
        }
    }

    #[test]
    fn a_quarter_of_the_places_is_left_and_the_first_window_is_no_larger() {
        assert_eq!((Depth::new(1024).most, Depth::new(1024).pages()), (768, 32));
        assert_eq!((Depth::new(16).most, Depth::new(16).pages()), (12, 12));
        assert_eq!(Depth::new(0).pages(), 1);
    }

    #[test]
    fn the_window_follows_what_a_page_takes_and_stays_within_its_bounds() {
        // Up to one and a half times as long as alone it grows, if anybody asks for more.
        for (each, crowded, window) in [
            (150, true, 36),
            (151, true, 32),
            (150, false, 32),
            (200, true, 32),
            (201, true, 28),
            (201, false, 28),
        ] {
            let mut depth = known(100);
            measure(&mut depth, each, crowded);
            assert_eq!(depth.pages(), window, "{each} {crowded}");
        }
        let mut depth = known(100);
        (0..100).for_each(|_| measure(&mut depth, 1000, true));
        assert_eq!(depth.pages(), 3, "one more than there are rings");
        (0..100).for_each(|_| measure(&mut depth, 100, true));
        assert_eq!(depth.pages(), 768);
        // More rings than the queue has places for.
        depth.rings = 1000;
        measure(&mut depth, 1000, true);
        assert_eq!(depth.pages(), 768);
    }

    #[test]
    fn a_window_that_is_full_for_less_than_half_of_the_time_does_not_grow() {
        for (full, window) in [(32, 32), (33, 36)] {
            let mut depth = known(100);
            for page in 0..128u64 {
                let now_ns = depth.looked_ns;
                depth.note(1, now_ns);
                depth.observe(0, 2, page < 2 * full, now_ns + 100);
            }
            assert_eq!(depth.pages(), window, "{full}");
        }
    }

    #[test]
    fn how_long_the_disk_has_a_page_is_what_there_was_times_the_time_over_what_it_finished() {
        let mut depth = known(100);
        depth.note(10, 0);
        depth.observe(4, 2, false, 50);
        depth.note(8, 60);
        assert_eq!((depth.area, depth.finished), (10 * 50 + 4 * 10, 6));
        depth.observe(8, 2, true, 70);
        assert_eq!((depth.area, depth.finished), (10 * 50 + 4 * 10 + 8 * 10, 6));
        assert_eq!(depth.crowded_ns, 10);
        // A measurement ends by time as well; with so few pages it says nothing.
        depth.observe(8, 2, false, EPOCH_NS - 1);
        assert_eq!((depth.finished, depth.crowded_ns), (6, 10));
        depth.observe(8, 2, false, EPOCH_NS);
        assert_eq!((depth.area, depth.finished, depth.crowded_ns), (0, 0, 0));
        assert_eq!((depth.began_ns, depth.pages()), (EPOCH_NS, 32));
    }

    #[test]
    fn what_a_page_takes_alone_is_tried_once_the_disk_has_little_and_then_now_and_then() {
        let mut depth = Depth::new(1024);
        depth.rings = 2;
        measure(&mut depth, 500, true);
        assert_eq!((depth.phase, depth.pages()), (Phase::Drain, 2));
        assert_eq!(depth.window, 32, "nothing is known to compare with");
        let now_ns = depth.looked_ns;
        depth.note(9, now_ns);
        depth.observe(3, 2, true, now_ns + 1);
        assert_eq!(depth.phase, Phase::Drain, "three pages are too many");
        depth.observe(2, 2, true, now_ns + 2);
        assert_eq!((depth.phase, depth.pages()), (Phase::Probe, 2));
        depth.note(0, now_ns + 2);
        measure(&mut depth, 100, false);
        assert_eq!(depth.alone_ns, 100);
        let until_ns = depth.looked_ns + RUN_NS;
        assert_eq!(depth.phase, Phase::Run { until_ns });
        assert_eq!(depth.pages(), 32);
        // What was known counts for half.
        depth.enter(Phase::Probe, depth.looked_ns);
        measure(&mut depth, 200, false);
        assert_eq!(depth.alone_ns, 150);
        // A trial in which nothing came back says nothing.
        depth.enter(Phase::Probe, depth.looked_ns);
        depth.observe(0, 2, false, depth.looked_ns + EPOCH_NS);
        assert_eq!(depth.alone_ns, 150);
        let Phase::Run { until_ns } = depth.phase else {
            panic!("{:?}", depth.phase);
        };
        depth.observe(0, 2, false, until_ns - 1);
        assert_eq!(depth.phase, Phase::Run { until_ns });
        depth.began_ns = until_ns - EPOCH_NS;
        depth.observe(0, 2, false, until_ns);
        assert_eq!(depth.phase, Phase::Drain);
    }
}
